"""How reliable voxels are, from the repeats of images themselves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def ncsnr_of_repeats(betas: NDArray[np.floating], rows: NDArray[np.integer]) -> NDArray[np.float64]:
    """Ratio of signal to noise, standard deviation by standard deviation, of images that were shown a few times each.

    The noise is the variance within images, pooled over all (weighted by repeats - 1). The signal is the variance of
    the images' means, less the noise that is left in them: noise * mean(1 / repeats). So each image counts once, as it
    does in a correlation over images; NSD's own ncsnr (`data.reliability`) takes the variance of all trials, in which
    images that were shown more often count more.

    Parameters
    ----------
    betas : (T, V) single trials.
    rows : (T,) of 0 to n - 1, the image of each trial.

    Returns
    -------
    (V,) float64, 0 where images vary no more than noise does; NaN where trials are constant or not finite, or no
    image was repeated.
    """
    values = np.asarray(betas, dtype=np.float64)
    counts = np.bincount(rows)
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, rows, values)
    means = sums / counts[:, None]
    free = int((counts - 1).sum())
    if free == 0 or len(counts) < 2:
        return np.full(values.shape[1], np.nan)
    noise = ((values - means[rows]) ** 2).sum(0) / free
    signal = np.maximum(means.var(0, ddof=1) - noise * (1 / counts).mean(), 0)
    return np.sqrt(np.divide(signal, noise, out=np.full(noise.shape, np.nan), where=noise > 0))


def means_of_repeats(betas: NDArray[np.floating], rows: NDArray[np.integer]) -> NDArray[np.float32]:
    """(n, V) betas averaged over the trials of each image; sums in float64, NaN where any trial is."""
    counts = np.bincount(rows)
    sums = np.zeros((len(counts), betas.shape[1]))
    np.add.at(sums, rows, np.asarray(betas, dtype=np.float64))
    return (sums / counts[:, None]).astype(np.float32)
