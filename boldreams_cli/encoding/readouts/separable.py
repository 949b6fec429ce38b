"""Training of the readout from cached maps, as published (paper, section 2.2): squared error and Adam.

Voxels do not share parameters and Adam works on each number by itself, so voxels are trained in narrow blocks
whose intermediates stay in the processor's cache; the result is that of all voxels at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import BoldreamsError, ChoiceError, Progress, StopFlag, progress
from boldreams_cli.encoding.inputs.layout import MapLayout
from boldreams_cli.encoding.numerics.contraction import contract, contract_gradients, learning_rate, published_start
from boldreams_cli.encoding.readouts.base import Checkpoint, Problem, Readout, ReadoutSettings, Solution, register
from boldreams_cli.encoding.readouts.training import BlockTraining
from boldreams_cli.transfers import sent

PARAMETER_BYTES = 20  # value, gradient and two moments, and once more as the solution
BLOCK_BYTES = 2**26  # of a block's parameters
GPU_BLOCK = 8192  # voxels at a time on a GPU: enough work for it, and a bound on intermediates
INNER_BYTES = 2**22  # of a block's (images, A, voxels) intermediate


def block_width(layouts: Sequence[MapLayout], batch_size: int, device: torch.device, voxels: int) -> int:
    """Voxels to compute at a time: on a CPU so few that intermediates stay in its cache; at most all `voxels`.

    A part of the arithmetic, so it does not ask how much memory there is; but a block always fits a small one.
    """
    if device.type != "cpu":
        return min(voxels, GPU_BLOCK)
    widest = max(layout.shape[0] for layout in layouts)
    parameters = sum(layout.count + layout.group.pixels for layout in layouts)
    most = min(INNER_BYTES // (4 * batch_size * widest), BLOCK_BYTES // (PARAMETER_BYTES * parameters))
    return max(64, most // 64 * 64)


def squared_error(
    maps: Sequence[Tensor],
    left: Sequence[Tensor],
    right: Sequence[Tensor],
    bias: Tensor,
    betas: Tensor,
    scale: float,
    by_maps: Sequence[Tensor] = (),
    weights: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Squared error of some voxels, and its gradients times `scale` / 2.

    Parameters
    ----------
    maps : of each group, (trials, A, C).
    left, right : of each group, (A, voxels) and (C, voxels), as in `contract`.
    bias : (voxels,).
    betas : (trials, voxels).
    scale : twice what the sum of squares is multiplied by in the loss.
    by_maps : of each group, (trials, A, C) to which the gradient by its maps is added; none if empty.
    weights : (trials,) of their squared errors; None weighs them alike.

    Returns
    -------
    total : float64, sum of squared errors over trials and voxels.
    gradients : by all left, all right and the bias, float32, shaped as those.
    """
    inners = []
    error = bias - betas
    for group, rows, columns in zip(maps, left, right, strict=True):
        share, inner = contract(group, rows, columns)
        error += share
        inners.append(inner)
    if weights is None:
        total = error.square().sum(dtype=torch.float64)
    else:
        total = (error.square() * weights[:, None]).sum(dtype=torch.float64)
        error *= weights[:, None]
    error *= scale
    by_left, by_right = [], []
    for index, (group, inner) in enumerate(zip(maps, inners, strict=True)):
        rows_gradient, columns_gradient = contract_gradients(group, left[index], inner, error)
        by_left.append(rows_gradient.float())
        by_right.append(columns_gradient.float())
        if by_maps:  # `inner` is now left times error
            by_maps[index].view(-1, group.shape[2]).add_(inner.view(-1, len(bias)) @ right[index].T)
    return total, [*by_left, *by_right, error.sum(0)]


