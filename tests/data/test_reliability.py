"""Noise ceilings from repeats: against simulations of a known one, and against NSD's manual written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from boldreams_cli.data.prepared.reliability import LEAST_FREE, Repeats, ncsnr_from_repeats
from boldreams_cli.encoding.evaluation.statistics import noise_ceiling

Drawn = tuple[np.ndarray, np.ndarray]


def drawn(ncsnr: float, counts: np.ndarray, units: int = 300, presentations: np.ndarray | None = None) -> Drawn:
    """Z-scored betas of images shown a few times each, in random order, and the image of each trial."""
    rng = np.random.default_rng(0)
    images = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    noise = rng.standard_normal((len(images), units))
    if presentations is not None:
        noise /= np.sqrt(presentations)[:, None]
    betas = ncsnr * rng.standard_normal((len(counts), units))[images] + noise
    return scipy.stats.zscore(betas, axis=0).astype(np.float32), 7 * images + 3


@pytest.mark.parametrize("ncsnr", [0.3, 1.0, 2.0])
@pytest.mark.parametrize(
    "counts", [np.full(300, 3), np.array([1] * 500 + [12] * 40), np.array([1, 2, 3, 4] * 100)], ids=["3", "test", "mix"]
)
def test_it_recovers_what_was_drawn(ncsnr: float, counts: np.ndarray) -> None:
    found = ncsnr_from_repeats(*drawn(ncsnr, counts))
    assert np.median(found) == pytest.approx(ncsnr, abs=0.03)
    assert np.std(found) < 0.15 * (1 + ncsnr)


def test_averaged_rows_have_less_noise() -> None:
    presentations = np.tile([1, 4, 2], 300)
    found = ncsnr_from_repeats(*drawn(0.8, np.full(300, 3), presentations=presentations), presentations)
    assert np.median(found) == pytest.approx(0.8, abs=0.03)
    ignored = ncsnr_from_repeats(*drawn(0.8, np.full(300, 3), presentations=presentations))
    assert np.median(ignored) > 1


def test_it_is_what_the_manual_says() -> None:
    """Of three trials of each image: the mean over images of the unbiased variance is noise, what it leaves signal."""
    betas, images = drawn(0.5, np.full(80, 3), units=150)
    own = [betas[images == image].astype(np.float64) for image in np.unique(images)]
    noise = np.mean([trials.var(0, ddof=1) for trials in own], axis=0)
    wanted = np.sqrt(np.maximum(0, 1 - noise) / noise)
    assert (wanted == 0).any() or wanted.min() > 0
    np.testing.assert_allclose(ncsnr_from_repeats(betas, images), wanted, rtol=1e-4, atol=1e-4)


def test_units_that_are_noise_alone_have_none_and_never_less() -> None:
    found = ncsnr_from_repeats(*drawn(0.0, np.full(60, 2)))
    assert (found >= 0).all()
    assert 0.3 < (found == 0).mean() < 0.7
    assert (noise_ceiling(found, np.full(60, 2)) >= 0).all()


def test_units_do_not_touch_one_another_and_order_is_nothing() -> None:
    betas, images = drawn(0.7, np.full(20, 3), units=130)  # more than two blocks
    found = ncsnr_from_repeats(betas, images)
    turned = np.random.default_rng(1).permutation(len(images))
    np.testing.assert_allclose(ncsnr_from_repeats(betas[turned], images[turned]), found, rtol=1e-5)
    np.testing.assert_array_equal(ncsnr_from_repeats(betas[:, 100:101], images), found[100:101])


def test_what_cannot_be_estimated_is_nan() -> None:
    betas, images = drawn(0.7, np.full(20, 3), units=4)
    betas[5, 1], betas[:, 2] = np.nan, 3
    betas[:, 3] = betas[:, 3][np.searchsorted(np.unique(images), images)]  # copies of one another
    found = ncsnr_from_repeats(betas, images)
    assert np.isfinite(found).tolist() == [True, False, False, False]
    assert np.isnan(ncsnr_from_repeats(betas, np.arange(60))).all()


def test_repeats_are_counted() -> None:
    assert Repeats.of(np.array([4, 4, 9, 1, 4, 9])) == Repeats(images=2, free=3)
    assert not Repeats.of(np.arange(1000)).enough
    assert not Repeats.of(np.zeros(LEAST_FREE, int)).enough
    assert Repeats.of(np.zeros(LEAST_FREE + 1, int)).enough
