"""A compressive nonlinearity of every map value before it is summed over pixels; pure functions of arrays."""

from __future__ import annotations

from torch import Tensor

COMPRESSIONS = ("none", "sqrt")
EPSILON = 1e-4  # bounds the slope at 0 to 1 / (2 sqrt(EPSILON)) = 50


def compressed(maps: Tensor, how: str) -> Tensor:
    """Compress each value x of a map: to sign(x) (sqrt(|x| + EPSILON) - sqrt(EPSILON)), or not at all.

    One definition for stored maps and for those of the full model, whose gradients it keeps finite: a plain root's
    are not at 0, where half of all rectified values lie.

    Parameters
    ----------
    maps : any shape, float32.
    how : one of COMPRESSIONS.

    Returns
    -------
    Of the same shape; `maps` itself where nothing is to be done.
    """
    if how == "none":
        return maps
    # The same number without a difference of two roots, smooth at 0; every step of it is rounded exactly.
    return maps / ((maps.abs() + EPSILON).sqrt() + EPSILON**0.5)
