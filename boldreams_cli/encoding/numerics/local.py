"""Ridge regression whose prior is a receptive field: features at far nodes are expected to weigh less; pure arrays.

Each feature is times the square root of the field at its node, so that with a field f and a penalty p a weight at
node n has the prior variance f[n] / p. The products of all pairs of images are then sums over nodes of f[n] times
those of the node's features, and need each node's but once for all fields.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def node_fields(height: int, width: int, grid: int, gaussians: NDArray[np.float64]) -> Tensor:
    """Gaussian fields and a flat one at the nodes of a grid, each of mean 1 over its nodes.

    Parameters
    ----------
    height, width : of the maps, pixels.
    grid : nodes along each side, at most as many as pixels; the outermost lie on the outermost pixels.
    gaussians : (n, 3) x to the right, y down, standard deviation; in fractions of the image.

    Returns
    -------
    (n + 1, nodes) float64, the flat one last.
    """
    down, across = (_places(pixels, grid) for pixels in (height, width))
    x, y, size = (column[:, None, None] for column in gaussians.T)
    squares = ((down[None, :, None] - y) / size) ** 2 + ((across[None, None, :] - x) / size) ** 2
    # Against the nearest node, so that a field between nodes does not vanish.
    fields = np.exp((squares.min((1, 2), keepdims=True) - squares) / 2).reshape(len(gaussians), -1)
    fields = np.concatenate([fields, np.ones((1, fields.shape[1]))])
    return torch.from_numpy(fields / fields.mean(1, keepdims=True))


def _places(pixels: int, grid: int) -> NDArray[np.float64]:
    """Of the nodes along one side, in fractions of the image."""
    nodes = min(grid, pixels)
    if nodes == 1:
        return np.array([0.5])
    return (np.linspace(0, pixels - 1, nodes) + 0.5) / pixels


def add_times(total: Tensor, part: Tensor, weight: float, block: int = 1024) -> None:
    """Add `weight` times the lower triangle of `part` to that of `total`, in place.

    Multiplied first and added then, each rounded by itself: fused operations would make the last bits depend on
    where a thread's share ends.

    Parameters
    ----------
    total, part : (images, images) float64.
    weight : of the part.
    block : rows at a time.
    """
    for start in range(0, len(total), block):
        stop = min(start + block, len(total))
        total[start:stop, :stop] += part[start:stop, :stop] * weight


def with_penalty(gram: Tensor, penalty: float) -> Tensor:
    """Cholesky factor of the products of images plus the penalty on the diagonal.

    Parameters
    ----------
    gram : (images, images) float64 products of `ridge.weighted` features; what lies above the diagonal is not read.
    penalty : above 0, on the scale of `gram`.

    Returns
    -------
    (images, images) float64, lower triangular.
    """
    lower = gram.tril()
    lower.diagonal().add_(penalty)
    return torch.linalg.cholesky(lower)


def dual_weights(factor: Tensor, betas: Tensor, root: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the images, of which those of the features are sums (see `Ridge.dual`).

    Parameters
    ----------
    factor : from `with_penalty`.
    betas : (images, voxels).
    root, share : (images,) float64, roots of the images' weights, and the weights as shares of their sum.

    Returns
    -------
    (images, voxels) float64, and the mean betas (voxels,) float64.
    """
    values = betas.double()
    mean = share @ values
    return torch.cholesky_solve((values - mean) * root[:, None], factor) * root[:, None], mean
