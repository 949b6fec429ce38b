"""A subject of NSD's full size that is made of random numbers in memory: what readouts take, without a disk.

AlexNet's maps of 8,859 training images, and of each three trials of 20,000 voxels. What is fitted to it says nothing;
how long that takes, and in how much memory, does not depend on the numbers.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.fitting import GB, synchronize
from boldreams_cli.console import StopFlag
from boldreams_cli.encoding.fit import solve_spans
from boldreams_cli.encoding.inputs.betas import hold_out
from boldreams_cli.encoding.inputs.layout import MapLayout, make_groups
from boldreams_cli.encoding.inputs.maps import ResidentMaps
from boldreams_cli.encoding.inputs.pooled import Block, PooledMaps, on_grid
from boldreams_cli.encoding.readouts.base import Problem, Readout
from boldreams_cli.encoding.spans import Spans
from boldreams_cli.features.ranking import filter_count
from boldreams_cli.machine import VOXELS as PART
from boldreams_cli.machine import room

IMAGES, TRIALS, VOXELS = 8859, 26577, 20000
SHAPES = {1: (64, 55), 4: (192, 27), 7: (384, 13), 9: (256, 13), 11: (256, 13)}  # filters, pixels along a side
ALEXNET = {f"features.{number}": shape for number, shape in SHAPES.items()}


@dataclass(frozen=True)
class RandomPool:
    """Pooled maps as `pooled.Pool` gives them, not negative as those of a ReLU are."""

    images: int
    grid: int

    def blocks(self, layout: MapLayout) -> Iterator[Block]:
        """See `pooled.Pool`."""
        nodes = on_grid(layout, self.grid).group.pixels
        random = torch.Generator().manual_seed(0)
        for images in np.split(np.arange(self.images), range(512, self.images, 512)):
            maps = torch.rand(len(images), layout.count, nodes, generator=random)
            sums = torch.stack([maps.double().sum(2), maps.double().square().sum(2)])
            yield Block(images, sums * layout.group.pixels / nodes, maps)


class RandomMaps:
    """A `MapSource` that reads nothing."""

    resident_bytes = 0
    limit = 0

    def __init__(self, percent: float, images: int, device: torch.device) -> None:
        filters = {name: range(filter_count(shape[0], percent)) for name, shape in ALEXNET.items()}
        groups = make_groups({name: (shape[1], shape[1]) for name, shape in ALEXNET.items()}, "shared")
        self.layouts = [MapLayout(group, {n: filters[n] for n in group.layers}) for group in groups]
        self.images, self.device = images, device
        self._pooled: dict[int, list[PooledMaps]] = {}
        self._maps: ResidentMaps | None = None

    def batches(self, order: Sequence[NDArray[np.int64]]) -> Iterator[list[Tensor]]:
        """See `MapSource`."""
        if self._maps is None:
            groups = [torch.empty(self.images, *x.shape, dtype=torch.float16, device=self.device) for x in self.layouts]
            self._maps = ResidentMaps([group.uniform_() for group in groups], self.layouts, self.device)
        return self._maps.batches(order)

    def pooled(self, grid: int, memory: int, compress: str = "none") -> list[PooledMaps]:
        """See `MapSource`."""
        if grid not in self._pooled:
            pool = RandomPool(self.images, grid)
            self._pooled[grid] = [PooledMaps(pool, self.images, x, grid, None, self.device, True) for x in self.layouts]
        return self._pooled[grid]


class RandomBetas:
    """As `TrainingBetas`."""

    def __init__(self, images: int, trials: int, voxels: int) -> None:
        random = np.random.default_rng(0)
        self.columns, self.image_ids, self.areas = np.arange(voxels), np.arange(images), np.zeros(voxels, np.int64)
        self.images = np.sort(np.concatenate([self.image_ids, random.integers(0, images, trials - images)]))
        self.repeats = np.bincount(self.images)
        self._counts = torch.from_numpy(self.repeats)[:, None].float()
        self._trials = torch.randn(trials, voxels, generator=torch.Generator().manual_seed(0))

    def trials(self, voxels: NDArray[np.int64]) -> Tensor:
        """(trials, voxels)."""
        return self._trials[:, torch.from_numpy(voxels)]

    def means(self, voxels: NDArray[np.int64]) -> Tensor:
        """(images, voxels)."""
        sums = torch.zeros(len(self.image_ids), len(voxels))
        return sums.index_add_(0, torch.from_numpy(self.images), self.trials(voxels)) / self._counts


@dataclass(frozen=True)
class Solved:
    """Seconds of making the maps ready, and of the rest; bytes of the GPU at most."""

    ready: float
    seconds: float
    peak: int


def solved(readout: Readout, percent: float, grid: int | None, betas: RandomBetas, device: torch.device) -> Solved:
    """Solve for all voxels as `fit` does, its files counted."""
    images = len(betas.image_ids)
    maps = RandomMaps(percent, images, device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    if grid is None:
        next(iter(maps.batches([np.arange(1)])))
    else:
        maps.pooled(grid, 0)
    synchronize(device)
    ready = time.perf_counter()
    held = hold_out(betas.image_ids, 0.1, 0)
    problem = Problem(maps, betas, held, 0, device, room(device, 60 * GB, PART))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        solve_spans(problem, maps, readout, Spans(Path(folder), "key"), StopFlag())  # type: ignore[arg-type]
        synchronize(device)
        done = time.perf_counter()
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return Solved(ready - started, done - ready, peak)
