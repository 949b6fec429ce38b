"""Backbone and readout as one trainable network: pixels and betas in, loss out (paper, equation 1 and section 2.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from boldreams_cli.encoding.inputs.layout import MapLayout, grouped, laid_out
from boldreams_cli.encoding.model.spec import ModelSpec
from boldreams_cli.encoding.numerics.contraction import contract, published_start
from boldreams_cli.encoding.readouts.separable import block_width, squared_error
from boldreams_cli.features.backbones import Backbone


class _SquaredError(torch.autograd.Function):
    """Sum of squares times `scale`; the gradients are computed with it, in narrow blocks of voxels.

    Thus no intermediate of all voxels is kept for the backward pass, as in the training of the readout alone.
    """

    @staticmethod
    def forward(ctx: Any, betas: Tensor, scale: float, width: int, groups: int, *tensors: Tensor) -> Tensor:
        """See `Network.forward`; `tensors` are maps, left and right of each group, and the bias."""
        maps, left, right = tensors[:groups], tensors[groups : 2 * groups], tensors[2 * groups : 3 * groups]
        bias = tensors[-1]
        by_maps = [torch.zeros(group.shape, device=group.device) for group in maps]
        gradients = [torch.empty_like(tensor) for tensor in tensors[groups:]]
        total = torch.zeros((), dtype=torch.float64, device=betas.device)
        for start in range(0, len(bias), width):
            voxels = slice(start, start + width)
            sums, found = squared_error(
                maps,
                [values[:, voxels] for values in left],
                [values[:, voxels] for values in right],
                bias[voxels],
                betas[:, voxels],
                2 * scale,
                by_maps,
            )
            total += sums
            for whole, part in zip(gradients, found, strict=True):
                whole[..., voxels] = part
        ctx.save_for_backward(*(by.to(group.dtype) for by, group in zip(by_maps, maps, strict=True)), *gradients)
        return total * scale

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by all tensors."""
        by_loss = grad_outputs[0]
        return (None, None, None, None, *(gradient.mul_(by_loss) for gradient in ctx.saved_tensors))


class Network(nn.Module):
    """A backbone and the separable readout of its chosen filters, both to be trained.

    Parameters
    ----------
    backbone : with the weights to start from; those that the readout depends on are made trainable.
    spec : of the model: layers, filters and groups.
    columns : (voxels,) of all of the subject's, those to train.
    batch_size : trials in a step, for the width of the blocks.
    seed : of the readout's start, the same as without finetuning.
    device : to train on.
    """

    def __init__(
        self,
        backbone: Backbone,
        spec: ModelSpec,
        columns: NDArray[np.int64],
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        super().__init__()
        voxels = len(columns)
        self.backbone = backbone.to(device)
        self.layouts = [MapLayout(group, spec.layers) for group in spec.groups]
        self.filters = {name: torch.tensor(indices, device=device) for name, indices in spec.layers.items()}
        sizes = [(layout.count, layout.group.pixels) for layout in self.layouts]
        fields, weights, bias = published_start(sizes, voxels, columns, seed)
        left, right = [], []
        for layout, field, weight in zip(self.layouts, fields, weights, strict=True):
            left.append((field if layout.pixels_first else weight).to(device))
            right.append((weight if layout.pixels_first else field).to(device))
        self.left, self.right = nn.ParameterList(left), nn.ParameterList(right)
        self.bias = nn.Parameter(bias.to(device))
        self.width = block_width(self.layouts, batch_size, device, voxels)
        self._make_trainable()

    def _make_trainable(self) -> None:
        """Let gradients into the weights that a chosen map depends on, and into no others."""
        candidates = list(self.backbone.parameters())
        for parameter in candidates:
            parameter.requires_grad_(True)
        size = self.backbone.entry.preprocessing.size
        maps = self.backbone(torch.zeros((1, 3, size, size), device=self.bias.device))
        total = torch.stack([value.sum() for value in maps.values()]).sum()
        for parameter, gradient in zip(
            candidates, torch.autograd.grad(total, candidates, allow_unused=True), strict=True
        ):
            parameter.requires_grad_(gradient is not None)

    @property
    def backbone_parameters(self) -> list[nn.Parameter]:
        """Trainable weights of the backbone."""
        return [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]

    @property
    def readout_parameters(self) -> list[nn.Parameter]:
        """Both factors of each group, and the bias."""
        return [*self.left, *self.right, self.bias]

    def forward(self, pixels: Tensor, betas: Tensor, scale: float) -> Tensor:
        """Compute the loss.

        Parameters
        ----------
        pixels : (trials, 3, size, size) uint8.
        betas : (trials, voxels).
        scale : that the sum of squared errors is multiplied by.

        Returns
        -------
        () float64.
        """
        maps = self.maps(pixels)
        loss: Tensor = _SquaredError.apply(
            betas, scale, self.width, len(maps), *maps, *self.left, *self.right, self.bias
        )
        return loss

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """Maps of each group, (images, A, C) as in MapLayout, of uint8 pixels."""
        return laid_out(grouped(self.backbone(pixels.float() / 255), self.filters, self.layouts), self.layouts)

    @torch.no_grad()
    def error(self, pixels: Tensor, betas: Tensor) -> Tensor:
        """Sum of squared errors, float64, without gradients."""
        maps = self.maps(pixels)
        total = torch.zeros((), dtype=torch.float64, device=betas.device)
        for start in range(0, len(self.bias), self.width):
            voxels = slice(start, start + self.width)
            error = self.bias[voxels] - betas[:, voxels]
            for group, left, right in zip(maps, self.left, self.right, strict=True):
                error += contract(group, left[:, voxels], right[:, voxels])[0]
            total += error.square().sum(dtype=torch.float64)
        return total

    def weights(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Fields (voxels, P) and weights (voxels, K) of each group, and the bias, on the CPU."""
        fields, weights = [], []
        for layout, left, right in zip(self.layouts, self.left, self.right, strict=True):
            pair = (left.detach().T.cpu(), right.detach().T.cpu())
            fields.append(pair[0] if layout.pixels_first else pair[1])
            weights.append(pair[1] if layout.pixels_first else pair[0])
        return fields, weights, self.bias.detach().cpu()
