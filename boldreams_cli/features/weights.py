"""Weights of a backbone: found, read without running pickled code, matched to the network, digested."""

from __future__ import annotations

import hashlib
import logging
import socket
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor

from boldreams_cli.console import BoldreamsError, ChoiceError, listing

WRAPPED = 3  # state dicts inside each other, at most
PREFIXES = ("", "module.", "model.", "visual.", "module.visual.", "network.")


def find(
    name: str,
    source: str,
    pretrained: Callable[[], dict[str, Tensor]],
    weights: str,
    seed: int,
    instead: str = "",
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
            f"{instead}"
        ) from error


def asked(weights: str, seed: int) -> tuple[str, int]:
    """Take ``random:SEED`` apart; what else was asked for stays as it is.

    Raises
    ------
    ChoiceError
        If the seed is no number.
    """
    if not weights.startswith("random:"):
        return weights, seed
    text = weights.removeprefix("random:")
    if not text.isdecimal():
        raise ChoiceError(f"--weights {weights}: the seed is a number from 0 up, as in random:3")
    return "random", int(text)


def fetch_open_clip(model: str, tag: str) -> Path:
    """The file of published weights: out of the Hugging Face cache, else downloaded.

    Raises
    ------
    OSError, RuntimeError, ValueError
        If it is not cached and cannot be downloaded; without internet at once, not after minutes of retries.
    """
    import huggingface_hub
    import open_clip

    settings = open_clip.pretrained.get_pretrained_cfg(model, tag)
    repository, _, file = settings.get("hf_hub", "").rpartition("/")
    for name in (file,) if file else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        found = huggingface_hub.try_to_load_from_cache(repository, name) if repository else None
        if isinstance(found, str):
            return Path(found)
    check_reachable(repository, (), settings.get("url", ""))
    with quiet_root():
        return Path(open_clip.pretrained.download_pretrained(settings))


def check_reachable(repository: str, files: tuple[str, ...], url: str) -> None:
    """Find out at once, not after minutes of retries, that weights cannot be had.

    Parameters
    ----------
    repository : of Hugging Face, "" where they are elsewhere.
    files : of it, any of which will do if it is cached.
    url : of them elsewhere.

    Raises
    ------
    OSError
        If none is cached and there is no way to their host.
    """
    import huggingface_hub

    for name in files if repository else ():
        if isinstance(huggingface_hub.try_to_load_from_cache(repository, name), str):
            return
    host = urlparse(huggingface_hub.constants.ENDPOINT if repository else url).hostname or ""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not repository and cached.is_file():
        return
    if not _reachable(host):
        raise OSError(f"they are not in {huggingface_hub.constants.HF_HUB_CACHE}, and there is no way to {host}")


def _reachable(host: str) -> bool:
    """Whether a download can be tried: through a proxy, or because the name resolves."""
    if urllib.request.getproxies():
        return True
    try:
        return bool(socket.getaddrinfo(host, 443))
    except OSError:
        return False


@contextmanager
def quiet_root() -> Iterator[None]:
    """Keep open_clip's remarks, which go to the root logger, from the user's terminal."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(before)


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
    except MemoryError:
        raise
    except Exception as error:  # of bytes that are no state dict it raises anything at all
        if type(error).__name__ == "SafetensorError":
            raise BoldreamsError(f"{path} is not a valid safetensors file: {error}") from error
        raise BoldreamsError(
            f"cannot read weights from {path}{_why(error)}. It must be a state dict saved by torch, "
            "or safetensors; files that need pickled code to run are refused"
        ) from error
    for _ in range(WRAPPED):
        if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
            loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in loaded.items()
    ):
        raise BoldreamsError(f"{path} holds no state dict (a mapping of names to tensors)")
    return dict(loaded)


def _why(error: Exception) -> str:
    """What torch says, but for its advice to run pickled code and for what its parser stumbled over."""
    if not isinstance(error, RuntimeError | ValueError | EOFError | OSError) or "weights_only" in str(error):
        return ""
    return f": {(str(error).splitlines() or ['it is empty'])[0]}"


def match(
    wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], said: str, idle: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Bring a state dict under the network's own names.

    Tensors match by name, with the usual prefixes, and never by position.

    Parameters
    ----------
    wanted : the network's own state dict, for names and shapes.
    state : the weights to use.
    said : what to call them in an error.
    idle : modules whose tensors decide no map: they are zeros where the weights have none that fit.

    Raises
    ------
    BoldreamsError
        If tensors are missing, have other shapes, or are whole numbers where the network's are not.
    """
    needed = {key: wanted[key] for key in decisive(wanted)}
    best = max(PREFIXES, key=lambda prefix: sum(prefix + key in state for key in needed))
    zeros = {
        key: torch.zeros_like(value)  # not as they were drawn, by a seed, which the digest would tell
        for key, value in needed.items()
        if _is_in(key, idle) and (best + key not in state or state[best + key].shape != value.shape)
    }
    needed = {key: value for key, value in needed.items() if key not in zeros}
    missing = [key for key in needed if best + key not in state]
    found = {key: state[best + key] for key in needed if best + key in state}
    wrong = [
        f"{key} {tuple(value.shape)} for {tuple(needed[key].shape)}"
        for key, value in found.items()
        if value.shape != needed[key].shape
    ]
    if wrong:
        raise BoldreamsError(f"weights {said} do not fit: {listing(wrong, 3)}")
    # A network's own indices, as Swin's of relative positions, are whole numbers.
    if whole := [k for k, v in found.items() if needed[k].is_floating_point() and not v.is_floating_point()]:
        raise BoldreamsError(f"weights {said} hold whole numbers in {listing(whole, 3)}; quantised weights do not fit")
    if missing:
        raise BoldreamsError(f"weights {said} lack {len(missing)} tensors that are needed: {listing(missing, 3)}")
    return dict(wanted) | zeros | found


def _is_in(key: str, modules: Sequence[str]) -> bool:
    """Whether a tensor is of one of some modules."""
    return any(key.startswith(f"{module}.") for module in modules)


def decisive(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that decide maps, in order."""
    return [key for key in state if not key.endswith("num_batches_tracked")]


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
