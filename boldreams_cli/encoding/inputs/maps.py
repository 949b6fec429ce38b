"""Maps of the chosen filters, ready for training: in memory (of the GPU, if there is one) or in a file on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import BoldreamsError, logger, size
from boldreams_cli.encoding.inputs.layout import MapLayout, in_shards, read_groups
from boldreams_cli.encoding.inputs.scratch import Scratch
from boldreams_cli.features.store.feature_store import FeatureStore
from boldreams_cli.files import free_bytes
from boldreams_cli.machine import MAPS, room
from boldreams_cli.transfers import read_ahead, sent

if TYPE_CHECKING:
    from boldreams_cli.encoding.inputs.nested import NestedMaps
    from boldreams_cli.encoding.inputs.pooled import PooledMaps

IMAGE_BLOCK = 64  # images that go through a readout together, and up to twice as many
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
    limit : bytes that the maps may take in memory, that of the device.
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
        """Memory of the host that `batches` takes and keeps: all maps; 0 where a GPU or a file holds them."""
        needed = map_bytes(self.store, len(self.rows), self.layouts)
        return needed if needed <= self.limit and self.device.type == "cpu" else 0

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
        """Read them from the store; to a GPU some at a time, as it may have more memory than the host."""
        if device.type == "cpu":
            return cls(read_groups(store, rows, layouts), layouts, device)
        dtype = getattr(torch, store.spec["dtype"])
        groups = [torch.empty(len(rows), *layout.shape, dtype=dtype, device=device) for layout in layouts]
        image_bytes = map_bytes(store, 1, layouts)
        blocks = list(in_shards(rows, store.rows_per_shard, image_bytes, SCRATCH_BLOCK_BYTES))

        def read(images: NDArray[np.int64]) -> tuple[Tensor, ...]:
            return tuple(read_groups(store, rows[images], layouts, device))

        for images, parts in zip(blocks, read_ahead(read, blocks, device), strict=True):
            places = sent(torch.from_numpy(images), device)
            for group, part in zip(groups, parts, strict=True):
                group[places] = part
        return cls(groups, layouts, device)

    def batches(self, order: Sequence[NDArray[np.int64]]) -> Iterator[list[Tensor]]:
        """See `StoredMaps.batches`."""
        for images in order:
            chosen = sent(torch.from_numpy(images), self.device)
            yield [group[chosen].float() for group in self.groups]


class ScratchMaps:
    """Maps decoded once into a file without a name, which vanishes with the process, and read image by image."""

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
        self.file = Scratch(folder, needed, "the maps")
        for images in in_shards(rows, store.rows_per_shard, self.image_bytes, SCRATCH_BLOCK_BYTES):
            self._write(store, rows, images)
        self.file.written()

    def _write(self, store: FeatureStore, rows: NDArray[np.int64], images: NDArray[np.int64]) -> None:
        offset = 0
        for values, block in zip(self.values, read_groups(store, rows[images], self.layouts), strict=True):
            for image, maps in zip(images, block, strict=True):
                self.file.write(maps.numpy().data, int(image) * self.image_bytes + offset)
            offset += values * self.dtype.itemsize

    def _read(self, images: NDArray[np.int64]) -> tuple[Tensor]:
        buffer = np.empty((len(images), sum(self.values)), dtype=self.dtype)
        for position, image in enumerate(images):
            self.file.read(buffer[position].data, int(image) * self.image_bytes)
        return (torch.from_numpy(buffer),)

    def batches(self, order: Sequence[NDArray[np.int64]]) -> Iterator[list[Tensor]]:
        """See `StoredMaps.batches`; the next batch is read while this one is used."""
        for (buffer,) in read_ahead(self._read, order, self.device):
            parts = zip(buffer.split(self.values, dim=1), self.layouts, strict=True)
            yield [part.float().view(len(buffer), *layout.shape) for part, layout in parts]


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
    memory : bytes that the maps may take in memory, that of the device.
    scratch : folder for the file if they take more.
    """
    if map_bytes(store, len(rows), layouts) <= memory:
        return ResidentMaps.read(store, rows, layouts, device)
    return ScratchMaps(store, rows, layouts, device, scratch)


def stored_blocks(
    store: FeatureStore, rows: NDArray[np.int64], layouts: Sequence[MapLayout], device: torch.device, memory: int
) -> Iterator[list[Tensor]]:
    """Yield the maps of rows, some images at a time: which go together follows from their number alone.

    Memory says how many blocks are read at once, never what is multiplied together, so it moves no last bit.

    Parameters
    ----------
    store, rows, layouts, device : as in `open_maps`.
    memory : bytes that the maps may take.

    Yields
    ------
    Maps of every group, (images, A, C) float32.
    """
    values = sum(a * c for a, c in (layout.shape for layout in layouts))
    memory = min(memory, room(device, memory, MAPS))
    at_once = max(1, memory // 2 // (values * 4) // IMAGE_BLOCK)
    blocks = np.array_split(np.arange(len(rows)), max(1, len(rows) // IMAGE_BLOCK))
    for first in range(0, len(blocks), at_once):
        some = blocks[first : first + at_once]
        begin, end = some[0][0], some[-1][-1] + 1
        maps = open_maps(store, rows[begin:end], layouts, device, memory, store.path.parent)
        yield from maps.batches([block - begin for block in some])
