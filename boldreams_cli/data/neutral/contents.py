"""What a subject's responses are made from in a data file: their identity, trials, areas, ceilings and betas."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, ChoiceError, StopFlag, listing
from boldreams_cli.data import identity
from boldreams_cli.data.areas import Areas
from boldreams_cli.data.dataset import Contents, Trials
from boldreams_cli.data.neutral.ceilings import ncsnr_of
from boldreams_cli.data.neutral.images import names_identity
from boldreams_cli.data.neutral.reading import REMEDY, DataFile
from boldreams_cli.data.sessions import parse_sessions
from boldreams_cli.data.units import VertexUnits
from boldreams_cli.files import reading, to_json

ONLY = 1  # the number of the session, where there are none
HELD_OUT = 0.1  # share of the images that is the test, where no trial is marked
SAMPLED_ROWS = 8  # of a session's betas, for their identity
BLOCK_BYTES = 2**26  # of betas read at once


def choose_sessions(data: DataFile, sessions: str | None) -> list[int]:
    """Numbers of the sessions asked for; all of them where nothing is.

    Raises
    ------
    ChoiceError
        If one is not there.
    """
    there = [ONLY] if data.trials.session is None else np.unique(data.trials.session).tolist()
    if sessions is None:
        return [int(number) for number in there]
    asked = parse_sessions(sessions)
    if absent := sorted(set(asked) - set(there)):
        said = "it has no sessions" if data.trials.session is None else f"there: {listing(there, 40)}"
        raise ChoiceError(f"{data.path} has no session {listing(absent)}; {said} (--sessions)")
    return asked


def rows_of(data: DataFile, session: int) -> NDArray[np.int64]:
    """Rows of betas that are a session's, in their order."""
    if data.trials.session is None:
        return np.arange(len(data.trials.image))
    return np.flatnonzero(data.trials.session == session)


def test_images(data: DataFile) -> NDArray[np.bool_]:
    """(images,) those of the test: as marked; where nothing is, a tenth of those shown, chosen by their names alone.

    So the same images are held out whatever the sessions and the order of the file.
    """
    shown = np.unique(data.trials.image)
    test = np.zeros(len(data.images.names), bool)
    if data.trials.test is not None:
        test[data.trials.image[data.trials.test]] = True
        return test
    drawn = [hashlib.sha256(data.images.names[image].encode()).hexdigest() for image in shown]
    test[shown[np.argsort(drawn, kind="stable")[: max(1, round(HELD_OUT * len(shown)))]]] = True
    return test


def zscoring(data: DataFile) -> str:
    """How betas are z-scored: not again, by session, or by mean and deviation over the training trials."""
    if data.zscored:
        return "given"
    return "session" if data.trials.session is not None else "training"


def areas_of(data: DataFile, chosen: NDArray[np.bool_] | slice = slice(None)) -> Areas:
    """Areas over some of the units, each a group of its own, in the order of the file."""
    named = {f"labels-{place}": item for place, item in enumerate(data.areas)}
    groups: dict[str, tuple[str, tuple[str | int, ...]]] = {}
    for volume, item in named.items():
        for label, name in item.names.items():
            groups.setdefault(name, (volume, (label,)))
    units = data.units
    return Areas(
        labels={volume: item.labels[chosen] for volume, item in named.items()},
        tables={volume: item.names for volume, item in named.items()},
        voxels=units.ijk[chosen],
        shape=units.shape,
        affine=units.affine,
        groups=groups,
        space=units.space if isinstance(units, VertexUnits) else None,
    )


def inside(data: DataFile, mask: str | None) -> NDArray[np.bool_]:
    """(units,) those that ``--mask`` names, an area, a union of areas or a NIfTI file; all without one.

    Raises
    ------
    ChoiceError, MismatchError, BoldreamsError
        As `Areas.select`.
    """
    return np.ones(len(data.units), bool) if mask is None else areas_of(data).select(mask)


def request_for(data: DataFile, sessions: str | None, mask: str | None) -> dict[str, Any]:
    """All that decides the numbers of the prepared responses: content alone, wherever the file lies.

    Raises
    ------
    ChoiceError
        If a session or the mask is not there.
    """
    chosen, marks = choose_sessions(data, sessions), data.trials
    known = [array for array in (marks.session, marks.test, marks.repeats) if array is not None]
    units = data.units
    meshes = [units.space, units.vertices] if isinstance(units, VertexUnits) else [list(units.shape)]
    ceiling = data.ceiling
    request: dict[str, Any] = {
        "dataset": "file",
        "subject": data.subject,
        "sessions": chosen,
        "mask": None if mask is None else identity.content(inside(data, mask)),
        "images": names_identity(data.images),
        "trials": [identity.content(array) for array in (marks.image, *known)],
        "test": "held out" if marks.test is None else "marked",
        "zscore": zscoring(data),
        "units": [*meshes, identity.content(units.ijk), identity.content(units.affine)],
        "areas": [[item.names, identity.content(item.labels)] for item in data.areas],
        "ceiling": None if ceiling is None else [ceiling.kind, identity.content(ceiling.values)],
        "degrees": data.degrees,
        "betas": _betas_identity(data, chosen),
    }
    read: dict[str, Any] = to_json(request)  # as it is when it was stored and read
    return read


