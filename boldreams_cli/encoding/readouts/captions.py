"""Training of a linear readout: the separable one on maps of one pixel, with its field fixed to 1 (section 2.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.encoding.inputs.layout import MapLayout
from boldreams_cli.encoding.numerics.contraction import uniform
from boldreams_cli.encoding.readouts.base import Problem, ReadoutSettings, register
from boldreams_cli.encoding.readouts.separable import AdamSettings, ReadoutTraining, Separable


class LinearTraining(ReadoutTraining):
    """One layer of weights from all filters to each voxel, started as `torch.nn.Linear` starts.

    Parameters
    ----------
    layouts : of the groups' maps, all of one pixel.
    columns : (some,) the voxels to train, counted among all of the subject's; the start of each is its own.
    voxels, rate, seed, device, precision : as for `ReadoutTraining`.
    """

    def __init__(
        self,
        layouts: Sequence[MapLayout],
        columns: NDArray[np.int64],
        voxels: int,
        rate: float,
        seed: int,
        device: torch.device,
        precision: str,
    ) -> None:
        if any(layout.group.pixels != 1 for layout in layouts):
            raise ValueError("a linear readout reads maps of one pixel")
        self.layouts, self.voxels, self.precision = layouts, voxels, precision
        self.counts = [layout.count for layout in layouts]
        bound = 1 / math.sqrt(sum(self.counts))
        start = ((uniform(seed, columns, sum(self.counts) + 1) * 2 - 1) * bound).to(device)
        self.weight, self.bias = start[:-1].contiguous(), start[-1].contiguous()
        self.optimizer = torch.optim.Adam([self.weight, self.bias], lr=rate, fused=True)

    def step(self, maps: Sequence[Tensor], betas: Tensor, rate: float, weights: Tensor | None = None) -> Tensor:
        """Train on one batch; see `ReadoutTraining.step`."""
        read = torch.cat([group.flatten(1) for group in maps], dim=1)
        with (
            torch.no_grad(),
            torch.autocast(betas.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            error = read @ self.weight + self.bias - betas
            squares = error.square()
            if weights is not None:
                squares *= weights[:, None]
                error *= weights[:, None]
            total = squares.sum(dtype=torch.float64)
            error *= 2 / (len(betas) * self.voxels)
            self.weight.grad, self.bias.grad = (read.T @ error).float(), error.sum(0).float()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return total

    def weights(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Fields, all 1, weights (voxels, K) of each group, and the bias, of the span."""
        weights = [part.T.cpu() for part in self.weight.split(self.counts)]
        return [torch.ones(len(part), 1) for part in weights], weights, self.bias.cpu()


@dataclass(frozen=True)
class LinearSettings(AdamSettings):
    """The paper's for the text model: thirty epochs."""

    epochs: int = 30


@register
class Linear(Separable):
    """One linear layer from an embedding of captions to the voxels, trained as the paper's readout is."""

    name: ClassVar[str] = "linear"
    readout: ClassVar[str] = "linear"
    reads: ClassVar[str] = "captions"
    Settings: ClassVar[type[ReadoutSettings]] = LinearSettings

    def __init__(self, settings: LinearSettings | None = None) -> None:
        super().__init__(settings or LinearSettings())

    def voxels_together(self, problem: Problem) -> int:
        """A multiple of what a matrix product takes at a time."""
        return min(64, len(problem.betas.columns))

    def training(self, problem: Problem, voxels: NDArray[np.int64]) -> ReadoutTraining:
        """Parameters of some voxels, as they start."""
        count, settings = len(problem.betas.columns), self.settings
        return LinearTraining(
            problem.maps.layouts, voxels, count, settings.rate, problem.seed, problem.device, settings.precision
        )
