"""Where on the line from baseline to image to look at the gradient, and how much each place counts; pure arrays.

Along the line the gradient of a network of rectifiers is constant but for thousands of small jumps, so that over a
stretch it changes like a random walk: the square of the change grows as the stretch does. Then the best estimate of the
integral from any set of places is the mean of the gradients, each weighed by the length of the line that is nearest to
it, and the change from one place to the next says what is missed between them.

Both kinks of a ReLU6 are such jumps. Where units open and close again within one gap, the gradients at its ends know
nothing of it, but the responses do (`misses`). Of smooth rectifiers (SiLU, Hardswish, GELU) the gradient changes
steadily, of which halves of gaps miss less than of a walk: too many places are taken then, never too few.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

GRADING = 1.5  # of the first places: that power of even ones
END, BETWEEN = 0.5, 1.0  # parts of a gap, in spacings, before any place is put into it

Floats = NDArray[np.float64]


def first_places(count: int) -> Floats:
    """(count,) places in (0, 1), closer to 0, where gradients mostly jump: near a black image little drives the net."""
    return ((np.arange(count) + 0.5) / count) ** GRADING


def lengths_nearest(places: Floats) -> Floats:
    """(n,) the length of [0, 1] that is nearest to each of (n,) places in ascending order; they sum to 1."""
    return np.diff(np.concatenate([[0], (places[1:] + places[:-1]) / 2, [1]]))


def expected_errors(places: Floats, changes: Floats) -> Floats:
    """What is missed in each gap: below the first place, between two, above the last.

    A random walk seen at both ends of a gap of length L strays from the straight line between them by L times its
    change over sqrt(12), in the mean over the gap; seen at one end only, by twice that.

    Parameters
    ----------
    places : (n,) in ascending order in (0, 1).
    changes : (n - 1,) size of the integrand's change from one place to the next.

    Returns
    -------
    (n + 1,) standard deviations, in the unit of the changes.
    """
    gaps = np.diff(places, prepend=0, append=1)
    if len(places) < 2:
        return np.zeros(len(gaps))
    between = gaps[1:-1] * changes / np.sqrt(12)
    rates = changes / np.sqrt(gaps[1:-1])  # of the walk
    ends = gaps[[0, -1]] ** 1.5 * rates[[0, -1]] / np.sqrt(3)
    return np.concatenate([ends[:1], between, ends[1:]])


def misses(places: Floats, responses: Floats, slopes: Floats) -> Floats:
    """What the sum over all pixels lacks in each gap, which the responses tell without further passes.

    Parameters
    ----------
    places : (n,) in ascending order in (0, 1).
    responses : (n + 2,) at 0, at the places, and at 1.
    slopes : (n,) of the response, at the places.

    Returns
    -------
    (n + 1,) signed, in the unit of the responses.
    """
    gaps = np.diff(places, prepend=0, append=1)
    ends = np.concatenate([slopes[:1], slopes, slopes[-1:]])
    changes: Floats = np.diff(responses) - gaps * (ends[1:] + ends[:-1]) / 2
    return changes


def spread(errors: Floats, count: int, enough: float) -> NDArray[np.int64]:
    """How many new places to put into each gap, so that together they miss least.

    m places, evenly put, divide the error of a gap between two places by m + 1, that of a gap at an end by 2 m + 1.

    Parameters
    ----------
    errors : (gaps,) of each gap as it is; the first and the last are at the ends.
    count : of new places at most.
    enough : root of the sum of squared errors at which no more are needed.

    Returns
    -------
    (gaps,) numbers that sum to `count` or less.
    """
    parts = np.full(len(errors), BETWEEN)
    parts[[0, -1]] = END
    new = np.zeros(len(errors), np.int64)
    left = float((errors**2).sum())

    def gained(gap: int) -> float:
        before, after = (parts[gap] / (new[gap] + parts[gap] + more) for more in (0, 1))
        return float(errors[gap] ** 2 * (before**2 - after**2))

    waiting = [(-gained(gap), gap) for gap in range(len(errors))]
    heapq.heapify(waiting)
    while count > 0 and left > enough**2:
        gain, gap = waiting[0]
        new[gap] += 1
        heapq.heapreplace(waiting, (-gained(gap), gap))
        left, count = left + gain, count - 1
    return new


def in_gaps(places: Floats, new: NDArray[np.int64]) -> Floats:
    """Put so many new places evenly into each gap; half a spacing is left before the ends of the line.

    Parameters
    ----------
    places : (n,) in ascending order in (0, 1).
    new : (n + 1,) numbers of `spread`.

    Returns
    -------
    (sum of new,) ascending.
    """
    edges = np.concatenate([[0], places, [1]])
    found = []
    for gap, (start, stop, count) in enumerate(zip(edges[:-1], edges[1:], new, strict=True)):
        before = END if gap == 0 else BETWEEN
        after = END if gap == len(new) - 1 else BETWEEN
        found.append(start + (stop - start) * (before + np.arange(count)) / (before + after + count - 1))
    return np.concatenate(found)
