"""Receptive fields on a grid of pixels: Gaussians, and interpolation from a coarse grid; pure arrays."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from boldreams_cli.transfers import sent


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
    weights : (n, m), mostly zeros, on the host.

    Returns
    -------
    As `values` with m along `dim`; on a GPU the same bits.
    """
    if values.is_cuda:
        return summed_side_by_side(values, weights, dim)
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


def summed_side_by_side(values: Tensor, weights: Tensor, dim: int) -> Tensor:
    """As `summed_along`, but the first summand of all sums, then the second.

    That is a sixth of the calls, which a GPU waits for; on a CPU it takes a third longer.
    """
    summands = [column.nonzero().flatten() for column in weights.T]
    most = max(len(indices) for indices in summands)
    places, shares = torch.zeros(most, len(summands), dtype=torch.long), torch.zeros(most, len(summands))
    for node, indices in enumerate(summands):  # those behind a sum's last add nothing
        places[: len(indices), node] = indices
        shares[: len(indices), node] = weights[indices, node]
    shape = [1] * values.dim()
    shape[dim] = -1
    places, shares = (sent(table, values.device) for table in (places, shares))
    total: Tensor | None = None
    for place, share in zip(places, shares, strict=True):
        part = values.index_select(dim, place).mul_(share.view(shape))
        total = part if total is None else total.add_(part)
    assert total is not None, "every node has a pixel"
    return total
