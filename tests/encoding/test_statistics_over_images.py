"""How certain accuracy is: against scipy, a bootstrap over images, and brains of known accuracy."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray

from boldreams_cli.encoding.evaluation.statistics import (
    benjamini_hochberg,
    image_error,
    influence,
    interval,
    noise_normalised,
    over_ceiling,
    p_of_r,
    p_without_signal,
    pearson_r,
    permutation_p,
)

Array = NDArray[np.float64]


class Brain:
    """Voxels of known correlation with two models, that share features and noise."""

    def __init__(self, voxels: int = 40, equal: bool = True, strength: float = 1) -> None:
        rng = np.random.default_rng(5)
        self.reading = rng.normal(size=(2, 4, voxels)) * strength
        if equal:  # both models are as good in every voxel
            self.reading /= np.linalg.norm(self.reading, axis=1, keepdims=True) / strength
        self.noise = 0.7 * rng.normal(size=(3, voxels))
        power = (self.reading**2).sum(1)
        self.r = np.sqrt(power / (power.sum(0) + (self.noise**2).sum(0) + 0.5**2))  # (models, voxels)

    def draw(self, images: int, seed: int) -> tuple[Array, Array]:
        """Predictions (models, images, voxels) and betas (images, voxels) of new images."""
        rng = np.random.default_rng([7, seed])
        predictions = rng.normal(size=(2, images, 4)) @ self.reading
        noise = rng.normal(size=(images, 3)) @ self.noise + 0.5 * rng.normal(size=(images, self.r.shape[1]))
        return predictions, predictions.sum(0) + noise


def influences(prediction: Array, beta: Array) -> Array:
    return influence(torch.tensor(prediction), torch.tensor(beta)).numpy()


def correlation(prediction: Array, beta: Array) -> Array:
    return pearson_r(torch.tensor(prediction), torch.tensor(beta)).numpy()


def test_influence_is_what_leaving_an_image_out_does() -> None:
    (prediction, _), beta = Brain(3).draw(400, 0)
    found = influences(prediction, beta)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-12)
    for image in (0, 17):
        rest = np.delete(np.arange(400), image)
        jackknife = 399 * (correlation(prediction, beta) - correlation(prediction[rest], beta[rest]))
        np.testing.assert_allclose(found[image], jackknife, atol=0.02)


def test_influence_is_unchanged_by_scale_and_offset_and_has_no_place_for_constant_voxels() -> None:
    (prediction, _), beta = Brain(3).draw(50, 0)
    moved = influences(prediction * 7 - 300, beta * 0.1 + 5)
    np.testing.assert_allclose(moved, influences(prediction, beta), atol=1e-9)
    beta[:, 1], prediction[3, 2] = 0.1, np.nan
    found = influences(prediction, beta)
    assert np.isnan(found[:, 1:]).all()
    assert np.isfinite(found[:, 0]).all()


@pytest.mark.parametrize("seed", range(3))
def test_intervals_are_scipys_where_all_is_normal(seed: int) -> None:
    (prediction, _), beta = Brain(5).draw(2000, seed)
    errors = image_error(influences(prediction, beta))
    for voxel, r in enumerate(correlation(prediction, beta)):
        theirs = scipy.stats.pearsonr(prediction[:, voxel], beta[:, voxel]).confidence_interval()
        assert interval(r, errors[voxel], 2000) == pytest.approx(theirs, abs=0.004)


def bootstrap(statistic: Callable[[NDArray[np.int64]], float], images: int) -> float:
    rng = np.random.default_rng(0)
    return float(np.std([statistic(rng.integers(images, size=images)) for _ in range(400)], ddof=1))


def test_errors_are_those_of_a_paired_bootstrap_over_images() -> None:
    (one, two), beta = Brain(equal=False).draw(300, 1)
    two = one + 0.5 * two  # models that share what they predict: the pairing tells
    mean, other = (influences(p, beta).mean(1) for p in (one, two))
    assert image_error(mean) == pytest.approx(
        bootstrap(lambda drawn: correlation(one[drawn], beta[drawn]).mean(), 300), rel=0.12
    )
    paired = image_error(mean - other)
    assert paired == pytest.approx(
        bootstrap(lambda d: (correlation(one[d], beta[d]) - correlation(two[d], beta[d])).mean(), 300), rel=0.12
    )
    assert paired < 0.8 * np.hypot(image_error(mean), image_error(other)), "the data could tell"


@pytest.mark.parametrize("images", [100, 400])
def test_intervals_over_images_cover_and_those_over_voxels_do_not(images: int) -> None:
    brain = Brain(equal=False)
    true = brain.r[0].mean()
    over_images = over_voxels = 0
    for seed in range(400):
        (prediction, _), beta = brain.draw(images, seed)
        r = correlation(prediction, beta)
        low, high = interval(r.mean(), image_error(influences(prediction, beta).mean(1)), images)
        over_images += low <= true <= high
        # What is random about r over voxels is r - true: how the voxels differ in truth is no error.
        low, high = interval(r.mean(), scipy.stats.sem(r - brain.r[0]), len(r))
        over_voxels += low <= true <= high
    assert 0.92 <= over_images / 400 <= 0.98
    assert over_voxels / 400 < 0.85


@pytest.mark.parametrize("images", [100, 400])
def test_equal_models_differ_at_the_nominal_rate_over_images_and_too_often_over_voxels(images: int) -> None:
    brain, p_images, p_voxels = Brain(), [], []
    for seed in range(400):
        (one, two), beta = brain.draw(images, seed)
        difference = correlation(one, beta) - correlation(two, beta)
        error = image_error((influences(one, beta) - influences(two, beta)).mean(1))
        p_images.append(p_of_r(difference.mean(), error, images))
        p_voxels.append(scipy.stats.ttest_1samp(difference, 0).pvalue)
    assert 0.02 <= (np.array(p_images) < 0.05).mean() <= 0.08
    assert (np.array(p_voxels) < 0.05).mean() > 0.15


def test_voxels_without_signal_are_found_at_the_nominal_rate() -> None:
    rng = np.random.default_rng(2)
    prediction, beta = rng.normal(size=(2, 200, 4000))
    r, error = correlation(prediction, beta), image_error(influences(prediction, beta))
    assert (p_of_r(r, error, 200) < 0.05).mean() == pytest.approx(0.05, abs=0.012)
    assert (p_without_signal(r, 200) < 0.05).mean() == pytest.approx(0.05, abs=0.012)
    few = slice(0, 1500)
    permuted = permutation_p(torch.tensor(prediction[:, few]), torch.tensor(beta[:, few]), np.ones(200), 199, 0)
    assert (permuted <= 0.05).mean() == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("images", [3, 10, 50])
def test_few_images_find_no_voxel_without_signal(images: int) -> None:
    """The errors over images would: they are smallest where r is high by chance."""
    rng = np.random.default_rng(images)
    prediction, beta = rng.normal(size=(2, images, 20_000))
    prediction[:, 0] = 1.0
    r = correlation(prediction[:, 1:], beta[:, 1:])
    p = p_without_signal(r, images)
    expected = scipy.stats.pearsonr(prediction[:, 1:], beta[:, 1:], alternative="greater").pvalue
    np.testing.assert_allclose(p, expected, rtol=1e-6, atol=1e-12)
    assert (p < 0.001).mean() == pytest.approx(0.001, abs=0.001)
    assert (benjamini_hochberg(p) < 0.05).sum() <= 2
    error = image_error(influences(prediction[:, 1:], beta[:, 1:]))
    assert (p_of_r(r, error, images) < 0.001).mean() > 0.003


def test_p_is_by_hand() -> None:
    assert p_of_r(1.96, 1.0) == pytest.approx(0.05, abs=1e-4)
    assert p_of_r(-1.96, 1.0) == pytest.approx(0.05, abs=1e-4)
    assert p_of_r(2.0, 1.0, images=11) == pytest.approx(2 * scipy.stats.t.sf(2, 10))
    assert np.isnan(p_of_r(np.array([0, np.nan, 0.3]), np.array([0, 1.0, np.nan]))).all()
    assert p_of_r(1.0, 0.0) == 0
    few = p_without_signal(np.array([1.0, 0.0, -1.0, np.nan]), 3)
    np.testing.assert_array_equal(few, [0, 0.5, 1, np.nan])
    assert np.isnan(p_without_signal(np.array([1.0]), 2)).all()
    for images in (1, 2):  # the r of two is 1 or -1, and no image moves it
        assert np.isnan(image_error(np.zeros(images)))
        assert np.isnan(image_error(np.zeros((images, 2)))).all()
        assert np.isnan(interval(0.5, 0.1, images)).all()


def test_benjamini_hochberg_is_scipys_and_leaves_out_what_is_not_tested() -> None:
    p = np.random.default_rng(3).uniform(size=50) ** 2
    np.testing.assert_allclose(benjamini_hochberg(p), scipy.stats.false_discovery_control(p))
    with_gaps = np.insert(p, [0, 20, 50], np.nan)
    q = benjamini_hochberg(with_gaps)
    np.testing.assert_array_equal(np.isnan(q), np.isnan(with_gaps))
    np.testing.assert_allclose(q[np.isfinite(q)], scipy.stats.false_discovery_control(p))
    assert np.isnan(benjamini_hochberg(np.full(3, np.nan))).all()


def test_permutations_are_scipys() -> None:
    rng = np.random.default_rng(4)
    prediction = rng.normal(size=(30, 3))
    beta = prediction * [0.2, 0.5, 0] + rng.normal(size=(30, 3))
    beta[:, 2] = 1
    found = permutation_p(torch.tensor(prediction), torch.tensor(beta), np.ones(30), 4000, 0)
    for voxel in range(2):
        method = scipy.stats.PermutationMethod(n_resamples=4000, random_state=1)
        theirs = scipy.stats.pearsonr(prediction[:, voxel], beta[:, voxel], alternative="greater", method=method)
        assert found[voxel] == pytest.approx(theirs.pvalue, abs=0.02)
    assert np.isnan(found[2])
    assert permutation_p(torch.tensor(beta[:, :1]), torch.tensor(beta[:, :1]), np.ones(30), 99, 0) == 1 / 100


def test_permutations_stay_within_equal_repeats_and_depend_on_the_seed_alone() -> None:
    # Prediction and betas differ between strata only: no permutation within them changes r.
    strata = np.repeat([1, 3], 20)
    rng = np.random.default_rng(6)
    between = torch.tensor(strata * 1.0)[:, None].expand(-1, 300)
    assert (permutation_p(between, between, strata, 50, 0) == 1).all()
    assert (permutation_p(between[:, :1], between[:, :1], np.ones(40), 50, 0) < 0.1).all(), "the data could tell"
    for half in (slice(20), slice(20, 40)):  # the images of either stratum are exchanged
        same = torch.zeros(40, 1)
        same[half, 0] = torch.arange(20.0)
        assert permutation_p(same, same, strata, 99, 0) == 0.01
    prediction, beta = torch.tensor(rng.normal(size=(2, 40, 300)))
    one = permutation_p(prediction, beta, strata, 50, 1)
    np.testing.assert_array_equal(one, permutation_p(prediction, beta, strata, 50, 1))
    assert (one != permutation_p(prediction, beta, strata, 50, 2)).any()
    np.testing.assert_array_equal(one[290:], permutation_p(prediction[:, 290:], beta[:, 290:], strata, 50, 1))


def test_more_permutations_than_are_held_are_different_ones() -> None:
    prediction, beta = torch.tensor(np.random.default_rng(8).normal(size=(2, 6, 50)))
    found = permutation_p(prediction, beta, np.ones(6), 10_000, 0)
    orders = np.array(list(itertools.permutations(range(6))))
    sums = (prediction.numpy()[orders] * beta.numpy()).sum(1)
    exact = (sums >= (prediction * beta).sum(0).numpy() - 1e-9).mean(0)
    assert np.sqrt(((found - exact) ** 2).mean()) < 0.006, "of as many as were asked for; of 1,000 it is 0.013"


def test_accuracy_is_over_voxels_whose_ceiling_reaches_the_floor() -> None:
    r, ceiling = np.array([0.3, 0.1, 0.5, np.nan, 0.2]), np.array([0.6, 0.19, 0.5, 0.9, np.nan])
    np.testing.assert_allclose(over_ceiling(r, ceiling), [0.5, np.nan, 1, np.nan, np.nan])
    assert noise_normalised(r, ceiling) == pytest.approx((0.3 + 0.5) / (0.6 + 0.5))
    assert noise_normalised(r, ceiling, floor=0.1) == pytest.approx(0.9 / 1.29)
    assert np.isnan(noise_normalised(r[1:2], ceiling[1:2]))
