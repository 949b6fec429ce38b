"""Reads single filters out of the shards of layers' maps, on several threads.

zarr answers one selection a call, and a tenth of the filters, in the order of their ranks, is dozens of selections of
a millisecond and more each. The chunks that hold them decode in a tenth of that (make bench, "store").
The format is that of Zarr v3's ``sharding_indexed`` codec with its index at the end, as `FeatureStore` writes it.

Of all filters each chunk is a few microseconds of Python, which only one thread has at a time: eight threads of a
machine with a GPU unpacked no more than two cores do here. With so many, zarrs takes a whole shard in one call. Of a
part of a shard it looks at no checksum.
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
from boldreams_cli.zarr_files import ZARRS, open_array, remedy

EMPTY = 2**64 - 1  # offset of a chunk that holds zeros only and is not stored
RESIDUE = 0x48674BC7  # CRC-32C of any bytes with their own CRC-32C behind them: nothing need be cut off to check it
BLOSC_HEADER = 16  # bytes; the decoded size stands in the second four
THREADS = min(8, cores())
ONE_THREAD_BYTES = 2**21  # threads cost more than they spare below this
BLOCK_BYTES = 2**20  # of maps decoded before they are copied to their place: about what a core's own cache holds
MANY_THREADS, MANY_CHUNKS = 5, 32  # from which on zarrs takes a whole shard
TOGETHER_BYTES = 2**26  # of a shard's maps at most, as each thread holds one

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
    """Neighbouring wanted filters, from `start` to `stop`, of one shard; `array` where zarrs takes the whole shard."""

    layer: Wanted
    path: Path
    target: Rows
    source: Rows
    start: int
    stop: int
    shard: int
    array: Any = None


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
        count, array = len(layer.positions), _array(layer, split)
        for shard in np.unique(shards).tolist():
            chosen = np.flatnonzero(shards == shard)
            target, source = as_slice(chosen), as_slice(local[chosen])
            path = layer.folder / "c" / str(shard) / "0" / "0" / "0"
            # A last shard of fewer rows would be read in part.
            whole = array if array is not None and (shard + 1) * layer.chunk[0] <= array.shape[0] else None
            edges = np.linspace(0, count, (min(split, count) if whole is None else 1) + 1).astype(int).tolist()
            for start, stop in pairwise(edges):
                yield _Part(layer, path, target, source, start, stop, shard, whole)


def _array(layer: Wanted, threads: int) -> Any:
    """What zarrs reads a layer by, where that takes less time than a chunk after the other; else None."""
    many = threads >= MANY_THREADS and layer.stored >= MANY_CHUNKS
    everything = list(layer.positions) == list(range(layer.stored))
    if not (many and everything and layer.checked and layer.stored * _chunk_bytes(layer) <= TOGETHER_BYTES):
        return None
    return open_array(layer.folder, pipeline=ZARRS)


def _chunk_bytes(layer: Wanted) -> int:
    return math.prod(layer.chunk) * layer.out.itemsize


def as_slice(indices: NDArray[np.int64]) -> Rows:
    """Neighbouring indices as a slice, which spares a copy."""
    if len(indices) and (np.diff(indices) == 1).all():
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices


def _decode(parts: Iterator[_Part]) -> None:
    for part in parts:
        if part.array is not None:
            _decode_together(part)
            continue
        try:
            file = os.open(part.path, os.O_RDONLY)
        except FileNotFoundError as error:
            if part.layer.checked:
                raise _damaged(part.path, "is missing") from error
            part.layer.out[part.target, part.start : part.stop] = 0  # earlier stores hold no shard of zeros
            continue
        try:
            _decode_part(part, file)
        finally:
            os.close(file)


def _decode_together(part: _Part) -> None:
    layer, rows = part.layer, part.layer.chunk[0]
    if not part.path.is_file():  # to zarrs that is a shard of zeros
        raise _damaged(part.path, "is missing")
    try:
        maps = part.array[part.shard * rows : (part.shard + 1) * rows]
    except Exception as error:  # zarrs has many kinds, and names no file in them
        raise _damaged(part.path, f"is damaged ({error})") from error
    layer.out[part.target] = maps[part.source]


def _places(part: _Part, file: int) -> list[list[int]]:
    """Offset and length of each wanted chunk, by the index at the end of a shard."""
    size = 16 * part.layer.stored  # of the index; a checksum of four bytes is behind it
    end = os.fstat(file).st_size - 4 - size  # of the chunks
    data = os.pread(file, size + 4, max(0, end))
    if len(data) != size + 4 or end < 0:
        raise _damaged(part.path, "is too short")
    if google_crc32c.value(data) != RESIDUE:
        raise _damaged(part.path, "has a damaged index")
    index = np.frombuffer(data, dtype="<u8", count=size // 8).reshape(-1, 2)
    places: list[list[int]] = index[part.layer.positions[part.start : part.stop]].tolist()
    if any(offset + length > end for offset, length in places if offset != EMPTY):
        raise _damaged(part.path, "has an index that points beyond its chunks")
    return places


def _decode_part(part: _Part, file: int) -> None:
    layer, places = part.layer, _places(part, file)
    # One block for all: fresh memory costs as much as decoding. Several filters at a time, as one copy of all their
    # maps of an image takes less time, and less waiting of threads for each other, than a copy each.
    few = max(1, BLOCK_BYTES // _chunk_bytes(layer))
    block = np.empty((min(len(places), few), *layer.chunk), layer.out.dtype)
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
    if checked and google_crc32c.value(data) != RESIDUE:
        raise _damaged(path, "holds a damaged chunk")
    if len(data) < BLOSC_HEADER or int.from_bytes(data[4:8], "little") != maps.nbytes:
        raise _damaged(path, "holds a chunk of another size")
    try:
        decompress(data, maps)
    except (RuntimeError, ValueError, OSError) as error:
        raise _damaged(path, "holds a damaged chunk") from error


def _damaged(path: Path, what: str) -> MismatchError:
    return MismatchError(f"{path} {what}; {remedy(path)}")
