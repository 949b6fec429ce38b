"""The litmus test of figure 5 as a number: dreams of bands further from fixation have their contrast further out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

RINGS = 16
WINDOW = 1 / 40  # standard deviation of the window that local contrast is taken over, in image widths


@dataclass(frozen=True)
class Profile:
    """Where in an image its contrast lies.

    Parameters
    ----------
    radius : (rings,) middle of each ring, 0 at the image's centre, 1 at the middle of its sides.
    contrast : (rings,) mean in each.
    """

    radius: NDArray[np.float64]
    contrast: NDArray[np.float64]

    @property
    def mean_radius(self) -> float:
        """Radius, weighted by contrast, each ring counting the same whatever its area; NaN of a blank image."""
        total = self.contrast.sum()
        return float((self.radius * self.contrast).sum() / total) if total > 0 else float("nan")


def local_contrast(images: NDArray[np.floating]) -> NDArray[np.float64]:
    """Standard deviation of pixels around their local mean, all colours together.

    Parameters
    ----------
    images : (n, 3, H, W) in [0, 1].

    Returns
    -------
    (n, H, W).
    """
    values = np.asarray(images, np.float64)
    window = (0, 0, WINDOW * values.shape[-2], WINDOW * values.shape[-1])
    variance = gaussian_filter(values**2, window) - gaussian_filter(values, window) ** 2
    return np.sqrt(np.clip(variance, 0, None).sum(1))


def radial_profile(images: NDArray[np.floating], rings: int = RINGS) -> Profile:
    """Mean local contrast in rings around the image's centre, mean over images.

    Parameters
    ----------
    images : (n, 3, H, W) in [0, 1].
    rings : of equal width; what lies further from the centre than the middle of a side is left out.
    """
    contrast = local_contrast(images).mean(0)
    height, width = contrast.shape
    y, x = np.mgrid[:height, :width]
    distance = np.hypot((2 * y + 1) / height - 1, (2 * x + 1) / width - 1)
    ring = np.minimum((distance * rings).astype(int), rings)
    counts = np.bincount(ring.ravel(), minlength=rings + 1)[:rings]
    sums = np.bincount(ring.ravel(), weights=contrast.ravel(), minlength=rings + 1)[:rings]
    return Profile((np.arange(rings) + 0.5) / rings, sums / np.maximum(counts, 1))


def band(area: str) -> int | None:
    """The rank of an eccentricity band, 1 the innermost; None of any other area.

    A band of chosen voxels, ``ecc_1 (r >= 0.2)``, is that band.
    """
    match = re.fullmatch(r"ecc[-_]?(\d+)( \([^()]*\))?", area.strip(), re.IGNORECASE)
    return int(match[1]) if match else None


@dataclass(frozen=True)
class Litmus:
    """How well the dreams' contrast follows the bands.

    Parameters
    ----------
    areas : by rank.
    radius : mean radius of each one's contrast.
    correlation : Spearman's, of radius with rank; 1 where each band's contrast lies further out than the last's.
    """

    areas: tuple[str, ...]
    radius: tuple[float, ...]
    correlation: float


def litmus(profiles: Mapping[str, Profile]) -> Litmus | None:
    """The test, of areas and their dreams' profiles; None of fewer than three bands, which prove nothing."""
    ranks = {area: rank for area in profiles if (rank := band(area)) is not None}
    areas: Sequence[str] = sorted(ranks, key=ranks.__getitem__)
    if len(areas) < 3:
        return None
    radius = [profiles[area].mean_radius for area in areas]
    found = spearmanr([ranks[area] for area in areas], radius)
    return Litmus(tuple(areas), tuple(radius), float(found.statistic))
