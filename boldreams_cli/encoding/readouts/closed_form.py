"""Readouts that are solved rather than trained by steps: ridge, and Gaussian receptive fields.

Both take one mean beta an image, weighted by its repeats, and choose per voxel what predicts each training image
best from all the others. Test images are never looked at.

- ``ridge``: a weight for every chosen filter at every node of a coarse grid, each voxel with its own penalty.
- ``gaussian``: the separable readout of equation 1 whose field is one of a set of Gaussians, the same on all layers,
  with ridge weights (feature-weighted receptive fields; St-Yves & Naselaris 2018, NeuroImage 180).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import BoldreamsError, Progress, StopFlag, progress
from boldreams_cli.encoding.inputs.layout import MapLayout
from boldreams_cli.encoding.numerics.fields import gaussian_fields
from boldreams_cli.encoding.numerics.ridge import Ridge
from boldreams_cli.encoding.readouts.base import (
    Checkpoint,
    MapSource,
    Problem,
    Readout,
    ReadoutSettings,
    Solution,
    register,
)

GRID = 9  # nodes along each side of ridge's fields
CENTRES = (np.arange(9) + 0.5) / 9  # of Gaussian fields along each side, in fractions of the image
SIZES = np.geomspace(0.03, 0.5, 6)  # their standard deviations
IMAGES_IN_A_BATCH = 64
STARTS_AGAIN = "this readout keeps no checkpoint and starts again"

Part = tuple[list[Tensor], list[Tensor], Tensor]
Read = Callable[[NDArray[np.int64]], Tensor]


@dataclass(frozen=True)
class ClosedFormSettings(ReadoutSettings):
    """Nothing is chosen yet."""


class _ClosedForm(Readout):
    """What both have in common."""

    Settings: ClassVar[type[ReadoutSettings]] = ClosedFormSettings

    def __init__(self, settings: ClosedFormSettings | None = None) -> None:
        self.settings = settings or ClosedFormSettings()

    def bytes_resident(self, problem: Problem) -> int:
        """What the solvers see to themselves."""
        return problem.memory * 3 // 4

    def bytes_per_voxel(self, problem: Problem) -> int:
        """Betas and weights."""
        return 64 * len(problem.betas.image_ids)

    def _repeats(self, problem: Problem) -> Tensor:
        return torch.from_numpy(problem.betas.repeats).to(problem.device)


@register
class RidgeReadout(_ClosedForm):
    """A weight for every chosen filter at every node of a coarse grid."""

    name: ClassVar[str] = "ridge"
    readout: ClassVar[str] = "ridge"

    def solve(self, problem: Problem, voxels: NDArray[np.int64], checkpoint: Checkpoint, stop: StopFlag) -> Solution:
        """See `Readout.solve`."""
        repeats = self._repeats(problem)
        read = lambda some: problem.betas.means(some).to(problem.device)  # noqa: E731
        parts, basis, error = _ridge(problem.maps, repeats, voxels, read, problem.memory, stop)
        return _joined(parts, error, basis)


@register
class GaussianReadout(_ClosedForm):
    """Gaussian fields with ridge weights."""

    name: ClassVar[str] = "gaussian"
    readout: ClassVar[str] = "gaussian"

    def solve(self, problem: Problem, voxels: NDArray[np.int64], checkpoint: Checkpoint, stop: StopFlag) -> Solution:
        """See `Readout.solve`."""
        repeats, memory = self._repeats(problem), problem.memory // 4
        search = _GaussianSearch(problem.maps, problem.maps.layouts, repeats, memory, stop)
        parts, error = search.run(voxels, lambda some: problem.betas.means(some).to(problem.device), memory)
        return _joined(parts, error, None)


def _joined(parts: list[Part], error: float, basis: list[Tensor] | None) -> Solution:
    fields = [torch.cat(values) for values in zip(*(part[0] for part in parts), strict=True)]
    weights = [torch.cat(values) for values in zip(*(part[1] for part in parts), strict=True)]
    return Solution(fields, weights, torch.cat([part[2] for part in parts]), {"left_out_loss": [error]}, basis)


def _spans(columns: NDArray[np.int64], bytes_each: int, memory: int) -> list[NDArray[np.int64]]:
    """Voxels to solve for at a time."""
    width = max(1, memory // bytes_each)
    return [columns[start : start + width] for start in range(0, len(columns), width)]


def _ridge(
    source: MapSource,
    repeats: Tensor,
    columns: NDArray[np.int64],
    read: Read,
    memory: int,
    stop: StopFlag,
) -> tuple[list[Part], list[Tensor], float]:
    """Ridge from every filter at every node of the grid: its parts, those nodes' fields, and the left-out error."""
    grid = _largest_grid(source.layouts, len(repeats), memory)
    pooled = source.pooled(grid, memory)
    # (images, K * nodes) of each group, whichever of the two lies last in memory.
    features = [
        (group.maps.transpose(1, 2) if group.layout.pixels_first else group.maps).flatten(1) for group in pooled
    ]
    sizes = [part.shape[1] for part in features]
    spans = _spans(columns, 8 * (4 * len(repeats) + 2 * sum(sizes)), memory // 3)
    parts: list[Part] = []
    total = 0.0
    with progress("fit ridge", len(columns), "voxels") as shown:
        ridge = Ridge(torch.cat(features, 1).to(repeats.device), repeats)
        del features
        for voxels in spans:
            stop.check(STARTS_AGAIN)
            betas = read(voxels)
            best, chosen = ridge.left_out_errors(betas).min(0)
            weights, bias = (tensor.cpu() for tensor in ridge.solve(betas, chosen))
            total += float(best.double().sum())
            folded = []
            for group, part in zip(pooled, weights.split(sizes), strict=True):
                centre = group.centre.T if group.layout.pixels_first else group.centre
                bias -= centre.reshape(-1) @ part
                folded.append(part.T.reshape(len(voxels), len(group.scale), -1) / group.scale[:, None])
            parts.append(([], folded, bias))
            shown.advance(len(voxels))
    basis = [group.pool.T for group in pooled]
    return parts, basis, total / (float(repeats.sum()) * len(columns))


def _largest_grid(layouts: Sequence[MapLayout], images: int, memory: int) -> int:
    """Nodes along each side such that features and their decomposition fit; at least one, a plain average."""
    for grid in range(GRID, 0, -1):
        nodes = [min(grid, layout.group.height) * min(grid, layout.group.width) for layout in layouts]
        count = sum(layout.count * each for layout, each in zip(layouts, nodes, strict=True))
        if 16 * images * count + 32 * min(images, count) ** 2 <= memory * 2 // 3:
            return grid
    raise BoldreamsError("ridge does not fit --memory even from averages over the image; use more, or fewer filters")


class _GaussianSearch:
    """The best of a set of Gaussian fields for each voxel, and its weights."""

    def __init__(
        self,
        source: MapSource,
        layouts: Sequence[MapLayout],
        repeats: Tensor,
        memory: int,
        stop: StopFlag,
    ) -> None:
        self.source, self.layouts, self.repeats, self.stop = source, layouts, repeats, stop
        candidates = [(x, y, size) for size in SIZES for y in CENTRES for x in CENTRES]
        self.fields = [
            torch.from_numpy(gaussian_fields(layout.group.height, layout.group.width, np.array(candidates))).float()
            for layout in layouts
        ]
        filters = sum(layout.count for layout in layouts)
        self.width = max(1, memory // (8 * len(repeats) * filters))

    def run(self, columns: NDArray[np.int64], read: Read, memory: int) -> tuple[list[Part], float]:
        """Solve span by span of voxels; the parts and the left-out error."""
        spans = _spans(columns, 4 * 16 * len(self.repeats), memory)
        parts, total = [], 0.0
        with progress("fit gaussian", len(self.fields[0]) * len(spans), "fields") as shown:
            for voxels in spans:
                betas = read(voxels)
                field, penalty, error = self._choose(betas, shown)
                parts.append(self._solve(betas, field, penalty))
                total += float(error.double().sum())
        return parts, total / (float(self.repeats.sum()) * len(columns))

    def _choose(self, betas: Tensor, shown: Progress) -> tuple[Tensor, Tensor, Tensor]:
        """Field, penalty and left-out error of each voxel."""
        best = torch.full((betas.shape[1],), torch.inf, dtype=torch.float64, device=betas.device)
        field, penalty = torch.zeros(2, len(best), dtype=torch.long, device=betas.device)
        for number, ridge, _ in self._ridges(torch.arange(len(self.fields[0]))):
            error, chosen = ridge.left_out_errors(betas).min(0)
            better = error < best
            best[better], field[better], penalty[better] = error[better], number, chosen[better]
            shown.advance()
        return field, penalty, best

    def _solve(self, betas: Tensor, field: Tensor, penalty: Tensor) -> Part:
        """Fields (voxels, P) and weights (voxels, K) of each group, and the bias."""
        counts = [layout.count for layout in self.layouts]
        weights = torch.zeros(betas.shape[1], sum(counts))
        bias = torch.zeros(betas.shape[1])
        for number, ridge, scale in self._ridges(field.unique().cpu()):
            mine = field == number
            found, offset = ridge.solve(betas[:, mine], penalty[mine])
            weights[mine.cpu()] = (found / scale[:, None]).T.cpu()
            bias[mine.cpu()] = offset.cpu()
        fields = [candidates[field.cpu()] for candidates in self.fields]
        return fields, list(weights.split(counts, dim=1)), bias

    def _ridges(self, numbers: Tensor) -> Iterator[tuple[int, Ridge, Tensor]]:
        """Yield each candidate with its regression and the scale of its features (K,)."""
        for some in numbers.split(self.width):
            for number, features in zip(some.tolist(), self._read_through(some), strict=True):
                self.stop.check(STARTS_AGAIN)
                scale = features.std(0).clamp_min(1e-6)
                yield number, Ridge(features / scale, self.repeats), scale

    def _read_through(self, candidates: Tensor) -> Tensor:
        """(candidates, images, K): the maps summed against the fields."""
        images = np.arange(len(self.repeats))
        order = np.array_split(images, -(-len(images) // IMAGES_IN_A_BATCH))
        parts = []
        for maps in self.source.batches(order):
            read = []
            for group, layout, fields in zip(maps, self.layouts, self.fields, strict=True):
                first = group if layout.pixels_first else group.transpose(1, 2)  # (images, P, K)
                read.append(fields[candidates].to(group.device) @ first)
            parts.append(torch.cat(read, dim=2).transpose(0, 1))
        return torch.cat(parts, dim=1)
