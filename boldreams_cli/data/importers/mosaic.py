"""MOSAIC: eight data sets through one pipeline, on the 91,282 grayordinates of fsLR32k; the cortex is taken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, listing
from boldreams_cli.data.importing.finding import choose_subject
from boldreams_cli.data.importing.grayordinates import cortex
from boldreams_cli.data.importing.recording import Asked, CeilingKind, Importer, Recording, rows_in_memory, text
from boldreams_cli.files import reading

TRIAL = re.compile(r"(?P<subject>.+?)_stimulus-(?P<stem>.+)_phase-(?P<phase>[a-z]+)_rep-(?P<rep>\d+)")
PHASES = ("train", "test", "artificial")
# Two data sets' tests hold images that are no photographs, z-scored in a session of their own: NSD-synthetic's, and
# shapes and letters. Newer files call their phase "test" as well; the names of pictures tell them apart. Merged files
# may have lost the suffix: deeprecon's photographs are ImageNet's, so there what is not named as those is none.
ARTIFICIAL = {
    "NSD": re.compile(r"\d{3}(\.\w+)?"),
    "deeprecon": re.compile(r".+\.tiff?|(?!n\d+_\d+$)[^.]+", re.IGNORECASE),
}
ROOT = "/"  # where one subject's file has its trials, and one that was merged by names those of all
CEILINGS: dict[str, CeilingKind] = {"1": "single-trial", "avg": "test-set"}  # n, how many trials were averaged


@dataclass(frozen=True)
class Found:
    """What a subject's group of the file says.

    Parameters
    ----------
    rows : (trials,) of the trials taken, the names of their arrays, or their rows in the one array of a merged file.
    shown : (trials,) names of pictures.
    test : (trials,) bool.
    length : grayordinates.
    damaged : (length,) bool, whether any trial has no number there.
    ceiling : (length,) percent, and its kind.
    artificial : trials left out, as they show no photographs.
    degrees : of visual angle that the pictures spanned; None where the file does not say.
    """

    rows: list[str] | NDArray[np.int64]
    shown: list[str]
    test: NDArray[np.bool_]
    length: int
    damaged: NDArray[np.bool_]
    ceiling: tuple[NDArray[np.float32], CeilingKind] | None
    artificial: int
    degrees: float | None


def read(asked: Asked) -> Recording:
    """Find one subject's trials, whose names say picture, phase and repeat.

    Raises
    ------
    BoldreamsError
        If a file is missing or damaged, or is of another form.
    """
    path, group, subject = _subject(asked)
    with reading(path), h5py.File(path, "r") as file:
        found = _look(file[group], subject if group == ROOT else None)
    surface, dataset = cortex(asked.template), _dataset(subject)
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
        prefer="Presented_Stimuli" if dataset == "BOLD5000" else "",
        prefix="COCO_train2014_" if dataset == "BOLD5000" else "",  # that MOSAIC took from the names of its pictures
        square=dataset == "NSD",  # crops under the names of COCO's originals
        areas={name: area[keep] for name, area in surface.areas.items() if area[keep].any()},
        ceiling=found.ceiling[0][columns] if found.ceiling else None,
        ceiling_kind=found.ceiling[1] if found.ceiling else None,
        degrees=found.degrees,
        left_out={
            "subcortical voxels": found.length - count,
            "vertices without a number": int((~keep).sum()),
            "trials of artificial images": found.artificial,
        },
    )


IMPORTER = Importer("MOSAIC", read, frozenset({"template"}))


def _subject(asked: Asked) -> tuple[Path, str, str]:
    """The file, the subject's group in it, and its name, as ``sub-01_NSD``."""
    paths = sorted(asked.source.glob("*.hdf5")) if asked.source.is_dir() else [asked.source]
    there: dict[str, tuple[Path, str]] = {}
    for path in paths:
        with reading(path), h5py.File(path, "r") as file:
            if "betas" in file:
                # A subject's own file says more than one that was merged by the names of trials.
                here = dict.fromkeys(_named(file) or {path.stem.split("_crc32-")[0]}, (path, ROOT))
                there = here | there if len(here) > 1 else there | here
            groups = {name: node for name, node in file.items() if isinstance(node, h5py.Group)}
            there.update({name: (path, name) for name, node in groups.items() if "betas" in node})
    subject = choose_subject(there, asked.subject, f"{asked.source}/sub-01_NSD.hdf5, ... with a group betas")
    return *there[subject], subject


def _dataset(subject: str) -> str:
    """The short name of a subject's data set: NSD of ``sub-01_NSD``."""
    return subject.rsplit("_", 1)[-1]


def _named(file: h5py.File) -> set[str]:
    """The subjects whose trials lie at the root of a file, by their names."""
    betas = file["betas"]
    names = betas if isinstance(betas, h5py.Group) else file.get("nan_indices", ())
    return {match["subject"] for name in names if (match := TRIAL.fullmatch(name))}


@dataclass(frozen=True)
class Trial:
    """One trial: its name, which says picture, phase and repeat, the picture's file, and where it has no number.

    ``missing`` is None where the file does not say it.
    """

    name: str
    picture: str
    missing: NDArray[np.int64] | None

    @property
    def parts(self) -> re.Match[str]:
        """The name's parts; ValueError where it has others."""
        match = TRIAL.fullmatch(self.name)
        if match is None or match["phase"] not in PHASES:
            raise ValueError(f"betas/{self.name} is not named ..._stimulus-NAME_phase-train_rep-0")
        return match

    @property
    def artificial(self) -> bool:
        """Whether the picture is no photograph."""
        parts = self.parts
        pattern = ARTIFICIAL.get(_dataset(parts["subject"]))
        named = pattern is not None and parts["phase"] == "test" and pattern.fullmatch(self.picture) is not None
        return parts["phase"] == "artificial" or named


