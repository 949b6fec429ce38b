"""What trainings of readouts have in common: blocks of voxels, a step of Adam, and the state of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from boldreams_cli.encoding.model.checkpoint import load_optimizer_state, optimizer_state


class Block(Protocol):
    """Parameters of some neighbouring voxels, which are computed together."""

    voxels: slice
    bias: Tensor

    def parameters(self) -> list[Tensor]:
        """All that is trained, the bias too."""
        ...

    def missed(self, maps: Sequence[Tensor], betas: Tensor) -> Tensor:
        """Prediction less betas, (images, voxels)."""
        ...

    def gradients(
        self, maps: Sequence[Tensor], betas: Tensor, scale: float, weights: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Squared error, and gradients by the `parameters`; see `separable.squared_error`."""
        ...


B = TypeVar("B", bound=Block)


class BlockTraining(Generic[B]):
    """Blocks of voxels, and one step of their training by Adam.

    Attributes
    ----------
    blocks : that are trained.
    optimizer : of their parameters; a group of these may have ``times``, what its rate is multiplied by.
    voxels : of the model; the loss is the mean over all of them.
    batch_size : trials in a step.
    precision : ``fp32``, ``tf32`` or ``bf16``, of the matrix products.
    tied : whether all voxels share some parameters.
    """

    blocks: list[B]
    optimizer: torch.optim.Optimizer
    voxels: int
    batch_size: int
    precision: str = "fp32"
    tied: bool = False

    def step(self, maps: Sequence[Tensor], betas: Tensor, rate: float, weights: Tensor | None = None) -> Tensor:
        """Train on one batch; nothing waits for the device.

        Parameters
        ----------
        maps : of each group, (trials, A, C).
        betas : (trials, voxels of the span).
        rate : of Adam in this step.
        weights : (trials,) of their squared errors; None weighs them alike.

        Returns
        -------
        (), float64: sum of squared errors over trials and voxels, before the step.
        """
        total = torch.zeros((), dtype=torch.float64, device=betas.device)
        scale = 2 / (len(betas) * self.voxels)
        with (
            torch.no_grad(),
            torch.autocast(betas.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            for block in self.blocks:
                error, gradients = block.gradients(maps, betas[:, block.voxels], scale, weights)
                total += error
                for tensor, gradient in zip(block.parameters(), gradients, strict=True):
                    tensor.grad = gradient
            self.tie()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("times", 1)
        self.optimizer.step()
        return total

    def tie(self) -> None:
        """Make gradients equal of parameters that voxels share; there are none."""

    def state(self) -> dict[str, Tensor]:
        """Parameters and Adam's moments, by name, for a checkpoint."""
        return optimizer_state(self.optimizer)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up where `state` was."""
        load_optimizer_state(self.optimizer, state)
