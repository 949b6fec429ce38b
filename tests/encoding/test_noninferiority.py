"""The minimal percent: against scipy, by hand, and on simulated brains whose answer is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import scipy.stats

from benchmarks.minimal import chosen, rates
from boldreams_cli.encoding.evaluation.certainty.noninferiority import (
    Minimal,
    largest_over_subjects,
    smallest_sufficient,
)
from boldreams_cli.simulation.nested import NestedBrain

IMAGES = 200


def answer(accuracy: Mapping[float, float], noise: float, margin: float = 0.02, **more: float) -> Minimal:
    """Of influences that are the same for all percents but for noise."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=IMAGES)
    influences = {percent: common + noise * rng.normal(size=IMAGES) for percent in accuracy}
    return smallest_sufficient(accuracy, influences, margin, **more)


def test_bounds_are_those_of_scipys_t_test() -> None:
    rng = np.random.default_rng(1)
    base, mine = rng.normal(size=(2, IMAGES))
    base, mine = base - base.mean(), mine - mine.mean()  # influences have mean 0
    found = smallest_sufficient({100: 0.6, 10: 0.55}, {100: base, 10: mine}, margin=0.03)
    values = 0.55 - 0.97 * 0.6 + mine - 0.97 * base
    above, below = (scipy.stats.ttest_1samp(values, 0, alternative=side) for side in ("greater", "less"))
    assert found.of(10).lower == pytest.approx(above.confidence_interval(0.95).low)
    assert found.of(10).upper == pytest.approx(below.confidence_interval(0.95).high)
    worse = scipy.stats.ttest_1samp(-0.05 + mine - base, 0, alternative="less")
    assert found.of(10).not_worse == (worse.pvalue >= 0.05)
    assert found.of(10).difference_error == pytest.approx(scipy.stats.sem(mine - base))
    assert found.of(10).error == pytest.approx(scipy.stats.sem(mine))


def test_the_first_failure_ends_it() -> None:
    found = answer({100: 0.6, 50: 0.598, 25: 0.57, 10: 0.599, 5: 0.5}, noise=0.001)
    assert found.of(10).not_inferior, "it would pass by itself"
    assert found.percent == 50
    assert found.resolvable
    assert [item.percent for item in found.tested] == [100, 50, 25, 10, 5]


def test_few_images_cannot_resolve_the_margin() -> None:
    found = answer({100: 0.6, 50: 0.6, 10: 0.6}, noise=0.5)
    assert (found.percent, found.percent_low) == (100, 10)
    assert not found.resolvable
    assert answer({100: 0.6, 50: 0.2}, noise=0.5).resolvable, "half the filters are worse beyond doubt"
    assert answer({100: 0.6, 50: 0.6, 10: 0.6}, noise=0.001).resolvable


def test_a_loss_within_the_margin_is_seen_and_accepted() -> None:
    found = answer({100: 0.6, 50: 0.6, 10: 0.595}, noise=0.001)
    assert (found.percent, found.percent_low) == (10, 50)


def test_seeds_bound_the_margin_from_below() -> None:
    accuracy = {100: 0.6, 10: 0.585}
    assert answer(accuracy, 0.001).percent == 100
    wider = answer(accuracy, 0.001, spread=0.012)
    assert (wider.percent, wider.asked) == (10, 0.02)
    assert wider.margin == pytest.approx(0.04)
    assert answer(accuracy, 0.001, margin=0.05, spread=0.012).margin == 0.05


def test_the_reference_is_another_percent() -> None:
    found = answer({100: 0.4, 50: 0.5, 25: 0.6, 10: 0.595, 1: 0.3}, noise=0.001, reference=25)
    assert (found.reference, found.percent) == (25, 10)
    assert found.of(25).difference == 0
    assert not found.of(100).not_inferior, "shown, and not tested"


@pytest.mark.parametrize("accuracy", [0.001, -0.2])
def test_no_accuracy_no_answer(accuracy: float) -> None:
    found = answer({100: accuracy, 10: accuracy}, noise=0.5)
    assert (found.percent, found.resolvable) == (None, False)


def test_two_images_answer_nothing() -> None:
    influences = {percent: np.array([0.1, -0.1]) for percent in (100.0, 10.0)}
    found = smallest_sufficient({100.0: 0.5, 10.0: 0.4}, influences, 0.02)
    assert (found.percent, found.percent_low, found.resolvable) == (None, 100, False)


def test_a_margin_of_all_accuracy_answers_nothing() -> None:
    found = answer({100: 0.05, 50: 0.01, 10: -0.02}, noise=0.001, spread=0.06)
    assert found.margin > 1
    assert (found.percent, found.resolvable) == (None, False)
    assert answer({100: 0.5, 10: 0.5}, noise=0.001, spread=0.2).percent == 10


def test_over_subjects_the_largest() -> None:
    few = answer({100: 0.6, 50: 0.598, 10: 0.599}, noise=0.001)
    more = answer({100: 0.6, 50: 0.598, 10: 0.5}, noise=0.001)
    none = answer({100: -0.2, 10: -0.2}, noise=0.5)
    assert largest_over_subjects({1: few, 2: more}) == (50, True)
    assert largest_over_subjects({1: few, 2: none}) == (None, False)


@pytest.mark.parametrize(("images", "brains"), [(100, 1000), (1000, 300)])
def test_an_insufficient_percent_is_chosen_at_most_at_the_nominal_rate(images: int, brains: int) -> None:
    found = rates(images, brains)
    error = np.sqrt(0.05 * 0.95 / brains)
    assert found["not inferior"] <= 0.05 + 2 * error
    if images == 100:
        assert found["not significantly worse"] > 0.3, "what the reference rule gets wrong"
        assert found["within one error over voxels"] > 0.5


def test_enough_images_give_the_right_answer() -> None:
    brain = NestedBrain(noise=1, voxels=60, features=10)
    rng = np.random.default_rng(3)
    found, _ = chosen(brain, 4000, 0.02, rng)
    assert (found.percent, found.resolvable) == (25, True)
    for percent, truth in brain.truth().items():
        known = found.of(percent)
        assert abs(known.accuracy - truth) < 4 * known.error
