"""Order and number of filters."""

import numpy as np
import pytest

from boldreams_cli.features.ranking import filter_count, filter_order, filter_std, joint_order


def test_order_is_by_falling_standard_deviation() -> None:
    means = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32) * [1, 5, 3, 2, 4] + 100
    std = filter_std(means)
    np.testing.assert_allclose(std, np.std(means.astype(np.float64), axis=0))
    assert filter_order(std).tolist() == [1, 4, 2, 3, 0]


def test_equal_filters_keep_their_own_order() -> None:
    assert filter_order(np.array([1.0, 2.0, 1.0, 2.0])).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize(
    ("filters", "percent", "count"),
    [(64, 1, 1), (64, 10, 6), (192, 10, 19), (384, 10, 38), (256, 100, 256), (100, 29, 29), (64, 0.001, 1)],
)
def test_count_is_never_nothing(filters: int, percent: float, count: int) -> None:
    assert filter_count(filters, percent) == count


@pytest.mark.parametrize("percent", [0, -1, 100.5, 101, float("nan")])
def test_no_such_percentage(percent: float) -> None:
    with pytest.raises(ValueError, match="percent"):
        filter_count(64, percent)


def test_joint_order_has_everyones_best_first() -> None:
    one, other = np.array([0, 1, 2, 3]), np.array([3, 0, 1, 2])
    assert joint_order([one]).tolist() == one.tolist()
    assert set(joint_order([one, other])[:2]) == {0, 3}
