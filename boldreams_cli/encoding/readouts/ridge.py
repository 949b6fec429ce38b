"""Ridge: a weight for every chosen filter at every node of a coarse grid, each voxel with its own penalty.

It takes one mean beta an image, weighted by its repeats, and the penalty with which each training image is predicted
best from all the others. With more features than images only their products are held (images x images), summed over
groups and blocks of features, so that any grid fits any memory that holds those products. Test images are never
looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import ChoiceError, StopFlag, logger, progress
from boldreams_cli.encoding.inputs.pooled import PooledMaps, on_grid, pooled_bytes
from boldreams_cli.encoding.numerics.blocks import aligned_blocks, in_block
from boldreams_cli.encoding.numerics.compression import COMPRESSIONS
from boldreams_cli.encoding.numerics.ridge import HALF_DECADES, Ridge, add_products, weighted
from boldreams_cli.encoding.readouts.base import (
    LATER,
    Checkpoint,
    MapSource,
    Problem,
    Readout,
    ReadoutSettings,
    Solution,
    register,
)

# Both are parts of the arithmetic: constants, whatever the memory.
VOXELS = 64  # in a product
FEATURES = 1024  # summed at a time


@dataclass(frozen=True)
class RidgeSettings(ReadoutSettings):
    """What decides a ridge readout.

    Parameters
    ----------
    grid : nodes of a field along each side; a layer with fewer pixels has one node a pixel.
    penalties : to choose from, as multiples of the features' mean eigenvalue.
    compress : what becomes of each map value before pooling (numerics/compression.py).
    """

    grid: int = 5
    penalties: tuple[float, ...] = HALF_DECADES
    compress: str = field(default="sqrt", metadata=LATER | {"before": "none"})

    def check(self) -> None:
        """Raise ChoiceError for values that make no sense."""
        if self.grid < 1:
            raise ChoiceError(f"--grid takes a number from 1 up, not {self.grid}")
        if not self.penalties or min(self.penalties) <= 0:
            raise ChoiceError("penalties are numbers above 0, at least one")
        if self.compress not in COMPRESSIONS:
            raise ChoiceError(f"--compress takes {' or '.join(COMPRESSIONS)}, not {self.compress!r}")


@register
class RidgeReadout(Readout):
    """See the head of this file."""

    name: ClassVar[str] = "ridge"
    readout: ClassVar[str] = "ridge"
    pooled: ClassVar[bool] = True
    Settings: ClassVar[type[ReadoutSettings]] = RidgeSettings

    def __init__(self, settings: RidgeSettings | None = None) -> None:
        self.settings: RidgeSettings = settings or RidgeSettings()
        self._ridge: Ridge | None = None
        self._of: MapSource | None = None

    def bytes_resident(self, problem: Problem) -> int:
        """Pooled maps where they are kept in memory, the decomposition, and blocks of features and of voxels."""
        needed = pooled_bytes(problem.maps.layouts, len(problem.betas.image_ids), self.settings.grid)
        return self._working_bytes(problem) + (needed if needed <= self._room(problem) else 0)

    def bytes_per_voxel(self, problem: Problem) -> int:
        """Betas, weights of the images, and those of the features twice."""
        return 8 * len(problem.betas.image_ids) + 8 * self._features(problem)

    def voxels_together(self, problem: Problem) -> int:
        """Voxels of a product."""
        return VOXELS

    def _features(self, problem: Problem) -> int:
        shapes = [on_grid(layout, self.settings.grid).shape for layout in problem.maps.layouts]
        return sum(a * c for a, c in shapes)

    def _working_bytes(self, problem: Problem) -> int:
        images, features = len(problem.betas.image_ids), self._features(problem)
        blocks = 20 * images * min(features, FEATURES) + 40 * images * VOXELS
        if features <= images:
            return 28 * images * features + 32 * features**2 + blocks
        return 32 * images**2 + blocks

    def _room(self, problem: Problem) -> int:
        """Bytes that the pooled maps may take."""
        return problem.memory - self._working_bytes(problem) - VOXELS * self.bytes_per_voxel(problem)

    def _pooled(self, problem: Problem) -> list[PooledMaps]:
        return problem.maps.pooled(self.settings.grid, self._room(problem), self.settings.compress)

    def prepare(self, problem: Problem, checkpoint: Checkpoint, stop: StopFlag) -> None:
        """Decompose the features; their sums of products so far, or the decomposition, are kept."""
        if self._of is problem.maps:
            return
        images, count = len(problem.betas.image_ids), self._features(problem)
        repeats = torch.from_numpy(problem.betas.repeats).to(problem.device)
        pooled = self._pooled(problem)
        if count <= images:
            features = torch.cat([group.columns(slice(0, group.values)) for group in pooled], 1)
            self._ridge = Ridge(features, repeats, self.settings.penalties)
        else:
            kept = checkpoint.load()
            if kept is None or kept[0]["stage"] == "products":
                gram = self._products(problem, pooled, repeats, kept, checkpoint, stop)
                self._ridge = Ridge.of_gram(gram, repeats, count, self.settings.penalties)
                if checkpoint.due:
                    values = {"values": self._ridge.values, "vectors": self._ridge.vectors}
                    checkpoint.save({"stage": "decomposed"}, values)
            else:
                values = {name: tensor.to(problem.device) for name, tensor in kept[1].items()}
                self._ridge = Ridge.of_decomposition(
                    values["values"], values["vectors"], repeats, count, self.settings.penalties
                )
        self._of = problem.maps

    def _products(
        self,
        problem: Problem,
        pooled: list[PooledMaps],
        repeats: Tensor,
        kept: tuple[dict[str, int], dict[str, Tensor]] | None,
        checkpoint: Checkpoint,
        stop: StopFlag,
    ) -> Tensor:
        """Products of all pairs of images, summed over blocks of features."""
        images = len(repeats)
        done, gram = 0, torch.zeros(images, images, dtype=torch.float64, device=problem.device)
        if kept is not None:
            done, gram = kept[0]["done"], kept[1]["gram"].to(problem.device)
        root, share = repeats.double().sqrt(), repeats.double() / repeats.sum()
        blocks = list(_feature_blocks(pooled))
        with progress(problem.title, len(blocks), "blocks of features") as shown:
            shown.advance(done)
            for group, some in blocks[done:]:
                if stop or checkpoint.due:
                    checkpoint.save({"stage": "products", "done": done}, {"gram": gram})
                    stop.check(f"checkpoint at block {done} of {len(blocks)} of features")
                add_products(gram, weighted(group.columns(some), root, share))
                done += 1
                shown.advance()
        return gram

    def solve(self, problem: Problem, voxels: NDArray[np.int64], checkpoint: Checkpoint, stop: StopFlag) -> Solution:
        """See `Readout.solve`; the choices and the weights of the images are kept, those of the features follow."""
        self.prepare(problem, checkpoint, stop)
        places = np.searchsorted(problem.betas.columns, voxels)
        found = self._choose(problem, places, voxels, checkpoint, stop)
        assert self._ridge is not None
        weights, bias = self.fold(problem, places, found, self._ridge.share, stop)
        self._warn(found["penalty"])
        pooled = self._pooled(problem)
        basis = [group.pool.T.contiguous() for group in pooled]
        loss = float(found["error"].mean() / problem.betas.repeats.sum())
        penalty = torch.tensor(self.settings.penalties, dtype=torch.float64)[found["penalty"]]
        return Solution([], weights, bias.float(), {"left_out_loss": [loss]}, basis, {"penalty": penalty})

    def _choose(
        self, problem: Problem, places: NDArray[np.int64], voxels: NDArray[np.int64], keep: Checkpoint, stop: StopFlag
    ) -> dict[str, Tensor]:
        """Each voxel's penalty, its left-out error, its mean beta, and the images' weights (images, voxels)."""
        assert self._ridge is not None
        count, done = len(voxels), 0
        found = {
            "images": torch.zeros(len(problem.betas.image_ids), count),
            "mean": torch.zeros(count, dtype=torch.float64),
            "error": torch.zeros(count, dtype=torch.float64),
            "penalty": torch.zeros(count, dtype=torch.long),
        }
        if (kept := keep.load()) is not None and kept[0]["stage"] == "voxels":
            done, found = kept[0]["done"], kept[1]
        betas = problem.betas.means(voxels)
        with progress(problem.title, count, "voxels") as shown:
            shown.advance(done)
            for part, offsets in aligned_blocks(places, VOXELS):
                if part.start < done:
                    continue
                if stop or keep.due:
                    keep.save({"stage": "voxels", "done": part.start}, found)
                    stop.check(f"checkpoint at voxel {part.start + 1} of {count}")
                block = in_block(betas[:, part], offsets, VOXELS).to(problem.device)
                error, chosen = self._ridge.left_out_errors(block).min(0)
                images, mean = self._ridge.dual(block, chosen)
                found["images"][:, part] = images.float().cpu()[:, offsets]
                for name, value in (("mean", mean), ("error", error), ("penalty", chosen)):
                    found[name][part] = value.cpu()[offsets]
                shown.advance(len(offsets))
        return found

    def fold(
        self,
        problem: Problem,
        places: NDArray[np.int64],
        found: dict[str, Tensor],
        share: Tensor,
        stop: StopFlag,
        priors: list[Tensor] | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Weights (voxels, K, nodes) of each group's maps as they are, and the bias.

        Parameters
        ----------
        places : of the voxels among all.
        found : ``images``, the weights of the images (images, voxels), and ``mean``, of the betas (voxels,).
        share : (images,) weights of the images in means.
        priors : of each group (voxels, nodes), by which the weights at each node are multiplied; None is 1.
        """
        bias, weights = found["mean"].clone(), []
        for number, group in enumerate(self._pooled(problem)):
            flat = torch.empty(len(places), group.values)
            for _, some in _feature_blocks([group]):
                stop.check("what was chosen for finished spans of voxels is kept")
                features = group.columns(some)
                centre = (share @ features.double()).cpu() + group.centre.flatten()[some]
                for part, offsets in aligned_blocks(places, VOXELS):
                    images = in_block(found["images"][:, part], offsets, VOXELS).to(problem.device)
                    mine = (features.T @ images).cpu()[:, offsets]
                    if priors is not None:
                        mine *= priors[number][part][:, _nodes_of(group, some)].T
                    flat[part, some] = mine.T
                    bias[part] -= (centre[:, None] * mine).sum(0)
            shaped = flat.view(len(places), *group.layout.shape)
            if group.layout.pixels_first:
                shaped = shaped.transpose(1, 2)
            weights.append((shaped / group.scale[:, None]).contiguous())
        return weights, bias

    def _warn(self, chosen: Tensor) -> None:
        last = len(self.settings.penalties) - 1
        lowest, highest = int((chosen == 0).sum()), int((chosen == last).sum())
        if last and (lowest or highest):
            logger.info(
                "of %d voxels %d take the smallest penalty and %d the largest: their best may lie beyond",
                *(len(chosen), lowest, highest),
            )


def _nodes_of(group: PooledMaps, some: slice) -> Tensor:
    """The node of each of some features."""
    place = torch.arange(some.start, some.stop)
    return place // group.layout.count if group.layout.pixels_first else place % group.layout.group.pixels


def _feature_blocks(pooled: list[PooledMaps]) -> Iterator[tuple[PooledMaps, slice]]:
    """Yield groups and some of their features, constant numbers of them."""
    for group in pooled:
        for start in range(0, group.values, FEATURES):
            yield group, slice(start, min(start + FEATURES, group.values))
