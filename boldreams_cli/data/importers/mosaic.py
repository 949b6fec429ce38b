"""MOSAIC: eight data sets through one pipeline, on the 91,282 grayordinates of fsLR32k; the cortex is taken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, listing
from boldreams_cli.data.importing.finding import choose_subject
from boldreams_cli.data.importing.grayordinates import cortex
from boldreams_cli.data.importing.recording import Asked, CeilingKind, Importer, Recording, rows_in_memory, text
from boldreams_cli.files import reading

TRIAL = re.compile(r"(?P<subject>.+?)_stimulus-(?P<stem>.+)_phase-(?P<phase>[a-z]+)_rep-(?P<rep>\d+)")
CEILINGS: dict[str, CeilingKind] = {"1": "single-trial", "avg": "test-set"}  # n, how many trials were averaged


@dataclass(frozen=True)
class Found:
    """What a subject's group of the file says.

    Parameters
    ----------
    names : (trials,) of the arrays of betas.
    shown : (trials,) names of pictures.
    test : (trials,) bool.
    length : grayordinates.
    damaged : (length,) bool, whether any trial has no number there.
    ceiling : (length,) percent, and its kind.
    """

    names: list[str]
    shown: list[str]
    test: NDArray[np.bool_]
    length: int
    damaged: NDArray[np.bool_]
    ceiling: tuple[NDArray[np.float32], CeilingKind] | None


def read(asked: Asked) -> Recording:
    """Find one subject's trials, whose names say picture, phase and repeat.

    Raises
    ------
    BoldreamsError
        If a file is missing or damaged, or is of another form.
    """
    path, group, subject = _subject(asked)
    with reading(path), h5py.File(path, "r") as file:
        found = _look(file[group])
    surface = cortex(asked.template)
    count = len(surface.vertex)
    if found.length < count:
        raise BoldreamsError(
            f"{path} has {found.length} grayordinates, the cortex {count}; give its own with --template"
        )
    keep = ~found.damaged[:count]
    columns = np.flatnonzero(keep)
    return Recording(
        subject=f"mosaic-{subject}",
        shown=found.shown,
        test=found.test,
        betas=lambda: _blocks(path, group, found, columns),
        units=surface.units(keep),
        zscored=True,
        source=str(path),
        pictures=asked.images or path.parent,
        areas={name: area[keep] for name, area in surface.areas.items() if area[keep].any()},
        ceiling=found.ceiling[0][columns] if found.ceiling else None,
        ceiling_kind=found.ceiling[1] if found.ceiling else None,
        left_out={"subcortical voxels": found.length - count, "vertices without a number": int((~keep).sum())},
    )


IMPORTER = Importer("MOSAIC", read, frozenset({"template"}))


def _subject(asked: Asked) -> tuple[Path, str, str]:
    """The file, the subject's group in it, and its name, as ``sub-01_NSD``."""
    paths = sorted(asked.source.glob("*.hdf5")) if asked.source.is_dir() else [asked.source]
    there: dict[str, tuple[Path, str]] = {}
    for path in paths:
        with reading(path), h5py.File(path, "r") as file:
            if "betas" in file:
                there[path.stem.split("_crc32-")[0]] = path, "/"
            groups = {name: node for name, node in file.items() if isinstance(node, h5py.Group)}
            there.update({name: (path, name) for name, node in groups.items() if "betas" in node})
    subject = choose_subject(there, asked.subject, f"{asked.source}/sub-01_NSD.hdf5, ... with a group betas")
    return *there[subject], subject


def _look(group: h5py.Group) -> Found:
    """Read names, attributes and noise ceilings; no betas."""
    betas = group["betas"]
    if not isinstance(betas, h5py.Group):
        raise BoldreamsError(
            f"{group.file.filename} is merged in chunks, without the phase of each trial; give the file of one subject"
        )
    names, shown, test = [], [], []
    lengths: set[int] = set()
    damaged: set[int] = set()
    for name, node in betas.items():
        match = TRIAL.fullmatch(name)
        if match is None or node.ndim > 2:
            raise ValueError(f"betas/{name} is not named ..._stimulus-NAME_phase-train_rep-0")
        names.append(name)
        shown.append(text(node.attrs.get("presented_stimulus_filename", match["stem"])))
        test.append(match["phase"] != "train")
        lengths.add(node.size)
        damaged.update(np.ravel(node.attrs.get("nan_indices", ())).astype(int).tolist())
    if len(lengths) != 1:
        raise ValueError(f"betas must be arrays of one length, not of {listing(sorted(lengths))}")
    missing = np.zeros(lengths.pop(), bool)
    missing[list(damaged)] = True
    return Found(names, shown, np.array(test), len(missing), missing, _ceiling(group, len(missing)))


def _ceiling(group: h5py.Group, length: int) -> tuple[NDArray[np.float32], CeilingKind] | None:
    """The noise ceiling of the test, of one trial if there is one: those of any number of repeats follow from it."""
    for n, kind in CEILINGS.items():
        for name, node in group.get("noiseceilings", {}).items():
            if "_phase-test_" in name and text(node.attrs.get("n", "")) == n and node.size == length:
                values = np.ravel(node[()]).astype(np.float32)
                return np.where(np.isfinite(values), values, np.nan).astype(np.float32), kind
    return None


def _blocks(path: Path, group: str, found: Found, columns: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    rows = rows_in_memory(found.length)
    with h5py.File(path, "r") as file:
        betas = file[group]["betas"]
        for first in range(0, len(found.names), rows):
            with reading(path):
                block = np.stack([np.ravel(betas[name][()])[columns] for name in found.names[first : first + rows]])
            yield block.astype(np.float32)
