"""``fit --recipe fast``: the same model, reached sooner than by the published training.

What differs from the paper's recipe (section 2.2):

- receptive fields are smooth: values on a coarse grid, interpolated. A sum over pixels against such a field is a sum
  over the grid of maps pooled with the same weights, so pooling once makes maps and products several times smaller;
- maps are centred and scaled per filter, which is undone in the weights and bias afterwards, exactly;
- one step per image with its mean beta, its squared error weighted by its repeats: the gradient, the bias's too, is
  that of its single trials;
- flat fields and small weights to start with, each voxel's drawn by itself; Adam with a cosine decay;
- the images held out are not trained on, and each voxel keeps its weights of the epoch that predicts those best
  (of the last, where none is held out). Test images are never looked at.

The result is an ordinary model: dreams and attribution see no difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import BoldreamsError, ChoiceError, StopFlag, progress
from boldreams_cli.encoding.inputs.layout import MapLayout
from boldreams_cli.encoding.inputs.pooled import PooledMaps, on_grid, pooled_bytes
from boldreams_cli.encoding.numerics.blocks import normal_draws
from boldreams_cli.encoding.readouts.base import Checkpoint, Problem, Readout, ReadoutSettings, Solution, register
from boldreams_cli.encoding.readouts.separable import ReadoutTraining, batch_order, block_width
from boldreams_cli.encoding.readouts.training import BlockTraining
from boldreams_cli.transfers import sent

COLUMNS = 512  # voxels whose betas are float64 at a time


@dataclass(frozen=True)
class SmoothSettings(ReadoutSettings):
    """How the fast recipe trains; the defaults were chosen on brains of known encoding, by images that were held out.

    Small batches find in 5 epochs of 8,000 images what batches of 64 found in 10 (benchmarks/RESULTS.md).

    Parameters
    ----------
    grid : nodes of a field along each side; a layer with fewer pixels has one node a pixel.
    rate : of Adam at its start; it falls to 0 by a cosine.
    batch_size : images in a step.
    epochs : passes over the images; None makes it `least`, and more where these are less than `steps`.
    steps : at least, where `epochs` are not given.
    """

    least: ClassVar[int] = 5

    grid: int = 9
    rate: float = 1.5e-3
    batch_size: int = 16
    epochs: int | None = None
    steps: int = 600

    def check(self) -> None:
        """Raise ChoiceError for values that make no sense."""
        if (self.epochs is not None and self.epochs < 1) or self.batch_size < 1 or not self.rate > 0:
            raise ChoiceError("--epochs and --batch-size must be at least 1 and --lr above 0")
        if self.grid < 1:
            raise ChoiceError(f"--grid takes a number from 1 up, not {self.grid}")

    def passes(self, images: int) -> int:
        """Epochs of a training on so many images, those held out not counted."""
        return self.epochs or max(self.least, math.ceil(self.steps / math.ceil(images / self.batch_size)))


@register
class Smooth(Readout):
    """Smooth receptive fields with early stopping; see the head of this file."""

    name: ClassVar[str] = "smooth"
    readout: ClassVar[str] = "separable"
    recipe: ClassVar[str | None] = "fast"
    pooled: ClassVar[bool] = True
    Settings: ClassVar[type[ReadoutSettings]] = SmoothSettings

    def __init__(self, settings: SmoothSettings | None = None) -> None:
        self.settings: SmoothSettings = settings or SmoothSettings()

    def bytes_resident(self, problem: Problem) -> int:
        """Pooled maps, where they are kept in memory, and a batch of them."""
        images = len(problem.betas.image_ids)
        needed = pooled_bytes(problem.maps.layouts, images, self.settings.grid)
        batch = 4 * needed * self.settings.batch_size // images
        return batch + (needed if needed <= self._room(problem) else 0)

    def bytes_per_voxel(self, problem: Problem) -> int:
        """Betas and their centred copy; value, gradient, two moments, the best so far and the solution."""
        layouts = problem.maps.layouts
        parameters = 1 + sum(layout.count + on_grid(layout, self.settings.grid).group.pixels for layout in layouts)
        solution = sum(layout.count + layout.group.pixels for layout in layouts)
        return 12 * len(problem.betas.image_ids) + 20 * parameters + 8 * solution

    def voxels_together(self, problem: Problem) -> int:
        """Voxels of a block."""
        layouts = [on_grid(layout, self.settings.grid) for layout in problem.maps.layouts]
        count = len(problem.betas.columns)
        return min(count, block_width(layouts, self.settings.batch_size, problem.device, count))

    def _room(self, problem: Problem) -> int:
        """Bytes that the pooled maps may take: what all voxels leave, and half of the memory at least."""
        voxels = len(problem.betas.columns) * self.bytes_per_voxel(problem)
        return problem.memory - min(voxels, problem.memory // 2)

    def prepare(self, problem: Problem, checkpoint: Checkpoint, stop: StopFlag) -> None:
        """Pool the maps."""
        problem.maps.pooled(self.settings.grid, self._room(problem))

    def solve(self, problem: Problem, voxels: NDArray[np.int64], checkpoint: Checkpoint, stop: StopFlag) -> Solution:
        """See `Readout.solve`."""
        training = self._training(problem, voxels)
        if (kept := checkpoint.load()) is not None:
            training.load(*kept)
        with progress(problem.title, training.epochs, "epochs") as shown:
            shown.advance(training.course.epoch)
            while training.course.epoch < training.epochs:
                training.run_epoch(checkpoint, stop)
                if not np.isfinite(training.course.losses[-1]):
                    raise BoldreamsError(f"the loss is not finite in epoch {training.course.epoch}; use a smaller --lr")
                if checkpoint.due:
                    checkpoint.save(*training.state())
                held = training.course.held_out
                shown.advance(1, f"held-out error {held[-1]:.4f}" if held else "")
        return training.solution()

    def _training(self, problem: Problem, voxels: NDArray[np.int64]) -> HeldOutTraining:
        """Some voxels, as their training starts."""
        pooled = problem.maps.pooled(self.settings.grid, self._room(problem))
        return SmoothTraining(problem, pooled, self.settings, voxels, *self._inside(problem, voxels))

    def _inside(self, problem: Problem, voxels: NDArray[np.int64]) -> tuple[Tensor, int]:
        """Where voxels lie in the whole blocks that hold them, and how many voxels those have."""
        places = np.searchsorted(problem.betas.columns, voxels)
        block = aligned(places, self.voxels_together(problem), len(problem.betas.columns))
        return torch.from_numpy(np.flatnonzero(np.isin(block, places))), len(block)


def _means(betas: Tensor, images: NDArray[np.int64], share: Tensor) -> Tensor:
    """(voxels,) float64 means over some images by their shares; each voxel's by itself, so others change no bit."""
    means = torch.empty(betas.shape[1], dtype=torch.float64)
    for columns, found in zip(betas.split(COLUMNS, dim=1), means.split(COLUMNS), strict=True):
        # All of them in float64 would take more than the betas themselves, and so do many small results between them.
        for column, mean in zip(columns[images].T.double().contiguous(), found, strict=True):
            torch.dot(share, column, out=mean)
    return means


