"""Accuracy, its ceiling and how certain it is (paper, sections 2.2 and 3.1; NSD manual, "noise ceiling"): arrays alone.

The random sample is the test images. Voxels share images and much of their noise, so certainty is measured over images.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.stats
import torch
from numpy.typing import NDArray
from torch import Tensor

CEILING_FLOOR = 0.2  # of a voxel that is compared with its ceiling: below, the quotient is mostly noise
VOXELS_IN_A_BLOCK = 256  # that are permuted together: their betas stay in a processor's cache
ORDERS_AT_A_TIME = 1000  # permutations that are held


def pearson_r(prediction: Tensor, beta: Tensor) -> Tensor:
    """Correlation of each voxel's prediction with its betas (paper, section 2.2).

    Parameters
    ----------
    prediction, beta : (images, voxels), any float dtype; z-scoring is not assumed.

    Returns
    -------
    (voxels,) float64 in [-1, 1]; NaN where either side is constant or not finite.
    """
    p, b = _standardised(prediction), _standardised(beta)
    return (p * b).mean(0).clamp(-1, 1)


def _standardised(values: Tensor) -> Tensor:
    """Z-score each column by its population's standard deviation; float64, NaN where it is constant or not finite."""
    x = values.double()
    mean = x.mean(0)
    centred = x - mean
    squares = centred.square().sum(0)
    # Rounding leaves a constant column a little off its mean; that is no variation.
    varies = squares > 1e-24 * (squares + len(x) * mean.square())
    return centred.mul_(torch.where(varies, (len(x) / squares).sqrt(), torch.nan))


def influence(prediction: Tensor, beta: Tensor) -> Tensor:
    """How each image moves each voxel's correlation: the influence function of r (Devlin et al., 1975).

    With z-scored prediction p and beta y, it is y p - r (y^2 + p^2) / 2. Its mean over images is 0, and the standard
    deviation of its mean over voxels, divided by the square root of the images, is the standard error of their mean r.

    Parameters
    ----------
    prediction, beta : (images, voxels), any float dtype; z-scoring is not assumed.

    Returns
    -------
    (images, voxels) float64; NaN in all of a voxel that has no `pearson_r`.
    """
    return r_and_influence(prediction, beta)[1]


