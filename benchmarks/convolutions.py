"""Convolutions by features/winograd.py against torch's, of the sizes in the backbones, forward and backward.

    python -m benchmarks.convolutions

The costs in winograd.py (PRODUCT, VALUE, KERNEL) are from this table. "-" where those costs leave it to torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks.interpret import seconds
from boldreams_cli.features.backbones.winograd import WinogradConvolution, best_outputs
from boldreams_cli.machine import keep_freed

# Channels, filters, side: of AlexNet, VGG11 and RN50x4.
SIZES = [
    (192, 384, 13),
    (384, 256, 13),
    (256, 256, 13),
    (64, 128, 112),
    (128, 256, 56),
    (256, 256, 56),
    (256, 512, 28),
    (512, 512, 28),
    (512, 512, 14),
    (80, 80, 72),
    (160, 160, 36),
    (320, 320, 18),
    (640, 640, 9),
]
TURNS = 8
CPU = torch.device("cpu")


def fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest call, after one that is slower."""
    return min([seconds(call, CPU) for _ in range(1 + TURNS)][1:])


def ratios(layer: WinogradConvolution, plain: nn.Conv2d, images: int, side: int) -> tuple[float, float, float]:
    """Seconds of a forward pass of `layer`, and ratios of forward and backward passes to those of `plain`."""
    maps, gradient = (
        torch.rand(images, count, side, side).contiguous(memory_format=torch.channels_last)
        for count in (plain.in_channels, plain.out_channels)
    )
    with torch.inference_mode():
        ours, torchs = (fastest(partial(convolution, maps)) for convolution in (layer, plain))
    maps.requires_grad_()
    back = []
    for found in (layer(maps), plain(maps)):
        back.append(fastest(partial(torch.autograd.grad, found, maps, gradient, retain_graph=True)))
    return ours, ours / torchs, back[0] / back[1]


def main() -> None:
    """Print a table."""
    keep_freed()  # as every command does
    print(f"{'channels, filters, side':24} {'images':>6} {'tile':>5} {'ms an image':>12} {'ratio':>6} {'back':>6}")
    for channels, filters, side in SIZES:
        plain = nn.Conv2d(channels, filters, 3, padding=1).requires_grad_(False)
        plain = plain.to(memory_format=torch.channels_last)
        layer = WinogradConvolution(plain)
        for images in (1, 4, 16):
            outputs = best_outputs(images, channels, filters, side, side)
            row = f"{f'{channels}, {filters}, {side}':24} {images:6}"
            if outputs is None:
                print(f"{row} {'-':>5}", flush=True)
                continue
            time_taken, forward, back = ratios(layer, plain, images, side)
            print(f"{row} {outputs:5} {1000 * time_taken / images:12.2f} {forward:6.2f} {back:6.2f}", flush=True)


if __name__ == "__main__":
    main()