@dataclass
class _Block:
    """Per group the two factors of `contract`, and the bias."""

    voxels: slice
    left: list[Tensor]
    right: list[Tensor]
    bias: Tensor

    def parameters(self) -> list[Tensor]:
        return [*self.left, *self.right, self.bias]

    def missed(self, maps: Sequence[Tensor], betas: Tensor) -> Tensor:
        error = self.bias - betas
        for group, rows, columns in zip(maps, self.left, self.right, strict=True):
            error += contract(group, rows, columns)[0]
        return error

    def gradients(
        self, maps: Sequence[Tensor], betas: Tensor, scale: float, weights: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        return squared_error(maps, self.left, self.right, self.bias, betas, scale, (), weights)


class ReadoutTraining(BlockTraining[_Block]):
    """Parameters of a span of voxels, and one step of their training.

    Parameters
    ----------
    layouts : of the groups' maps.
    span : the voxels to train, out of `voxels`.
    voxels : of the model; the loss is the mean over all of them, the start depends on their number.
    batch_size : trials in a step.
    rate : of Adam.
    seed : of the start.
    device : to train on.
    precision : ``fp32``, ``tf32`` or ``bf16``, of the matrix products.
    start : fields, weights and bias as from `published_start`, which is the default.
    """

    def __init__(
        self,
        layouts: Sequence[MapLayout],
        span: slice,
        voxels: int,
        batch_size: int,
        rate: float,
        seed: int,
        device: torch.device,
        precision: str,
        start: tuple[list[Tensor], list[Tensor], Tensor] | None = None,
    ) -> None:
        self.layouts, self.span, self.voxels, self.precision = layouts, span, voxels, precision
        self.batch_size = batch_size
        sizes = [(layout.count, layout.group.pixels) for layout in layouts]
        fields, weights, bias = start or published_start(sizes, voxels, np.arange(voxels), seed)
        width = block_width(layouts, batch_size, device, span.stop - span.start)
        self.blocks = []
        for first in range(span.start, span.stop, width):
            place = slice(first, min(first + width, span.stop))

            def take(values: Tensor, place: slice = place) -> Tensor:
                return values[..., place].to(device, copy=True).contiguous()

            left, right = [], []
            for layout, field, weight in zip(layouts, fields, weights, strict=True):
                left.append(take(field if layout.pixels_first else weight))
                right.append(take(weight if layout.pixels_first else field))
            local = slice(place.start - span.start, place.stop - span.start)
            self.blocks.append(_Block(local, left, right, take(bias)))
        parameters = [tensor for block in self.blocks for tensor in block.parameters()]
        for tensor in parameters:
            tensor.grad = torch.zeros_like(tensor)
        self.optimizer = torch.optim.Adam(parameters, lr=rate, fused=True)

    def weights(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Fields (voxels, P) and weights (voxels, K) of each group, and the bias, of the span."""
        fields, weights = [], []
        for index, layout in enumerate(self.layouts):
            left = torch.cat([block.left[index] for block in self.blocks], dim=1).T.cpu()
            right = torch.cat([block.right[index] for block in self.blocks], dim=1).T.cpu()
            fields.append(left if layout.pixels_first else right)
            weights.append(right if layout.pixels_first else left)
        return fields, weights, torch.cat([block.bias for block in self.blocks]).cpu()


def batch_order(trials: int, batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Trials of each batch of an epoch: a new permutation each time, which depends on seed and epoch alone.

    Parameters
    ----------
    trials : number of them.
    batch_size : of all batches but the last.
    seed, epoch : decide the permutation.

    Returns
    -------
    Arrays of trial indices.
    """
    order = np.random.default_rng([seed, epoch]).permutation(trials)
    return [order[start : start + batch_size] for start in range(0, trials, batch_size)]


@dataclass(frozen=True)
class AdamSettings(ReadoutSettings):
    """What the published training is given; the defaults are the paper's (section 2.2).

    Parameters
    ----------
    epochs, rate, batch_size : of Adam.
    precision : of matrix products, ``fp32``, ``tf32`` or ``bf16``.
    """

    epochs: int = 10
    rate: float = 1e-4
    batch_size: int = 16
    precision: str = "fp32"

    def check(self) -> None:
        """Raise ChoiceError for values that make no sense."""
        if self.epochs < 1 or self.batch_size < 1 or not self.rate > 0:
            raise ChoiceError("--epochs and --batch-size must be at least 1 and --lr above 0")


@register
class Separable(Readout):
    """The paper's readout (equation 1), trained on single trials as published."""

    name: ClassVar[str] = "separable"
    readout: ClassVar[str] = "separable"
    recipe: ClassVar[str | None] = "paper"
    Settings: ClassVar[type[ReadoutSettings]] = AdamSettings

    def __init__(self, settings: AdamSettings | None = None) -> None:
        self.settings = settings or AdamSettings()

    def bytes_resident(self, problem: Problem) -> int:
        """The maps."""
        return problem.maps.resident_bytes

    def bytes_per_voxel(self, problem: Problem) -> int:
        """Betas; parameters four times (value, gradient, two moments) and once more as the solution."""
        parameters = 1 + sum(layout.count + layout.group.pixels for layout in problem.maps.layouts)
        return 4 * len(problem.betas.images) + PARAMETER_BYTES * parameters

    def voxels_together(self, problem: Problem) -> int:
        """Voxels of a block."""
        count = len(problem.betas.columns)
        return min(count, block_width(problem.maps.layouts, self.settings.batch_size, problem.device, count))

    def training(self, problem: Problem, voxels: NDArray[np.int64]) -> ReadoutTraining:
        """Parameters of some voxels, as they start."""
        settings: AdamSettings = self.settings
        layouts, count = problem.maps.layouts, len(problem.betas.columns)
        sizes = [(layout.count, layout.group.pixels) for layout in layouts]
        start = published_start(sizes, count, voxels, problem.seed)
        return ReadoutTraining(
            *(layouts, slice(0, len(voxels)), count, settings.batch_size, settings.rate, problem.seed),
            *(problem.device, settings.precision, start),
        )

    def solve(self, problem: Problem, voxels: NDArray[np.int64], checkpoint: Checkpoint, stop: StopFlag) -> Solution:
        """See `Readout.solve`."""
        training = self.training(problem, voxels)
        course = _Course(0, 0, [])
        if (kept := checkpoint.load()) is not None:
            course = _Course(**kept[0])
            training.load_state(kept[1])
        betas = problem.betas.trials(voxels).to(problem.device)
        trials = len(betas)
        with progress(problem.title, self.settings.epochs * trials, "trials") as shown:
            shown.done = min(course.epoch * trials + course.batch * self.settings.batch_size, shown.total)
            while course.epoch < self.settings.epochs:
                self._epoch(problem, training, betas, course, checkpoint, stop, shown)
                if not np.isfinite(course.losses[-1]):
                    raise BoldreamsError(f"the loss is not finite in epoch {course.epoch}; use a smaller --lr")
                if checkpoint.due:
                    checkpoint.save(vars(course), training.state())
        rates = [learning_rate(self.settings.rate, epoch) for epoch in range(self.settings.epochs)]
        losses = [loss / (trials * len(voxels)) for loss in course.losses]
        return Solution(*training.weights(), {"lr": rates, "train_loss": losses})

    def _epoch(
        self,
        problem: Problem,
        training: ReadoutTraining,
        betas: Tensor,
        course: _Course,
        checkpoint: Checkpoint,
        stop: StopFlag,
        shown: Progress,
    ) -> None:
        """Train on the batches of an epoch that are still to do; the loss is read from the device once."""
        settings: AdamSettings = self.settings
        if len(course.losses) == course.epoch:
            course.losses.append(0.0)
        order = batch_order(len(betas), settings.batch_size, problem.seed, course.epoch)[course.batch :]
        images = problem.betas.images
        rate = learning_rate(settings.rate, course.epoch)
        total = torch.tensor(course.losses[-1], dtype=torch.float64, device=problem.device)
        for trials, maps in zip(order, problem.maps.batches([images[some] for some in order]), strict=True):
            total += training.step(maps, betas[sent(torch.from_numpy(trials), betas.device)], rate)
            course.batch += 1
            shown.advance(len(trials))
            if stop:
                course.losses[-1] = float(total)
                checkpoint.save(vars(course), training.state())
                stop.check(f"checkpoint at epoch {course.epoch + 1}, batch {course.batch}")
        course.losses[-1] = float(total)
        course.epoch, course.batch = course.epoch + 1, 0


@dataclass
class _Course:
    """What to do next, counted from 0, and the summed loss of each epoch so far; the last may be partial."""

    epoch: int
    batch: int
    losses: list[float]
