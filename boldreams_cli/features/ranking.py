"""Which filters a readout takes (paper, section 2.2): those whose activation varies most over images."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def filter_std(means: NDArray[np.floating]) -> NDArray[np.float64]:
    """Standard deviation, over images, of each filter's spatial mean activation (paper, section 2.2).

    Parameters
    ----------
    means : (images, filters) spatial means of the training images.

    Returns
    -------
    (filters,) float64, population standard deviation.
    """
    return np.asarray(means).std(axis=0, dtype=np.float64)


def filter_order(std: NDArray[np.float64]) -> NDArray[np.int64]:
    """Filters in descending order of their standard deviation; equal ones keep their own order.

    Parameters
    ----------
    std : (filters,).

    Returns
    -------
    (filters,) indices.
    """
    return np.argsort(-std, kind="stable")


def filter_count(filters: int, percent: float) -> int:
    """Filters of a layer that `percent` stands for: at least one (1 % of 64 would be none).

    Raises
    ------
    ValueError
        If `percent` is not in (0, 100].
    """
    if not 0 < percent <= 100:
        raise ValueError(f"percent must be above 0 and at most 100, not {percent}")
    return max(1, math.floor(filters * percent / 100 + 1e-9))


def joint_order(orders: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """One order for several subjects: by each filter's best place in any of theirs.

    The first n of every subject are thus found early; for one subject it is that subject's own order.

    Parameters
    ----------
    orders : each (filters,).

    Returns
    -------
    (filters,) indices.
    """
    best = np.min([np.argsort(order) for order in orders], axis=0)
    return np.argsort(best, kind="stable")
