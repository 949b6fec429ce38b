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
    rows, columns = min(grid, height), min(grid, width)
    nodes = torch.eye(rows * columns).view(-1, 1, rows, columns)
    fields = functional.interpolate(nodes, size=(height, width), mode="bilinear", align_corners=True)
    return fields.view(rows * columns, -1).T.contiguous()
