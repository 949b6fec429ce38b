from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.model_selection import LeaveOneOut

from boldreams_cli.encoding.numerics.contraction import GroupReader, template
from boldreams_cli.encoding.numerics.fields import gaussian_fields
from boldreams_cli.encoding.numerics.ridge import Ridge


@pytest.mark.parametrize("features", [12, 60])
def test_equals_scikit_learns_and_leaves_out_exactly(features: int) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(3, 2, (30, features)), random.normal(1, 1, (30, 4))
    repeats = random.integers(1, 4, 30)
    ridge = Ridge(torch.from_numpy(x).float(), torch.from_numpy(repeats), (1e-2, 1.0))
    betas, found = torch.from_numpy(y).float(), []
    for chosen, penalty in enumerate(ridge.penalties):
        reference = SklearnRidge(penalty).fit(x, y, sample_weight=repeats)
        weights, bias = ridge.solve(betas, torch.full((4,), chosen))
        np.testing.assert_allclose(weights.numpy().T, reference.coef_, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(bias.numpy(), reference.intercept_, rtol=1e-3, atol=1e-3)
        errors = np.zeros(4)
        for some, (one,) in LeaveOneOut().split(x):
            left = SklearnRidge(penalty).fit(x[some], y[some], sample_weight=repeats[some])
            errors += repeats[one] * (left.predict(x[[one]])[0] - y[one]) ** 2
        found.append(errors)
    np.testing.assert_allclose(ridge.left_out_errors(betas).numpy(), found, rtol=1e-3)


def test_each_voxel_takes_its_own_penalty() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(80, 40, generator=random)
    noise = torch.randn(80, 2, generator=random)
    betas = torch.stack([x[:, 0] + 0.01 * noise[:, 0], noise[:, 1]], 1)
    ridge = Ridge(x, torch.ones(80))
    penalty = ridge.left_out_errors(betas).argmin(0)
    assert penalty[0] < penalty[1], "noise is shrunk more"


def test_gaussian_fields_sum_to_one_where_they_are() -> None:
    fields = gaussian_fields(9, 13, np.array([[0.25, 0.5, 0.1], [1.0, 0.0, 0.001]])).reshape(2, 9, 13)
    np.testing.assert_allclose(fields.sum((1, 2)), 1)
    across = (np.arange(13) + 0.5) / 13
    assert (fields[0].sum(0) * across).sum() == pytest.approx(0.25, abs=0.01)
    np.testing.assert_allclose(fields[0, 4] / fields[0, 4].max(), _bell(across, 0.25, 0.1), rtol=1e-9)
    assert fields[1, 0, 12] == 1, "a field smaller than a pixel is that pixel"


def _bell(x: np.ndarray, centre: float, size: float) -> np.ndarray:
    values = np.exp(-(((x - centre) / size) ** 2) / 2)
    return values / values.max()


@pytest.mark.parametrize("pixels_first", [False, True])
def test_reader_of_shared_fields_sums_over_nodes(pixels_first: bool) -> None:
    random = torch.Generator().manual_seed(0)
    maps = torch.randn(5, 4, 6, generator=random)
    basis, weights = torch.randn(3, 6, generator=random), torch.randn(7, 4, 3, generator=random)
    expected = torch.einsum("bkp,np,vkn->bv", maps, basis, weights)
    reader = GroupReader(basis, weights, pixels_first)
    read = reader(maps.transpose(1, 2) if pixels_first else maps)
    torch.testing.assert_close(read, expected)
    share = torch.rand(7, generator=random)
    pattern = template(basis, weights, share)
    torch.testing.assert_close((maps * pattern).sum((1, 2)), expected @ share)