@dataclass
class _Course:
    """What to do next, counted from 0; the loss of each epoch so far, where the last may be partial; the held-out."""

    epoch: int
    batch: int
    losses: list[float]
    held_out: list[float]


class MapsReader(Protocol):
    """Maps of one group of all images, as a training reads them."""

    @property
    def layout(self) -> MapLayout:
        """How they lie in memory."""
        ...

    def read(self, images: NDArray[np.int64]) -> Tensor:
        """Those of some images, (n, A, C) float32 on the device."""
        ...


class HeldOutTraining:
    """A training of some voxels whose epoch the held-out images choose: all but what is trained, which subclasses say.

    Parameters
    ----------
    problem : with its betas and the images held out.
    maps : of each group.
    settings : of the training.
    voxels : (n,) columns to train.
    inside : (n,) where they lie among `width` voxels; the others' betas, weights and hence losses are 0.
    width : whole blocks of voxels.
    """

    def __init__(
        self,
        problem: Problem,
        maps: Sequence[MapsReader],
        settings: SmoothSettings,
        voxels: NDArray[np.int64],
        inside: Tensor,
        width: int,
    ) -> None:
        self.problem, self.maps, self.settings, self.inside = problem, maps, settings, inside
        self.train = np.flatnonzero(~problem.held_out)
        self.held = np.flatnonzero(problem.held_out)
        repeats = torch.from_numpy(problem.betas.repeats).double()
        self.weight = (repeats / repeats[self.train].mean()).float().to(problem.device)
        betas = problem.betas.means(voxels)
        self.mean = torch.zeros(width, dtype=torch.float64)
        self.mean[inside] = _means(betas, self.train, repeats[self.train] / repeats[self.train].sum())
        self.betas = torch.zeros(len(betas), width)
        for columns, places in zip(betas.split(COLUMNS, dim=1), inside.split(COLUMNS), strict=True):
            self.betas[:, places] = columns - self.mean[places].float()
        del betas, columns
        self.betas = self.betas.to(problem.device)
        self.training: BlockTraining[Any] = self.start(voxels, width)
        self.best = BestEpoch(self.training)
        self.epochs = settings.passes(len(self.train))
        self.course = _Course(0, 0, [], [])

    def start(self, voxels: NDArray[np.int64], width: int) -> BlockTraining[Any]:
        """The parameters as they start; its `voxels` are 1, so that a voxel's loss does not depend on their number."""
        raise NotImplementedError

    def solution(self) -> Solution:
        """The model in its own terms, of each voxel's best epoch."""
        raise NotImplementedError

    def run_epoch(self, checkpoint: Checkpoint, stop: StopFlag) -> None:
        """Train on the batches of an epoch that are still to do, then look at the held-out images."""
        course, settings, device = self.course, self.settings, self.problem.device
        if len(course.losses) == course.epoch:
            course.losses.append(0.0)
        order = batch_order(len(self.train), settings.batch_size, self.problem.seed, course.epoch)
        total = torch.tensor(course.losses[-1], dtype=torch.float64, device=device)
        scale = len(self.train) * len(self.inside)
        for batch in order[course.batch :]:
            images = self.train[batch]
            chosen = sent(torch.from_numpy(images), device)
            maps = [group.read(images) for group in self.maps]
            step = course.epoch * len(order) + course.batch
            rate = settings.rate * 0.5 * (1 + math.cos(math.pi * step / (self.epochs * len(order))))
            total += self.training.step(maps, self.betas[chosen], rate, self.weight[chosen]) / scale
            course.batch += 1
            if stop:
                course.losses[-1] = float(total)
                checkpoint.save(*self.state())
                stop.check(f"checkpoint at epoch {course.epoch + 1}, batch {course.batch}")
        course.losses[-1] = float(total)
        course.epoch, course.batch = course.epoch + 1, 0
        if len(self.held):
            self.best.look(self.maps, self.betas, self.held, self.weight, course.epoch)
            errors = torch.cat(self.best.errors)[self.inside.to(device)]
            course.held_out.append(float(errors.mean()) / float(self.weight[self.held].sum()))

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Note and tensors of a checkpoint."""
        return vars(self.course), {**self.training.state(), **self.best.state()}

    def load(self, note: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take up where `state` was."""
        self.course = _Course(**note)
        self.training.load_state({name: value for name, value in tensors.items() if not name.startswith("best.")})
        self.best.load(tensors)

    def chosen(self) -> tuple[dict[str, list[float]], Tensor]:
        """Put each voxel's best epoch in place; returns the curve, and which epoch it is of (all `width` voxels,)."""
        curve = {"train_loss": self.course.losses}
        if not len(self.held):
            return curve, torch.full((len(self.mean),), self.epochs)
        self.best.restore()
        return curve | {"held_out_loss": self.course.held_out}, torch.cat(self.best.epochs).cpu()


