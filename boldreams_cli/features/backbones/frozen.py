"""Faster equals of a network's layers, for weights that stay as they are (`python -m benchmarks.interpret`).

Normalisation by batch norm's fixed statistics is part of the convolution before it. And the gradient of a coarse first
convolution to the pixels is that of an ordinary one: AlexNet's steps four pixels at a time over three channels, which
is slow on a CPU; with the pixels of a step counted as channels it is not. Ordinary 3 x 3 convolutions become those of
`winograd`.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from boldreams_cli.features.backbones.winograd import WinogradConvolution

COARSE = 4  # steps of two pixels gain nothing


def hasten(network: nn.Module) -> None:
    """Replace layers by faster equals. The network must be in evaluation mode, and its weights no longer change.

    Batch norms must be listed right behind the convolutions that feed them, as they are in all our backbones.
    """
    for parent in list(network.modules()):
        for (_, first), (name, second) in pairwise(list(parent.named_children())):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(parent, name, _folded(first, second))
        for name, child in list(parent.named_children()):
            for faster in (CoarseConvolution, WinogradConvolution):
                if type(child) is nn.Conv2d and faster.fits(child):
                    setattr(parent, name, faster(child))


def _folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Module:
    """Take a norm into the convolution; what is left of it: the activation within timm's norms, under its name."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a norm without running statistics cannot be folded")
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    return nn.Sequential(OrderedDict(norm.named_children()))


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
