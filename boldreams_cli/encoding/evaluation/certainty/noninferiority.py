"""The smallest percent of filters that is not inferior (paper, section 4: the maximally minimal model); pure functions.

A smaller model "suffices" is a claim of non-inferiority: its accuracy falls short of the reference's by less than a
margin that was fixed beforehand, and the data show it. That no difference was found shows nothing: with few images
nothing is ever found. Percents are tested in descending order, each at the whole level, and the first that fails ends
it, so that over all percents an insufficient one is chosen with probability `alpha` at most (fixed sequence: Maurer,
Hothorn & Lehmacher 1995; Westfall & Krishen 2001). The random sample is the test images, paired by image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.data.subjects import Subject
from boldreams_cli.encoding.evaluation.statistics import image_error, interval

ALPHA = 0.05  # of each one-sided test
SPREADS = 2  # the margin is not below so many standard deviations over seeds


@dataclass(frozen=True)
class Tested:
    """One percent against the reference.

    Parameters
    ----------
    percent : of the filters.
    accuracy, error : noise-normalised accuracy of the area, its standard error over images.
    difference, difference_error : from the reference's accuracy, paired by image.
    lower, upper : one-sided bounds of ``accuracy - (1 - margin) * reference accuracy``.
    not_worse : not significantly below the reference; says little by itself.
    """

    percent: float
    accuracy: float
    error: float
    difference: float
    difference_error: float
    lower: float
    upper: float
    not_worse: bool

    @property
    def not_inferior(self) -> bool:
        """Whether the data show that it falls short by less than the margin."""
        return self.lower > 0


@dataclass(frozen=True)
class Minimal:
    """The answer for one area.

    Parameters
    ----------
    percent : p_min, the smallest percent not inferior; None where not even the reference's accuracy is above zero.
    percent_low : p_lo, the smallest percent not significantly worse. A wide [p_lo, p_min] says that the data cannot
        tell; a p_lo above p_min, that there is a loss and that it is less than the margin.
    reference : percent that the others are compared with.
    margin : in use, relative to the reference's accuracy; `asked`, or more where seeds differ by more.
    asked : the margin that was asked for.
    resolvable : False where the percent that ended the sequence failed for want of images: it could not have
        passed had it been as good as the reference, and no loss is shown either.
    tested : all percents, in descending order.
    """

    percent: float | None
    percent_low: float
    reference: float
    margin: float
    asked: float
    resolvable: bool
    tested: tuple[Tested, ...]

    def of(self, percent: float) -> Tested:
        """The comparison of one percent with the reference."""
        return next(item for item in self.tested if item.percent == percent)


def smallest_sufficient(
    accuracy: Mapping[float, float],
    influences: Mapping[float, NDArray[np.float64]],
    margin: float,
    reference: float = 100.0,
    spread: float = 0.0,
    alpha: float = ALPHA,
) -> Minimal:
    """Find the smallest percent that is not inferior to the reference.

    Parameters
    ----------
    accuracy : percent -> noise-normalised accuracy A of the area.
    influences : percent -> (images,) influence of each test image on A; all over the same images and voxels.
    margin : relative to the reference's A, e.g. 0.02.
    reference : percent, one of them; chosen without the test images. Percents above it are shown and not tested.
    spread : standard deviation of the reference's A over seeds; the margin is not below twice that.
    alpha : level of each one-sided test, and of the whole sequence.

    Returns
    -------
    The answer, with all comparisons.
    """
    base = accuracy[reference]
    used = max(margin, SPREADS * spread / base) if base > 0 else margin
    tested = {
        percent: _against(percent, accuracy, influences, reference, used, alpha)
        for percent in sorted(accuracy, reverse=True)
    }
    sequence = [item for percent, item in tested.items() if percent <= reference]
    failed = next((place for place, item in enumerate(sequence) if not item.not_inferior), None)
    # A margin as large as the accuracy itself says nothing: no accuracy at all would hold it.
    held = sequence[:failed] if used < 1 else []
    return Minimal(
        percent=held[-1].percent if held else None,
        percent_low=min((item.percent for item in sequence if item.not_worse), default=reference),
        reference=reference,
        margin=used,
        asked=margin,
        resolvable=bool(held) and (failed is None or _resolved(sequence[failed], used * base)),
        tested=tuple(tested.values()),
    )


def _against(
    percent: float,
    accuracy: Mapping[float, float],
    influences: Mapping[float, NDArray[np.float64]],
    reference: float,
    margin: float,
    alpha: float,
) -> Tested:
    """Compare one percent with the reference, within the margin and without one."""
    mine, base = influences[percent], influences[reference]
    images, level = len(mine), 1 - 2 * alpha  # each end of a two-sided interval is a one-sided bound
    difference, error = accuracy[percent] - accuracy[reference], float(image_error(mine - base))
    within = accuracy[percent] - (1 - margin) * accuracy[reference]
    lower, upper = interval(within, image_error(mine - (1 - margin) * base), images, level)
    _, highest = interval(difference, error, images, level)
    own = float(image_error(mine))
    return Tested(
        percent, accuracy[percent], own, difference, error, float(lower), float(upper), not_worse=bool(highest >= 0)
    )


def _resolved(failed: Tested, margin: float) -> bool:
    """Whether a failure says something of the percent: its bounds are within the (absolute) margin, or it is worse."""
    return (failed.upper - failed.lower) / 2 <= margin or failed.upper < 0 or not failed.not_worse


def largest_over_subjects(answers: Mapping[Subject, Minimal]) -> tuple[float | None, bool]:
    """The percent that suffices for each of some subjects.

    Parameters
    ----------
    answers : subject -> its answer.

    Returns
    -------
    The largest of their percents, None where a subject has none; whether the data of all could resolve the margin.
    """
    percents = [answer.percent for answer in answers.values()]
    known = [percent for percent in percents if percent is not None]
    largest = max(known) if known and len(known) == len(percents) else None
    return largest, all(answer.resolvable for answer in answers.values())
