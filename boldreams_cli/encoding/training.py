"""Training of the readout from cached maps, as published (paper, section 2.2): squared error and Adam.

Voxels do not share parameters and Adam works on each number by itself, so voxels are trained in narrow blocks
whose intermediates stay in the processor's cache; the result is that of all voxels at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.encoding.maps import MapLayout
from boldreams_cli.encoding.readout import contract, contract_gradients, published_start

INNER_BYTES = 2**20  # of a block's (images, A, voxels) intermediate


@dataclass
class _Block:
    """Parameters of some neighbouring voxels: per group the two factors of `contract`, and the bias."""

    voxels: slice
    left: list[Tensor]
    right: list[Tensor]
    bias: Tensor

    def parameters(self) -> list[Tensor]:
        return [*self.left, *self.right, self.bias]


class ReadoutTraining:
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
        self.layouts, self.span, self.voxels, self.precision = layouts, span, voxels, precision
        sizes = [(layout.count, layout.group.pixels) for layout in layouts]
        fields, weights, bias = published_start(sizes, voxels, torch.Generator().manual_seed(seed))
        widest = max(layout.shape[0] for layout in layouts)
        width = max(64, INNER_BYTES // (4 * batch_size * widest) // 64 * 64)
        if device.type != "cpu":
            width = span.stop - span.start
        self.blocks: list[_Block] = []
        for start in range(span.start, span.stop, width):
            place = slice(start, min(start + width, span.stop))

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

    def step(self, maps: Sequence[Tensor], betas: Tensor, rate: float) -> float:
        """Train on one batch.

        Parameters
        ----------
        maps : of each group, (trials, A, C).
        betas : (trials, voxels of the span).
        rate : of Adam in this step.

        Returns
        -------
        Sum of squared errors over trials and voxels, before the step.
        """
        total = torch.zeros((), dtype=torch.float64, device=betas.device)
        scale = 2 / (len(betas) * self.voxels)
        with (
            torch.no_grad(),
            torch.autocast(betas.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            for block in self.blocks:
                total += self._gradients(block, maps, betas[:, block.voxels], scale)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return float(total)

    @staticmethod
    def _gradients(block: _Block, maps: Sequence[Tensor], betas: Tensor, scale: float) -> Tensor:
        inners = []
        error = block.bias - betas
        for group, left, right in zip(maps, block.left, block.right, strict=True):
            share, inner = contract(group, left, right)
            error += share
            inners.append(inner)
        total = error.square().sum(dtype=torch.float64)
        error *= scale
        for group, left, right, inner in zip(maps, block.left, block.right, inners, strict=True):
            by_left, by_right = contract_gradients(group, left, inner, error)
            left.grad, right.grad = by_left.float(), by_right.float()
        block.bias.grad = error.sum(0)
        return total

    def weights(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Fields (voxels, P) and weights (voxels, K) of each group, and the bias, of the span."""
        fields, weights = [], []
        for index, layout in enumerate(self.layouts):
            left = torch.cat([block.left[index] for block in self.blocks], dim=1).T.cpu()
            right = torch.cat([block.right[index] for block in self.blocks], dim=1).T.cpu()
            fields.append(left if layout.pixels_first else right)
            weights.append(right if layout.pixels_first else left)
        return fields, weights, torch.cat([block.bias for block in self.blocks]).cpu()

    def state(self) -> dict[str, Tensor]:
        """Parameters and Adam's moments, by name, for a checkpoint."""
        found = {}
        for index, tensor in enumerate(self.optimizer.param_groups[0]["params"]):
            found[f"{index}.value"] = tensor
            for key, value in self.optimizer.state.get(tensor, {}).items():
                found[f"{index}.{key}"] = value
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up where `state` was."""
        for index, tensor in enumerate(self.optimizer.param_groups[0]["params"]):
            tensor.copy_(state[f"{index}.value"])
            moments = {key.split(".", 1)[1]: value for key, value in state.items() if key.startswith(f"{index}.")}
            del moments["value"]
            self.optimizer.state[tensor] = {key: value.clone().to(tensor.device) for key, value in moments.items()}


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
