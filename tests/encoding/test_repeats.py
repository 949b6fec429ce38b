"""Reliability from the repeats themselves: against loops, and it recovers what betas were drawn with."""

import numpy as np
import pytest

from boldreams_cli.encoding.evaluation.repeats import means_of_repeats, ncsnr_of_repeats


def drawn(ncsnr: float, counts: np.ndarray, voxels: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    signal = ncsnr * rng.standard_normal((len(counts), voxels))
    return signal[rows] + rng.standard_normal((len(rows), voxels)), rows


@pytest.mark.parametrize("ncsnr", [0.3, 1.0, 2.0])
def test_it_recovers_what_was_drawn_with_unequal_repeats(ncsnr: float) -> None:
    betas, rows = drawn(ncsnr, np.array([2] * 236 + [4] * 32 + [8] * 8 + [10] * 8))
    found = ncsnr_of_repeats(betas, rows)
    assert np.sqrt((found**2).mean()) == pytest.approx(ncsnr, rel=0.05)
    assert np.allclose(ncsnr_of_repeats(7 * betas + 3, rows), found), "no unit and no offset matters"


def test_against_loops() -> None:
    betas, rows = drawn(0.8, np.array([2, 3, 1, 5]), voxels=3)
    apart = [betas[rows == image] for image in range(4)]
    noise = sum(((some - some.mean(0)) ** 2).sum(0) for some in apart) / (1 + 2 + 0 + 4)
    means = np.array([some.mean(0) for some in apart])
    signal = np.maximum(means.var(0, ddof=1) - noise * np.mean([1 / 2, 1 / 3, 1, 1 / 5]), 0)
    np.testing.assert_allclose(ncsnr_of_repeats(betas, rows), np.sqrt(signal / noise))
    np.testing.assert_allclose(means_of_repeats(betas.astype(np.float32), rows), means, rtol=1e-5)


def test_pure_noise_is_near_zero_and_what_is_unknown_is_nan() -> None:
    betas, rows = drawn(0.0, np.full(100, 3))
    found = ncsnr_of_repeats(betas, rows)
    assert np.median(found) < 0.15
    assert (found >= 0).all()
    betas[:, 0], betas[5, 1] = 4, np.nan
    found = ncsnr_of_repeats(betas, rows)
    assert np.isnan(found[:2]).all()
    assert np.isfinite(found[2:]).all()
    assert np.isnan(ncsnr_of_repeats(betas, np.arange(len(betas)))).all(), "no image was shown twice"
