"""Where fitted receptive fields lie and how large they are; pure arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

Floats = NDArray[np.floating]

BLUR = 0.1  # standard deviation, in fractions of the image
LEVEL = 0.5  # share of the largest magnitude that is taken off
COMMON_GRID = 28  # on which fields of all resolutions are added up
# The variance of a Gaussian of which everything below LEVEL of its peak is taken off, by the Gaussian's own:
# with u = r^2 / 2 s^2, the integral of u (e^-u - LEVEL) over that of (e^-u - LEVEL), for u from 0 to ln(1 / LEVEL).
_DEPTH = np.log(1 / LEVEL)
SHRINKAGE = float((1 - LEVEL * (1 + _DEPTH + _DEPTH**2 / 2)) / (1 - LEVEL * (1 + _DEPTH)))


@dataclass(frozen=True)
class FieldShapes:
    """Fields as Gaussians, in fractions of the image; NaN for a field that is 0 or not finite.

    Parameters
    ----------
    centre : (V, 2) x to the right and y down.
    size : (V,) standard deviation; 0 for one that is narrower than can be resolved.
    """

    centre: NDArray[np.float64]
    size: NDArray[np.float64]


def shapes(fields: Floats) -> FieldShapes:
    """Centre and size of fitted receptive fields.

    A readout cannot tell (w, r) from (-w, -r), so a field's sign means nothing; and pixels that training hardly
    moved keep their random start, which blurring averages out. Centre and size are therefore those of the blurred
    field's magnitude, as far as it exceeds a share of its largest. The size is of the Gaussian that would have such
    moments after the same blur.

    Parameters
    ----------
    fields : (V, height, width).
    """
    return _moments(_magnitude(np.asarray(fields, np.float64)))


def joint_shapes(fields: Sequence[Floats], strength: Sequence[Floats]) -> FieldShapes:
    """Centre and size of what a voxel's fields at all resolutions are together, for a fit spreads it over all of them.

    Parameters
    ----------
    fields : of each resolution, (V, height, width).
    strength : of each, (V,) norm of the filters' weights.
    """
    total: Floats = np.zeros(())
    for field, weight in zip(fields, strength, strict=True):
        size = _magnitude(np.asarray(field, np.float64))
        # Summed over the pixels they cover, or coarse grids would count for more than fine ones.
        grid = torch.from_numpy(size * (np.asarray(weight)[:, None, None] * size[0].size))[None]
        fine = size.shape[-1] >= COMMON_GRID
        shape = (COMMON_GRID, COMMON_GRID)
        total = total + functional.interpolate(grid, shape, mode="area" if fine else "bilinear")[0].numpy()
    return _moments(total)


def _magnitude(fields: NDArray[np.float64]) -> NDArray[np.float64]:
    """Blurred, as scipy's gaussian_filter does it; as products of matrices, for there are many small fields."""
    down, across = (
        ndimage.gaussian_filter1d(np.eye(side), BLUR * side, 0, mode="constant") for side in fields.shape[1:]
    )
    return np.abs(down @ fields @ across.T)


def _moments(magnitude: Floats) -> FieldShapes:
    above = np.maximum(magnitude - LEVEL * magnitude.max((1, 2), keepdims=True), 0)
    height, width = above.shape[1:]
    rows, columns = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    across, down = above.sum(1), above.sum(2)
    with np.errstate(invalid="ignore", divide="ignore"):
        mass = above.sum((1, 2))
        x, y = across @ columns / mass, down @ rows / mass
        variance = (across @ columns**2 / mass - x**2 + down @ rows**2 / mass - y**2) / 2
        size = np.sqrt(np.maximum(variance / SHRINKAGE - BLUR**2, 0))
    return FieldShapes(np.stack([x, y], 1), size)
