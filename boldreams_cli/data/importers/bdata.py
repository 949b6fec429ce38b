"""Files of the brain decoder toolbox (bdata, HDF5): Generic Object Decoding, Deep Image Reconstruction and others.

A row of ``/dataset`` is a trial. ``/metadata/value`` says, key by key, what the columns are: voxels, their places and
areas, or vertices of both hemispheres, the session, the picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, ChoiceError, listing, logger
from boldreams_cli.data.importing.finding import choose_subject
from boldreams_cli.data.importing.places import lattice, table
from boldreams_cli.data.importing.recording import Asked, Importer, Recording, rows_in_memory, text
from boldreams_cli.data.units import MESHES, VertexUnits, VoxelUnits
from boldreams_cli.files import reading

TRAIN, TEST = 1, 2  # DataType of one file that holds both; 3 is imagery
LISTED = "image_index"  # the picture's number in the list of its phase, training or test, each counted from 1
NAMES = ("stimulus_name", "stimulus_id", LISTED)  # of the column that says the picture, the best first
VOXELS, VERTICES = "VoxelData", "VertexData"
XYZ, IJK = ("voxel_x", "voxel_y", "voxel_z"), ("voxel_i", "voxel_j", "voxel_k")
MARKS = ("session", "trial_id")  # columns of what else is known of a trial; some write Session
LEFT, RIGHT, INDEX = "VertexLeft", "VertexRight", "vertex_index"  # as bdpy writes surfaces of fMRIPrep, from 0
NO_AREAS = {VOXELS, VERTICES, *XYZ, *IJK, LEFT, RIGHT, INDEX, "voxel_id", "subject_id"}


@dataclass(frozen=True)
class Part:
    """One file of a subject.

    Parameters
    ----------
    path : of the file.
    data : its array of rows by columns.
    values : key -> (columns,), NaN where a key says nothing.
    kind : ``VoxelData`` or ``VertexData``.
    voxels : (V,) the columns that are of this kind.
    rows : (T,) the rows taken.
    shown : (T,) names of pictures.
    test : (T,) bool.
    sessions : (T,) from 1, None where they are not known.
    trials : (T,) numbers of the trials through the whole experiment, where the file has them.
    """

    path: Path
    data: str
    values: dict[str, NDArray[np.float64]]
    kind: str
    voxels: NDArray[np.int64]
    rows: NDArray[np.int64]
    shown: list[str]
    test: NDArray[np.bool_]
    sessions: NDArray[np.int64] | None
    trials: NDArray[np.float64] | None
    left_out: int

    def places(self, keys: tuple[str, ...]) -> NDArray[np.float64] | None:
        """(V, 3) of three keys, None where one lacks."""
        if not all(key in self.values for key in keys):
            return None
        return np.stack([self.values[key][self.voxels] for key in keys], axis=1)

    @property
    def where(self) -> NDArray[np.float64] | None:
        """(V, 3) what says where the columns lie; None of voxels without it; BoldreamsError of vertices."""
        keys = XYZ if self.kind == VOXELS else (LEFT, RIGHT, INDEX)
        found = self.places(keys)
        if found is None and (self.kind == VERTICES or any(key in self.values for key in keys)):
            raise BoldreamsError(f"{self.path} has not all of the keys {', '.join(keys)}, which say where its data lie")
        return found

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Betas of the rows taken."""
        step = rows_in_memory(len(next(iter(self.values.values()))), 8)
        with reading(self.path), h5py.File(self.path, "r") as file:
            for first in range(0, int(self.rows.max()) + 1, step):
                taken = self.rows[(self.rows >= first) & (self.rows < first + step)] - first
                yield file[self.data][first : first + step][taken][:, self.voxels].astype(np.float32)


def read(asked: Asked) -> Recording:
    """Find one subject's files: of training and test, or one that holds both.

    Raises
    ------
    BoldreamsError
        If a file is missing or damaged, or files do not fit each other.
    """
    subject, paths, rest = _files(asked)
    parts = [_part(path, phase) for path, phase in paths.items()]
    first = parts[0]
    for part in parts[1:]:
        if part.kind != first.kind or len(part.voxels) != len(first.voxels) or not _alike(first.where, part.where):
            raise BoldreamsError(f"{first.path} and {part.path} hold other voxels; both must be of one subject")
    return Recording(
        subject=subject,
        shown=[name for part in parts for name in part.shown],
        test=np.concatenate([part.test for part in parts]),
        betas=lambda: (block for part in parts for block in part.blocks()),
        units=_units(first, asked.template, subject),
        zscored=False,
        source=", ".join(str(path) for path in paths),
        pictures=asked.images or first.path.parent,
        sessions=_sessions(parts),
        areas=_areas(first),
        left_out={
            "rows that are neither training nor test": sum(part.left_out for part in parts),
            "files that are neither training nor test": rest,
        },
    )


IMPORTER = Importer("bdata", read, frozenset({"template"}))