def _look(group: h5py.Group, subject: str | None) -> Found:
    """Read names, attributes and noise ceilings; betas only where nothing else says which of them are no numbers.

    Parameters
    ----------
    subject : whose trials to take where the group may hold others', by their names; None takes all.
    """
    betas = group["betas"]
    trials, length = _of_one(betas, subject) if isinstance(betas, h5py.Group) else _of_merged(group)
    own = [row for row, trial in enumerate(trials) if _is_of(trial.name, subject)]
    taken = [row for row in own if not trials[row].artificial]
    if not taken:
        raise ValueError("it holds no trial of a photograph")
    missing = np.zeros(length, bool)
    for row in taken:
        said = trials[row].missing
        missing[~np.isfinite(np.ravel(betas[trials[row].name])) if said is None else said] = True
    return Found(
        rows=[trials[row].name for row in taken] if isinstance(betas, h5py.Group) else np.array(taken),
        shown=[trials[row].picture for row in taken],
        test=np.array([trials[row].parts["phase"] == "test" for row in taken]),
        length=length,
        damaged=missing,
        ceiling=_ceiling(group, length),
        artificial=len(own) - len(taken),
        degrees=_degrees(group),
    )


def _is_of(name: str, subject: str | None) -> bool:
    """Whether a trial is of this subject; one whose name says nothing is, so that it is found out."""
    match = TRIAL.fullmatch(name)
    return subject is None or match is None or match["subject"] == subject


def _of_one(betas: h5py.Group, subject: str | None) -> tuple[list[Trial], int]:
    """Trials of a group that has an array for each."""
    trials, lengths = [], set()
    for name in (name for name in betas if _is_of(name, subject)):
        node = betas[name]
        if node.size != max(node.shape, default=0):
            raise ValueError(f"betas/{name} has shape {node.shape}; it must be the grayordinates of one trial")
        lengths.add(node.size)
        indices = node.attrs.get("nan_indices")
        trials.append(Trial(name, _picture(name, node.attrs), None if indices is None else _indices(indices)))
    if len(lengths) != 1:
        raise ValueError(f"betas must be arrays of one length, not of {listing(sorted(lengths))}")
    return trials, int(lengths.pop())


def _of_merged(group: h5py.Group) -> tuple[list[Trial], int]:
    """Trials of a group that has all in one array: ``nan_indices`` names them, in the order of its rows."""
    betas, indices, pictures = group["betas"], group.get("nan_indices"), group.get("presented_stimulus_filename")
    if not isinstance(indices, h5py.Group) or pictures is None or betas.ndim != 2:
        raise ValueError(
            "merged in chunks, it must have betas (trials, grayordinates), nan_indices and presented_stimulus_filename"
        )
    shown = [text(name) for name in pictures[:]]
    named = list(indices.items())
    if not len(named) == len(shown) == len(betas):
        raise ValueError(f"{len(betas)} rows of betas have {len(named)} names in nan_indices, {len(shown)} pictures")
    trials = [
        Trial(name, picture or _picture(name, {}), _indices(node[()]))
        for (name, node), picture in zip(named, shown, strict=True)
    ]
    for trial in trials:
        if Path(trial.picture).stem != trial.parts["stem"]:
            raise ValueError(f"the row of {trial.name} shows {trial.picture}: names and rows are not in one order")
    return trials, int(betas.shape[1])


def _picture(name: str, attributes: Any) -> str:
    match = TRIAL.fullmatch(name)
    return text(attributes.get("presented_stimulus_filename", match["stem"] if match else name))


def _indices(values: Any) -> NDArray[np.int64]:
    return np.ravel(values).astype(np.int64)


def _ceiling(group: h5py.Group, length: int) -> tuple[NDArray[np.float32], CeilingKind] | None:
    """The noise ceiling of the test, of one trial if there is one: those of any number of repeats follow from it."""
    for n, kind in CEILINGS.items():
        for name, node in group.get("noiseceilings", {}).items():
            if "_phase-test_" in name and text(node.attrs.get("n", "")) == n and node.size == length:
                values = np.ravel(node[()]).astype(np.float32)
                return np.where(np.isfinite(values), values, np.nan).astype(np.float32), kind
    return None


def _degrees(group: h5py.Group) -> float | None:
    """The attribute ``visual_angle``, which may be text."""
    try:
        found = float(text(group.attrs.get("visual_angle", "nan")))
    except ValueError:
        return None
    return found if 0 < found < 180 else None


def _blocks(path: Path, group: str, found: Found, columns: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    rows = rows_in_memory(found.length)
    with h5py.File(path, "r") as file:
        betas = file[group]["betas"]
        for first in range(0, len(found.rows), rows):
            some = found.rows[first : first + rows]
            with reading(path):
                if isinstance(some, list):
                    block = np.stack([np.ravel(betas[name][()])[columns] for name in some])
                else:  # rows taken are in order
                    block = betas[some[0] : some[-1] + 1][some - some[0]][:, columns]
            yield block.astype(np.float32)
