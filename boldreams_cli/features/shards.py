"""Reads single filters out of the shards of layers' maps, on several threads.

zarr answers one selection a call, and a tenth of the filters, in the order of their ranks, is dozens of selections of
a millisecond and more each. The chunks that hold them decode in a tenth of that (make bench, "store").
The format is that of Zarr v3's ``sharding_indexed`` codec with its index at the end, as `FeatureStore` writes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numcodecs.blosc import decompress  # what any setting of Blosc has packed
from numpy.typing import NDArray

from boldreams_cli.console import MismatchError

EMPTY = 2**64 - 1  # offset of a chunk that holds zeros only and is not stored
THREADS = min(8, os.cpu_count() or 1)
ONE_THREAD_BYTES = 2**21  # threads cost more than they spare below this

Rows = NDArray[np.int64] | slice


class Wanted(NamedTuple):
    """Filters of one layer, and where their maps go.

    Parameters
    ----------
    folder : of the Zarr array.
    stored : filters that a shard holds.
    chunk : (rows, height, width) of one filter's chunk.
    positions : of the wanted filters in the array.
    out : (images, wanted filters, height, width) of the array's dtype, any layout.
    """

    folder: Path
    stored: int
    chunk: tuple[int, int, int]
    positions: Sequence[int]
    out: NDArray[Any]


class _Part(NamedTuple):
    """Some wanted filters of one shard."""

    layer: Wanted
    shard: int
    target: Rows
    source: Rows
    columns: range


def read(layers: Iterable[Wanted], rows: NDArray[Any]) -> None:
    """Decode the chunks that hold some filters of some images.

    Parameters
    ----------
    layers : of one store.
    rows : (images,) rows of the arrays.

    Raises
    ------
    MismatchError
        If a shard is damaged.
    """
    layers = list(layers)
    threads = THREADS if sum(layer.out.nbytes for layer in layers) > ONE_THREAD_BYTES else 1
    parts = _parts(layers, rows, threads)
    if threads == 1:
        _decode(parts)
        return
    # One pool for all layers, and one task a thread: handing out the parts one by one costs as much as decoding them.
    waiting = iter(list(parts))  # of a list, as threads may share it
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(_decode, waiting) for _ in range(threads)]:
            done.result()


def _parts(layers: Sequence[Wanted], rows: NDArray[Any], split: int) -> Iterator[_Part]:
    for layer in layers:
        shards, local = np.divmod(np.asarray(rows), layer.chunk[0])
        for shard in np.unique(shards).tolist():
            chosen = np.flatnonzero(shards == shard)
            target, source = _as_slice(chosen), _as_slice(local[chosen])
            for first in range(min(split, len(layer.positions))):
                yield _Part(layer, shard, target, source, range(first, len(layer.positions), split))


def _as_slice(indices: NDArray[np.int64]) -> Rows:
    """Neighbouring indices as a slice, which spares a copy."""
    if len(indices) and (np.diff(indices) == 1).all():
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices


def _index(path: Path, file: int, filters: int) -> NDArray[np.uint64]:
    """(filters, 2) offset and length of each chunk; after it come four bytes of a checksum."""
    length = 16 * filters
    end = os.fstat(file).st_size - 4
    data = os.pread(file, length, max(0, end - length))
    if len(data) != length or end < length:
        raise _damaged(path)
    return np.frombuffer(data, dtype="<u8").reshape(-1, 2)


def _decode(parts: Iterator[_Part]) -> None:
    for part in parts:
        path = part.layer.folder / "c" / str(part.shard) / "0" / "0" / "0"
        if path.is_file():
            with path.open("rb", buffering=0) as stream:
                _decode_part(part, path, stream.fileno())
        else:  # zarr stores no shard of zeros
            part.layer.out[part.target, part.columns.start :: part.columns.step] = 0


def _decode_part(part: _Part, path: Path, file: int) -> None:
    layer, target, source = part.layer, part.target, part.source
    places = _index(path, file, layer.stored)[list(layer.positions)].tolist()
    maps = np.empty(layer.chunk, layer.out.dtype)  # one for all: fresh memory costs as much as decoding
    for column in part.columns:
        offset, length = places[column]
        if offset == EMPTY:
            layer.out[target, column] = 0
            continue
        try:
            decompress(os.pread(file, length, offset), maps)
        except (RuntimeError, ValueError, OSError) as error:
            raise _damaged(path) from error
        layer.out[target, column] = maps[source]


def _damaged(path: Path) -> MismatchError:
    return MismatchError(f"{path} is damaged; delete the store that it belongs to and run boldreams extract again")
