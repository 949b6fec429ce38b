"""Maps that one fit has read, for the next one whose filters are among them: smaller percents of the same ranking."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boldreams_cli.console import logger, size
from boldreams_cli.encoding.inputs.layout import Group, MapLayout
from boldreams_cli.encoding.inputs.maps import ResidentMaps, ScratchMaps, map_bytes, open_maps
from boldreams_cli.encoding.inputs.pooled import Block, Pool, StoredPool, on_grid
from boldreams_cli.encoding.inputs.scratch import Scratch
from boldreams_cli.features.store.feature_store import FeatureStore
from boldreams_cli.files import free_bytes
from boldreams_cli.machine import threads

IMAGES = 256  # copied at a time


class NestedMaps:
    """What fits of one subject and backbone have read of the store, by the largest filters that were asked for.

    Parameters
    ----------
    store : to read from.
    rows : (images,) of the store.
    device : to compute on.
    scratch : folder for files.
    room : bytes that pooled maps may take in memory.
    count : threads that read for all.
    """

    def __init__(
        self, store: FeatureStore, rows: NDArray[np.int64], device: torch.device, scratch: Path, room: int, count: int
    ) -> None:
        self.store, self.rows, self.device, self.scratch, self.room = store, rows, device, scratch, room
        self._whole: ResidentMaps | None = None
        self._lock = Lock()  # of fits in several threads
        self._threads = count  # of torch's, where fits divide them: they wait for the one that reads
        self._pools: dict[tuple[int, str, tuple[Group, ...]], list[KeptPool]] = {}

    def open(self, layouts: Sequence[MapLayout], limit: int) -> ResidentMaps | ScratchMaps:
        """Whole maps: parts of those in memory where these are among them, else read, and kept if they are in memory.

        Of both only the smaller stay: the percents after it are smaller still.

        Parameters
        ----------
        layouts : of the groups.
        limit : bytes that they may take in memory, with those that they are taken from.
        """
        with self._lock:
            return self._open(layouts, limit)

    def _open(self, layouts: Sequence[MapLayout], limit: int) -> ResidentMaps | ScratchMaps:
        held, images = self._whole, len(self.rows)
        needed = map_bytes(self.store, images, layouts)
        if held is not None and _among(layouts, held.layouts):
            if [layout.filters for layout in layouts] == [layout.filters for layout in held.layouts]:
                return held
            if needed + map_bytes(self.store, images, held.layouts) <= limit:
                self._whole = part_of(held, layouts)
                return self._whole
        self._whole = held = None  # its memory is free before more is taken
        found = open_maps(self.store, self.rows, layouts, self.device, limit, self.scratch)
        self._whole = found if isinstance(found, ResidentMaps) else None
        return found

    def pools(self, layouts: Sequence[MapLayout], grid: int, compress: str = "none") -> Sequence[Pool] | None:
        """Pooled maps of each group, read once for the largest filters; None where there is no place for them."""
        with self._lock:
            return self._kept_pools(layouts, grid, compress)

    def _kept_pools(self, layouts: Sequence[MapLayout], grid: int, compress: str) -> Sequence[Pool] | None:
        key = (grid, compress, tuple(layout.group for layout in layouts))
        held = self._pools.get(key)
        if held is not None and _among(layouts, [pool.layout for pool in held]):
            return held
        self._pools.pop(key, None)
        taken = sum(pool.resident_bytes for pools in self._pools.values() for pool in pools)
        sizes = [KeptPool.bytes(layout, len(self.rows), grid) for layout in layouts]
        in_memory = taken + sum(sizes) <= self.room
        if not in_memory:
            self.scratch.mkdir(parents=True, exist_ok=True)
            if 2 * sum(sizes) > free_bytes(self.scratch):  # the fit may put as much there
                logger.info("%s has no %s free: maps are read for each percent", self.scratch, size(2 * sum(sizes)))
                return None
        source = StoredPool(self.store, self.rows, grid, compress)
        scratch = None if in_memory else self.scratch
        with threads(self._threads):
            self._pools[key] = [KeptPool(source, len(self.rows), layout, grid, scratch) for layout in layouts]
        return self._pools[key]


class KeptPool:
    """Pooled maps of one group as they are before they are scaled, a filter's pixels side by side.

    Parameters
    ----------
    source : to take them from.
    images : number of them.
    layout : of the largest filters.
    grid : nodes along each side.
    scratch : folder for a file without a name; None keeps them in memory.
    """

    def __init__(self, source: Pool, images: int, layout: MapLayout, grid: int, scratch: Path | None) -> None:
        self.layout, self.images = layout, images
        self.nodes = on_grid(layout, grid).group.pixels
        needed = images * self._image_bytes
        self._file = None if scratch is None else Scratch(scratch, needed, "the pooled maps")
        self._sums = torch.empty(2, images, layout.count, dtype=torch.float64)
        self._maps = torch.empty(images if scratch is None else 0, layout.count, self.nodes)
        for block in source.blocks(layout):
            self._sums[:, block.images] = block.sums
            if self._file is None:
                self._maps[torch.from_numpy(block.images)] = block.maps
            else:
                for image, maps in zip(block.images, block.maps.contiguous().numpy(), strict=True):
                    self._file.write(maps.data, int(image) * self._image_bytes)
        if self._file is not None:
            self._file.written()

    @staticmethod
    def bytes(layout: MapLayout, images: int, grid: int) -> int:
        """What a pool takes, in memory or on disk."""
        return images * layout.count * (4 * on_grid(layout, grid).group.pixels + 16)

    @property
    def _image_bytes(self) -> int:
        return 4 * self.layout.count * self.nodes

    @property
    def resident_bytes(self) -> int:
        """Memory that is taken."""
        return self._maps.nbytes + self._sums.nbytes

    def blocks(self, layout: MapLayout) -> Iterator[Block]:
        """The first filters of each layer; see `Pool`."""
        parts = _parts(layout, self.layout)
        columns = torch.cat([torch.arange(part.start, part.stop) for part in parts])
        for images in np.split(np.arange(self.images), range(IMAGES, self.images, IMAGES)):
            rows = slice(int(images[0]), int(images[-1]) + 1)
            if self._file is None:
                maps = torch.cat([self._maps[rows, part] for part in parts], 1)
            else:
                maps = self._read(images, parts)
            yield Block(images, self._sums[:, rows].index_select(2, columns), maps)

    def _read(self, images: NDArray[np.int64], parts: Sequence[slice]) -> torch.Tensor:
        assert self._file is not None
        count = sum(part.stop - part.start for part in parts)
        maps = np.empty((len(images), count, self.nodes), dtype=np.float32)
        for image, row in zip(images, maps, strict=True):
            place = 0
            for part in parts:
                piece = row[place : place + part.stop - part.start]
                self._file.read(piece.data, int(image) * self._image_bytes + 4 * self.nodes * part.start)
                place += len(piece)
        return torch.from_numpy(maps)


def part_of(held: ResidentMaps, layouts: Sequence[MapLayout]) -> ResidentMaps:
    """The first filters of each layer of maps in memory, laid out as if they had been read by themselves."""
    groups = []
    for old, before, after in zip(held.groups, held.layouts, layouts, strict=True):
        filters_first = old.transpose(1, 2) if before.pixels_first else old
        new = torch.empty(len(old), *after.shape, dtype=old.dtype, device=old.device)
        place, view = 0, new.transpose(1, 2) if after.pixels_first else new
        for part in _parts(after, before):
            count = part.stop - part.start
            view[:, place : place + count].copy_(filters_first[:, part])
            place += count
        groups.append(new)
    return ResidentMaps(groups, layouts, held.device)


def _parts(smaller: MapLayout, larger: MapLayout) -> list[slice]:
    """Where the smaller's filters lie among the larger's, layer by layer."""
    parts, start = [], 0
    for name in larger.group.layers:
        parts.append(slice(start, start + len(smaller.filters[name])))
        start += len(larger.filters[name])
    return parts


def _among(smaller: Sequence[MapLayout], larger: Sequence[MapLayout]) -> bool:
    """Whether the groups are the same and each layer's filters the first ones of the larger's."""
    if [layout.group for layout in smaller] != [layout.group for layout in larger]:
        return False
    return all(
        _first(one.filters, other.filters, name)
        for one, other in zip(smaller, larger, strict=True)
        for name in one.group.layers
    )


def _first(smaller: Mapping[str, Any], larger: Mapping[str, Any], name: str) -> bool:
    count = len(smaller[name])
    return count <= len(larger[name]) and list(smaller[name]) == list(larger[name][:count])
