"""How a dream is written as numbers to optimise (paper, section 2.5; lucent; Fel et al. 2023).

The images are functions of one tensor. ``fourier`` and ``pixel`` are lucent's, written anew because lucent's tensors
go to whatever device it chose at import and draw from the global random numbers; at sizes that transform fast both
give lucent's own values. ``maco`` fixes the magnitude spectrum and optimises the phases.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from lucent.optvis.param.color import color_correlation_normalized
from lucent.optvis.param.spatial import rfft2d_freqs
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional

from boldreams_cli.console import ChoiceError

NAMES = ("fourier", "pixel", "maco")
START = 0.01  # standard deviation of the start, lucent's
SATURATION = 4.0  # lucent divides by it, against saturated pixels
DARKEST = 0.5 / 255  # a sigmoid reaches neither 0 nor 1


@dataclass(frozen=True)
class Picture:
    """Images as a function of a tensor.

    Parameters
    ----------
    values : the leaf to optimise.
    render : gives (count, 3, size, size) in [0, 1] from it, differentiably.
    """

    values: Tensor
    render: Callable[[Tensor], Tensor]

    def __call__(self) -> Tensor:
        """(count, 3, size, size) in [0, 1]."""
        return self.render(self.values)


@dataclass(frozen=True)
class Spectrum:
    """What ``maco`` keeps of natural images.

    Parameters
    ----------
    magnitude : (3, side, side // 2 + 1) mean magnitude of the transform (norm "ortho") of the images, without
        their mean colour, in the decorrelated colour basis.
    mean : (3,) mean colour in [0, 1].
    """

    magnitude: NDArray[np.float32]
    mean: NDArray[np.float32]


def fast_side(size: int) -> int:
    """The side at which transforms are done: the next even one of small prime factors, which MKL is fastest at."""
    return 2 * int(next_fast_len(-(-size // 2)))


def create(
    name: str,
    count: int,
    size: int,
    seed: int,
    device: torch.device,
    spectrum: Callable[[], Spectrum],
    start: Tensor | None = None,
) -> Picture:
    """Start images from noise, or from a photograph.

    Parameters
    ----------
    name : of NAMES.
    count : images.
    size : height and width, pixels.
    seed : of the start; drawn on the CPU, so the same on any device.
    device : to optimise on.
    spectrum : called for ``maco`` only.
    start : (1, 3, size, size) in [0, 1]: the first image is this photograph, others differ from it by noise.

    Raises
    ------
    ChoiceError
        If there is no such parameterization, or ``maco`` is to start from a photograph.
    """
    generator = torch.Generator().manual_seed(seed)
    if name == "fourier":
        return fourier(count, size, generator, device, start)
    if name == "pixel":
        return pixel(count, size, generator, device, start)
    if name == "maco" and start is not None:
        raise ChoiceError(
            "--start does not go with --parameterization maco, whose images all have one spectrum; use fourier or pixel"
        )
    if name == "maco":
        return maco(count, size, generator, device, spectrum())
    raise ChoiceError(f"unknown parameterization {name!r}; choose from {', '.join(NAMES)} (--parameterization)")


def colour_basis(device: torch.device) -> Tensor:
    """(3, 3) lucent's decorrelated colours -> RGB."""
    return torch.from_numpy(color_correlation_normalized).to(device)


def recorrelate(images: Tensor, basis: Tensor) -> Tensor:
    """Mix the channels of (n, 3, H, W) by a (3, 3) matrix."""
    return (basis @ images.flatten(2)).view_as(images)


def unmixed(photograph: Tensor, matrix: Tensor) -> Tensor:
    """What `recorrelate` by `matrix` and a sigmoid make a photograph of.

    Parameters
    ----------
    photograph : (1, 3, H, W) in [0, 1].
    matrix : (3, 3).

    Returns
    -------
    (1, 3, H, W).
    """
    logits = torch.logit(photograph.clamp(DARKEST, 1 - DARKEST))
    return recorrelate(logits.contiguous(), torch.linalg.inv(matrix))


def _around(values: Tensor, noise: Tensor) -> Tensor:
    """(count, ...) the values of a photograph, (1, ...), in all but the first with noise."""
    noise[0] = 0
    return values + noise


def fourier(
    count: int, size: int, generator: torch.Generator, device: torch.device, photograph: Tensor | None = None
) -> Picture:
    """Lucent's default: spectra scaled by 1 / frequency, decorrelated colours, a sigmoid.

    Returns
    -------
    A picture whose values are (count, 3, side, side // 2 + 1, 2), side >= size; the images are a corner's crop.
    """
    side = fast_side(size)
    frequencies = rfft2d_freqs(side, side)[:, : side // 2 + 1]
    scale = torch.from_numpy(1 / np.maximum(frequencies, 1 / side)).float()[..., None].to(device)
    basis = colour_basis(device)
    start = torch.randn(count, 3, *frequencies.shape, 2, generator=generator) * START

    def render(values: Tensor) -> Tensor:
        spectrum = torch.view_as_complex(scale * values)
        images = torch.fft.irfft2(spectrum, s=(side, side), norm="ortho")[..., :size, :size].contiguous()
        return torch.sigmoid(recorrelate(images, basis / SATURATION))

    start = start.to(device)
    if photograph is not None:
        edge = side - size
        plain = functional.pad(unmixed(photograph, basis / SATURATION), (0, edge, 0, edge), mode="reflect")
        start = _around(torch.view_as_real(torch.fft.rfft2(plain, norm="ortho")) / scale, start)
    return Picture(start.requires_grad_(), render)


def pixel(
    count: int, size: int, generator: torch.Generator, device: torch.device, photograph: Tensor | None = None
) -> Picture:
    """Lucent's plain pixels, in decorrelated colours; values are (count, 3, size, size)."""
    basis = colour_basis(device)
    start = (torch.randn(count, 3, size, size, generator=generator) * START).to(device)
    if photograph is not None:
        start = _around(unmixed(photograph, basis), start)
    return Picture(start.requires_grad_(), lambda values: torch.sigmoid(recorrelate(values.contiguous(), basis)))


def maco(count: int, size: int, generator: torch.Generator, device: torch.device, spectrum: Spectrum) -> Picture:
    """Fixed magnitudes, free phases (Fel et al. 2023, "Unlocking feature visualization ... with MACO").

    The transform's columns 0 and side / 2 describe a frequency and its negative at once; there the magnitude holds
    on average only, as the real transform keeps just their symmetric part.

    Returns
    -------
    A picture whose values are phases (count, 3, side, side // 2 + 1) in radians.
    """
    magnitude = torch.from_numpy(spectrum.magnitude).to(device)
    mean = torch.from_numpy(spectrum.mean).to(device)[:, None, None]
    side = magnitude.shape[1]
    basis = colour_basis(device)
    start = (torch.rand(count, *magnitude.shape, generator=generator) * 2 - 1) * math.pi

    def render(values: Tensor) -> Tensor:
        free = torch.fft.irfft2(torch.polar(magnitude.expand_as(values), values), s=(side, side), norm="ortho")
        images = recorrelate(free[..., :size, :size].contiguous(), basis) + mean
        # A sigmoid of slope 1 at mid-grey: pixels stay what they are there and inside [0, 1] everywhere.
        return torch.sigmoid(4 * (images - 0.5))

    return Picture(start.to(device).requires_grad_(), render)


def transparency(seen: NDArray[np.floating], opaque: float = 80.0) -> NDArray[np.float32]:
    """MaCo's transparency: opaque where the gradient was, clear where the pixels did not matter (Fel et al. 2023).

    Parameters
    ----------
    seen : (count, H, W) sum over the steps of the gradient's size.
    opaque : percentile from which on a pixel is opaque.

    Returns
    -------
    (count, H, W) in [0, 1].
    """
    top = np.percentile(seen, opaque, axis=(1, 2), keepdims=True)
    return (np.minimum(seen, top) / np.maximum(top, np.finfo(np.float32).tiny)).astype(np.float32)


def measure_spectrum(images: Tensor) -> Tensor:
    """Sum of the magnitudes of images' transforms in the decorrelated colour basis.

    Parameters
    ----------
    images : (n, 3, side, side) in [0, 1] minus a mean colour.

    Returns
    -------
    (3, side, side // 2 + 1) float64, zero at frequency 0.
    """
    decorrelated = recorrelate(images.double(), torch.linalg.inv(colour_basis(images.device).double()))
    total = torch.fft.rfft2(decorrelated, norm="ortho").abs().sum(0)
    total[:, 0, 0] = 0
    return total
