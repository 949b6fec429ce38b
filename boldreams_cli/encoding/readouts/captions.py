"""Training of a linear readout: the separable one on maps of one pixel, with its field fixed to 1 (section 2.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from boldreams_cli.encoding.inputs.layout import MapLayout
from boldreams_cli.encoding.readouts.separable import ReadoutTraining


class LinearTraining(ReadoutTraining):
    """One layer of weights from all filters to each voxel, started as `torch.nn.Linear` starts.

    Parameters
    ----------
    layouts : of the groups' maps, all of one pixel.
    span, voxels, batch_size, rate, seed, device, precision : as for `ReadoutTraining`.
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
    ) -> None:
        if any(layout.group.pixels != 1 for layout in layouts):
            raise ValueError("a linear readout reads maps of one pixel")
        self.layouts, self.span, self.voxels, self.precision = layouts, span, voxels, precision
        self.counts = [layout.count for layout in layouts]
        bound = 1 / math.sqrt(sum(self.counts))
        random = torch.Generator().manual_seed(seed)
        # Drawn for all voxels, so that the start of one does not depend on the span it is trained in.
        start = (torch.rand(sum(self.counts) + 1, voxels, generator=random) * 2 - 1) * bound
        start = start[:, span].to(device, copy=True)
        self.weight, self.bias = start[:-1].contiguous(), start[-1].contiguous()
        self.optimizer = torch.optim.Adam([self.weight, self.bias], lr=rate, fused=True)

    def step(self, maps: Sequence[Tensor], betas: Tensor, rate: float) -> float:
        """Train on one batch; see `ReadoutTraining.step`."""
        read = torch.cat([group.flatten(1) for group in maps], dim=1)
        with (
            torch.no_grad(),
            torch.autocast(betas.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            error = read @ self.weight + self.bias - betas
            total = error.square().sum(dtype=torch.float64)
            error *= 2 / (len(betas) * self.voxels)
            self.weight.grad, self.bias.grad = (read.T @ error).float(), error.sum(0).float()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return float(total)

    def weights(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Fields, all 1, weights (voxels, K) of each group, and the bias, of the span."""
        weights = [part.T.cpu() for part in self.weight.split(self.counts)]
        return [torch.ones(len(part), 1) for part in weights], weights, self.bias.cpu()
