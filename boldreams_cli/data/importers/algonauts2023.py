"""Algonauts 2023: NSD's visual cortex on fsaverage, z-scored and averaged, without the responses of its test images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, logger
from boldreams_cli.data.importing.finding import Pictures, choose_subject, held_out, need, need_folder
from boldreams_cli.data.importing.recording import Asked, Importer, Recording, rows_in_memory
from boldreams_cli.data.units import VertexUnits
from boldreams_cli.files import reading

SIDES = {"L": "lh", "R": "rh"}
HOLD_OUT = 10.0  # percent
VERTICES = 163_842  # of a hemisphere of fsaverage
DEGREES = 8.4  # as NSD's images

# Names of the labels 1, 2, ... of each class. The data set has them as pickled dictionaries (mapping_<class>.npy),
# which could run anything when they are read; NSD's tables of colours say the same.
CLASSES: dict[str, tuple[str, ...]] = {
    "prf-visualrois": ("V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"),
    "floc-bodies": ("EBA", "FBA-1", "FBA-2", "mTL-bodies"),
    "floc-faces": ("OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"),
    "floc-places": ("OPA", "PPA", "RSC"),
    "floc-words": ("OWFA", "VWFA-1", "VWFA-2", "mfs-words", "mTL-words"),
    "streams": ("early", "midventral", "midlateral", "midparietal", "ventral", "lateral", "parietal"),
}
TOGETHER = {
    "V1": ("V1v", "V1d"),
    "V2": ("V2v", "V2d"),
    "V3": ("V3v", "V3d"),
    **{name.removeprefix("floc-"): labels for name, labels in CLASSES.items() if name.startswith("floc-")},
}


def read(asked: Asked) -> Recording:
    """Find one subject's training split; a share of its images becomes the test.

    Raises
    ------
    BoldreamsError
        If a file is missing, or files do not fit each other.
    """
    folder = _subject(asked)
    responses = {side: folder / f"training_split/training_fmri/{SIDES[side]}_training_fmri.npy" for side in SIDES}
    betas = [_array(path, 2) for path in responses.values()]
    pictures = asked.images or need_folder(folder / "training_split/training_images", "download training_images")
    # The trials are in the order of the data set's own names, by whose hashes some are held out too.
    shown = [f"{stem}.png" for stem in Pictures(pictures).stems() if stem.startswith("train-")]
    if not len(shown) == len(betas[0]) == len(betas[1]):
        raise BoldreamsError(
            f"{pictures} holds {len(shown)} pictures train-*, {responses['L']} {len(betas[0])} rows and "
            f"{responses['R']} {len(betas[1])}; there must be as many of each"
        )
    vertex = [_vertices(folder, side, array.shape[1]) for side, array in zip(SIDES, betas, strict=True)]
    percent = HOLD_OUT if asked.hold_out is None else asked.hold_out
    test = held_out(shown, percent)
    logger.info("the responses of the data set's test images are withheld: %d training images are the test", len(test))
    return Recording(
        subject=f"algonauts-{folder.name}",
        shown=shown,
        test=np.array([name in test for name in shown]),
        betas=lambda: _blocks(betas),
        units=VertexUnits(
            "fsaverage", np.repeat(list(SIDES), [len(part) for part in vertex]), np.concatenate(vertex), (VERTICES,) * 2
        ),
        zscored=True,
        source=f"{folder}, {percent:g} % of the training images held out",
        pictures=pictures,
        areas=_areas(folder, [len(part) for part in vertex]),
        degrees=DEGREES,
    )


IMPORTER = Importer("Algonauts 2023", read, frozenset({"hold_out"}))


def _subject(asked: Asked) -> Path:
    """The subject's folder: one of those in the source, or the source itself."""
    source = need_folder(asked.source, "give the folder that holds subj01, subj02, ...")
    if (source / "training_split").is_dir():
        return source.resolve()
    there = {path.parent.name for path in source.glob("*/training_split")}
    return source / choose_subject(there, asked.subject, f"{source}/subjNN/training_split")


def _array(path: Path, dimensions: int) -> NDArray[np.number]:
    """An array that stays on the disk; objects are never unpickled."""
    need(path)
    with reading(path):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.ndim != dimensions or array.dtype.kind not in "fiub":
            raise ValueError(f"it holds {array.dtype} of shape {array.shape}, not numbers with {dimensions} axes")
    return array


def _blocks(betas: list[NDArray[np.number]]) -> Iterator[NDArray[np.float32]]:
    rows = rows_in_memory(sum(array.shape[1] for array in betas))
    for first in range(0, len(betas[0]), rows):
        yield np.concatenate([array[first : first + rows] for array in betas], axis=1, dtype=np.float32)


def _vertices(folder: Path, side: str, count: int) -> NDArray[np.int64]:
    """Which vertices of fsaverage a hemisphere's columns are."""
    path = folder / f"roi_masks/{SIDES[side]}.all-vertices_fsaverage_space.npy"
    mask = _array(path, 1)
    if len(mask) != VERTICES or (mask != 0).sum() != count:
        raise BoldreamsError(
            f"{path} marks {int((mask != 0).sum())} of {len(mask)} vertices; the responses have {count} columns, "
            f"and fsaverage {VERTICES} vertices"
        )
    return np.flatnonzero(mask)


def _areas(folder: Path, counts: list[int]) -> dict[str, NDArray[np.bool_]]:
    """Single labels, and those that are often taken together, over both hemispheres."""
    labels: dict[str, NDArray[np.bool_]] = {}
    for kind, names in CLASSES.items():
        paths = [folder / f"roi_masks/{side}.{kind}_challenge_space.npy" for side in SIDES.values()]
        if not all(path.is_file() for path in paths):
            logger.warning("no areas %s: %s and %s are not both there", kind, *paths)
            continue
        parts = [_array(path, 1) for path in paths]
        if [len(part) for part in parts] != counts:
            raise BoldreamsError(
                f"{paths[0]} and {paths[1].name} have {[len(part) for part in parts]} labels, "
                f"the responses {counts} columns"
            )
        for number, name in enumerate(names, start=1):
            labels[name] = np.concatenate(parts) == number
    groups = {name: [labels[part] for part in parts if part in labels] for name, parts in TOGETHER.items()}
    joined = {name: np.logical_or.reduce(parts) for name, parts in groups.items() if parts}
    return {name: area for name, area in (joined | labels).items() if area.any()}