def r_and_influence(prediction: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Both `pearson_r`, (voxels,), and `influence`, (images, voxels), in one pass."""
    p, y = _standardised(prediction), _standardised(beta)
    product = p * y
    r = product.mean(0).clamp(-1, 1)
    return r, product.sub_(p.square_().add_(y.square_()).mul_(r / 2))


def image_error(influences: NDArray[np.floating]) -> Any:
    """Standard error, over images, of an estimate with these influences.

    For the difference of two models, give the difference of their influences: it is paired by image.

    Parameters
    ----------
    influences : (images,) or (images, k); of a mean over voxels, the mean of the voxels' influences.

    Returns
    -------
    float, or (k,) float64; NaN for fewer than three images: the r of two is 1 or -1, whatever they are, and no image
    has an influence on it.
    """
    values = np.asarray(influences, dtype=np.float64)
    if len(values) < 3:
        return np.full(values.shape[1:], np.nan)[()]
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))


def interval(estimate: float, error: float, images: int, level: float = 0.95) -> tuple[float, float]:
    """Two-sided interval of an estimate by Student's t.

    Parameters
    ----------
    estimate : any.
    error : its standard error over images.
    images : that it comes from; the degrees of freedom are one less.
    level : probability that the interval covers the true value.

    Returns
    -------
    low, high; NaN where the error is or for fewer than three images.
    """
    if images < 3:
        return float("nan"), float("nan")
    reach = float(scipy.stats.t.ppf((1 + level) / 2, images - 1)) * error
    return float(estimate - reach), float(estimate + reach)


def within_groups(values: Tensor | NDArray[np.floating], groups: NDArray[Any]) -> Tensor:
    """What differs within groups of images: each group's mean is taken off.

    Parameters
    ----------
    values : (images, voxels).
    groups : (images,) of each.

    Returns
    -------
    (images, voxels) float64.
    """
    found = torch.as_tensor(values).to(torch.float64, copy=True)
    for group in np.unique(groups):
        rows = torch.from_numpy(np.flatnonzero(groups == group))
        found[rows] -= found[rows].mean(0)
    return found


def p_of_r(
    r: NDArray[np.floating] | float,
    error: NDArray[np.floating] | float,
    images: int | None = None,
) -> Any:
    """Probability of an estimate so far from 0 on either side, were it 0 in truth.

    Parameters
    ----------
    r : correlations, or differences of them.
    error : their standard errors over images.
    images : for Student's t with one degree of freedom less; None for the normal distribution.

    Returns
    -------
    Of the shape of `r`, in [0, 1]; NaN where `r` or `error` is, or both are 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # an error of 0 leaves no doubt, or 0/0
        quotient = np.abs(np.asarray(r, dtype=np.float64) / np.asarray(error, dtype=np.float64))
    return 2 * (scipy.stats.norm.sf(quotient) if images is None else scipy.stats.t.sf(quotient, images - 1))


def p_without_signal(r: NDArray[np.floating], images: int) -> NDArray[np.float64]:
    """Probability of a correlation so high or higher where prediction and beta have nothing in common.

    By Student's t of r, which holds for normal betas and any prediction (Fisher, 1915). The error of r over images is
    smallest for the voxels whose r is high by chance; with few images it calls far too many of them found.

    Parameters
    ----------
    r : (voxels,) correlations.
    images : that each is over.

    Returns
    -------
    (voxels,) one-sided, in [0, 1]; NaN where `r` is, and of fewer than 3 images.
    """
    r = np.asarray(r, dtype=np.float64)
    if images < 3:
        return np.full(r.shape, np.nan)
    with np.errstate(divide="ignore"):  # r of 1 leaves no doubt
        return np.asarray(scipy.stats.t.sf(r * np.sqrt((images - 2) / (1 - np.square(r)).clip(0)), images - 2))


def benjamini_hochberg(p: NDArray[np.floating]) -> NDArray[np.float64]:
    """False discovery rates (Benjamini and Hochberg, 1995).

    Parameters
    ----------
    p : (voxels,) probabilities; NaN for voxels that are not tested, which do not count.

    Returns
    -------
    (voxels,) float64: the smallest rate at which the voxel is found; NaN where `p` is.
    """
    p = np.asarray(p, dtype=np.float64)
    q = np.full(p.shape, np.nan)
    tested = np.isfinite(p)
    if tested.any():
        q[tested] = scipy.stats.false_discovery_control(p[tested])
    return q


def permutation_p(
    prediction: Tensor, beta: Tensor, strata: NDArray[np.number], permutations: int, seed: int
) -> NDArray[np.float64]:
    """Probability, under permutations of the images, of a correlation as large as a voxel's.

    All voxels see the same permutations. Images are exchanged within their stratum only: betas averaged over more
    repeats vary less.

    Parameters
    ----------
    prediction, beta : (images, voxels), any float dtype.
    strata : (images,) repeats of each image, equal where images may be exchanged.
    permutations : drawn at random.
    seed : of the draws.

    Returns
    -------
    (voxels,) float64, one-sided, at least 1 / (permutations + 1); NaN where a voxel has no `pearson_r`.
    """
    above = torch.ones(prediction.shape[1], dtype=torch.float64)
    known = torch.isfinite(pearson_r(prediction, beta))
    for orders in _orders(strata, permutations, seed):
        for start in range(0, len(above), VOXELS_IN_A_BLOCK):
            block = slice(start, start + VOXELS_IN_A_BLOCK)
            p, y = (_standardised(x[:, block]).float() for x in (prediction, beta))
            least = (p * y).sum(0) - 1e-6 * len(p)  # an order that changes nothing counts, however it rounds
            for order in orders:
                above[block] += (p[order] * y).sum(0) >= least
    return torch.where(known, above / (permutations + 1), torch.nan).numpy()


def _orders(strata: NDArray[np.number], permutations: int, seed: int) -> Iterator[Tensor]:
    """Orders that keep every image in its stratum, (some, images) at a time."""
    rng = np.random.default_rng(seed)
    places = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    for start in range(0, permutations, ORDERS_AT_A_TIME):
        orders = np.tile(np.arange(len(strata)), (min(ORDERS_AT_A_TIME, permutations - start), 1))
        for stratum in places:
            orders[:, stratum] = rng.permuted(orders[:, stratum], axis=1)
        yield torch.from_numpy(orders)


def over_ceiling(
    r: NDArray[np.floating], ceiling: NDArray[np.floating], floor: float = CEILING_FLOOR
) -> NDArray[np.float64]:
    """Share of what can be explained: r over the square root of the noise ceiling.

    Parameters
    ----------
    r, ceiling : (voxels,); the ceiling is the square root of `noise_ceiling`.
    floor : of the ceiling.

    Returns
    -------
    (voxels,) float64; NaN where the ceiling is below the floor or either is not known.
    """
    ceiling = np.asarray(ceiling, dtype=np.float64)
    return np.divide(r, ceiling, out=np.full(ceiling.shape, np.nan), where=ceiling >= floor)


def noise_normalised(r: NDArray[np.floating], ceiling: NDArray[np.floating], floor: float = CEILING_FLOOR) -> float:
    """Noise-normalised accuracy of an area: sum of r over sum of ceilings.

    Which voxels count is decided by their ceiling, so by ncsnr alone, and not by how well they are predicted.

    Parameters
    ----------
    r, ceiling : (voxels,); the ceiling is the square root of `noise_ceiling`.
    floor : of the ceiling.

    Returns
    -------
    A ratio, 1 at the ceiling; NaN without a voxel that has an r and a ceiling of at least the floor.
    """
    r, ceiling = np.asarray(r, dtype=np.float64), np.asarray(ceiling, dtype=np.float64)
    used = np.isfinite(r) & (ceiling >= floor)
    return float(r[used].sum() / ceiling[used].sum()) if used.any() else float("nan")


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