def _betas_identity(data: DataFile, sessions: list[int]) -> dict[str, Any]:
    """Session -> its trials, and a hash of a sample of its betas."""
    found = {}
    with reading(data.path, REMEDY), h5py.File(data.path, "r") as file:
        for session in sessions:
            rows = rows_of(data, session)
            sample = hashlib.sha256()
            for row in rows[np.unique(np.linspace(0, len(rows) - 1, SAMPLED_ROWS).astype(int))]:
                sample.update(np.asarray(file["betas"][int(row)], np.float32).tobytes())
            found[str(session)] = {"trials": len(rows), "sample": sample.hexdigest()[: identity.DIGITS]}
    return found


def plan_trials(data: DataFile, sessions: list[int]) -> Trials:
    """Images and split of the trials of `sessions`, a session after the other.

    Raises
    ------
    BoldreamsError
        If no training or no test image is left.
    """
    rows = {session: rows_of(data, session) for session in sessions}
    every = np.concatenate(list(rows.values()))
    images = data.trials.image[every]
    test = test_images(data)[images]
    for kind, there in (("training", not test.all()), ("test", test.any())):
        if not there:
            raise BoldreamsError(
                f"{data.path}: no {kind} image in session {listing(sessions)} of {data.subject}; take more (--sessions)"
            )
    repeats = None if data.trials.repeats is None else data.trials.repeats[every]
    return Trials({session: len(part) for session, part in rows.items()}, images, test, repeats)


def contents(data: DataFile, request: dict[str, Any], mask: str | None) -> Contents:
    """All of the subject's responses but the betas; see `request_for` for what is raised."""
    chosen, trials = inside(data, mask), plan_trials(data, request["sessions"])
    ceiling, units = data.ceiling, data.units
    ncsnr = np.full(int(chosen.sum()), np.nan, np.float32)
    if ceiling is not None:
        ncsnr = ncsnr_of(ceiling.values[chosen], ceiling.kind, _test_repeats(trials))
    return Contents(
        request,
        mask,
        trials,
        areas_of(data, chosen),
        ncsnr,
        file=data.path.resolve(),
        vertices=units.vertices if isinstance(units, VertexUnits) else None,
    )


def _test_repeats(trials: Trials) -> NDArray[np.int64]:
    """(test images,) presentations of each."""
    weights = np.ones(len(trials.images), np.int64) if trials.repeats is None else trials.repeats
    totals = np.bincount(trials.images[trials.test], weights=weights[trials.test])
    return totals[totals > 0].astype(np.int64)


def read_betas(
    data: DataFile, session: int, voxels: NDArray[np.int32], stop: StopFlag | None = None
) -> NDArray[np.float32]:
    """(trials, V) betas of one session, as the file has them, of units by how they are filed.

    Raises
    ------
    BoldreamsError
        If the file is damaged.
    StoppedError
        If a signal came.
    """
    rows, columns = rows_of(data, session), _columns(data, voxels)
    betas = np.empty((len(rows), len(columns)), np.float32)
    with reading(data.path, REMEDY), h5py.File(data.path, "r") as file:
        dataset = file["betas"]
        as_they_are = np.array_equal(columns, np.arange(dataset.shape[1]))
        most = max(1, BLOCK_BYTES // (4 * dataset.shape[1]))
        for first, end in _runs(rows, most):
            block = dataset[int(rows[first]) : int(rows[end - 1]) + 1]
            betas[first:end] = block if as_they_are else block[:, columns]
            if stop is not None:
                stop.check("the betas were not read to the end")
    return betas


def _columns(data: DataFile, voxels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Columns of betas of some units; all of them are in the order of the file."""
    there = np.ravel_multi_index(tuple(data.units.ijk.T), data.units.shape)
    wanted = np.ravel_multi_index(tuple(voxels.T), data.units.shape)
    order = np.argsort(there)
    places = np.minimum(np.searchsorted(there[order], wanted), len(order) - 1)
    columns = order[places]
    if (there[columns] != wanted).any():
        raise BoldreamsError(f"{data.path} lacks units that its responses were made of; run boldreams prepare again")
    return columns


def _runs(rows: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """Spans of `rows` that follow one another in the file, none longer than `most`."""
    edges = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    return [(start, min(start + most, end)) for begin, end in pairwise(edges) for start in range(begin, end, most)]
