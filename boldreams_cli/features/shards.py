"""Reads single filters out of the shards of layers' maps, on several threads.

zarr answers one selection a call, and a tenth of the filters, in the order of their ranks, is dozens of selections of
a millisecond and more each. The chunks that hold them decode in a tenth of that (make bench, "store").
The format is that of Zarr v3's ``sharding_indexed`` codec with its index at the end, as `FeatureStore` writes it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from numcodecs.blosc import decompress  # what any setting of Blosc has packed
from numpy.typing import NDArray

from boldreams_cli.console import MismatchError
from boldreams_cli.machine import cores
from boldreams_cli.stores import remedy

EMPTY = 2**64 - 1  # offset of a chunk that holds zeros only and is not stored
BLOSC_HEADER = 16  # bytes; the decoded size stands in the second four
THREADS = min(8, cores())
ONE_THREAD_BYTES = 2**21  # threads cost more than they spare below this
BLOCK_BYTES = 2**20  # of maps decoded before they are copied to their place: about what a core's own cache holds

Rows = NDArray[np.int64] | slice


class Wanted(NamedTuple):
    """Filters of one layer, and where their maps go.

    Parameters
    ----------
    folder : of the Zarr array.
    stored : filters that a shard holds.
    chunk : (rows, height, width) of one filter's chunk.
    checked : whether a CRC-32C lies behind each chunk, and no shard (though a chunk) is left out for holding zeros.
    positions : of the wanted filters in the array.
    out : (images, wanted filters, height, width) of the array's dtype, any layout.
    """

    folder: Path
    stored: int
    chunk: tuple[int, int, int]
    positions: Sequence[int]
    out: NDArray[Any]
    checked: bool = True


class _Part(NamedTuple):
    """Neighbouring wanted filters of one shard; `places` are offset and length of each chunk, None of zeros alone."""

    layer: Wanted
    path: Path
    places: list[list[int]] | None
    target: Rows
    source: Rows
    start: int
    stop: int


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
    # This thread takes its share: were it to sleep, the system may run all others where one of them is.
    waiting = iter(list(parts))  # of a list, as threads may share it
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(_decode, waiting) for _ in range(threads - 1)]
        _decode(waiting)
        for done in others:
            done.result()


def _parts(layers: Sequence[Wanted], rows: NDArray[Any], split: int) -> Iterator[_Part]:
    for layer in layers:
        shards, local = np.divmod(np.asarray(rows), layer.chunk[0])
        for shard in np.unique(shards).tolist():
            chosen = np.flatnonzero(shards == shard)
            target, source = _as_slice(chosen), _as_slice(local[chosen])
            path = layer.folder / "c" / str(shard) / "0" / "0" / "0"
            places = _places(path, layer)
            edges = np.linspace(0, len(layer.positions), min(split, len(layer.positions)) + 1).astype(int).tolist()
            for start, stop in pairwise(edges):
                yield _Part(layer, path, places and places[start:stop], target, source, start, stop)


def _as_slice(indices: NDArray[np.int64]) -> Rows:
    """Neighbouring indices as a slice, which spares a copy."""
    if len(indices) and (np.diff(indices) == 1).all():
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices


def _places(path: Path, layer: Wanted) -> list[list[int]] | None:
    """Offset and length of each wanted chunk, by the index at the end of a shard; None where zeros were left out."""
    length = 16 * layer.stored
    try:
        with path.open("rb", buffering=0) as stream:
            end = os.fstat(stream.fileno()).st_size - 4
            data = os.pread(stream.fileno(), length + 4, max(0, end - length))
    except FileNotFoundError as error:
        if layer.checked:
            raise _damaged(path, "is missing") from error
        return None  # earlier stores hold no shard of zeros
    if len(data) != length + 4 or end < length:
        raise _damaged(path, "is too short")
    if _crc(data[:-4]) != data[-4:]:
        raise _damaged(path, "has a damaged index")
    index = np.frombuffer(data[:-4], dtype="<u8").reshape(-1, 2)
    chosen = index[layer.positions]
    stored = chosen[:, 0] != EMPTY
    if (chosen[stored] > end - length).any() or (chosen[stored].sum(1) > end - length).any():
        raise _damaged(path, "has an index that points beyond its chunks")
    return chosen.tolist()


def _crc(data: bytes) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(4, "little")


def _decode(parts: Iterator[_Part]) -> None:
    for part in parts:
        if part.places is None:
            part.layer.out[part.target, part.start : part.stop] = 0
        else:
            with part.path.open("rb", buffering=0) as stream:
                _decode_part(part, part.places, stream.fileno())


def _decode_part(part: _Part, places: list[list[int]], file: int) -> None:
    layer = part.layer
    # One block for all: fresh memory costs as much as decoding. Several filters at a time, as one copy of all their
    # maps of an image takes less time, and less waiting of threads for each other, than a copy each.
    maps_bytes = math.prod(layer.chunk) * layer.out.itemsize
    block = np.empty((min(len(places), max(1, BLOCK_BYTES // maps_bytes)), *layer.chunk), layer.out.dtype)
    for first in range(0, len(places), len(block)):
        some = places[first : first + len(block)]
        for maps, (offset, length) in zip(block, some, strict=False):
            _decode_chunk(part.path, file, offset, length, maps, layer.checked)
        kept = block[: len(some)]
        # of an index, take is faster than brackets
        kept = kept[:, part.source] if isinstance(part.source, slice) else kept.take(part.source, axis=1)
        column = part.start + first
        layer.out[part.target, column : column + len(some)] = kept.swapaxes(0, 1)


def _decode_chunk(path: Path, file: int, offset: int, length: int, maps: NDArray[Any], checked: bool) -> None:
    if offset == EMPTY:
        maps[:] = 0
        return
    data = os.pread(file, length, offset)
    if checked:
        if _crc(data[:-4]) != data[-4:]:
            raise _damaged(path, "holds a damaged chunk")
        data = data[:-4]
    if len(data) < BLOSC_HEADER or int.from_bytes(data[4:8], "little") != maps.nbytes:
        raise _damaged(path, "holds a chunk of another size")
    try:
        decompress(data, maps)
    except (RuntimeError, ValueError, OSError) as error:
        raise _damaged(path, "holds a damaged chunk") from error


def _damaged(path: Path, what: str) -> MismatchError:
    return MismatchError(f"{path} {what}; {remedy(path)}")
