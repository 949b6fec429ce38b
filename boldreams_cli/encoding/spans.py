"""Spans of voxels of a fit, on disk: what is solved, what is under way, and what is left to do.

All lies in ``spans/`` in the model's folder until the model is whole. A file carries the key of the fit and the voxels
that it is of, so that a fit goes on with another ``--memory`` from whatever is there.
"""

from __future__ import annotations

import logging
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import BoldreamsError, logger
from boldreams_cli.encoding.model.checkpoint import read_note, read_tensors, write_checkpoint
from boldreams_cli.encoding.readouts.base import Solution

FOLDER = "spans"
SECONDS_BETWEEN_CHECKPOINTS = 60.0
Voxels = NDArray[np.int64]


class SpanCheckpoint:
    """State of one unfinished span; a `Checkpoint` as in readouts/base.py."""

    def __init__(self, path: Path, key: str, voxels: Voxels, level: int = logging.INFO) -> None:
        self.path, self.key, self.voxels, self.level = path, key, voxels, level
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last one is a minute old."""
        return time.monotonic() - self._saved > SECONDS_BETWEEN_CHECKPOINTS

    def load(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """The note and tensors of the last `save`, None where there is none."""
        note = read_note(self.path, self.key)
        if note is None:
            return None
        tensors = read_tensors(self.path)
        if tensors.pop("voxels").tolist() != self.voxels.tolist():
            return None
        logger.log(self.level, "going on from %s", self.path)
        return note, tensors

    def save(self, note: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Keep them, whole or not at all."""
        write_checkpoint(self.path, self.key, note, {**tensors, "voxels": torch.from_numpy(self.voxels)})
        self._saved = time.monotonic()

    @property
    def there(self) -> bool:
        """Whether a file of this fit is there; it may be of other voxels, or damaged, as `load` would find."""
        return read_note(self.path, self.key) is not None

    def beside(self, name: str) -> SpanCheckpoint:
        """Another one of the same voxels, for what is large and done once; it stays until the model is whole."""
        return SpanCheckpoint(self.path.with_name(f"{name}-of-{self.path.name}"), self.key, self.voxels, logging.DEBUG)


class Spans:
    """The spans of one fit.

    Parameters
    ----------
    folder : of the model.
    key : of the fit; files of another key are left alone until the fit is whole.
    resume : False removes what is there.
    device : that computes; a span under way on another kind has blocks of other sizes, and starts anew.
    """

    def __init__(self, folder: Path, key: str, resume: bool = True, device: str = "cpu") -> None:
        self.folder, self.key = folder / FOLDER, key
        self._of_device = key if device == "cpu" else f"{key} on {device}"
        if not resume:
            shutil.rmtree(self.folder, ignore_errors=True)

    def checkpoint(self, voxels: Voxels) -> SpanCheckpoint:
        """Where the state of a span is kept while it is solved."""
        return SpanCheckpoint(self._path("state", voxels), self._of_device, voxels)

    def prepared(self, voxels: Voxels) -> SpanCheckpoint:
        """Where the state is kept of what is done once for all spans."""
        return SpanCheckpoint(self._path("prepared", voxels), self.key, voxels)

    def keep(self, voxels: Voxels, solution: Solution) -> None:
        """Keep a finished span, then drop its state."""
        tensors = {"voxels": torch.from_numpy(voxels), "bias": solution.bias}
        lists = {"fields": solution.fields, "weights": solution.weights, "basis": solution.basis or []}
        lists |= {"queries": solution.queries}
        for name, values in lists.items():
            tensors |= {f"{name}/{number}": value for number, value in enumerate(values)}
        tensors |= {f"chosen/{name}": value for name, value in solution.chosen.items()}
        write_checkpoint(self._path("solved", voxels), self.key, {"curve": solution.curve}, tensors)
        self._path("state", voxels).unlink(missing_ok=True)

    def solved(self) -> Iterator[tuple[Voxels, Solution]]:
        """Finished spans, one in memory at a time, ordered by their first voxel; no voxel comes twice."""
        for path, _ in self._solved_files():
            yield self._read(path)

    def _read(self, path: Path) -> tuple[Voxels, Solution]:
        note, tensors = read_note(path, self.key), read_tensors(path)
        assert note is not None

        def numbered(name: str) -> list[Tensor]:
            count = sum(key.startswith(f"{name}/") for key in tensors)
            return [tensors[f"{name}/{number}"] for number in range(count)]

        # What is kept of a span is copied: a view would keep all of its file in memory.
        chosen = {key.removeprefix("chosen/"): v.clone() for key, v in tensors.items() if key.startswith("chosen/")}
        solution = Solution(
            numbered("fields"),
            numbered("weights"),
            tensors["bias"],
            note["curve"],
            numbered("basis") or None,
            chosen,
            numbered("queries"),
        )
        return tensors["voxels"].numpy().copy(), solution

    def left(self, voxels: Voxels, width: int, most: int) -> list[Voxels]:
        """Cut what is not solved yet: a span that is under way stays as it was, the rest is cut anew.

        Parameters
        ----------
        voxels : all that are to be solved, sorted.
        width : of a new span.
        most : voxels that fit the memory; a larger span under way starts anew, in parts.
        """
        taken = [known for _, known in self._solved_files()]
        todo = np.setdiff1d(voxels, np.concatenate(taken)) if taken else voxels
        spans = []
        for path in sorted(self.folder.glob("state-*.safetensors")):
            if (known := self._voxels(path, self._of_device)) is None:
                continue
            if len(known) <= most and np.isin(known, todo).all():
                spans.append(known)
                todo = np.setdiff1d(todo, known)
        return spans + [todo[start : start + width] for start in range(0, len(todo), width)]

    def discard(self) -> None:
        """Remove all: the model is saved."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _solved_files(self) -> list[tuple[Path, Voxels]]:
        found: list[tuple[Path, Voxels]] = []
        for path in sorted(self.folder.glob("solved-*.safetensors")):
            known = self._voxels(path, self.key)
            if known is not None and not any(np.isin(known, other).any() for _, other in found):
                found.append((path, known))
        return sorted(found, key=lambda item: int(item[1][0]))

    def _voxels(self, path: Path, key: str) -> Voxels | None:
        """Voxels of a file of this fit, None if it is of another."""
        try:
            if read_note(path, key) is None:
                return None
            # Checked: no damaged span is counted as solved. Copied: a view would keep all of the file in memory.
            voxels: Voxels = read_tensors(path)["voxels"].numpy().copy()
        except BoldreamsError as error:
            logger.warning("%s; its voxels are solved again", error)
            path.unlink()
            return None
        return voxels

    def _path(self, kind: str, voxels: Voxels) -> Path:
        name = f"{kind}-{int(voxels[0])}-{len(voxels)}-{zlib.crc32(voxels.tobytes()):08x}"
        return self.folder / f"{name}.safetensors"
