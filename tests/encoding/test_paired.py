"""Two models compared: against scipy, a paired bootstrap, and simulations with noise that voxels share."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from boldreams_cli.encoding.evaluation.certainty.paired import Paired, paired

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw(images: int, voxels: int, rng: np.random.Generator, worse: float = 0.0) -> Arrays:
    """Predictions of two models and betas: voxels see one signal and much the same noise, B misses more by `worse`."""
    mixture = 1 + 0.5 * rng.normal(size=(3, voxels))
    signal = rng.normal(size=(images, 3)) @ mixture
    common = rng.normal(size=(images, 2)) @ rng.normal(size=(2, voxels))
    beta = signal + common + rng.normal(size=signal.shape)
    missed = [scale * rng.normal(size=(images, 3)) @ mixture for scale in (0.5, 0.5 + worse)]
    return signal + missed[0], signal + missed[1], beta


def of(arrays: Arrays, **areas: np.ndarray) -> Paired:
    a, b, beta = (torch.from_numpy(values) for values in arrays)
    return paired(a, b, beta, {"all": np.ones(beta.shape[1], dtype=bool), **areas})


def test_correlations_are_scipys_and_areas_means_of_them() -> None:
    arrays = draw(50, 9, np.random.default_rng(0))
    a, b, beta = (values.T for values in arrays)
    some = np.arange(9) < 4
    found = of(arrays, some=some)
    expected = np.array([[scipy.stats.pearsonr(x, y).statistic for x, y in zip(p, beta, strict=True)] for p in (a, b)])
    np.testing.assert_allclose(found.r_a, expected[0])
    np.testing.assert_allclose(found.difference, expected[0] - expected[1])
    assert found.area("some")["difference"] == pytest.approx((expected[0] - expected[1])[some].mean())
    assert found.area("some")["voxels"] == 4
    swapped = of((arrays[1], arrays[0], arrays[2]), some=some).area("some")
    assert swapped["difference"] == pytest.approx(-found.area("some")["difference"])
    assert swapped["ci"] == pytest.approx([-x for x in reversed(found.area("some")["ci"])])


def test_errors_are_those_of_a_paired_bootstrap() -> None:
    rng = np.random.default_rng(1)
    a, b, beta = draw(400, 6, rng)
    found = of((a, b, beta))

    def difference(rows: np.ndarray) -> np.ndarray:
        p, q, y = (scipy.stats.zscore(values[rows]) for values in (a, b, beta))
        return ((p - q) * y).mean(0)

    drawn = np.array([difference(rng.integers(0, 400, 400)) for _ in range(2000)])
    np.testing.assert_allclose(found.error, drawn.std(0), rtol=0.12)
    assert found.area("all")["se"] == pytest.approx(drawn.mean(1).std(), rel=0.1)
    alone = np.sqrt((found.error**2).sum()) / 6
    assert found.area("all")["se"] > 1.2 * alone, "voxels that share noise say less than as many that do not"


def test_intervals_cover_and_equal_models_are_found_different_at_the_nominal_rate() -> None:
    brains, found = 400, []
    for number in range(brains):
        found.append(of(draw(150, 12, np.random.default_rng([2, number]))))
    low, high = np.array([item.area("all")["ci"] for item in found]).T
    wrong = ((low > 0) | (high < 0)).mean()
    assert abs(wrong - 0.05) < 3 * np.sqrt(0.05 * 0.95 / brains)
    assert np.mean([(item.p < 0.05).mean() for item in found]) < 0.08
    assert np.mean([(item.q < 0.05).any() for item in found]) < 0.1, "false discoveries"


def test_a_worse_model_is_found_worse() -> None:
    found = of(draw(400, 30, np.random.default_rng(3), worse=0.5))
    assert found.area("all")["ci"][0] > 0
    assert (found.q < 0.05)[found.difference > 0].mean() > 0.6
    assert not ((found.q < 0.05) & (found.difference < 0)).any()


def test_voxels_without_both_correlations_are_left_out() -> None:
    a, b, beta = draw(60, 5, np.random.default_rng(4))
    a[:, 1], b[:, 2] = 7, np.nan
    found = of((a, b, beta), lost=np.arange(5) == 1)
    assert np.isnan(found.difference).tolist() == np.isnan(found.q).tolist() == [False, True, True, False, False]
    assert found.area("all")["voxels"] == 3
    assert "lost" not in found.members
    kept = of((a[:, [0, 3, 4]], b[:, [0, 3, 4]], beta[:, [0, 3, 4]]))
    assert found.area("all").pop("ci") == pytest.approx(kept.area("all").pop("ci"))
    assert found.area("all")["r_a"] == pytest.approx(kept.area("all")["r_a"])


def test_models_that_agree_exactly_are_not_tested() -> None:
    a, _, beta = draw(60, 5, np.random.default_rng(5))
    found = of((a, a.copy(), beta))
    assert (found.difference == 0).all()
    assert np.isnan(found.p).all()
    assert found.area("all")["ci"] == [0, 0]
