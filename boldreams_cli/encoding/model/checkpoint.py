"""Checkpoints of an unfinished training: parameters, Adam's moments, and a note of where it was.

A checkpoint carries a key, the hash of all that decides the result; one of other settings is never gone on from.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from boldreams_cli.console import BoldreamsError, logger
from boldreams_cli.files import written_whole


def write_checkpoint(path: Path, key: str, note: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint, whole or not at all, with a checksum.

    Parameters
    ----------
    path : of the safetensors file.
    key : hash of what decides the result.
    note : where the training was; JSON keeps its floats to the last bit.
    tensors : by name, any device.
    """
    values = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    texts = {"key": key, "note": json.dumps(note), "checksum": _checksum(values)}
    with written_whole(path) as temporary:
        save_file(values, temporary, texts)


def read_note(path: Path, key: str) -> dict[str, Any] | None:
    """Read where a training was; None where there is no checkpoint of that key.

    Raises
    ------
    BoldreamsError
        If the file is damaged.
    """
    texts = _texts(path) if path.exists() else None
    if texts is None:
        return None
    if texts.get("key") != key:
        logger.info("the checkpoint %s is of other settings or data; starting anew", path)
        return None
    note: dict[str, Any] = json.loads(texts["note"])
    return note


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, by name, on the CPU.

    Raises
    ------
    BoldreamsError
        If they are not what was written.
    """
    checksum = _texts(path).get("checksum")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise _damaged(path, str(error)) from error
    if checksum != _checksum(tensors):
        raise _damaged(path, "its checksum differs")
    return tensors


def _texts(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as stored:
            return dict(stored.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> BoldreamsError:
    return BoldreamsError(f"{path} is damaged ({why}); delete it, or start anew with --no-resume")


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(f"{name} {tuple(tensors[name].shape)}".encode(), total)
        if tensors[name].numel():
            total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, total)
    return f"{total:08x}"


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Parameters of an optimizer and their moments, by name."""
    found = {}
    for index, tensor in enumerate(_parameters(optimizer)):
        found[f"{index}.value"] = tensor.detach()
        for key, value in optimizer.state.get(tensor, {}).items():
            found[f"{index}.{key}"] = value
    return found


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Put parameters and moments back; the moments take the layout in memory of their parameter."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        number, key = name.split(".", 1)
        if number.isdecimal() and key != "value":
            moments.setdefault(int(number), {})[key] = value
    with torch.no_grad():
        for index, tensor in enumerate(_parameters(optimizer)):
            tensor.copy_(state[f"{index}.value"])
            optimizer.state[tensor] = {key: _like(value, tensor) for key, value in moments.get(index, {}).items()}


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    # Fused Adam walks through memory: a moment must lie as its parameter does (channels last, say).
    if value.shape == parameter.shape:
        return torch.empty_like(parameter, requires_grad=False).copy_(value)
    return value.clone().to(parameter.device)
