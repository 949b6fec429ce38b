"""Attention: each voxel looks for something, and reads the maps where it is; its field depends on the image.

In every group of maps a voxel has a query, a position bias at the nodes of a grid, and a weight for each filter. What
the query finds at a node and the bias there add up to a score; the softmax of the scores over the nodes is the field of
that image, and the maps summed against it are read linearly (numerics/attention.py). With a query of 0 that is the
separable readout on a grid with fields that are nowhere negative; training starts from there, with flat fields.

Queries see keys: the first principal components of the scaled maps over training images and nodes. All else is as in
the fast recipe (smooth.py): scaled maps, one mean beta an image, Adam with a cosine decay, and held-out images that
choose the epoch. With ``--share area`` the voxels of an area have one query, and keep the same epoch; position biases
and weights stay each voxel's own. Test images are never looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import ChoiceError, StopFlag
from boldreams_cli.encoding.inputs.layout import MapLayout
from boldreams_cli.encoding.inputs.pooled import IMAGES_TOGETHER, PooledMaps, on_grid, pooled_bytes
from boldreams_cli.encoding.numerics.attention import attend, attend_gradients, key_projection
from boldreams_cli.encoding.numerics.blocks import normal_draws
from boldreams_cli.encoding.readouts.base import Checkpoint, MapSource, Problem, ReadoutSettings, Solution, register
from boldreams_cli.encoding.readouts.separable import block_width
from boldreams_cli.encoding.readouts.smooth import HeldOutTraining, Smooth, SmoothSettings
from boldreams_cli.encoding.readouts.training import BlockTraining

SHARES = ("voxel", "area")
KEY_IMAGES = 1024  # of which components are taken at most


@dataclass(frozen=True)
class AttentionSettings(SmoothSettings):
    """How an attention readout trains; the defaults were chosen on brains of known encoding.

    Parameters
    ----------
    grid, rate, batch_size, epochs, steps : as of the fast recipe, in larger steps.
    keys : components of each group's maps that queries see at most.
    share : whether each ``voxel`` has queries of its own, or those of an ``area`` have the same.
    bias_times, query_times : what `rate` is multiplied by for position biases, and for queries.
    """

    least: ClassVar[int] = 10

    rate: float = 3e-3
    batch_size: int = 64
    keys: int = 16
    share: str = "voxel"
    bias_times: float = 30.0
    query_times: float = 3.0

    def check(self) -> None:
        """Raise ChoiceError for values that make no sense."""
        super().check()
        if self.keys < 1 or not self.bias_times > 0 or not self.query_times >= 0:
            raise ChoiceError("queries see at least one key, and biases and queries are trained at rates above 0")
        if self.share not in SHARES:
            raise ChoiceError(f"--share takes {' or '.join(SHARES)}, not {self.share!r}")


@register
class Attention(Smooth):
    """See the head of this file."""

    name: ClassVar[str] = "attention"
    readout: ClassVar[str] = "attention"
    recipe: ClassVar[str | None] = None
    Settings: ClassVar[type[ReadoutSettings]] = AttentionSettings

    def __init__(self, settings: AttentionSettings | None = None) -> None:
        self.settings: AttentionSettings = settings or AttentionSettings()
        self._projections: list[Tensor] = []
        self._of: MapSource | None = None

    def bytes_resident(self, problem: Problem) -> int:
        """Pooled maps, where they are kept in memory, and what is beside them."""
        needed = pooled_bytes(problem.maps.layouts, len(problem.betas.image_ids), self.settings.grid)
        return self._working_bytes(problem) + (needed if needed <= self._room(problem) else 0)

    def _working_bytes(self, problem: Problem) -> int:
        """A batch with its keys, what a block of voxels finds in it, and products of filters."""
        count = self.settings.batch_size
        layouts = [_nodes_first(layout, self.settings.grid) for layout in problem.maps.layouts]
        values = sum(layout.group.pixels * (3 * layout.count + self.settings.keys) for layout in layouts)
        nodes = sum(layout.group.pixels for layout in layouts)
        block = 12 * count * nodes * self._width(problem)
        products = 24 * max(layout.count for layout in layouts) ** 2
        return 4 * count * values + block + products

    def _room(self, problem: Problem) -> int:
        left = problem.memory - self._working_bytes(problem)
        return left - min(len(problem.betas.columns) * self.bytes_per_voxel(problem), left // 2)

    def bytes_per_voxel(self, problem: Problem) -> int:
        """Betas and their centred copy; value, gradient, two moments, the best so far and the solution."""
        layouts = [_nodes_first(layout, self.settings.grid) for layout in problem.maps.layouts]
        parameters = 1 + sum(layout.count + layout.group.pixels + self.settings.keys for layout in layouts)
        solution = sum(2 * layout.count + layout.group.pixels for layout in layouts)
        return 12 * len(problem.betas.image_ids) + 20 * parameters + 8 * solution

    def voxels_together(self, problem: Problem) -> int:
        """Voxels of a block."""
        return min(len(problem.betas.columns), self._width(problem))

    def _width(self, problem: Problem) -> int:
        layouts = [_nodes_first(layout, self.settings.grid) for layout in problem.maps.layouts]
        return block_width(layouts, self.settings.batch_size, problem.device, len(problem.betas.columns))

    def sets(self, problem: Problem) -> list[NDArray[np.int64]]:
        """The voxels of each area, where they share their queries."""
        if self.settings.share == "voxel":
            return []
        columns, area = problem.betas.columns, problem.betas.areas
        return [columns[area == number] for number in np.unique(area)]

    def prepare(self, problem: Problem, checkpoint: Checkpoint, stop: StopFlag) -> None:
        """Pool the maps, and find their components."""
        self._keyed(problem)

    def _keyed(self, problem: Problem) -> list[KeyedMaps]:
        pooled = problem.maps.pooled(self.settings.grid, self._room(problem))
        if self._of is not problem.maps:
            self._projections = [key_projection(_some_maps(group), self.settings.keys) for group in pooled]
            self._of = problem.maps
        return [KeyedMaps(*pair) for pair in zip(pooled, self._projections, strict=True)]

    def _training(self, problem: Problem, voxels: NDArray[np.int64]) -> HeldOutTraining:
        return AttendingTraining(problem, self._keyed(problem), self.settings, voxels, *self._inside(problem, voxels))

    def _inside(self, problem: Problem, voxels: NDArray[np.int64]) -> tuple[Tensor, int]:
        if self.settings.share == "voxel":
            return super()._inside(problem, voxels)
        return torch.arange(len(voxels)), len(voxels)  # an area is whole: its blocks are cut from its own first voxel


class _NodesFirst(MapLayout):
    """Lies as (images, nodes, K) whatever the sizes."""

    @property
    def pixels_first(self) -> bool:
        return True


def _nodes_first(layout: MapLayout, grid: int) -> _NodesFirst:
    """Layout of a group's maps as they are read here."""
    return _NodesFirst(on_grid(layout, grid).group, layout.filters)


