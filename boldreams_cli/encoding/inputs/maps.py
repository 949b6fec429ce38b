"""Maps of the chosen filters, ready for training: in memory where they fit, else in a scratch file on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import BoldreamsError, logger, size
from boldreams_cli.encoding.inputs.layout import MapLayout, read_groups
from boldreams_cli.features.feature_store import FeatureStore
from boldreams_cli.files import free_bytes

if TYPE_CHECKING:
    from boldreams_cli.encoding.inputs.nested import NestedMaps
    from boldreams_cli.encoding.inputs.pooled import PooledMaps

SCRATCH_BLOCK_BYTES = 128 * 2**20
RESERVED_BYTES = 800 * 2**20  # what Python and torch take themselves, and copies in flight


def usable(memory: int) -> int:
    """Bytes of ``--memory`` that are left for data."""
    return max(memory - RESERVED_BYTES, memory // 4)


def map_bytes(store: FeatureStore, images: int, layouts: Sequence[MapLayout]) -> int:
    """Bytes of the maps of so many images, in the store's dtype."""
    return images * sum(a * c for a, c in (layout.shape for layout in layouts)) * np.dtype(store.spec["dtype"]).itemsize


class StoredMaps:
    """Maps of the training images in a feature store; the `MapSource` of a problem (readouts/base.py).

    Nothing is read before it is asked for: a readout of pooled maps never has the whole ones in memory.

    Parameters
    ----------
    store : to read from.
    rows : (images,) of the store, in the order of the images.
    layouts : of the groups.
    device : to compute on.
    scratch : folder for a file, where maps do not fit.
    limit : bytes that the maps may take in memory.
    nested : what fits of other filters have read; None reads the store.
    """

    def __init__(
        self,
        store: FeatureStore,
        rows: NDArray[np.int64],
        layouts: Sequence[MapLayout],
        device: torch.device,
        scratch: Path,
        limit: int = 0,
        nested: NestedMaps | None = None,
    ) -> None:
        self.nested = nested
        self.store, self.rows, self.layouts, self.device = store, rows, layouts, device
        self.scratch, self.limit = scratch, limit
        self._opened: ResidentMaps | ScratchMaps | None = None
        self._pooled: dict[tuple[int, str], list[PooledMaps]] = {}

    @property
    def resident_bytes(self) -> int:
        """Memory that `batches` takes and keeps: that of all maps, or 0 where they go through a file."""
        needed = map_bytes(self.store, len(self.rows), self.layouts)
        return needed if needed <= self.limit else 0

    def batches(self, order: Sequence[NDArray[np.int64]]) -> Iterator[list[Tensor]]:
        """Yield, for each array of image indices, the maps of every group, (images, A, C) float32."""
        if self._opened is None:
            where = (self.store, self.rows, self.layouts, self.device, self.limit, self.scratch)
            self._opened = open_maps(*where) if self.nested is None else self.nested.open(self.layouts, self.limit)
        return self._opened.batches(order)

    def pooled(self, grid: int, memory: int, compress: str = "none") -> list[PooledMaps]:
        """Maps of every group, compressed and pooled on a grid, in a file where they do not fit; made once and kept."""
        from boldreams_cli.encoding.inputs.pooled import pool_maps  # which reads maps as this file does

        if (grid, compress) not in self._pooled:
            where = (self.store, self.rows, self.layouts, grid, memory, self.scratch, self.device)
            pools = None if self.nested is None else self.nested.pools(self.layouts, grid, compress)
            self._pooled[grid, compress] = pool_maps(*where, pools, compress)
        return self._pooled[grid, compress]


class ResidentMaps:
    """All maps in memory, or in the memory of the device, in the store's dtype.

    Parameters
    ----------
    groups : (images, A, C) of each, on the device.
    layouts : of the groups.
    device : to compute on.
    """

    def __init__(self, groups: Sequence[Tensor], layouts: Sequence[MapLayout], device: torch.device) -> None:
        self.groups, self.layouts, self.device = groups, layouts, device

    @classmethod
    def read(
        cls, store: FeatureStore, rows: NDArray[np.int64], layouts: Sequence[MapLayout], device: torch.device
    ) -> ResidentMaps:
        """Read them from the store."""
        groups = [torch.from_numpy(group).to(device) for group in read_groups(store, rows, layouts)]
        return cls(groups, layouts, device)

    def batches(self, order: Sequence[NDArray[np.int64]]) -> Iterator[list[Tensor]]:
        """See `StoredMaps.batches`."""
        for images in order:
            chosen = torch.from_numpy(images).to(self.device)
            yield [group[chosen].float() for group in self.groups]


