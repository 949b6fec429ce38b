"""``fit --recipe fast``: the same model, reached sooner than by the published training.

What differs from the paper's recipe (section 2.2):

- receptive fields are smooth: values on a coarse grid, interpolated. A sum over pixels against such a field is a sum
  over the grid of maps pooled with the same weights, so pooling once makes maps and products several times smaller;
- maps are centred and scaled per filter, which is undone in the weights and bias afterwards, exactly;
- one step per image with its mean beta, weighted by its repeats: its trials' gradients are those of their mean;
- flat fields and small weights to start with, Adam with a cosine decay;
- some training images are held out, and each voxel keeps its weights of the epoch that predicts those best.
  Test images are never looked at.

The result is an ordinary model: dreams and attribution see no difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import BoldreamsError, StopFlag, progress
from boldreams_cli.encoding.inputs.layout import MapLayout
from boldreams_cli.encoding.inputs.pooled import PooledMaps
from boldreams_cli.encoding.numerics.contraction import contract
from boldreams_cli.encoding.readouts.base import Checkpoint, Problem, Readout, ReadoutSettings, Solution, register
from boldreams_cli.encoding.readouts.separable import ReadoutTraining, batch_order


@dataclass(frozen=True)
class FastSettings(ReadoutSettings):
    """How the fast recipe trains; the defaults were chosen on brains of known encoding.

    Parameters
    ----------
    grid : nodes of a field along each side; a layer with fewer pixels has one node a pixel.
    rate : of Adam at its start; it falls to 0 by a cosine.
    batch_size : images in a step.
    epochs : passes over the images at most.
    steps : at least; small experiments take more epochs.
    held_out : share of the training images that choose each voxel's epoch.
    """

    grid: int = 9
    rate: float = 3e-3
    batch_size: int = 64
    epochs: int = 10
    steps: int = 600
    held_out: float = 0.1

    def held(self, images: int) -> int:
        """Images that are held out, of `images`."""
        return round(self.held_out * images)

    def passes(self, images: int) -> int:
        """Epochs of a training on `images`, those held out included."""
        return max(self.epochs, math.ceil(self.steps / math.ceil((images - self.held(images)) / self.batch_size)))


def flat_start(
    layouts: Sequence[MapLayout], voxels: int, generator: torch.Generator
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Flat fields and small random weights; shapes as in `readout.published_start`."""
    filters = sum(layout.count for layout in layouts)
    fields = [torch.full((layout.group.pixels, voxels), 1 / layout.group.pixels) for layout in layouts]
    weights = [torch.randn(layout.count, voxels, generator=generator) * 0.01 / math.sqrt(filters) for layout in layouts]
    return fields, weights, torch.zeros(voxels)


@dataclass
class FastFit:
    """Trained fields (voxels, P) and weights (voxels, K) of each group, bias (voxels,), and the errors by epoch."""

    fields: list[Tensor]
    weights: list[Tensor]
    bias: Tensor
    train: list[float]
    held_out: list[float]


def train_fast(
    pooled: Sequence[PooledMaps],
    betas: Tensor,
    repeats: Tensor,
    settings: FastSettings,
    seed: int,
    device: torch.device,
    after_epoch: Callable[[float], None],
) -> FastFit:
    """Train fields and weights on the grid.

    Parameters
    ----------
    pooled : maps of each group, of the training images.
    betas : (images, voxels) averaged over repeats.
    repeats : (images,) trials of each image.
    settings : of the training.
    seed : of start, order and the images held out.
    device : to train on.
    after_epoch : called with the held-out error.

    Returns
    -------
    The model in its own terms.
    """
    images, voxels = betas.shape
    held = torch.zeros(images, dtype=torch.bool)
    shuffled = np.random.default_rng([seed, 1]).permutation(images)
    held[torch.from_numpy(shuffled[: settings.held(images)])] = True
    train = torch.nonzero(~held).squeeze(1)
    weight = (repeats / repeats.float().mean()).sqrt()[:, None]
    mean = (betas * weight.square())[train].sum(0) / weight.square()[train].sum()
    layouts = [group.layout for group in pooled]
    start = flat_start(layouts, voxels, torch.Generator().manual_seed(seed))
    training = ReadoutTraining(
        layouts, slice(0, voxels), voxels, settings.batch_size, settings.rate, seed, device, "fp32", start=start
    )
    best = _BestEpoch(training)
    steps_an_epoch = math.ceil(len(train) / settings.batch_size)
    epochs = settings.passes(images)
    errors, held_errors, step = [], [], 0
    centred = (betas - mean).to(device)
    for epoch in range(epochs):
        total = 0.0
        for batch in batch_order(len(train), settings.batch_size, seed, epoch):
            chosen = train[torch.from_numpy(batch)]
            root = weight[chosen].to(device)
            maps = [group.maps[chosen].to(device) * root[:, None] for group in pooled]
            rate = settings.rate * 0.5 * (1 + math.cos(math.pi * step / (epochs * steps_an_epoch)))
            total += float(training.step(maps, centred[chosen] * root, rate))
            step += 1
        errors.append(total / (len(train) * voxels))
        held_errors.append(best.keep(pooled, centred, torch.nonzero(held).squeeze(1), weight))
        after_epoch(held_errors[-1])
    best.restore()
    fields, weights, offset = training.weights()
    folded = [group.fold(field, w) for group, field, w in zip(pooled, fields, weights, strict=True)]
    bias = mean + offset - torch.stack([loss for _, _, loss in folded]).sum(0)
    return FastFit([f for f, _, _ in folded], [w for _, w, _ in folded], bias, errors, held_errors)


