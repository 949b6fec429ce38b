"""Noise ceilings of several kinds as one number a unit: the signal-to-noise ratio of a single presentation (ncsnr)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HIGH_NCSNR = 10  # a single presentation of which 99 % were signal


def ncsnr_of(values: NDArray[np.floating], kind: str, repeats: NDArray[np.integer]) -> NDArray[np.float32]:
    """Signal-to-noise ratio from a ceiling.

    The share of explainable variance of betas averaged over n presentations is NC = s² / (s² + 1/n), s the ratio of the
    standard deviations of signal and noise; so s² = NC / (1 - NC) / n. Over a test, 1/n is the mean over its images.

    Parameters
    ----------
    values : (units,) of that kind.
    kind : ``ncsnr``; or the share in percent, of a ``single-trial`` (n = 1) or of the ``test-set``'s averages.
    repeats : (test images,) presentations of each, all rows together.

    Returns
    -------
    (units,) float32; NaN where the value is, or is no share: below 0, or 100 % and more.
    """
    found = np.asarray(values, np.float64)
    if kind == "ncsnr":
        return np.where(found >= 0, found, np.nan).astype(np.float32)
    noise = 1.0 if kind == "single-trial" else float((1 / np.asarray(repeats, np.float64)).mean())
    share = np.where((found >= 0) & (found < 100), found, np.nan) / 100
    return np.sqrt(noise * share / (1 - share)).astype(np.float32)


def undefined(values: NDArray[np.floating], kind: str) -> int:
    """How many units have a value that is no ceiling, apart from those that are NaN."""
    wrong = (values < 0) if kind == "ncsnr" else (values < 0) | (values >= 100)
    return int((wrong | np.isinf(values)).sum())


def unlikely(values: NDArray[np.floating], kind: str) -> str:
    """Say what is unlikely about a ceiling's unit; empty if nothing is."""
    largest = float(np.max(values, where=np.isfinite(values), initial=0))
    if kind == "ncsnr":
        return f"the largest ncsnr is {largest:g}; is it a percentage?" if largest > HIGH_NCSNR else ""
    return f"the largest is {largest:g} %; is it a share, to be multiplied by 100?" if 0 < largest <= 1 else ""
