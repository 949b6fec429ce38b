"""BOLD5000, release 2: single-trial betas (GLMsingle's type D), of whole volumes or of areas alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, listing, logger
from boldreams_cli.data.importing.finding import choose_subject, find, need_folder
from boldreams_cli.data.importing.places import table
from boldreams_cli.data.importing.recording import Asked, Importer, Recording, rows_in_memory
from boldreams_cli.data.units import VoxelUnits
from boldreams_cli.data.volumes import affine_difference, read_mask
from boldreams_cli.files import check_declared, reading

BETAS = "GLMbetas-TYPED-FITHRF-GLMDENOISE-RR"
DEGREES = 4.6  # that the pictures spanned (Chang and others, 2019)
AGREE = 0.9  # of a brain mask, the least share that varies over trials
TEST = "repeated_stimuli_113_list.txt"
PRESENTED = "Presented_Stimuli"  # cropped as they were shown; Original_Images has others of the same names
SPELLINGS = {"LO": "LOC", "RRSC": "RSC"}  # of masks of some subjects


def read(asked: Asked) -> Recording:
    """Find one subject's sessions, brain mask, list of pictures and the list of those that were repeated, the test.

    Raises
    ------
    BoldreamsError
        If a file is missing or damaged, or files do not fit each other.
    """
    source = need_folder(asked.source, "give the folder that holds the betas of release 2")
    found, arrays = _of_subjects(source, f"_{BETAS}_ses-*.nii*"), _of_subjects(source, f"_{BETAS}_allses_*.npy")
    looked_for = f"{source}/CSI1_{BETAS}_ses-01.nii.gz, ..., or CSI1_{BETAS}_allses_LHEarlyVis.npy, ..."
    subject = choose_subject([*found.values(), *arrays.values()], asked.subject, looked_for)
    if subject in found.values():
        return _of_volumes(asked, subject, sorted(path for path, whose in found.items() if whose == subject))
    return _of_areas(asked, subject, sorted(path for path, whose in arrays.items() if whose == subject))


IMPORTER = Importer("BOLD5000 release 2", read, frozenset({"template"}))


def _of_subjects(source: Path, ending: str) -> dict[Path, str]:
    """File -> its subject, of those whose names end so."""
    return {path: path.name.split("_")[0] for path in source.rglob(f"*{ending}")}


def _of_volumes(asked: Asked, subject: str, paths: list[Path]) -> Recording:
    """Sessions as NIfTI files, a volume a trial."""
    source, sessions = asked.source, _sessions(paths)
    mask_path = asked.template or _file([source], f"{subject}_brainmask.nii*")
    mask, affine = read_mask(mask_path)
    counts = {number: _trials(path, mask.shape) for number, path in sessions.items()}
    shown, test = _shown(asked, subject, sum(counts.values()), "the sessions hold")
    return Recording(
        subject=subject,
        shown=shown,
        test=test,
        betas=lambda: _blocks(sessions, mask),
        units=VoxelUnits(np.argwhere(mask).astype(np.int32), affine, mask.shape),
        zscored=False,
        source=f"{source}, {subject}, sessions {min(sessions)} to {max(sessions)}",
        pictures=asked.images or source,
        prefer=PRESENTED,
        degrees=DEGREES,
        sessions=np.repeat(list(counts), list(counts.values())),
        areas=_areas(source, subject, mask, affine),
    )


def _of_areas(asked: Asked, subject: str, paths: list[Path]) -> Recording:
    """An array of (trials, voxels) an area and hemisphere, all sessions end to end; nothing says where voxels lie."""
    names = [path.stem.rsplit("_", 1)[1] for path in paths]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BoldreamsError(f"there are several arrays {twice[0]} of {subject} below {asked.source}; keep one of them")
    arrays = [_array(path) for path in paths]
    for path, array in zip(paths, arrays, strict=True):
        if len(array) != len(arrays[0]):
            raise BoldreamsError(f"{paths[0]} has {len(arrays[0])} trials, {path} {len(array)}; download them again")
    shown, test = _shown(asked, subject, len(arrays[0]), f"{paths[0].name} holds", whole=True)
    sizes = [array.shape[1] for array in arrays]
    row = np.repeat(np.arange(len(sizes)), sizes)
    return Recording(
        subject=subject,
        shown=shown,
        test=test,
        betas=lambda: _rows(arrays, sum(sizes)),
        units=table(sizes, asked.template, "the files *_allses_AREA.npy", subject),
        zscored=False,
        source=f"{paths[0].parent}, {subject}, {listing(names)}",
        pictures=asked.images or asked.source,
        prefer=PRESENTED,
        degrees=DEGREES,
        areas=_joined({name: row == place for place, name in enumerate(names)}),
    )


def _array(path: Path) -> NDArray[np.number]:
    """Betas that stay on the disk; objects are never unpickled."""
    with reading(path):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.ndim != 2 or array.dtype.kind != "f" or not array.size:
            raise ValueError(f"it holds {array.dtype} of shape {array.shape}, not numbers of (trials, voxels)")
    return array


def _rows(arrays: list[NDArray[np.number]], units: int) -> Iterator[NDArray[np.float32]]:
    rows = rows_in_memory(units)
    for first in range(0, len(arrays[0]), rows):
        yield np.concatenate([array[first : first + rows] for array in arrays], axis=1, dtype=np.float32)


def _shown(
    asked: Asked, subject: str, trials: int, held: str, whole: bool = False
) -> tuple[list[str], NDArray[np.bool_]]:
    """Picture of each trial, and whether it is of the test: those that were repeated.

    Parameters
    ----------
    whole : whether there must be as many names as trials; else later sessions may lack.
    """
    folders = [folder for folder in (asked.source, asked.images, asked.images and asked.images.parent) if folder]
    names = [name.removeprefix("rep_") for name in _lines(_file(folders, f"{subject}_imgnames.txt"))]
    if len(names) < trials or (whole and len(names) > trials):
        raise BoldreamsError(f"{subject}_imgnames.txt names {len(names)} trials, {held} {trials}")
    if len(names) > trials:
        logger.warning("%d of %d trials are taken: later sessions are not there", trials, len(names))
    repeated = {name.removeprefix("rep_") for name in _lines(_file(folders, TEST))}
    if unseen := len(repeated - set(names[:trials])):
        logger.info("%d of the %d pictures that were repeated are not in these sessions", unseen, len(repeated))
    return names[:trials], np.array([name in repeated for name in names[:trials]])


def _file(folders: list[Path], name: str) -> Path:
    found = find(folders, name)
    if found is None:
        raise BoldreamsError(f"there is no {name} below {' or '.join(map(str, folders))}; download it")
    return found


def _sessions(paths: list[Path]) -> dict[int, Path]:
    """Session -> file; none may lack before the last, as the list of pictures counts from the first trial."""
    numbered = {int(match[1]): path for path in paths if (match := re.search(r"_ses-(\d+)\.nii", path.name))}
    lacking = sorted(set(range(1, max(numbered) + 1)) - numbered.keys())
    if lacking:
        raise BoldreamsError(
            f"{numbered[max(numbered)]} is there, but not session {lacking[0]}: the list of pictures counts trials "
            "from the first session; download it"
        )
    return dict(sorted(numbered.items()))


def _trials(path: Path, shape: tuple[int, ...]) -> int:
    with reading(path):
        found: Any = nibabel.load(path)
    if len(found.shape) != 4 or found.shape[:3] != shape:
        raise BoldreamsError(f"{path} has shape {found.shape}, the brain mask {shape}; they must be of one subject")
    check_declared(path, math.prod(map(int, found.shape)) * found.get_data_dtype().itemsize)
    return int(found.shape[3])


def _lines(path: Path) -> list[str]:
    with reading(path):
        return [Path(line.strip()).name for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _blocks(sessions: dict[int, Path], mask: NDArray[np.bool_]) -> Iterator[NDArray[np.float32]]:
    """Betas session by session. The affine of these files is no one's: that of the brain mask holds."""
    for number, path in enumerate(sessions.values()):
        with reading(path):
            volumes = np.asanyarray(nibabel.load(path).dataobj)
        rows = rows_in_memory(int(mask.sum()))
        for first in range(0, volumes.shape[3], rows):
            block = np.ascontiguousarray(volumes[..., first : first + rows][mask].T, np.float32)
            if number == first == 0 and len(block) > 1:
                _compare(block, path)
            yield block


