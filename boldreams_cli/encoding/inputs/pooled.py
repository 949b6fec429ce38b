"""Maps summed against smooth receptive fields: a field given on a coarse grid needs only maps pooled on it.

Every number here is a function of its image, the filter and the training images as a set. Which rows of the store
the images have, what else lies in it, how many are read at a time and where the pooled maps are kept change no bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import BoldreamsError, logger, size
from boldreams_cli.encoding.inputs.layout import HOST, Group, MapLayout, in_shards, read_groups
from boldreams_cli.encoding.inputs.scratch import Scratch
from boldreams_cli.encoding.numerics.compression import compressed
from boldreams_cli.encoding.numerics.contraction import contract
from boldreams_cli.encoding.numerics.fields import interpolation_along, summed_along
from boldreams_cli.features.store.feature_store import FeatureStore
from boldreams_cli.files import free_bytes
from boldreams_cli.machine import MAPS, room
from boldreams_cli.transfers import read_ahead, sent

READ_BYTES = 64 * 2**20
IMAGES_TOGETHER = 64  # of which means are taken
CONSTANT = 1e-12  # a filter whose variance is below that share of its mean square is one of rounding


def on_grid(layout: MapLayout, grid: int) -> MapLayout:
    """Layout of a group's maps once they are pooled."""
    group = layout.group
    side = min(grid, group.height), min(grid, group.width)
    return MapLayout(Group(group.name, *side, group.layers), layout.filters)


def pooled_bytes(layouts: Sequence[MapLayout], images: int, grid: int) -> int:
    """Bytes of the pooled maps of all groups."""
    return 4 * images * sum(a * c for a, c in (on_grid(layout, grid).shape for layout in layouts))


def pool_maps(
    store: FeatureStore,
    rows: NDArray[np.int64],
    layouts: Sequence[MapLayout],
    grid: int,
    memory: int,
    scratch: Path,
    device: torch.device,
    pools: Sequence[Pool] | None = None,
    compress: str = "none",
) -> list[PooledMaps]:
    """Pool the maps of every group.

    Parameters
    ----------
    store : to read from.
    rows : (images,) of the store, in the order of the images.
    layouts : of the groups.
    grid : nodes along each side of a field.
    memory : bytes of the host that the pooled maps may take; beyond it they go to a file without a name.
    scratch : folder for that file.
    device : to use them on; a GPU keeps them where it has room.
    pools : of each group, what an earlier fit has read; None reads the store.
    compress : what becomes of each map value first (numerics/compression.py).

    Raises
    ------
    BoldreamsError
        If the disk has no room for that file.
    """
    needed = pooled_bytes(layouts, len(rows), grid)
    there = device.type == "cuda" and needed <= room(device, 0, MAPS)
    if device.type == "cuda" and not there:
        logger.info("pooled maps of %s do not fit the GPU: what a step reads of them is sent to it", size(needed))
    pools = pools or [StoredPool(store, rows, grid, compress, device if there else HOST)] * len(layouts)
    if there or needed <= memory:
        return [
            PooledMaps(pool, len(rows), layout, grid, None, device, there)
            for pool, layout in zip(pools, layouts, strict=True)
        ]
    scratch.mkdir(parents=True, exist_ok=True)
    if needed > free_bytes(scratch):
        raise BoldreamsError(
            f"the pooled maps take {size(needed)}, more than --memory leaves for them, and {scratch} has only "
            f"{size(free_bytes(scratch))} free; use more --memory, a smaller --percent, or a larger disk"
        )
    logger.info("pooled maps of %s do not fit --memory: they go through a scratch file in %s", size(needed), scratch)
    return [
        PooledMaps(pool, len(rows), layout, grid, scratch, device) for pool, layout in zip(pools, layouts, strict=True)
    ]


class Block(NamedTuple):
    """Some images, pooled.

    Parameters
    ----------
    images : (n,) which those are.
    sums : (2, n, K) float64, of each filter's pixels and of their squares.
    maps : (n, K, nodes) float32, means of the pixels of each node.
    """

    images: NDArray[np.int64]
    sums: Tensor
    maps: Tensor


class Pool(Protocol):
    """Where pooled maps come from: the store, or what an earlier fit has read of it."""

    def blocks(self, layout: MapLayout) -> Iterable[Block]:
        """All images, some at a time."""
        ...


