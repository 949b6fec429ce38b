"""A readout whose field depends on the image: attention over the nodes of a grid, as pure functions of arrays.

A voxel has a query, a position bias and weights for every group of maps. Its field in an image is the softmax over
nodes of what the query finds there plus the bias; the maps summed against that field are read linearly. With a query of
0 the field is the same in all images, and the readout that of equation 1 with a field that is nowhere negative.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from boldreams_cli.machine import threads

SMALLEST = 1e-6  # variance of a component, as a share of the first's, below which it is one of rounding


def attend(
    maps: Tensor, keys: Tensor, queries: Tensor, positions: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One group's share of the prediction.

    Parameters
    ----------
    maps : (images, nodes, K).
    keys : (images, nodes, D).
    queries : (D, voxels).
    positions : (nodes, voxels) biases; a constant added to a voxel's changes nothing.
    weights : (K, voxels).

    Returns
    -------
    share : (images, voxels).
    attention : (images, nodes, voxels), each voxel's sums to 1 over the nodes.
    read : (images, nodes, voxels), the maps summed against the weights.
    """
    images, nodes, filters = maps.shape
    found = (keys.reshape(images * nodes, -1) @ queries).view(images, nodes, -1)
    attention = _softmax(found + positions)
    read = (maps.reshape(images * nodes, filters) @ weights).view(images, nodes, -1)
    return (attention * read).sum(1), attention, read


def _softmax(scores: Tensor) -> Tensor:
    """Softmax over dimension 1; torch's rounds some numbers differently where a thread's share ends."""
    found = (scores - scores.detach().amax(1, keepdim=True)).exp()
    return found / found.sum(1, keepdim=True)


def attend_gradients(
    maps: Tensor, keys: Tensor, share: Tensor, attention: Tensor, read: Tensor, error: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a loss with respect to the parameters of `attend`.

    Parameters
    ----------
    maps, keys, share, attention, read : as in `attend`; the last two are overwritten.
    error : (images, voxels) derivative of the loss by the prediction.

    Returns
    -------
    By the queries (D, voxels), the positions (nodes, voxels) and the weights (K, voxels).
    """
    images, nodes, filters = maps.shape
    attention *= error[:, None]
    by_weights = maps.reshape(images * nodes, filters).T @ attention.view(images * nodes, -1)
    read -= share[:, None]
    read *= attention
    by_queries = keys.reshape(images * nodes, -1).T @ read.view(images * nodes, -1)
    return by_queries, read.sum(0), by_weights


def key_projection(parts: Iterable[Tensor], count: int) -> Tensor:
    """Turn maps into keys: their first principal components over images and nodes, each of variance 1.

    Parameters
    ----------
    parts : (images, nodes, K) each, of mean 0 over all of them.
    count : of components, at most K; those that never vary are 0.

    Returns
    -------
    (K, components) float32; keys are maps times it.
    """
    products, rows = torch.zeros(()), 0
    for maps in parts:
        flat = maps.flatten(0, 1).double()
        products = products.to(flat.device) + flat.T @ flat
        rows += len(flat)
    with threads(1):
        values, vectors = torch.linalg.eigh(products / rows)
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    varies = values > SMALLEST * values[0].clamp_min(torch.finfo(values.dtype).tiny)
    return (vectors * torch.where(varies, values, torch.inf).rsqrt()).float()


class AttentionReader:
    """One group's share of the prediction of some voxels, from maps as they are.

    Parameters
    ----------
    pool : (P, nodes) weights of the pixels in each node, which sum to 1.
    positions : (voxels, nodes).
    queries, weights : (voxels, K), of the pooled maps.
    pixels_first : whether maps come as (images, P, K) rather than (images, K, P).
    """

    def __init__(self, pool: Tensor, positions: Tensor, queries: Tensor, weights: Tensor, pixels_first: bool) -> None:
        self.pool, self.pixels_first = pool, pixels_first
        self.positions, self.queries, self.weights = (value.T.contiguous() for value in (positions, queries, weights))

    def __call__(self, maps: Tensor, voxels: slice = slice(None)) -> Tensor:
        """Maps -> (images, voxels); differentiable."""
        return self.read(self.pooled(maps), voxels)

    def pooled(self, maps: Tensor) -> Tensor:
        """What `read` takes of maps, (images, nodes, K): done once, however many blocks of voxels read it."""
        return self.pool.T @ maps if self.pixels_first else (maps @ self.pool).transpose(1, 2)

    def read(self, pooled: Tensor, voxels: slice = slice(None)) -> Tensor:
        """What `pooled` gives -> (images, voxels)."""
        of_voxels = (value[:, voxels] for value in (self.queries, self.positions, self.weights))
        return attend(pooled, pooled, *of_voxels)[0]