class SmoothTraining(HeldOutTraining):
    """The training of smooth fields and weights; its maps are `PooledMaps`."""

    maps: Sequence[PooledMaps]
    training: ReadoutTraining

    def start(self, voxels: NDArray[np.int64], width: int) -> ReadoutTraining:
        """Flat fields, small weights."""
        layouts, settings = [group.layout for group in self.maps], self.settings
        start = flat_start(layouts, voxels, self.problem.seed, self.inside, width)
        shape = (layouts, slice(0, width), 1, settings.batch_size, settings.rate)
        return ReadoutTraining(*shape, self.problem.seed, self.problem.device, "fp32", start=start)

    def solution(self) -> Solution:
        """The model in its own terms, of each voxel's best epoch."""
        curve, epoch = self.chosen()
        fields, weights, offset = self.training.weights()
        bias = self.mean.float() + offset
        folded_fields, folded_weights = [], []
        for group, field, weight in zip(self.maps, fields, weights, strict=True):
            # By blocks, as in training, so that a voxel's sums do not depend on how many others there are.
            parts = [(group.fold(field[block.voxels], weight[block.voxels])) for block in self.training.blocks]
            full, scaled, loss = (torch.cat(values)[self.inside] for values in zip(*parts, strict=True))
            bias[self.inside] -= loss
            folded_fields.append(full)
            folded_weights.append(scaled)
        return Solution(folded_fields, folded_weights, bias[self.inside], curve, chosen={"epoch": epoch[self.inside]})