def pixel_shares(group: Group, grid: int) -> tuple[Tensor, Tensor]:
    """Weights of the pixels in each node, (pixels, nodes) down and across; they sum to 1."""
    # Averages rather than sums: then equal steps of Adam suit every resolution.
    down, across = (interpolation_along(pixels, grid) for pixels in (group.height, group.width))
    return down / down.sum(0), across / across.sum(0)


@dataclass(frozen=True)
class StoredPool:
    """Pools maps as it reads them from the store.

    Parameters
    ----------
    store : to read from.
    rows : (images,) of the store.
    grid : nodes along each side.
    compress : what becomes of each map value first.
    device : to pool on.
    """

    store: FeatureStore
    rows: NDArray[np.int64]
    grid: int
    compress: str = "none"
    device: torch.device = HOST

    def blocks(self, layout: MapLayout) -> Iterator[Block]:
        """See `Pool`."""
        store, rows, device = self.store, self.rows, self.device
        plain = _FiltersFirst(layout.group, layout.filters)
        image_bytes = 4 * layout.count * layout.group.pixels
        few = max(1, READ_BYTES // image_bytes)
        parts = list(in_shards(rows, store.rows_per_shard, image_bytes, READ_BYTES))

        def read(images: NDArray[np.int64]) -> tuple[Tensor]:
            (stored,) = read_groups(store, rows[images], [plain], device)
            return (stored,)

        # On a CPU reading takes all cores as it is.
        ahead = 1 if device.type == "cuda" else 0
        for images, (stored,) in zip(parts, read_ahead(read, parts, device, ahead), strict=True):
            # A shard may be many times what is in work at a time.
            for first in range(0, len(stored), few):
                yield self._pooled(images[first : first + few], stored[first : first + few], layout)

    def _pooled(self, images: NDArray[np.int64], stored: Tensor, layout: MapLayout) -> Block:
        """Some images' maps, (n, K, P) as they are stored."""
        maps, (down, across) = compressed(stored.float(), self.compress), pixel_shares(layout.group, self.grid)
        # Squares of float16 are exact in float32.
        short = stored.dtype == torch.float16 and self.compress == "none"
        exact = maps if short else maps.double()
        sums = [maps.sum(2, dtype=torch.float64), exact.square().sum(2, dtype=torch.float64)]
        pooled = summed_along(maps.view(*maps.shape[:2], layout.group.height, layout.group.width), down, 2)
        return Block(images, torch.stack(sums), summed_along(pooled, across, 3).flatten(2))


class PooledMaps:
    """Maps of one group, pooled on the grid, each filter centred and scaled over all images.

    Parameters
    ----------
    pool : to take them from.
    images : number of them.
    layout : of the group.
    grid : nodes along each side of a field.
    scratch : folder for a file to keep them in; None keeps them in memory.
    device : to use them on.
    there : whether they are kept on that device; else `read` sends what it reads.

    Attributes
    ----------
    layout : of the pooled maps.
    pool : (P, nodes) weights of the pixels in each node, which sum to 1.
    scale : (K,) standard deviation of each filter over images and pixels; infinite where the filter never varies,
        so that its scaled maps and its weights are 0.
    centre : (A, C) mean of the scaled pooled maps.
    """

    def __init__(
        self,
        pool: Pool,
        images: int,
        layout: MapLayout,
        grid: int,
        scratch: Path | None = None,
        device: torch.device = HOST,
        there: bool = False,
    ) -> None:
        self.images, self.device = images, device
        self.layout = on_grid(layout, grid)
        self.pool = torch.kron(*pixel_shares(layout.group, grid))
        needed = 4 * images * self.values
        self._file = None if scratch is None else Scratch(scratch, needed, "the pooled maps")
        shape = (images if scratch is None else 0, *self.layout.shape)
        self._maps = torch.empty(shape, device=device if there else HOST)
        self.scale = self._take(pool, layout)
        scale = self.scale.expand(self.layout.shape) if self.layout.pixels_first else self.scale[:, None]
        self._scale = scale.expand(self.layout.shape).contiguous()
        self.centre = self._mean()
        if scratch is None:
            place = self._maps.device
            self._maps.div_(sent(self._scale, place)).sub_(sent(self.centre, place))

    @property
    def values(self) -> int:
        """Pooled numbers of an image, A * C."""
        a, c = self.layout.shape
        return a * c

    @property
    def resident_bytes(self) -> int:
        """Memory that they take."""
        return 4 * self._maps.numel()

    def read(self, images: NDArray[np.int64]) -> Tensor:
        """Pooled maps of some images, (n, A, C) float32 on the device."""
        if self._maps.device.type == "cuda":
            return self._maps[sent(torch.from_numpy(images), self.device)]
        return sent(self._on_host(images), self.device)

    def _on_host(self, images: NDArray[np.int64]) -> Tensor:
        if self._file is None:
            return self._maps[torch.from_numpy(images)]
        return self._scaled(self._read_file(images))

    def columns(self, some: slice) -> Tensor:
        """Some of the `values` of all images, (images, n) float32 on the device."""
        if self._file is None:
            return self._maps.flatten(1)[:, some].to(self.device)
        block = np.empty((self.images, some.stop - some.start), dtype=np.float32)
        for image, row in enumerate(block):
            self._file.read(row.data, 4 * (image * self.values + some.start))
        scale, centre = (tensor.flatten()[some] for tensor in (self._scale, self.centre))
        return torch.from_numpy(block).div_(scale).sub_(centre).to(self.device)

    def fold(self, fields: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Undo pooling, scaling and centring, exactly.

        Parameters
        ----------
        fields : (voxels, nodes) on the grid.
        weights : (voxels, K) of the scaled maps.

        Returns
        -------
        fields (voxels, P) and weights (voxels, K) of the maps as they are, and what the bias loses (voxels,).
        """
        left, right = (fields, weights) if self.layout.pixels_first else (weights, fields)
        loss = contract(self.centre[None], left.T, right.T)[0][0]
        return fields @ self.pool.T, weights / self.scale, loss

    def _take(self, pool: Pool, layout: MapLayout) -> Tensor:
        """Take all images, into memory or the file; returns the scales (K,)."""
        place = self._maps.device
        sums = torch.empty(2, self.images, layout.count, dtype=torch.float64, device=place)
        for images, some, pooled in pool.blocks(layout):
            sums[:, sent(torch.from_numpy(images), place)] = sent(some, place)
            self._keep(images, pooled.transpose(1, 2) if self.layout.pixels_first else pooled)
        if self._file is not None:
            self._file.written()
        total, squares = (part.sum(0) for part in sums.cpu())
        return _deviation(total, squares, self.images * layout.group.pixels)

    def _keep(self, images: NDArray[np.int64], pooled: Tensor) -> None:
        if self._file is None:
            place = self._maps.device
            self._maps[sent(torch.from_numpy(images), place)] = sent(pooled, place)
            return
        for image, maps in zip(images, pooled.contiguous().numpy(), strict=True):
            self._file.write(maps.data, 4 * int(image) * self.values)

    def _read_file(self, images: NDArray[np.int64]) -> Tensor:
        assert self._file is not None
        maps = np.empty((len(images), *self.layout.shape), dtype=np.float32)
        for image, row in zip(images, maps, strict=True):
            self._file.read(row.data, 4 * int(image) * self.values)
        return torch.from_numpy(maps)

    def _scaled(self, maps: Tensor) -> Tensor:
        return maps.div_(self._scale).sub_(self.centre)

    def _mean(self) -> Tensor:
        """Mean of the scaled maps over images, (A, C), summed in the order of the images."""
        total = torch.zeros(self.layout.shape, dtype=torch.float64, device=self._maps.device)
        for some in np.split(np.arange(self.images), range(IMAGES_TOGETHER, self.images, IMAGES_TOGETHER)):
            maps = self._maps[some[0] : some[-1] + 1] if self._file is None else self._read_file(some)
            total += maps.sum(0, dtype=torch.float64)
        return (total.cpu() / self.images / self._scale).float()


def _deviation(sums: Tensor, squares: Tensor, count: int) -> Tensor:
    """Standard deviations of `count` numbers each, from their sums and sums of squares; infinite for 0."""
    variance = (squares - sums.square() / count) / max(1, count - 1)
    varies = variance > CONSTANT * squares / count
    return torch.where(varies, variance.clamp_min(0).sqrt(), torch.inf).float()


class _FiltersFirst(MapLayout):
    """Reads (images, K, P) whatever the sizes."""

    @property
    def pixels_first(self) -> bool:
        return False