def _compare(block: NDArray[np.float32], path: Path) -> None:
    """Say it where a brain mask holds many voxels of which the betas say nothing: it may lie elsewhere than they do."""
    told = int((np.isfinite(block).all(axis=0) & (block != block[0]).any(axis=0)).sum())
    if told < AGREE * block.shape[1]:
        logger.warning(
            "%d of the %d voxels of the brain mask vary in %s, the others are constant or no numbers: the mask may be "
            "of another subject or lie elsewhere; compare them, or give another with --template",
            *(told, block.shape[1], path),
        )


def _areas(
    source: Path, subject: str, mask: NDArray[np.bool_], affine: NDArray[np.float64]
) -> dict[str, NDArray[np.bool_]]:
    """Regions of each hemisphere, and of both; masks of another grid are left out, of another affine are named."""
    found: dict[str, NDArray[np.bool_]] = {}
    for path in sorted(source.rglob(f"*{subject}_mask-[LR]H*.nii*")):
        area, own = read_mask(path)
        if area.shape != mask.shape:
            logger.warning("%s has shape %s, the brain mask %s: not taken", path, area.shape, mask.shape)
            continue
        if difference := affine_difference(own, affine, mask.shape):
            logger.warning("%s lies elsewhere than the brain mask: %s; taken by its indices", path, difference)
        found[re.search(r"_mask-([LR]H[^.]+)", path.name)[1]] = area[mask]  # type: ignore[index]
    return _joined(found)


def _joined(sides: dict[str, NDArray[np.bool_]]) -> dict[str, NDArray[np.bool_]]:
    """Regions of each hemisphere (``LHLOC``) with those of both (``LOC``); misspelt ones under the others' names."""
    found: dict[str, NDArray[np.bool_]] = {}
    for spelt, area in sides.items():
        side, name = spelt[:2], SPELLINGS.get(spelt[2:], spelt[2:])
        found[name], found[f"{side}{name}"] = found.get(name, np.zeros(len(area), bool)) | area, area
    return {name: area for name, area in found.items() if area.any()}
