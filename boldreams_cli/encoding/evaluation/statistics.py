"""Accuracy and its ceiling (paper, sections 2.2 and 3.1; NSD manual, "noise ceiling"); pure functions."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def pearson_r(prediction: Tensor, beta: Tensor) -> Tensor:
    """Correlation of each voxel's prediction with its betas (paper, section 2.2).

    Parameters
    ----------
    prediction, beta : (images, voxels), any float dtype; z-scoring is not assumed.

    Returns
    -------
    (voxels,) float64 in [-1, 1]; NaN where either side is constant or not finite.
    """
    p, b = (x.double() - x.double().mean(0) for x in (prediction, beta))
    norms = p.norm(dim=0), b.norm(dim=0)
    # Rounding leaves a constant column a little off its mean; that is no variation.
    tiny = [1e-12 * x.double().norm(dim=0) for x in (prediction, beta)]
    varies = (norms[0] > tiny[0]) & (norms[1] > tiny[1])
    r = torch.where(varies, (p * b).sum(0) / (norms[0] * norms[1]), torch.nan)
    return r.clamp(-1, 1)


def noise_ceiling(ncsnr: NDArray[np.floating], repeats: NDArray[np.number]) -> NDArray[np.float64]:
    """Explainable share of the variance of test betas averaged over repeats (NSD manual).

    Parameters
    ----------
    ncsnr : (voxels,) noise-ceiling signal-to-noise ratio.
    repeats : (images,) trials of each test image.

    Returns
    -------
    (voxels,) in [0, 1); a correlation is compared with its square root. NaN where ncsnr is.
    """
    signal = np.asarray(ncsnr, dtype=np.float64) ** 2
    return signal / (signal + np.mean(1 / np.asarray(repeats, dtype=np.float64)))


def single_trial_ceiling(ncsnr: NDArray[np.floating]) -> NDArray[np.float64]:
    """Explainable share of the variance of single trials: `noise_ceiling` of one trial an image.

    Parameters
    ----------
    ncsnr : (voxels,) noise-ceiling signal-to-noise ratio.

    Returns
    -------
    (voxels,) in [0, 1); NaN where ncsnr is.
    """
    return noise_ceiling(ncsnr, np.ones(1))


def mean_and_error(values: NDArray[np.floating]) -> tuple[float, float]:
    """Mean and standard error over voxels, of those that are numbers (paper, figure 2).

    Voxels share the images and much of their noise: this error is of their spread, and no measure of how well the
    mean is known.

    Parameters
    ----------
    values : (voxels,).

    Returns
    -------
    mean, standard error (NaN for fewer than two voxels).
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return float("nan"), float("nan")
    error = known.std(ddof=1) / np.sqrt(len(known)) if len(known) > 1 else float("nan")
    return float(known.mean()), float(error)
