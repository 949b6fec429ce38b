"""Betas of a data file: read so that no chunk of it is unpacked more often than need be, whatever its layout."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, StopFlag, logger
from boldreams_cli.data import identity
from boldreams_cli.data.neutral.reading import REMEDY, DataFile
from boldreams_cli.files import reading

BETAS = "betas"
ONLY = 1  # the number of the session, where there are none
SAMPLED_ROWS, SAMPLED_COLUMNS = 8, 16  # of a session's betas, for their identity
BLOCK_BYTES = 2**26  # of betas read at once
NEVER_WRITTEN = "0 in all units: was a part of the file never written?"  # what HDF5 gives for what is not there


class Block(NamedTuple):
    """Some of the betas.

    Parameters
    ----------
    first, end : of the rows that were asked for.
    columns : of the units.
    values : (end - first, columns), in the file's own type.
    """

    first: int
    end: int
    columns: slice
    values: NDArray[Any]


def rows_of(data: DataFile, session: int) -> NDArray[np.int64]:
    """Rows of betas that are a session's, in their order."""
    if data.trials.session is None:
        return np.arange(len(data.trials.image))
    return np.flatnonzero(data.trials.session == session)


def blocks(betas: Any, rows: NDArray[np.int64]) -> Iterator[Block]:
    """Some rows of betas, a part at a time: whole chunks of the file, of all units or where chunks are tall of some.

    Parameters
    ----------
    betas : (trials, units), open.
    rows : to read, in ascending order.
    """
    units, item = betas.shape[1], betas.dtype.itemsize
    tall, wide = betas.chunks or (1, units)
    most = max(1, BLOCK_BYTES // (item * units))  # rows of all units
    step, width = max(tall, most // tall * tall), units
    if tall > most:
        width = max(wide, BLOCK_BYTES // (item * tall) // wide * wide)
    for start in range(0, betas.shape[0], step):
        first, end = np.searchsorted(rows, (start, start + step)).tolist()
        spans = [(first, end)] if betas.chunks else _runs(rows, first, end)  # gaps of a chunk are unpacked anyway
        for one, other in spans if first < end else ():
            place = rows[one:other]
            for column in range(0, units, width):
                part = slice(column, min(column + width, units))
                values = betas[int(place[0]) : int(place[-1]) + 1, part]
                yield Block(one, other, part, values if len(values) == len(place) else values[place - place[0]])


def _runs(rows: NDArray[np.int64], first: int, end: int) -> list[tuple[int, int]]:
    """Spans of rows that follow one another in the file."""
    edges = [first, *(np.flatnonzero(np.diff(rows[first:end]) != 1) + first + 1).tolist(), end]
    return list(pairwise(edges))


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
    found = np.empty((len(rows), len(columns)), np.float32)
    as_they_are = np.array_equal(columns, np.arange(len(data.units)))
    with reading(data.path, REMEDY), h5py.File(data.path, "r") as file:
        for block in blocks(file[BETAS], rows):
            if as_they_are:
                found[block.first : block.end, block.columns] = block.values
            else:
                wanted = (columns >= block.columns.start) & (columns < block.columns.stop)
                found[block.first : block.end, wanted] = block.values[:, columns[wanted] - block.columns.start]
            if stop is not None:
                stop.check("the betas were not read to the end")
    if zeros := int((~found.any(1)).sum()):
        logger.warning("%s: betas: %d trials are %s", data.path, zeros, NEVER_WRITTEN)
    return found


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


def betas_identity(data: DataFile, sessions: Sequence[int]) -> dict[str, Any]:
    """Session -> its trials, and a hash of a sample of its betas: eight places, some units of a row at each.

    Few places, for every command asks for it; whoever reads the betas hashes all of them.
    """
    rows = {session: rows_of(data, session) for session in sessions}
    sampled = {session: hashlib.sha256() for session in sessions}
    starts = np.linspace(0, max(0, len(data.units) - SAMPLED_COLUMNS), SAMPLED_ROWS).astype(int).tolist()
    with reading(data.path, REMEDY), h5py.File(data.path, "r") as file:
        for number, start in enumerate(starts):
            part = slice(start, start + SAMPLED_COLUMNS)
            places = {session: int(own[number * (len(own) - 1) // (SAMPLED_ROWS - 1)]) for session, own in rows.items()}
            for session, values in zip(places, _some_rows(file[BETAS], list(places.values()), part), strict=True):
                sampled[session].update(np.asarray(values, np.float32).tobytes())
    return {
        str(session): {"trials": len(rows[session]), "sample": sampled[session].hexdigest()[: identity.DIGITS]}
        for session in sessions
    }


def _some_rows(betas: Any, rows: Sequence[int], columns: slice) -> Iterator[NDArray[Any]]:
    """Some units of some rows; those of one chunk, or of chunks that many of them lie in, are read together."""
    if betas.chunks and len(rows) * betas.chunks[0] > betas.shape[0]:
        slab = betas[min(rows) : max(rows) + 1, columns]
        yield from (slab[row - min(rows)] for row in rows)
        return
    yield from (betas[row, columns] for row in rows)
