"""Convolutions in a half to a quarter of the multiplications (Winograd; Lavin & Gray 2016, arXiv 1509.09308).

A tile of n x n inputs and a kernel of 3 x 3 give m x m outputs, m = n - 2, through n * n products of transforms
rather than m * m * 9 of the values themselves; summed over channels, these are n * n matrix products. cuDNN does
so on GPUs; PyTorch on a CPU does not. Rounding takes 1e-6 to 3e-6 of the values rather than 2e-7: a hundredth of what
the store's float16 takes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

TAPS = 3  # of a kernel along each side
# At these n - 1 points, and at infinity, the polynomials are evaluated. More of them round too coarsely for float32.
POINTS = (0.0, 1.0, -1.0, 2.0, -0.5, -2.0)
OUTPUTS = range(2, len(POINTS) - TAPS + 3)  # of a tile along each side
# What this costs, in multiplications of an ordinary convolution (python -m benchmarks.convolutions): a product, a value
# on its way through the transforms, a value of the kernels, which are read anew for each batch.
PRODUCT, VALUE, KERNEL = 1.4, 144, 24
WORTH = 0.85  # of the ordinary cost at most
BUFFER_BYTES = 64 << 20


@lru_cache
def transforms(outputs: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Matrices of the one-dimensional algorithm, with n = `outputs` + 2.

    Parameters
    ----------
    outputs : of a kernel of three.

    Returns
    -------
    into (n, n), kernel (n, 3) and out (outputs, n), such that the correlation of n values d with a kernel g is
    ``out @ ((kernel @ g) * (into @ d))``.
    """
    n = outputs + TAPS - 1

    def evaluation(terms: int) -> NDArray[np.float64]:
        powers = np.vander(POINTS[: n - 1], terms, increasing=True)
        return np.vstack([powers, np.eye(terms)[-1]])

    # Products of polynomials are interpolated from their values; a correlation is the transpose of a product.
    into = np.linalg.inv(evaluation(n)).T
    scale = np.abs(into).sum(1, keepdims=True)  # even magnitudes, for the sake of rounding
    return into / scale, evaluation(TAPS) * scale, evaluation(outputs).T


def best_outputs(images: int, channels: int, filters: int, height: int, width: int) -> int | None:
    """Outputs of a tile along each side that cost least for maps of that size; None if an ordinary convolution does."""

    def cost(outputs: int) -> float:
        tiles = -(-height // outputs) * -(-width // outputs)
        values = tiles * VALUE * (channels + filters)
        products = channels * filters * (tiles * PRODUCT + KERNEL / images)
        return (outputs + TAPS - 1) ** 2 * (values + products)

    best = min(OUTPUTS, key=cost)
    return best if cost(best) < WORTH * channels * filters * height * width * TAPS**2 else None


def transformed(kernels: Tensor, outputs: int) -> Tensor:
    """Transform (filters, channels, 3, 3) kernels, once for all maps: (n * n, channels, filters)."""
    kernel = torch.from_numpy(transforms(outputs)[1])
    values = torch.einsum("ia,jb,kcab->ijck", kernel, kernel, kernels.double())
    return values.flatten(0, 1).to(kernels.dtype).contiguous()


def convolve(maps: Tensor, kernels: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
    """Convolve maps with kernels, to maps of the same size.

    Parameters
    ----------
    maps : (images, channels, height, width) float32, fastest with channels last.
    kernels : (n * n, channels, filters) from `transformed`.
    bias : (filters,) or None.
    outputs : of a tile along each side.

    Returns
    -------
    (images, filters, height, width), channels last.
    """
    images, channels, height, width = maps.shape
    n, filters = outputs + TAPS - 1, kernels.shape[2]
    down, right = -(-height // outputs), -(-width // outputs)
    kron = [torch.from_numpy(np.kron(matrix, matrix)).to(maps.dtype) for matrix in transforms(outputs)[::2]]
    block = max(1, min(images, BUFFER_BYTES // (4 * n * n * down * right * max(channels, filters))))
    padded = maps.new_zeros(block, down * outputs + TAPS - 1, right * outputs + TAPS - 1, channels)
    tiles = maps.new_empty(n, n, block, down, right, channels)
    values = maps.new_empty(n * n, tiles[0, 0].numel())
    products = maps.new_empty(n * n, block * down * right, filters)
    sums = maps.new_empty(outputs**2, products[0].numel())
    found = maps.new_empty(images, height, width, filters)
    for first in range(0, images, block):
        # A last, smaller block comes with images of the one before; nothing is read of those.
        some = maps[first : first + block].permute(0, 2, 3, 1)
        padded[: len(some), 1 : 1 + height, 1 : 1 + width] = some
        tiles.copy_(padded.unfold(1, n, outputs).unfold(2, n, outputs).permute(4, 5, 0, 1, 2, 3))
        torch.mm(kron[0], tiles.view(n * n, -1), out=values)
        torch.bmm(values.view(n * n, -1, channels), kernels, out=products)
        torch.mm(kron[1], products.view(n * n, -1), out=sums)
        whole = sums.view(outputs, outputs, block, down, right, filters).permute(2, 3, 0, 4, 1, 5)
        inner = whole.reshape(block, down * outputs, right * outputs, filters)[: len(some), :height, :width]
        found[first : first + block] = inner if bias is None else inner + bias
    return found.permute(0, 3, 1, 2)


class WinogradConvolution(nn.Conv2d):
    """A convolution as `other`, with its parameters, which no longer change; on a CPU in fewer multiplications."""

    def __init__(self, other: nn.Conv2d) -> None:
        super().__init__(other.in_channels, other.out_channels, TAPS, padding=1, device="meta")
        self.weight, self.bias = other.weight, other.bias
        self._kernels: dict[tuple[int, bool], Tensor] = {}

    @staticmethod
    def fits(other: nn.Conv2d) -> bool:
        """Whether this gives what `other` does."""
        plain = other.groups == 1 and other.dilation == other.stride == (1, 1) and other.padding_mode == "zeros"
        return plain and other.kernel_size == (TAPS, TAPS) and other.padding in ("same", (1, 1))

    def kernels(self, outputs: int, back: bool = False) -> Tensor:
        """Transformed kernels, kept; those of the way `back` bring a gradient from the outputs to the inputs."""
        if (outputs, back) not in self._kernels:
            weight = self.weight.detach()
            weight = weight.flip(2, 3).transpose(0, 1) if back else weight
            self._kernels[outputs, back] = transformed(weight, outputs)
        return self._kernels[outputs, back]

    def forward(self, input: Tensor) -> Tensor:  # torch's name
        """(n, channels, H, W) -> maps of that size."""
        if input.device.type != "cpu" or input.dtype != torch.float32 or self.weight.requires_grad or not len(input):
            return super().forward(input)
        outputs = best_outputs(len(input), self.in_channels, self.out_channels, *input.shape[-2:])
        return super().forward(input) if outputs is None else _Convolution.apply(input, self, outputs)


class _Convolution(torch.autograd.Function):
    """Gradient by the maps only: the weights are fixed."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, layer: WinogradConvolution, outputs: int) -> Tensor:
        ctx.layer, ctx.outputs = layer, outputs
        return convolve(maps, layer.kernels(outputs), layer.bias, outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return convolve(gradient, ctx.layer.kernels(ctx.outputs, back=True), None, ctx.outputs), None, None
