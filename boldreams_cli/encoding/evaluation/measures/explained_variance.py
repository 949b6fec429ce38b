"""The share of a voxel's variance that its prediction explains, which unlike r asks for the right scale and offset."""

from __future__ import annotations

import torch
from torch import Tensor


def explained_variance(prediction: Tensor, beta: Tensor) -> Tensor:
    """Coefficient of determination over images: 1 - sum (y - p)^2 / sum (y - mean y)^2.

    Parameters
    ----------
    prediction, beta : (images, voxels) float64, betas averaged over repeats.

    Returns
    -------
    (voxels,), at most 1 and negative where the mean beta would predict better; NaN where betas are constant or either
    side is not finite.
    """
    left = (beta - prediction).square().sum(0)
    mean = beta.mean(0)
    total = (beta - mean).square().sum(0)
    # Rounding leaves a constant column a little off its mean; that is no variation.
    varies = total > 1e-24 * (total + len(beta) * mean.square())
    return torch.where(varies & left.isfinite(), 1 - left / total, torch.nan)
