"""THINGS-fMRI: single-trial responses in the table format, every voxel of the brain (betas_csv, brainmasks)."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, logger
from boldreams_cli.data.importing.finding import choose_subject, find, need, need_folder
from boldreams_cli.data.importing.pandas_hdf5 import find_table
from boldreams_cli.data.importing.recording import Asked, CeilingKind, Importer, Recording
from boldreams_cli.data.units import VoxelUnits
from boldreams_cli.data.volumes import read_mask
from boldreams_cli.files import reading

DEGREES = 10.0  # that the pictures spanned (Hebart and others, 2023)
PLACES = ("voxel_x", "voxel_y", "voxel_z")
# Of one trial first: those of any number of repeats follow from it.
CEILINGS: dict[str, CeilingKind] = {"nc_singletrial": "single-trial", "nc_testset": "test-set"}
MEASURES = re.compile(r"(voxel|subject)_.*|nc_.*|splithalf_.*|prf-.*")  # columns that are no areas


def read(asked: Asked) -> Recording:
    """Find one subject's tables and its brain mask; trial_type says which trials are the test.

    Raises
    ------
    BoldreamsError
        If a file is missing or damaged, or files do not fit each other.
    """
    source = need_folder(asked.source, "give the folder that holds betas_csv and brainmasks")
    folder = source / "betas_csv" if (source / "betas_csv").is_dir() else source
    end = "_ResponseData.h5"
    there = [path.name.removesuffix(end) for path in folder.glob(f"*{end}")]
    subject = choose_subject(there, asked.subject, f"{folder}/sub-NN{end}")
    trials = _trials(need(folder / f"{subject}_StimulusMetadata.csv"))
    voxels = _voxels(need(folder / f"{subject}_VoxelMetadata.csv"))
    units = _units(voxels, _mask(asked, source, subject))
    table = find_table(folder / f"{subject}{end}", len(units), len(trials))
    ceiling = next((name for name in CEILINGS if name in voxels), None)
    return Recording(
        subject=f"things-{subject}",
        shown=[row["stimulus"] for row in trials],
        test=np.array([row["trial_type"] == "test" for row in trials]),
        betas=table.columns,
        units=units,
        zscored=False,
        source=str(table.path),
        pictures=asked.images or source,
        sessions=np.array([int(row["session"]) for row in trials]),
        areas=_areas(voxels),
        ceiling=voxels[ceiling] if ceiling else None,
        ceiling_kind=CEILINGS[ceiling] if ceiling else None,
        degrees=DEGREES,
    )


IMPORTER = Importer("THINGS-fMRI", read, frozenset({"template"}))


def _trials(path: Path) -> list[dict[str, str]]:
    with reading(path):
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        wanted = {"trial_type", "session", "stimulus"}
        if not rows or wanted - rows[0].keys():
            raise ValueError(f"it must have the columns {', '.join(sorted(wanted))} and a row a trial")
        if kinds := {row["trial_type"] for row in rows} - {"train", "test"}:
            raise ValueError(f"trial_type must be train or test, not {sorted(kinds)[0]!r}")
        if not all(re.fullmatch(r"\d+", row["session"]) for row in rows):
            raise ValueError("session must be whole numbers")
    return rows


def _voxels(path: Path) -> dict[str, NDArray[np.float32]]:
    """Columns of a table of numbers; names of columns may go over several lines."""
    with reading(path), path.open(newline="", encoding="utf-8") as stream:
        names = [re.sub(r"\s*\n\s*", "", name) for name in next(csv.reader(stream))]
        values = np.loadtxt(_filled(stream), np.float32, delimiter=",", ndmin=2)
        if values.shape[1:] != (len(names),) or set(PLACES) - set(names):
            raise ValueError(f"it must have the columns {', '.join(PLACES)} and as many numbers in every row")
    return dict(zip(names, values.T, strict=True))


def _filled(lines: TextIO) -> Iterator[str]:
    """Lines whose empty cells say nan."""
    for line in lines:
        bare = line.rstrip("\r\n")
        if ",," in bare or bare[:1] == "," or bare[-1:] == ",":
            bare = ",".join(cell or "nan" for cell in bare.split(","))
        yield bare


def _mask(asked: Asked, source: Path, subject: str) -> Path | None:
    """The volume that the voxels' indices are of; None where it is not there."""
    if asked.template is not None:
        return asked.template
    name = f"{subject}_space-T1w_brainmask.nii.gz"
    found = find([source, source.parent / "brainmasks"], name)
    if found is None:
        logger.warning(
            "there is no %s below %s: maps of %s will have the voxels' indices and no places in mm; download "
            "brainmasks, or give it with --template",
            *(name, source, subject),
        )
    return found


def _units(voxels: dict[str, NDArray[np.float32]], path: Path | None) -> VoxelUnits:
    """The voxels of the table; without a mask the volume ends with the last of them, and indices stand for mm."""
    ijk = np.stack([voxels[name] for name in PLACES], axis=1).astype(np.int64)
    if path is None:
        if ijk.min() < 0:
            raise BoldreamsError(
                f"{', '.join(PLACES)} count from 0, but go down to {ijk.min()}; download the table again"
            )
        x, y, z = (ijk.max(axis=0) + 1).tolist()
        return VoxelUnits(ijk.astype(np.int32), np.eye(4), (x, y, z))
    mask, affine = read_mask(path)
    inside = np.asarray(((ijk >= 0) & (ijk < mask.shape)).all(axis=1))
    inside[inside] = mask[tuple(ijk[inside].T)]
    if not inside.all():
        raise BoldreamsError(
            f"{path}: {int((~inside).sum())} of {len(ijk)} voxels of the table lie outside this mask; "
            "give that of the same subject"
        )
    return VoxelUnits(ijk.astype(np.int32), affine, mask.shape)


def _areas(voxels: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.bool_]]:
    """Columns of zeros and ones; `LO1 (prf)` becomes LO1."""
    found, other = {}, []
    for name, values in voxels.items():
        if MEASURES.fullmatch(name):
            continue
        if not np.isin(values, (0, 1)).all():
            other.append(name)
        elif values.any():
            found[name.removesuffix(" (prf)").replace("/", "-")] = values == 1
    if other:
        logger.warning("no areas, as they hold more than 0 and 1: %s", ", ".join(other))
    return found