def _alike(one: NDArray[np.float64] | None, other: NDArray[np.float64] | None) -> bool:
    """Whether two parts say the same of where their columns lie, or both nothing."""
    return one is other if one is None or other is None else np.array_equal(one, other, equal_nan=True)


def _units(part: Part, template: Path | None, subject: str) -> VoxelUnits | VertexUnits:
    """Where the columns lie: on a grid, or on the meshes of two hemispheres; in a table, where nothing says it."""
    where = part.where
    if where is None:
        return table([len(part.voxels)], template, f"the keys in {part.path}", subject)
    if part.kind == VOXELS:
        return lattice(where, part.places(IJK), template, part.path)
    if template is not None:
        raise ChoiceError(f"{part.path} holds vertices, which need no --template; leave it out")
    left, right, vertex = where.T
    if ((left == 1) == (right == 1)).any():
        raise BoldreamsError(f"{part.path}: each column of {VERTICES} must be 1 in one of {LEFT} and {RIGHT}")
    sides = left == 1, right == 1
    whole = all(np.array_equal(np.sort(vertex[side]), np.arange(side.sum())) for side in sides)
    counts = int(sides[0].sum()), int(sides[1].sum())
    # fMRIPrep, which bdpy reads, has the average brain's meshes; others of the same size are not known to it.
    spaces = {size: name for name, size in MESHES.items() if name.startswith("fsaverage")}
    space = spaces.get(counts[0], "native") if whole and counts[0] == counts[1] else "native"
    return VertexUnits(space, np.where(sides[0], "L", "R"), vertex, counts if whole else None)


def _files(asked: Asked) -> tuple[str, dict[Path, bool | None], int]:
    """The subject's name, its files -> whether of the test (None: the rows say it), and how many others there are."""
    source = asked.source
    if not source.is_dir():
        return re.split(r"[_.]", source.name)[0], {source: None}, 0
    found = sorted(source.glob("*.h5"))
    phases = {path: _phase(path.stem) for path in found}
    lone = [path for path in found if "_" not in path.stem and path.stem[-1:].isdigit()]
    there = [path.stem.split("_")[0] for path in found if phases[path] is not None] + [path.stem for path in lone]
    subject = choose_subject(there, asked.subject, f"{source}/Subject1.h5, or *Training*.h5 and *Test*.h5 of a subject")
    own = {path: phases[path] for path in found if path.stem.split("_")[0] == subject}
    taken: dict[Path, bool | None] = {path: phase for path, phase in own.items() if phase is not None}
    taken = taken or {path: None for path in lone if path.stem == subject}
    if set(taken.values()) not in ({None}, {True, False}):
        what = "Training" if False not in taken.values() else "Test"
        raise BoldreamsError(f"there is no {source}/{subject}_*{what}*.h5; download it")
    for test in (False, True):
        if len(several := [path.name for path, phase in taken.items() if phase is test]) > 1:
            what = "test" if test else "training"
            raise BoldreamsError(
                f"{source} has {len(several)} files of {what} of {subject}, whose trials may be the same: "
                f"{', '.join(several)}; keep one of them there"
            )
    rest = [path.name for path in own if path not in taken]
    logger.debug("neither training nor test by their names, so not taken: %s", listing(rest))
    return subject, dict(sorted(taken.items(), key=lambda item: (bool(item[1]), item[0]))), len(rest)


def _phase(stem: str) -> bool | None:
    """Whether a file is of the test, by its name; None where it says neither."""
    match = re.search(r"(train)|(test)", stem, re.IGNORECASE)
    return match and match[2] is not None


def _part(path: Path, test: bool | None) -> Part:
    with reading(path), h5py.File(path, "r") as file:
        data = next((name for name in ("dataset", "dataSet") if name in file), None)
        meta = next((name for name in ("metadata", "metaData") if name in file), None)
        if data is None or meta is None:
            raise ValueError("it has no /dataset and /metadata, so it is no bdata file")
        keys = [text(key) for key in file[meta]["key"][:]]
        values = dict(zip(keys, np.asarray(file[meta]["value"][:], np.float64), strict=True))
        kind = VOXELS if VOXELS in values else VERTICES
        if kind not in values:
            raise ValueError(f"it has neither of the keys {VOXELS} and {VERTICES}, but {listing(keys)}")
        columns = {key: np.flatnonzero(row == 1) for key, row in values.items()}
        name = next((key for key in NAMES if len(columns.get(key, ())) == 1), None)
        if name is None:
            raise ValueError(f"no column says the picture; looked for the keys {', '.join(NAMES)}")

        def column(key: str) -> NDArray[np.float64]:
            return np.asarray(file[data][:, int(columns[key][0])], np.float64)

        kinds = np.full(len(file[data]), TEST if test else TRAIN) if test is not None else _kinds(columns, column)
        ids = column(name)
        rows = np.flatnonzero(np.isin(kinds, (TRAIN, TEST)) & np.isfinite(ids))
        shown = _names(file, name, ids[rows], kinds[rows] == TEST)
        marks = {key.lower(): column(key)[rows] for key in columns if key.lower() in MARKS and len(columns[key]) == 1}
    if not len(rows):
        raise BoldreamsError(f"{path} holds no row of training or test with a picture")
    return Part(
        *(path, data, values, kind, columns[kind], rows, shown, kinds[rows] == TEST),
        sessions=marks["session"].astype(np.int64) if "session" in marks else None,
        trials=marks.get("trial_id"),
        left_out=len(kinds) - len(rows),
    )


