"""Voxels by themselves: blocks that do not depend on who else is solved for, and random numbers of each voxel's own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def aligned_blocks(places: NDArray[np.int64], width: int) -> Iterator[tuple[slice, Tensor]]:
    """Cut voxels at multiples of `width` of all voxels, wherever a span of them begins and ends.

    A matrix product may round differently in another shape. A voxel that always has the same place in a block of the
    same width has the same result to the last bit.

    Parameters
    ----------
    places : (n,) sorted, of the voxels among all voxels.
    width : of a block.

    Yields
    ------
    Some of `places`, and where those lie in their block, (some,) int64.
    """
    edges = np.flatnonzero(np.diff(places // width, prepend=-1))
    for start, stop in zip(edges, [*edges[1:], len(places)], strict=True):
        yield slice(int(start), int(stop)), torch.from_numpy(places[start:stop] % width)


def in_block(values: Tensor, offsets: Tensor, width: int) -> Tensor:
    """Columns at their places in a block, among zeros.

    Parameters
    ----------
    values : (n, some).
    offsets : (some,) places.
    width : of the block.

    Returns
    -------
    (n, width), contiguous.
    """
    block = values.new_zeros(len(values), width)
    block[:, offsets.to(values.device)] = values
    return block


def normal_draws(seed: int, voxels: NDArray[np.int64], count: int) -> Tensor:
    """Standard normal numbers, which depend on the seed and the voxel alone (Philox, keyed by both).

    Parameters
    ----------
    seed : from 0 up.
    voxels : (n,) columns of all of the subject's voxels.
    count : numbers of each.

    Returns
    -------
    (count, n) float32.
    """
    drawn = np.empty((len(voxels), count), dtype=np.float32)
    for row, voxel in zip(drawn, voxels.tolist(), strict=True):
        key = np.array([seed, voxel], dtype=np.uint64)
        np.random.Generator(np.random.Philox(key=key)).standard_normal(dtype=np.float32, out=row)
    return torch.from_numpy(drawn).T.contiguous()
