"""Ridge by one decomposition: its errors, what it chooses and its weights against scikit-learn's, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import LeaveOneOut

from boldreams_cli.encoding.numerics.contraction import GroupReader, template
from boldreams_cli.encoding.numerics.fields import gaussian_fields
from boldreams_cli.encoding.numerics.ridge import PENALTIES, LeftOut, Ridge, add_products, weighted

FEATURES = [12, 29, 30, 31, 60]  # fewer than images, as many, more


def made_up(features: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of very different scales, betas of which some follow them and some do not, and repeats."""
    random = np.random.default_rng(seed)
    x = random.normal(3, 2, (30, features)) * np.geomspace(0.03, 3, features)
    y = x @ random.normal(size=(features, 6)) / x.std() * np.geomspace(0.01, 3, 6) + random.normal(1, 1, (30, 6))
    return x, y, random.integers(1, 4, 30)


def solve(ridge: Ridge, x: torch.Tensor, betas: torch.Tensor, chosen: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Weights (voxels, F) and bias."""
    images, mean = ridge.dual(betas, chosen)
    weights = x.double().T @ images
    return weights.T.numpy(), (mean - ridge.share @ x.double() @ weights).numpy()


@pytest.mark.parametrize("features", FEATURES)
def test_equals_scikit_learns_and_leaves_out_exactly(features: int) -> None:
    x, y, repeats = made_up(features)
    ridge = Ridge(torch.from_numpy(x), torch.from_numpy(repeats), (1e-2, 1.0))
    betas, found = torch.from_numpy(y), []
    for chosen, penalty in enumerate(ridge.penalties):
        reference = SklearnRidge(penalty).fit(x, y, sample_weight=repeats)
        weights, bias = solve(ridge, torch.from_numpy(x), betas, torch.full((6,), chosen))
        np.testing.assert_allclose(weights, reference.coef_, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(bias, reference.intercept_, rtol=1e-7, atol=1e-7)
        errors = np.zeros(6)
        for some, (one,) in LeaveOneOut().split(x):
            left = SklearnRidge(penalty).fit(x[some], y[some], sample_weight=repeats[some])
            errors += repeats[one] * (left.predict(x[[one]])[0] - y[one]) ** 2
        found.append(errors)
    np.testing.assert_allclose(ridge.left_out_errors(betas).numpy(), found, rtol=1e-5)


@pytest.mark.parametrize("features", FEATURES)
def test_chooses_what_ridge_cv_chooses(features: int) -> None:
    x, y, repeats = made_up(features, seed=1)
    ridge = Ridge(torch.from_numpy(x), torch.from_numpy(repeats))
    reference = RidgeCV(ridge.penalties, alpha_per_target=True).fit(x, y, sample_weight=repeats)
    chosen = ridge.left_out_errors(torch.from_numpy(y)).argmin(0)
    assert len(chosen.unique()) > 1
    np.testing.assert_allclose(np.array(ridge.penalties)[chosen.numpy()], reference.alpha_)


def test_penalties_are_multiples_of_the_mean_eigenvalue() -> None:
    for features in FEATURES:
        x, _, repeats = made_up(features)
        centred = (x - np.average(x, 0, repeats)) * np.sqrt(repeats)[:, None]
        mean = np.square(centred).sum() / min(29, features)
        np.testing.assert_allclose(
            Ridge(torch.from_numpy(x), torch.from_numpy(repeats)).penalties, mean * np.array(PENALTIES)
        )


@pytest.mark.parametrize("block", [7, 1024])
def test_products_of_images_serve_as_well_as_features(block: int) -> None:
    x, y, repeats = (torch.from_numpy(value) for value in made_up(60))
    whole = Ridge(x, repeats)
    gram = torch.zeros(30, 30, dtype=torch.float64)
    for part in x.split(13, dim=1):
        add_products(gram, weighted(part, whole.root, whole.share), block)
    ridge = Ridge.of_gram(gram, repeats, 60)
    torch.testing.assert_close(ridge.left_out_errors(y), whole.left_out_errors(y), rtol=1e-5, atol=0)
    chosen = torch.arange(6)
    for one, other in zip(solve(ridge, x, y, chosen), solve(whole, x, y, chosen), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)
    again = Ridge.of_decomposition(ridge.values, ridge.vectors, repeats, 60)
    assert torch.equal(again.left_out_errors(y), ridge.left_out_errors(y))


@pytest.mark.parametrize("features", FEATURES)
def test_what_is_kept_of_a_decomposition_leaves_out_to_the_same_bits(features: int) -> None:
    x, y, repeats = (torch.from_numpy(value) for value in made_up(features))
    ridge, chosen = Ridge(x, repeats), torch.arange(6)
    kept = LeftOut(**ridge.arrays, repeats=repeats)
    assert torch.equal(kept.left_out_errors(y), ridge.left_out_errors(y))
    assert torch.equal(kept.left_out(y, chosen), ridge.left_out(y, chosen))


def test_features_that_say_nothing_or_the_same_twice_do_no_harm() -> None:
    x, y, repeats = (torch.from_numpy(value) for value in made_up(12))
    lowest, constant = torch.zeros(6, dtype=torch.long), torch.full((30, 5), 2.5)
    nothing = Ridge(constant, repeats)
    weights, bias = solve(nothing, constant, y, lowest)
    assert not weights.any()
    np.testing.assert_allclose(bias, nothing.share @ y)
    thrice = torch.cat([x, x, x], 1)  # 36 features of rank 12
    ridge = Ridge(thrice, repeats)
    reference = SklearnRidge(ridge.penalties[0]).fit(thrice, y, sample_weight=repeats)
    np.testing.assert_allclose(solve(ridge, thrice, y, lowest)[0], reference.coef_, rtol=1e-5, atol=1e-7)


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
    layers = [part.contiguous() for part in weights.split([3, 1], 1)]
    reader = GroupReader(basis, layers, pixels_first)
    held = [value.data_ptr() for value in reader.layers]
    assert held == [part.data_ptr() for part in layers], "no copy of what may be most of the memory"
    read = reader(maps.transpose(1, 2) if pixels_first else maps)
    torch.testing.assert_close(read, expected)
    pooled = reader.pooled(maps.transpose(1, 2) if pixels_first else maps)
    assert pooled.shape == (5, 12), "once for all blocks of voxels"
    parts = [reader.read(pooled, slice(0, 4)), reader.read(pooled, slice(4, 7))]
    torch.testing.assert_close(torch.cat(parts, 1), read)
    share = torch.rand(7, generator=random)
    pattern = template(basis, weights, share)
    torch.testing.assert_close((maps * pattern).sum((1, 2)), expected @ share)
