"""A coarse first convolution whose gradient to the pixels is fast on a CPU.

AlexNet's first convolution steps four pixels at a time over three channels. oneDNN reaches a fifth of its usual rate on
the gradient of such a layer to its input, a quarter of a whole step of a dream. The same gradient, with the pixels of a
step counted as channels, is one of an ordinary convolution (`python -m benchmarks.interpret` has the figures).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

COARSE = 4  # steps of two pixels gain nothing


def replace_coarse(network: nn.Module) -> None:
    """Make convolutions of few channels and long steps `CoarseConvolution`, which share their parameters."""
    for parent in network.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Conv2d and CoarseConvolution.fits(child):
                setattr(parent, name, CoarseConvolution(child))


class CoarseConvolution(nn.Conv2d):
    """A convolution as `other`, with its parameters; only the way to its gradient differs."""

    def __init__(self, other: nn.Conv2d) -> None:
        channels = (other.in_channels, other.out_channels)
        super().__init__(*channels, other.kernel_size[0], other.stride[0], int(other.padding[0]), device="meta")
        self.weight, self.bias = other.weight, other.bias

    @staticmethod
    def fits(other: nn.Conv2d) -> bool:
        """Whether this is faster than `other` and the same."""
        plain = other.groups == 1 and other.dilation == (1, 1) and other.padding_mode == "zeros"
        square = len(set(other.kernel_size)) == len(set(other.stride)) == len(set(other.padding)) == 1
        return plain and square and other.padding != "same" and other.in_channels <= 4 and other.stride[0] >= COARSE

    def forward(self, input: Tensor) -> Tensor:  # torch's name
        """(n, channels, H, W) -> maps."""
        if input.is_cuda or not input.requires_grad or self.weight.requires_grad:
            return super().forward(input)
        return _FixedConvolution.apply(input, self.weight, self.bias, self.stride[0], int(self.padding[0]))


class _FixedConvolution(torch.autograd.Function):
    """A convolution by constant weights."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.stride, ctx.padding = pixels.shape[-2:], stride, padding
        return functional.conv2d(pixels, weight, bias, stride, padding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        (height, width), stride, padding = ctx.shape, ctx.stride, ctx.padding
        rest = -weight.shape[-1] % stride
        steps = functional.pixel_unshuffle(functional.pad(weight, (0, rest, 0, rest)), stride)
        padded = functional.pixel_shuffle(functional.conv_transpose2d(gradient, steps), stride)
        inner = padded[..., padding : padding + height, padding : padding + width]
        # Pixels that no step reaches, at the right and lower border.
        left_over = (0, width - inner.shape[-1], 0, height - inner.shape[-2])
        return functional.pad(inner, left_over), None, None, None, None
