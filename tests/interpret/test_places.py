"""Where gradients are looked at: against random walks, of which the errors are known, and against all other choices."""

from itertools import product

import numpy as np
import pytest

from boldreams_cli.interpret.attribution.places import (
    expected_errors,
    first_places,
    in_gaps,
    lengths_nearest,
    misses,
    spread,
)


def test_lengths_are_of_what_is_nearest() -> None:
    places = np.array([0.1, 0.2, 0.7])
    np.testing.assert_allclose(lengths_nearest(places), [0.15, 0.3, 0.55])
    line = np.linspace(0, 1, 100001)
    nearest = np.abs(line[:, None] - places).argmin(1)
    np.testing.assert_allclose(np.bincount(nearest) / len(line), lengths_nearest(places), atol=1e-4)


def test_first_places_are_closer_to_black() -> None:
    places = first_places(16)
    assert 0 < places[0] < places[-1] < 1
    assert (np.diff(places, 2) > 0).all()
    np.testing.assert_allclose(lengths_nearest(first_places(1)), [1])


def test_expected_errors_are_those_of_random_walks() -> None:
    """Each gap's miss, over many walks; seen by one end, a gap misses twice as much as by two."""
    rng = np.random.default_rng(0)
    steps, places = 2000, np.array([0.1, 0.2, 0.5, 0.9])
    walks = rng.normal(size=(4000, steps)).cumsum(1) / np.sqrt(steps)
    line = (np.arange(steps) + 0.5) / steps
    at = walks[:, (places * steps).astype(int)]
    missed = []
    for start, stop in zip([0, *places], [*places, 1], strict=True):
        inside = (line > start) & (line < stop)
        seen = [at[:, list(places).index(end)] for end in (start, stop) if 0 < end < 1]
        missed.append(walks[:, inside].sum(1) / steps - (stop - start) * np.mean(seen, 0))
    changes = np.diff(at, axis=1)
    expected = np.sqrt(np.mean([expected_errors(places, np.abs(each)) ** 2 for each in changes], axis=0))
    np.testing.assert_allclose(np.std(missed, axis=1), expected, rtol=0.1)


def missed(errors: np.ndarray, new: np.ndarray) -> float:
    parts = np.array([0.5, *[1] * (len(errors) - 2), 0.5])
    return float(((errors * parts / (new + parts)) ** 2).sum())


def test_no_other_way_to_spread_places_misses_less() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        errors = rng.lognormal(0, 1.5, 4)
        best = min(missed(errors, np.array(new)) for new in product(range(7), repeat=4) if sum(new) == 6)
        found = spread(errors, 6, 0)
        assert found.sum() == 6
        assert missed(errors, found) == pytest.approx(best)


def test_no_more_places_than_are_enough() -> None:
    errors = np.array([0.1, 3.0, 1.0, 0.1])
    found = spread(errors, 1000, 0.5)
    assert missed(errors, found) <= 0.25
    fewer = found.copy()
    fewer[1] -= 1
    assert missed(errors, fewer) > 0.25
    assert spread(errors, 1000, 5).sum() == 0
    assert spread(np.zeros(4), 10, 0).sum() == 0


def test_new_places_lie_evenly_in_their_gaps() -> None:
    found = in_gaps(np.array([0.3, 0.6]), np.array([1, 2, 2]))
    np.testing.assert_allclose(found, [0.1, 0.4, 0.5, 0.6 + 0.16, 0.6 + 0.32])
    assert in_gaps(np.array([0.3]), np.array([0, 0])).size == 0


def test_misses_are_what_the_trapezoids_lack() -> None:
    """Of x², whose slope is 2 x: 0 between places, and at the ends what a constant slope lacks."""
    places = np.array([0.2, 0.5, 0.9])
    found = misses(places, np.array([0, *places, 1]) ** 2, 2 * places)
    np.testing.assert_allclose(found, [0.04 - 0.08, 0, 0, 0.19 - 0.18], atol=1e-12)
