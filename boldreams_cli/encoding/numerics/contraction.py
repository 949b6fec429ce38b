"""The readout (paper, equation 1) as pure functions: prediction, gradients, the published start.

Layers of equal resolution are stacked into one group of K filters on P pixels. With field r and weights w of
voxel v, its prediction from the group is  sum_k w[k, v] sum_p r[p, v] maps[b, k, p],  a product of a matrix with
the maps over one of the two indices and a weighted sum over the other. Both orders cost the same multiplications;
the index summed last (`left`) should be the shorter one, because an intermediate (images, left, voxels) is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CACHED_IMAGES = 16


def contract(maps: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """One group's share of the prediction.

    Parameters
    ----------
    maps : (images, A, C), filters and pixels in either order.
    left : (A, voxels).
    right : (C, voxels).

    Returns
    -------
    prediction : (images, voxels).
    inner : (images, A, voxels), the maps summed against `right`; the gradients need it again.
    """
    images, a, c = maps.shape
    inner = (maps.reshape(images * a, c) @ right).view(images, a, -1)
    return (inner * left).sum(1), inner


def contracted(maps: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The prediction of `contract` alone, to the last bit; some images at a time, whose `inner` stays in cache.

    Parameters
    ----------
    maps, left, right : as in `contract`; they need no gradient.
    """
    a, c = maps.shape[1:]
    parts = []
    for some in maps.split(CACHED_IMAGES):
        inner = (some.reshape(len(some) * a, c) @ right).view(len(some), a, -1)
        parts.append(inner.mul_(left).sum(1))
    return torch.cat(parts)


def contract_gradients(maps: Tensor, left: Tensor, inner: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a loss with respect to both factors of `contract`.

    Parameters
    ----------
    maps, left, inner : as in `contract`; `inner` is overwritten with `error` times `left`.
    error : (images, voxels) derivative of the loss by the prediction.

    Returns
    -------
    (A, voxels) and (C, voxels).
    """
    images, a, c = maps.shape
    by_left = (inner * error[:, None]).sum(0)
    torch.mul(error[:, None], left, out=inner)
    by_right = maps.reshape(images * a, c).T @ inner.view(images * a, -1)
    return by_left, by_right


def template(fields: Tensor, weights: Tensor, voxel_weights: Tensor) -> Tensor:
    """What a weighted sum of voxels reads from one group's maps, as a single map-sized array.

    A mean over an area is linear in the maps, so dreaming and attribution need no voxel axis.

    Parameters
    ----------
    fields : (voxels, P), or (nodes, P) that all voxels share.
    weights : (voxels, K), or (voxels, K, nodes).
    voxel_weights : (voxels,), e.g. 1/n inside an area.

    Returns
    -------
    (K, P) float, such that (maps * template).sum() is the group's share of the weighted sum.
    """
    if weights.ndim == 3:
        return torch.tensordot(voxel_weights, weights, 1) @ fields
    return (weights * voxel_weights[:, None]).T @ fields


class GroupReader:
    """One group's share of the prediction of some voxels, for either kind of weights.

    Parameters
    ----------
    fields : as in `template`.
    weights : as there, of each layer; those with nodes are read where they lie, as they may take most of the memory.
    pixels_first : whether maps come as (images, P, K) rather than (images, K, P).
    """

    def __init__(self, fields: Tensor, weights: Sequence[Tensor], pixels_first: bool) -> None:
        self.pixels_first, self.shared = pixels_first, weights[0].ndim == 3
        if self.shared:
            self.basis = fields
            self.layers = [part.flatten(1) for part in weights]  # (voxels, K of the layer times nodes)
        else:
            field, weight = fields.T.contiguous(), torch.cat([part.T for part in weights])
            self.left, self.right = (field, weight) if pixels_first else (weight, field)

    def __call__(self, maps: Tensor, voxels: slice = slice(None)) -> Tensor:
        """Maps -> (images, voxels)."""
        return self.read(self.pooled(maps), voxels)

    def pooled(self, maps: Tensor) -> Tensor:
        """What `read` takes of maps: done once, however many blocks of voxels read it."""
        if not self.shared:
            return maps
        return ((self.basis @ maps).mT if self.pixels_first else maps @ self.basis.T).flatten(1)

    def read(self, pooled: Tensor, voxels: slice = slice(None)) -> Tensor:
        """What `pooled` gives -> (images, voxels)."""
        if self.shared:
            parts = pooled.split([part.shape[1] for part in self.layers], dim=1)
            return sum(values @ part[voxels].T for values, part in zip(parts, self.layers, strict=True))
        left, right = self.left[:, voxels], self.right[:, voxels]
        return contract(pooled, left, right)[0] if torch.is_grad_enabled() else contracted(pooled, left, right)


def uniform(seed: int, columns: NDArray[np.int64], count: int) -> Tensor:
    """Random numbers of each voxel by itself, from the seed and its column alone (Philox, counter-based).

    Parameters
    ----------
    seed : from 0 up.
    columns : (voxels,) number of each voxel among all of the subject's.
    count : numbers for each.

    Returns
    -------
    (count, voxels) float32 in [0, 1).
    """
    drawn = np.empty((len(columns), count), dtype=np.float32)
    for row, column in zip(drawn, columns, strict=True):
        key = np.array([seed, column], dtype=np.uint64)
        np.random.Generator(np.random.Philox(key=key)).random(out=row, dtype=np.float32)
    return torch.from_numpy(drawn).T


def published_start(
    groups: list[tuple[int, int]], voxels: int, columns: NDArray[np.int64], seed: int
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Start of training as in the published code: uniform, by PyTorch's default rule for linear layers.

    Parameters
    ----------
    groups : (K filters, P pixels) of each.
    voxels : of the model; the published weights are drawn within 1/sqrt(voxels).
    columns : (some,) which voxels to start; a voxel's start depends on no other.
    seed : of the random numbers.

    Returns
    -------
    fields : of each group, (P, some) within 1/sqrt(P).
    weights : of each group, (K, some) within 1/sqrt(voxels).
    bias : (some,) within [0, 1).
    """
    sizes = [pixels for _, pixels in groups] + [filters for filters, _ in groups]
    bounds = [1 / math.sqrt(pixels) for _, pixels in groups] + [1 / math.sqrt(voxels)] * len(groups)
    *drawn, bias = uniform(seed, columns, sum(sizes) + 1).split([*sizes, 1])
    scaled = [(values * 2 - 1) * bound for values, bound in zip(drawn, bounds, strict=True)]
    return scaled[: len(groups)], scaled[len(groups) :], bias[0].clone()


def learning_rate(base: float, epoch: int) -> float:
    """Rate in an epoch counted from 0: times 0.8 after each of epochs 2 to 7 (section 2.2; published code)."""
    return base * 0.8 ** min(max(epoch - 1, 0), 6)
