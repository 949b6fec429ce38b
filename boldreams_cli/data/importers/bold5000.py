"""BOLD5000, release 2: single-trial betas of whole volumes (GLMsingle's type D), a NIfTI file a session."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, logger
from boldreams_cli.data.importing.finding import choose_subject, find, need_folder
from boldreams_cli.data.importing.recording import Asked, Importer, Recording, rows_in_memory
from boldreams_cli.data.units import VoxelUnits
from boldreams_cli.data.volumes import read_mask
from boldreams_cli.files import check_declared, reading

BETAS = "GLMbetas-TYPED-FITHRF-GLMDENOISE-RR"
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
    found = {path: path.name.split("_")[0] for path in source.rglob(f"*_{BETAS}_ses-*.nii*")}
    subject = choose_subject(found.values(), asked.subject, _looked_for(source))
    sessions = _sessions(path for path, whose in found.items() if whose == subject)
    mask_path = asked.template or _file([source], f"{subject}_brainmask.nii*")
    mask, affine = read_mask(mask_path)
    counts = {number: _trials(path, mask.shape) for number, path in sessions.items()}
    places = [folder for folder in (source, asked.images, asked.images and asked.images.parent) if folder]
    names = [name.removeprefix("rep_") for name in _lines(_file(places, f"{subject}_imgnames.txt"))]
    shown = names[: sum(counts.values())]
    if len(shown) < sum(counts.values()):
        raise BoldreamsError(
            f"{subject}_imgnames.txt names {len(names)} trials, the sessions hold {sum(counts.values())}"
        )
    if len(shown) < len(names):
        logger.warning("%d of %d trials are taken: later sessions are not there", len(shown), len(names))
    repeated = {name.removeprefix("rep_") for name in _lines(_file(places, TEST))}
    return Recording(
        subject=subject,
        shown=shown,
        test=np.array([name in repeated for name in shown]),
        betas=lambda: _blocks(sessions, mask),
        units=VoxelUnits(np.argwhere(mask).astype(np.int32), affine, mask.shape),
        zscored=False,
        source=f"{source}, {subject}, sessions {min(sessions)} to {max(sessions)}",
        pictures=asked.images or source,
        prefer=PRESENTED,
        sessions=np.repeat(list(counts), list(counts.values())),
        areas=_areas(source, subject, mask),
    )


IMPORTER = Importer("BOLD5000 release 2", read, frozenset({"template"}))


def _looked_for(source: Path) -> str:
    if any(source.rglob(f"*_{BETAS}_allses_*.npy")):
        return (
            f"{source}/CSI1_{BETAS}_ses-01.nii.gz, ...; the files py/*_allses_*.npy do not say where their voxels lie, "
            "so they are not taken"
        )
    return f"{source}/CSI1_{BETAS}_ses-01.nii.gz, ..."


def _file(folders: list[Path], name: str) -> Path:
    found = find(folders, name)
    if found is None:
        raise BoldreamsError(f"there is no {name} below {' or '.join(map(str, folders))}; download it")
    return found


def _sessions(paths: Iterator[Path]) -> dict[int, Path]:
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
    for path in sessions.values():
        with reading(path):
            volumes = np.asanyarray(nibabel.load(path).dataobj)
        rows = rows_in_memory(int(mask.sum()))
        for first in range(0, volumes.shape[3], rows):
            yield np.ascontiguousarray(volumes[..., first : first + rows][mask].T, np.float32)


def _areas(source: Path, subject: str, mask: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """Regions of each hemisphere, and of both; masks of another grid are left out."""
    found: dict[str, NDArray[np.bool_]] = {}
    for path in sorted(source.rglob(f"*{subject}_mask-[LR]H*.nii*")):
        side, name = re.search(r"_mask-([LR]H)([^.]+)", path.name).groups()  # type: ignore[union-attr]
        area, _ = read_mask(path)
        if area.shape != mask.shape:
            logger.warning("%s has shape %s, the brain mask %s: not taken", path, area.shape, mask.shape)
            continue
        name = SPELLINGS.get(name, name)
        both = found.get(name, np.zeros(int(mask.sum()), bool))
        found[name], found[f"{side}{name}"] = both | area[mask], area[mask]
    return {name: area for name, area in found.items() if area.any()}