def _kinds(columns: dict[str, NDArray[np.int64]], column: Any) -> NDArray[np.float64]:
    if len(columns.get("DataType", ())) != 1:
        raise ValueError(
            "it has no column DataType that tells training (1) from test (2); "
            "give the folder that holds *Training*.h5 and *Test*.h5"
        )
    return column("DataType")


def _names(file: h5py.File, key: str, ids: NDArray[np.float64], test: NDArray[np.bool_]) -> list[str]:
    """Names of pictures: by the file's own table, or that of a phase beside it; else ImageNet's numbers are names.

    1518878.005958 is n01518878_5958.
    """
    table = file.get(f"vmap/{key}")
    if table is not None:
        named = {float(number): text(name[()]) for number, name in table.items()}
        if lacking := set(ids.tolist()) - named.keys():
            raise ValueError(f"/vmap/{key} has no name for {_written(min(lacking))}")
        return [named[number] for number in ids.tolist()]
    if key == LISTED and (listed := _listed(Path(file.filename), ids, test)) is not None:
        return listed
    return [
        _written(number) if number.is_integer() else f"n{int(number):08d}_{round(number % 1 * 1e6)}"
        for number in ids.tolist()
    ]


def _listed(path: Path, ids: NDArray[np.float64], test: NDArray[np.bool_]) -> list[str] | None:
    """Names of pictures by their numbers in the lists of training and test, which lie beside the file as tables.

    None where there are no tables, and one file has training and test under numbers of their own.
    """
    folder, phases = path.parent, sorted(set(test.tolist()))
    found = {
        phase: [table for table in folder.glob("stimulus_*.tsv") if _phase(table.stem) is phase] for phase in phases
    }
    if len(phases) == 2 and not any(found.values()) and not set(ids[test].tolist()) & set(ids[~test].tolist()):
        return None
    named: dict[tuple[bool, float], str] = {}
    for phase, tables in found.items():
        what = "Test" if phase else "Training"
        if len(tables) != 1:
            there = f"{len(tables)} are there, keep one" if tables else "put it there"
            raise BoldreamsError(
                f"{path}: {LISTED} numbers the pictures of {what.lower()} by a list of their own, so names need "
                f"{folder}/stimulus_*{what}*.tsv, the name in the first column and the number in the last; {there}"
            )
        with reading(tables[0]):
            rows = [line.split("\t") for line in tables[0].read_text(encoding="utf-8").splitlines() if line.strip()]
            named |= {(phase, float(row[-1])): row[0].strip() for row in rows}
    pairs = list(zip(test.tolist(), ids.tolist(), strict=True))
    if lacking := [number for phase, number in pairs if (phase, number) not in named]:
        raise BoldreamsError(f"{path}: the tables {folder}/stimulus_*.tsv have no name for {LISTED} {min(lacking):g}")
    return [named[pair] for pair in pairs]


def _written(number: float) -> str:
    """A picture's number with all of its digits."""
    return str(int(number)) if number.is_integer() else str(number)


def _sessions(parts: list[Part]) -> NDArray[np.int64] | None:
    """Sessions of all parts, counted on from part to part, as each file begins with 1.

    Not so where the parts number their trials together, each once: they are one experiment's, and so are its sessions.
    """
    numbers = [part.trials for part in parts if part.trials is not None]
    together = len(numbers) == len(parts) and len(np.unique(trials := np.concatenate(numbers))) == len(trials)
    found: list[NDArray[np.int64]] = []
    for part in parts:
        if part.sessions is None or part.sessions.min() < 1:
            return None
        found.append(part.sessions + (found[-1].max() if found and not together else 0))
    return np.concatenate(found)


def _areas(part: Part) -> dict[str, NDArray[np.bool_]]:
    """Keys that are 1 for some voxels, 0 or nothing for the others, and say nothing of other columns."""
    others = np.ones(len(part.values[part.kind]), bool)
    others[part.voxels] = False
    found = {}
    for key, row in part.values.items():
        inside = row[part.voxels]
        area = inside == 1
        plain = np.all(area | (inside == 0) | np.isnan(inside)) and not (row[others] == 1).any()
        if plain and area.any() and key not in NO_AREAS:
            found[key.removeprefix("ROI_").replace("/", "-").replace(",", "-")] = area
    return found