class _BestEpoch:
    """Each voxel's parameters of the epoch that predicted the held-out images best."""

    def __init__(self, training: ReadoutTraining) -> None:
        self.training = training
        self.kept = [[tensor.clone() for tensor in block.parameters()] for block in training.blocks]
        self.errors = [torch.full_like(block.bias, torch.inf) for block in training.blocks]

    def keep(self, pooled: Sequence[PooledMaps], betas: Tensor, images: Tensor, weight: Tensor) -> float:
        """Look at the held-out images: returns their mean squared error at each voxel's best epoch so far."""
        with torch.no_grad():
            for block, kept, best in zip(self.training.blocks, self.kept, self.errors, strict=True):
                error = torch.zeros_like(best)
                for some in images.split(self.training.batch_size):
                    left = block.bias - betas[some][:, block.voxels]
                    for group, rows, columns in zip(pooled, block.left, block.right, strict=True):
                        left += contract(group.maps[some].to(left.device), rows, columns)[0]
                    error += (left * weight[some].to(left.device)).square().sum(0)
                better = error < best
                best[better] = error[better]
                for old, new in zip(kept, block.parameters(), strict=True):
                    old[..., better] = new[..., better]
        return float(torch.cat(self.errors).mean()) / max(1, len(images))

    def restore(self) -> None:
        """Put the best parameters in place, where there were held-out images to choose by."""
        for block, kept, best in zip(self.training.blocks, self.kept, self.errors, strict=True):
            known = torch.isfinite(best)
            for old, new in zip(kept, block.parameters(), strict=True):
                new[..., known] = old[..., known]


@register
class Smooth(Readout):
    """Smooth receptive fields with early stopping."""

    name: ClassVar[str] = "smooth"
    readout: ClassVar[str] = "separable"
    recipe: ClassVar[str | None] = "fast"
    Settings: ClassVar[type[ReadoutSettings]] = FastSettings

    def __init__(self, settings: FastSettings | None = None) -> None:
        self.settings = settings or FastSettings()

    def bytes_resident(self, problem: Problem) -> int:
        """The pooled maps."""
        return self._parts(problem)[0]

    def bytes_per_voxel(self, problem: Problem) -> int:
        """Betas and their centred copy; value, gradient, two moments and the best so far."""
        return 8 * len(problem.betas.image_ids) + 24 * self._parts(problem)[1]

    def _parts(self, problem: Problem) -> tuple[int, int]:
        """Bytes of the pooled maps, and parameters of a voxel."""
        groups = [layout.group for layout in problem.maps.layouts]
        grid = self.settings.grid
        sides = [min(grid, group.height) * min(grid, group.width) for group in groups]
        pairs = [(layout.count, side) for layout, side in zip(problem.maps.layouts, sides, strict=True)]
        maps = 4 * len(problem.betas.image_ids) * sum(count * side for count, side in pairs)
        return maps, 1 + sum(count + side for count, side in pairs)

    def solve(self, problem: Problem, voxels: NDArray[np.int64], checkpoint: Checkpoint, stop: StopFlag) -> Solution:
        """See `Readout.solve`; it keeps no state yet."""
        repeats = torch.from_numpy(problem.betas.repeats)
        pooled = problem.maps.pooled(self.settings.grid, problem.memory)
        epochs = self.settings.passes(len(repeats))
        with progress(problem.title, epochs, "epochs") as shown:

            def after_epoch(error: float) -> None:
                shown.advance(1, f"held-out error {error:.4f}")
                stop.check("this recipe keeps no checkpoint and starts again")

            found = train_fast(
                pooled, problem.betas.means(voxels), repeats, self.settings, problem.seed, problem.device, after_epoch
            )
        if not np.isfinite(found.train[-1]):
            raise BoldreamsError("the loss is not finite; use a smaller --lr")
        curve = {"train_loss": found.train, "held_out_loss": found.held_out}
        return Solution(found.fields, found.weights, found.bias, curve)
