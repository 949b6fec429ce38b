"""Receptive fields on a grid of pixels: Gaussians, and interpolation from a coarse grid; pure arrays."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


def gaussian_fields(height: int, width: int, gaussians: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian receptive fields on a grid of pixels, each summing to 1.

    Parameters
    ----------
    height, width : of the grid.
    gaussians : (n, 3) x to the right, y down, standard deviation; in fractions of the image.

    Returns
    -------
    (n, height * width).
    """
    x, y, size = (column[:, None] for column in gaussians.T)
    down = ((np.arange(height) + 0.5) / height - y) / size
    right = ((np.arange(width) + 0.5) / width - x) / size
    squares = down[:, :, None] ** 2 + right[:, None, :] ** 2
    # Against the nearest pixel, so that a field smaller than a pixel does not vanish.
    fields = np.exp((squares.min((1, 2), keepdims=True) - squares) / 2).reshape(len(gaussians), -1)
    return fields / fields.sum(1, keepdims=True)


def interpolation(height: int, width: int, grid: int) -> Tensor:
    """Weights that turn values on a coarse grid into a field, each pixel's summing to 1.

    Parameters
    ----------
    height, width : of the field, pixels.
    grid : nodes along each side, at most as many as pixels.

    Returns
    -------
    (height * width, nodes) float32.
    """
    return torch.kron(interpolation_along(height, grid), interpolation_along(width, grid))


def interpolation_along(pixels: int, grid: int) -> Tensor:
    """`interpolation` along one side, (pixels, nodes) float32."""
    nodes = torch.eye(min(grid, pixels))[None]
    return functional.interpolate(nodes, size=pixels, mode="linear", align_corners=True)[0].T.contiguous()


def summed_along(values: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Weighted sums along one dimension, number by number, so that no sum depends on what lies beside it.

    A matrix product may round the same sum differently in a larger batch or on more threads.

    Parameters
    ----------
    values : any shape, n along `dim`.
    weights : (n, m), mostly zeros.

    Returns
    -------
    As `values` with m along `dim`.
    """
    sums = []
    for column in weights.T.tolist():
        total: Tensor | None = None
        for index, weight in enumerate(column):
            if weight:
                part = values.select(dim, index) * weight
                total = part if total is None else total.add_(part)
        assert total is not None, "every node has a pixel"
        sums.append(total)
    return torch.stack(sums, dim)