class KeyedMaps:
    """Pooled maps of a group, each filter centred over images and nodes, with their keys.

    Parameters
    ----------
    pooled : of the group; these are centred at each node.
    projection : (K, D) of maps to keys.

    Attributes
    ----------
    layout : (images, nodes, K), to which the keys are added.
    keys : D, their number.
    mean : (K,) of each filter's scaled maps over images and nodes.
    """

    def __init__(self, pooled: PooledMaps, projection: Tensor | None = None) -> None:
        self.pooled, self.projection = pooled, projection
        self.keys = 0 if projection is None else projection.shape[1]
        self.layout = _NodesFirst(pooled.layout.group, pooled.layout.filters)
        centre = pooled.centre if pooled.layout.pixels_first else pooled.centre.T
        self.mean = centre.mean(0)
        self._shift = (centre - self.mean).to(pooled.device)

    def read(self, images: NDArray[np.int64]) -> Tensor:
        """Those of some images, (n, nodes, K + D) float32 on the device; without a projection (n, nodes, K)."""
        maps = self.pooled.read(images)
        maps = (maps if self.pooled.layout.pixels_first else maps.transpose(1, 2)) + self._shift
        if self.projection is None:
            return maps
        return torch.cat([maps, maps @ self.projection.to(maps.device)], 2)

    def unscaled(self, weights: Tensor, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Undo scaling and centring, exactly.

        Parameters
        ----------
        weights, queries : (K, voxels) and (D, voxels), of scaled maps and of keys.

        Returns
        -------
        weights and queries (voxels, K) of the pooled maps as they are, and what the bias loses (voxels,); what queries
        lose is the same at all nodes, and changes no attention.
        """
        assert self.projection is not None
        weights, sought = weights.cpu(), self.projection.cpu() @ queries.cpu()
        return (weights / self.pooled.scale[:, None]).T, (sought / self.pooled.scale[:, None]).T, self.mean @ weights


def _some_maps(pooled: PooledMaps) -> Iterator[Tensor]:
    """Yield maps of at most KEY_IMAGES images, evenly out of all, always the same at a time."""
    maps = KeyedMaps(pooled)
    count = min(pooled.images, KEY_IMAGES)
    images = np.arange(count) * pooled.images // count
    for some in np.split(images, range(IMAGES_TOGETHER, count, IMAGES_TOGETHER)):
        yield maps.read(some)


@dataclass
class _Block:
    """Per group the weights, positions and queries of `attend`; and the bias."""

    voxels: slice
    weights: list[Tensor]
    positions: list[Tensor]
    queries: list[Tensor]
    bias: Tensor

    def parameters(self) -> list[Tensor]:
        return [*self.weights, self.bias, *self.positions, *self.queries]

    def _attend(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
        """Of each group its maps, its keys and what `attend` gives."""
        found = []
        for both, weights, positions, queries in zip(maps, self.weights, self.positions, self.queries, strict=True):
            values, keys = both.split([len(weights), len(queries)], dim=2)
            found.append((values, keys, *attend(values, keys, queries, positions, weights)))
        return found

    def missed(self, maps: Sequence[Tensor], betas: Tensor) -> Tensor:
        error = self.bias - betas
        for _, _, share, _, _ in self._attend(maps):
            error += share
        return error

    def gradients(
        self, maps: Sequence[Tensor], betas: Tensor, scale: float, weights: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        found = self._attend(maps)
        error = self.bias - betas
        for _, _, share, _, _ in found:
            error += share
        each = 1 if weights is None else weights[:, None]
        total = (error.square() * each).sum(dtype=torch.float64)
        error *= each
        error *= scale
        parts = [attend_gradients(*group, error) for group in found]
        by_queries, by_positions, by_weights = ([part[number] for part in parts] for number in range(3))
        return total, [*by_weights, error.sum(0), *by_positions, *by_queries]


class AttentionTraining(BlockTraining[_Block]):
    """Parameters of some voxels, and one step of their training.

    Parameters
    ----------
    layouts : of the maps, nodes first.
    weights : of each group (K, voxels), as they start; positions, queries and the bias start at 0.
    settings : of the training.
    keys : of each group.
    device : to train on.
    """

    voxels = 1

    def __init__(
        self,
        layouts: Sequence[MapLayout],
        weights: Sequence[Tensor],
        settings: AttentionSettings,
        keys: Sequence[int],
        device: torch.device,
    ) -> None:
        self.batch_size, self.tied = settings.batch_size, settings.share == "area"
        self.blocks = []
        count = weights[0].shape[1]
        width = block_width(layouts, settings.batch_size, device, count)
        for first in range(0, count, width):
            place = slice(first, min(first + width, count))
            some = place.stop - place.start
            self.blocks.append(
                _Block(
                    place,
                    [value[:, place].to(device, copy=True).contiguous() for value in weights],
                    [torch.zeros(layout.group.pixels, some, device=device) for layout in layouts],
                    [torch.zeros(number, some, device=device) for number in keys],
                    torch.zeros(some, device=device),
                )
            )
        kinds = [
            (1.0, [tensor for block in self.blocks for tensor in [*block.weights, block.bias]]),
            (settings.bias_times, [tensor for block in self.blocks for tensor in block.positions]),
            (settings.query_times, [tensor for block in self.blocks for tensor in block.queries]),
        ]
        for _, tensors in kinds:
            for tensor in tensors:
                tensor.grad = torch.zeros_like(tensor)
        groups = [{"params": tensors, "times": times} for times, tensors in kinds]
        self.optimizer = torch.optim.Adam(groups, lr=settings.rate, fused=True)

    def step(self, maps: Sequence[Tensor], betas: Tensor, rate: float, weights: Tensor | None = None) -> Tensor:
        """See `BlockTraining.step`."""
        total = super().step(maps, betas, rate, weights)
        if self.tied:  # Adam rounds the last ones of an array differently
            for tensors in self._queries():
                for tensor in tensors:
                    tensor.copy_(tensors[0][:, :1].clone())
        return total

    def tie(self) -> None:
        """Give all voxels the gradient of their common queries."""
        if self.tied:
            for tensors in self._queries():
                total = torch.stack([tensor.grad.sum(1) for tensor in tensors if tensor.grad is not None]).sum(0)
                for tensor in tensors:
                    tensor.grad = total[:, None].expand_as(tensor).contiguous()

    def _queries(self) -> list[list[Tensor]]:
        """Of each group those of all blocks."""
        return [[block.queries[number] for block in self.blocks] for number in range(len(self.blocks[0].queries))]


class AttendingTraining(HeldOutTraining):
    """The training of queries, position biases and weights; its maps are `KeyedMaps`."""

    maps: Sequence[KeyedMaps]
    settings: AttentionSettings
    training: AttentionTraining

    def start(self, voxels: NDArray[np.int64], width: int) -> AttentionTraining:
        """Flat fields, small weights of each voxel's own."""
        layouts = [group.layout for group in self.maps]
        counts = [layout.count for layout in layouts]
        weights = torch.zeros(sum(counts), width)
        weights[:, self.inside] = normal_draws(self.problem.seed, voxels, sum(counts)) * (0.01 / math.sqrt(sum(counts)))
        keys = [group.keys for group in self.maps]
        return AttentionTraining(layouts, weights.split(counts), self.settings, keys, self.problem.device)

    def solution(self) -> Solution:
        """The model in its own terms, of each voxel's best epoch."""
        curve, epoch = self.chosen()
        bias = torch.cat([block.bias for block in self.training.blocks]).cpu() + self.mean.float()
        fields, weights, queries = [], [], []
        for number, group in enumerate(self.maps):
            # By blocks, as in training, so that a voxel's sums do not depend on how many others there are.
            parts = [group.unscaled(block.weights[number], block.queries[number]) for block in self.training.blocks]
            weight, query, loss = (torch.cat(values)[self.inside] for values in zip(*parts, strict=True))
            bias[self.inside] -= loss
            positions = torch.cat([block.positions[number] for block in self.training.blocks], 1).T.cpu()
            grid = group.layout.group
            fields.append(positions[self.inside].unflatten(1, (grid.height, grid.width)).contiguous())
            weights.append(weight)
            queries.append(query[:1].expand_as(query).contiguous() if self.training.tied else query)
        squares = [
            torch.cat([block.queries[n] for block in self.training.blocks], 1).square().sum(0)
            for n in range(len(self.maps))
        ]
        content = torch.stack(squares).mean(0).sqrt().cpu()
        chosen = {"epoch": epoch[self.inside], "content": content[self.inside]}
        return Solution(fields, weights, bias[self.inside], curve, chosen=chosen, queries=queries)
