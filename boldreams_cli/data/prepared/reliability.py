"""How reliable units are, from the repeats of images in their betas (NSD data manual, "Noise ceiling")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ESTIMATED = "estimated from repeats"  # what such a ceiling is called
LEAST_FREE = 10  # trials beyond the first ones of their images: from fewer, the noise is a guess (30 % off and more)
UNITS_IN_A_BLOCK = 64  # that are held in float64 at once
NO_NOISE = 1e-12  # of the variance: repeats that differ less are copies, which say nothing of noise


@dataclass(frozen=True)
class Repeats:
    """Images with several trials.

    Parameters
    ----------
    images : how many there are.
    free : their trials beyond the first: the degrees of freedom of the noise.
    """

    images: int
    free: int

    @classmethod
    def of(cls, images: NDArray[np.integer]) -> Repeats:
        """Count them; (trials,) the image of each."""
        counts = np.unique(images, return_counts=True)[1]
        return cls(int((counts > 1).sum()), int((counts - 1).sum()))

    @property
    def enough(self) -> bool:
        """Whether noise can be estimated from them."""
        return self.free >= LEAST_FREE


def said_of_ceiling(source: str | None, images: int | None) -> str:
    """Where noise ceilings come from, for people."""
    if source is None:
        return "no noise ceiling: the data have none, nor repeats enough to estimate it; r can be compared with nothing"
    return f"noise ceiling: {source}" + ("" if images is None else f" of {images} images")


def ncsnr_from_repeats(
    betas: NDArray[np.floating], images: NDArray[np.integer], presentations: NDArray[np.integer] | None = None
) -> NDArray[np.float32]:
    """Standard deviation of the signal by that of the noise of one presentation, from z-scored betas.

    The noise is the variance among the trials of one image, unbiased and pooled over the images with several: where all
    have as many, the mean over images, as NSD's manual has it. The signal is what the noise leaves of the variance of
    all trials (1 where they are z-scored), or 0. A row that is the average of n presentations has an n-th of the noise.

    Parameters
    ----------
    betas : (trials, units) z-scored; of all images, those shown once as well.
    images : (trials,) the image of each.
    presentations : (trials,) that each row is the average of; None where each is one.

    Returns
    -------
    (units,) float32, 0 where trials vary no more than the noise does; NaN where a beta is not finite, or repeats are
    copies of one another, or there are none.
    """
    order = np.argsort(images, kind="stable")
    _, starts, counts = np.unique(images[order], return_index=True, return_counts=True)
    ncsnr = np.full(betas.shape[1], np.nan, np.float32)
    free = int((counts - 1).sum())
    if not free:
        return ncsnr
    weights = np.ones(len(images)) if presentations is None else np.asarray(presentations, np.float64)[order]
    sums = np.add.reduceat(weights, starts)
    of_a_row = (1 / weights).mean()
    for start in range(0, betas.shape[1], UNITS_IN_A_BLOCK):
        part = slice(start, start + UNITS_IN_A_BLOCK)
        values = betas[:, part].astype(np.float64)[order]
        means = np.add.reduceat(values * weights[:, None], starts, axis=0) / sums[:, None]
        apart = values - np.repeat(means, counts, axis=0)
        noise = (weights[:, None] * apart**2).sum(0) / free
        total = values.var(0)
        signal = np.maximum(total - noise * of_a_row, 0)
        known = noise > NO_NOISE * total
        ncsnr[part] = np.sqrt(np.divide(signal, noise, out=np.full(noise.shape, np.nan), where=known))
    return ncsnr