class BestEpoch:
    """Each voxel's parameters of the epoch that predicted the held-out images best.

    Tied voxels all keep the epoch that is best by their mean error.
    """

    def __init__(self, training: BlockTraining[Any]) -> None:
        self.training = training
        self.kept = [[tensor.clone() for tensor in block.parameters()] for block in training.blocks]
        self.errors = [torch.full_like(block.bias, torch.inf) for block in training.blocks]
        self.epochs = [torch.zeros_like(block.bias, dtype=torch.int32) for block in training.blocks]

    @torch.no_grad()
    def look(
        self, readers: Sequence[MapsReader], betas: Tensor, held: NDArray[np.int64], weight: Tensor, epoch: int
    ) -> None:
        """Predict the held-out images and keep what is better; `errors` are sums over images, weighted."""
        found = [torch.zeros_like(error) for error in self.errors]
        size = self.training.batch_size
        for some in np.split(held, range(size, len(held), size)):
            images = sent(torch.from_numpy(some), betas.device)
            maps = [group.read(some) for group in readers]
            for block, error in zip(self.training.blocks, found, strict=True):
                missed = block.missed(maps, betas[images][:, block.voxels])
                error += (missed.square() * weight[images, None]).sum(0)
        if self.training.tied:
            mean = torch.cat(found).mean()
            found = [mean.expand_as(error) for error in found]
        for number, (block, error) in enumerate(zip(self.training.blocks, found, strict=True)):
            better = error < self.errors[number]
            self.errors[number] = torch.where(better, error, self.errors[number])
            self.epochs[number].masked_fill_(better, epoch)
            for old, new in zip(self.kept[number], block.parameters(), strict=True):
                old.copy_(torch.where(better, new, old))

    @torch.no_grad()
    def restore(self) -> None:
        """Put the best parameters in place."""
        for block, kept in zip(self.training.blocks, self.kept, strict=True):
            for old, new in zip(kept, block.parameters(), strict=True):
                new.copy_(old)

    def state(self) -> dict[str, Tensor]:
        """What is kept, by name, for a checkpoint."""
        found: dict[str, Tensor] = {}
        for number, kept in enumerate(self.kept):
            found |= {f"best.{number}.{index}": tensor for index, tensor in enumerate(kept)}
            found |= {f"best.{number}.errors": self.errors[number], f"best.{number}.epochs": self.epochs[number]}
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up where `state` was."""
        for number, kept in enumerate(self.kept):
            for index, tensor in enumerate(kept):
                tensor.copy_(state[f"best.{number}.{index}"])
            self.errors[number].copy_(state[f"best.{number}.errors"])
            self.epochs[number].copy_(state[f"best.{number}.epochs"])


def aligned(places: NDArray[np.int64], width: int, total: int) -> NDArray[np.int64]:
    """All places of the blocks, cut at multiples of `width` of `total`, that hold one of `places`."""
    blocks = np.unique(places // width)
    return np.concatenate([np.arange(block * width, min((block + 1) * width, total)) for block in blocks])


def flat_start(
    layouts: Sequence[MapLayout], voxels: NDArray[np.int64], seed: int, inside: Tensor, width: int
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Flat fields and small random weights of some voxels among `width`; shapes as in `published_start`."""
    counts = [layout.count for layout in layouts]
    weights = torch.zeros(sum(counts), width)
    weights[:, inside] = normal_draws(seed, voxels, sum(counts)) * (0.01 / math.sqrt(sum(counts)))
    fields = [torch.full((layout.group.pixels, width), 1 / layout.group.pixels) for layout in layouts]
    return fields, list(weights.split(counts)), torch.zeros(width)
