"""Reads single filters out of the shards of a layer's maps, on several threads.

zarr answers one selection a call, and a tenth of the filters, in the order of their ranks, is dozens of selections of
a millisecond and more each. The chunks that hold them decode in a tenth of that (make bench, "store").
The format is that of Zarr v3's ``sharding_indexed`` codec with its index at the end, as `FeatureStore` writes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numcodecs import Blosc
from numpy.typing import NDArray

from boldreams_cli.console import MismatchError

EMPTY = 2**64 - 1  # offset of a chunk that holds zeros only and is not stored
THREADS = min(8, os.cpu_count() or 1)

ONE_THREAD_BYTES = 2**21  # threads cost more than they spare below this

Take = Callable[[int, int, NDArray[np.floating]], None]


class _Chunk(NamedTuple):
    path: Path
    file: int
    offset: int
    length: int
    shard: int
    column: int


class Shards:
    """The shards of one layer's maps.

    Parameters
    ----------
    folder : of the Zarr array.
    filters : that a shard holds.
    chunk : (rows, height, width) of one filter's chunk.
    dtype : of the maps.
    """

    def __init__(self, folder: Path, filters: int, chunk: tuple[int, int, int], dtype: np.dtype) -> None:
        self.folder, self.filters, self.chunk, self.dtype = folder, filters, chunk, dtype
        self.chunk_bytes = int(np.prod(chunk)) * dtype.itemsize
        self.codec = Blosc()  # decodes what any setting of it has encoded

    def read(self, shards: Sequence[int], positions: Sequence[int], take: Take) -> None:
        """Decode the chunks of some filters and hand each to `take`.

        Parameters
        ----------
        shards : numbers of the shards, along the rows.
        positions : of filters in the layer's maps.
        take : called with the shard, the index into `positions`, and (rows, height, width), which is overwritten
            after the call; on several threads.

        Raises
        ------
        MismatchError
            If a shard is damaged.
        """
        with ExitStack() as opened:
            chunks: list[_Chunk] = []
            for shard in shards:
                path = self.folder / "c" / str(shard) / "0" / "0" / "0"
                if not path.is_file():  # zarr stores no shard of zeros
                    chunks += [_Chunk(path, -1, EMPTY, 0, shard, column) for column in range(len(positions))]
                    continue
                file = opened.enter_context(path.open("rb")).fileno()
                places = self._index(path, file)[list(positions)].tolist()
                chunks += [_Chunk(path, file, at, size, shard, column) for column, (at, size) in enumerate(places)]
            if len(chunks) * self.chunk_bytes < ONE_THREAD_BYTES:
                self._decode(chunks, take)
                return
            with ThreadPoolExecutor(THREADS) as pool:
                for done in [pool.submit(self._decode, chunks[part::THREADS], take) for part in range(THREADS)]:
                    done.result()

    def _index(self, path: Path, file: int) -> NDArray[np.uint64]:
        """(filters, 2) offset and length of each chunk; after it come four bytes of a checksum."""
        length = 16 * self.filters
        end = os.fstat(file).st_size - 4
        data = os.pread(file, length, max(0, end - length))
        if len(data) != length or end < length:
            raise _damaged(path)
        return np.frombuffer(data, dtype="<u8").reshape(-1, 2)

    def _decode(self, chunks: Sequence[_Chunk], take: Take) -> None:
        maps = np.empty(self.chunk, self.dtype)  # one for all: fresh memory costs as much as decoding
        for chunk in chunks:
            if chunk.offset == EMPTY:
                maps.fill(0)
            else:
                try:
                    self.codec.decode(os.pread(chunk.file, chunk.length, chunk.offset), out=maps)
                except (RuntimeError, ValueError, OSError) as error:
                    raise _damaged(chunk.path) from error
            take(chunk.shard, chunk.column, maps)


def _damaged(path: Path) -> MismatchError:
    return MismatchError(f"{path} is damaged; delete the store that it belongs to and run boldreams extract again")
