"""Numerics against scipy and hand-made values."""

import numpy as np
import pytest
import scipy.stats
import torch

from boldreams_cli.encoding.evaluation.statistics import mean_and_error, noise_ceiling, pearson_r


def test_pearson_r_is_scipys() -> None:
    rng = np.random.default_rng(0)
    prediction, beta = rng.normal(size=(2, 40, 7)).astype(np.float32) * 30 + 1000
    expected = [
        scipy.stats.pearsonr(*pair).statistic
        for pair in zip(*(x.T.astype(float) for x in (prediction, beta)), strict=True)
    ]
    np.testing.assert_allclose(pearson_r(torch.tensor(prediction), torch.tensor(beta)), expected, rtol=1e-9)


@pytest.mark.parametrize("bad", [0.1, 3.7e5, np.nan, np.inf])
def test_constant_or_non_finite_voxels_have_no_correlation(bad: float) -> None:
    rng = np.random.default_rng(1)
    prediction, beta = torch.tensor(rng.normal(size=(2, 30, 3)))
    beta[:, 1] = bad if np.isfinite(bad) else beta[:, 1]
    beta[4, 1] = bad
    r = pearson_r(prediction, beta)
    assert torch.isnan(r[1])
    assert torch.isfinite(r[[0, 2]]).all()


def test_noise_ceiling_by_hand() -> None:
    # One image seen three times and one once: mean(1/n) = 2/3.
    np.testing.assert_allclose(noise_ceiling(np.array([1.0, 0.0]), np.array([3, 1])), [1 / (1 + 2 / 3), 0])
    assert np.isnan(noise_ceiling(np.array([np.nan]), np.array([3]))).all()


def test_mean_and_error_leave_out_what_is_no_number() -> None:
    values = np.array([0.1, np.nan, 0.5, 0.3])
    mean, error = mean_and_error(values)
    assert mean == pytest.approx(0.3)
    assert error == pytest.approx(scipy.stats.sem([0.1, 0.5, 0.3]))
    assert all(np.isnan(mean_and_error(np.array([np.nan]))))