class ScratchMaps:
    """Maps decoded once into a file without a name, which vanishes with the process, and read image by image.

    Read with pread rather than mapped, so that they do not count as this process's memory.
    """

    def __init__(
        self,
        store: FeatureStore,
        rows: NDArray[np.int64],
        layouts: Sequence[MapLayout],
        device: torch.device,
        folder: Path,
    ) -> None:
        self.device, self.layouts = device, layouts
        self.dtype = np.dtype(store.spec["dtype"])
        values = [a * c for a, c in (layout.shape for layout in layouts)]
        self.values, self.image_bytes = values, sum(values) * self.dtype.itemsize
        needed = self.image_bytes * len(rows)
        folder.mkdir(parents=True, exist_ok=True)
        if needed > free_bytes(folder):
            raise BoldreamsError(
                f"the maps take {size(needed)}, more than --memory, and {folder} has only "
                f"{size(free_bytes(folder))} free for them; use a smaller --percent, more --memory, or a larger disk"
            )
        logger.info("maps of %s do not fit --memory: they go through a scratch file in %s", size(needed), folder)
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (lives as long as the training)
        step = max(1, SCRATCH_BLOCK_BYTES // self.image_bytes)
        # Whole shards where possible, so that no chunk is decoded twice.
        step = max(store.rows_per_shard, step // store.rows_per_shard * store.rows_per_shard)
        by_row = np.argsort(rows, kind="stable")
        edges = np.flatnonzero(np.diff(rows[by_row] // step, prepend=-1))
        for start, stop in zip(edges, [*edges[1:], len(rows)], strict=True):
            self._write(store, rows, by_row[start:stop])

    def _write(self, store: FeatureStore, rows: NDArray[np.int64], images: NDArray[np.int64]) -> None:
        offset = 0
        for values, block in zip(self.values, read_groups(store, rows[images], self.layouts), strict=True):
            for image, maps in zip(images, block, strict=True):
                os.pwrite(self.file.fileno(), maps.data, int(image) * self.image_bytes + offset)
            offset += values * self.dtype.itemsize

    def _read(self, images: NDArray[np.int64]) -> NDArray[np.floating]:
        buffer = np.empty((len(images), sum(self.values)), dtype=self.dtype)
        for position, image in enumerate(images):
            os.preadv(self.file.fileno(), [buffer[position].data], int(image) * self.image_bytes)
        return buffer

    def batches(self, order: Sequence[NDArray[np.int64]]) -> Iterator[list[Tensor]]:
        """See `StoredMaps.batches`; the next batch is read while this one is used."""
        with ThreadPoolExecutor(1) as reader:
            coming: Future[NDArray[np.floating]] | None = None
            for position, images in enumerate(order):
                buffer = coming.result() if coming is not None else self._read(images)
                if position + 1 < len(order):
                    coming = reader.submit(self._read, order[position + 1])
                parts = torch.from_numpy(buffer).to(self.device).split(self.values, dim=1)
                yield [
                    part.float().view(len(images), *layout.shape)
                    for part, layout in zip(parts, self.layouts, strict=True)
                ]


def open_maps(
    store: FeatureStore,
    rows: NDArray[np.int64],
    layouts: Sequence[MapLayout],
    device: torch.device,
    memory: int,
    scratch: Path,
) -> ResidentMaps | ScratchMaps:
    """Choose where the maps of a training go.

    Parameters
    ----------
    store : to read from.
    rows : (images,) of the store.
    layouts : of the groups.
    device : to compute on.
    memory : bytes that the maps may take.
    scratch : folder for the file if they take more.
    """
    if map_bytes(store, len(rows), layouts) <= memory:
        return ResidentMaps.read(store, rows, layouts, device)
    return ScratchMaps(store, rows, layouts, device, scratch)
