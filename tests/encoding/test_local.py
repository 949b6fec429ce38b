"""Local ridge: its errors, choices and weights against scikit-learn's on scaled features; known fields are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.linear_model import RidgeCV

from boldreams_cli.console import ChoiceError
from boldreams_cli.encoding.inputs.products import FieldProducts
from boldreams_cli.encoding.numerics import local, tiles
from boldreams_cli.encoding.numerics.local import DualSystem, node_fields
from boldreams_cli.encoding.readouts.local import Local, LocalSettings
from boldreams_cli.encoding.readouts.ridge import RidgeReadout, RidgeSettings

from .made_up import LAYERS, PLENTY, predict, problem, solve
from .references import left_out, penalties_of

FEW = LocalSettings(grid=3, centres=2, sizes=(0.2,), penalties=(0.01, 0.1, 1.0, 10.0))


def scaled_features(posed, settings: LocalSettings) -> list[np.ndarray]:
    """Of each field, (images, F) pooled features times the roots of the field at their nodes."""
    parts = []
    for layout, group in zip(
        posed.maps.layouts, posed.maps.pooled(settings.grid, PLENTY, settings.compress), strict=True
    ):
        maps = group.read(np.arange(len(posed.betas.image_ids))).double()
        by_node = maps if group.layout.pixels_first else maps.transpose(1, 2)  # (images, nodes, K)
        field = node_fields(layout.group.height, layout.group.width, settings.grid, settings.candidates)
        parts.append([(by_node * f.sqrt()[None, :, None]).flatten(1).numpy() for f in field])
    return [np.concatenate(of_field, 1) for of_field in zip(*parts, strict=True)]


@pytest.mark.parametrize("compress", ["none", "sqrt"])
def test_field_and_penalty_and_weights_are_scikit_learns(tmp_path: Path, compress: str) -> None:
    settings = LocalSettings(grid=3, centres=2, penalties=FEW.penalties, compress=compress)
    posed = problem(tmp_path, voxels=5, noise=1.0)
    model = solve(Local(settings), posed, tmp_path / "model")
    repeats, betas = posed.betas.repeats, posed.betas.means(posed.betas.columns).double().numpy()
    errors, fits = [], []
    for x in scaled_features(posed, settings):
        absolute = penalties_of(x, repeats, settings.penalties)
        cv = RidgeCV(absolute, alpha_per_target=True).fit(x, betas, repeats)
        chosen = [int(np.argmin(np.abs(absolute - alpha))) for alpha in cv.alpha_]
        errors.append([left_out(x, y, repeats, absolute[n]) for y, n in zip(betas.T, chosen, strict=True)])
        fits.append(
            [
                (settings.penalties[n], SklearnRidge(absolute[n]).fit(x, y, repeats).predict(x))
                for y, n in zip(betas.T, chosen, strict=True)
            ]
        )
    best = np.argmin(errors, 0)
    assert model["field"].tolist() == best.tolist()
    assert model["penalty"].tolist() == [fits[field][voxel][0] for voxel, field in enumerate(best)]
    if compress == "sqrt":
        return
    found = predict(model, posed, [group.pool.T for group in posed.maps.pooled(3, PLENTY)])
    expected = np.column_stack([fits[field][voxel][1] for voxel, field in enumerate(best)])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_systems_are_kernel_ridges() -> None:
    x, y, gram = made_up_system(15)
    before, ones = gram.clone(), torch.ones(40, dtype=torch.float64)
    system = DualSystem(gram, 3.0)
    assert system.factor.dtype == torch.float32
    found, mean = system.dual_weights(torch.from_numpy(y), ones, ones / 40)
    np.testing.assert_allclose(found, KernelRidge(alpha=3.0).fit(x, y).dual_coef_, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mean, 0, atol=1e-12)
    assert torch.equal(gram, before), "as other penalties need it"


def made_up_system(features: int) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, features)), random.normal(size=(40, 4))
    x, y = x - x.mean(0), y - y.mean(0)
    return x, y, torch.from_numpy(x @ x.T).float()


def test_where_float32_fails_float64_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, gram = made_up_system(60)
    factor = local._factor
    monkeypatch.setattr(local, "_factor", lambda a, p: (factor(a, p)[0], a.dtype == torch.float32))
    ones = torch.ones(40, dtype=torch.float64)
    system = DualSystem(gram, 3.0)
    assert system.factor.dtype == torch.float64
    found = system.dual_weights(torch.from_numpy(y), ones, ones / 40)[0]
    np.testing.assert_allclose(found, KernelRidge(alpha=3.0).fit(x, y).dual_coef_, rtol=1e-5, atol=1e-6)


def test_a_penalty_is_not_below_the_rounding_of_the_products() -> None:
    _, y, gram = made_up_system(3)
    ones = torch.ones(40, dtype=torch.float64)
    system = DualSystem(gram, 1e-12)
    assert 1e-7 < system.penalty / float(gram.diagonal().max()) < 1e-5
    assert system.dual_weights(torch.from_numpy(y), ones, ones / 40)[0].isfinite().all()


def test_systems_that_no_precision_solves_are_refused() -> None:
    with pytest.raises(torch.linalg.LinAlgError, match="not positive definite"):
        DualSystem(-torch.eye(3), 0.5)


def test_refining_takes_back_what_float32_loses() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 40)) * np.geomspace(100, 1, 40)
    x -= x.mean(0)
    gram, ones = torch.from_numpy(x @ x.T).float(), torch.ones(200, dtype=torch.float64)
    y = torch.from_numpy(random.normal(size=(200, 3)))
    exact = torch.linalg.solve(gram.double() + 2 * torch.eye(200, dtype=torch.float64), y - y.mean(0))
    system = DualSystem(gram, 2.0)
    once = system._solved(y - y.mean(0))
    missed = [(found - exact).norm() for found in (system.dual_weights(y, ones, ones / 200)[0], once)]
    assert missed[0] < missed[1] / 10


def test_it_is_refined_until_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small penalty beside large products: one refinement is not enough there, and is elsewhere."""
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 300)) * np.geomspace(300, 0.3, 300)
    x -= x.mean(0)
    gram, ones = torch.from_numpy(x @ x.T).float(), torch.ones(300, dtype=torch.float64)
    y, solves = torch.from_numpy(random.normal(size=(300, 3))), []
    solved = DualSystem._solved
    monkeypatch.setattr(DualSystem, "_solved", lambda self, left: (solves.append(1), solved(self, left))[1])
    for penalty, times in ((0.0, range(3, 7)), (1e6, range(2, 3))):
        system = DualSystem(gram, penalty)
        exact = torch.linalg.solve(gram.double() + system.penalty * torch.eye(300).double(), y - y.mean(0))
        solves.clear()
        found = system.dual_weights(y, ones, ones / 300)[0]
        assert len(solves) in times
        assert float((found - exact).norm() / exact.norm()) < 1e-5


def test_tiles_are_products_of_scaled_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 16)
    monkeypatch.setattr(tiles, "NODES", 4)
    posed = problem(tmp_path)
    images = torch.arange(0, 70, 2)
    repeats = torch.from_numpy(posed.betas.repeats)[images]
    fields = Local(FEW)._priors(posed)
    products = FieldProducts(posed.maps.pooled(3, PLENTY, FEW.compress), fields, images, repeats)
    looks: list[int] = []
    found = products.of([4, 1], lambda: looks.append(1))
    assert len(looks) == len(tiles.triangle(35)) == 6
    assert [products.bytes_each, 1] == [found[0].nbytes, found[0].ndim]  # one block, not one a tile
    features = scaled_features(posed, FEW)
    for field, parts in zip((4, 1), found, strict=True):
        x = features[field][images.numpy()]
        x = (x - np.average(x, 0, repeats)) * np.sqrt(repeats.numpy())[:, None]
        together = tiles.whole(parts, 35)
        assert torch.equal(together, together.T)
        np.testing.assert_allclose(together, x @ x.T, rtol=1e-4, atol=1e-4)
    alone = products.of([1], lambda: None)[0]
    assert torch.equal(alone, found[1])


def test_fields_at_nodes() -> None:
    fields = node_fields(9, 13, 5, np.array([[0.9, 0.1, 0.2], [0.5, 0.5, 1e-3]]))
    np.testing.assert_allclose(fields.mean(1), 1)
    assert fields[0].argmax() == 4, "to the right, up"
    assert fields[1].argmax() == 12
    assert fields[1].count_nonzero() == 1
    assert (fields[-1] == 1).all()
    assert node_fields(1, 1, 5, np.array([[0.9, 0.1, 0.2]])).tolist() == [[1.0], [1.0]]


def test_known_fields_are_found_and_images_are_left_better_than_by_ridge(tmp_path: Path) -> None:
    posed = problem(tmp_path, images=400, voxels=40, noise=1.0)
    settings = LocalSettings(grid=4, centres=4)
    model = solve(Local(settings), posed, tmp_path / "local")
    plain = solve(RidgeReadout(RidgeSettings(grid=4)), posed, tmp_path / "ridge")
    signal = torch.from_numpy(posed.betas.signal)
    basis = [group.pool.T for group in posed.maps.pooled(4, PLENTY)]
    assert len(LAYERS) == 2
    missed = [(predict(m, posed, basis) - signal).square().mean(0) for m in (model, plain)]
    assert (missed[0] < missed[1]).double().mean() > 0.8
    near = np.isfinite(model["size"].numpy())
    assert near.mean() > 0.8, "few take the flat field"
    centre = np.column_stack([model["x"], model["y"]])[near]
    off = np.linalg.norm(centre - posed.betas.centre[near], axis=1)
    assert np.median(off) < 0.2, "centres are 0.25 apart"


def test_fields_are_chosen_on_some_images_and_solved_on_all(tmp_path: Path) -> None:
    posed = problem(tmp_path, voxels=6)
    readout = Local(LocalSettings(grid=3, centres=2, images=40))
    some = posed.some_images(readout.settings.images)
    assert len(some.unique()) == 40
    assert (some.diff() > 0).all()
    assert torch.equal(some, posed.some_images(readout.settings.images))
    ids = posed.betas.image_ids
    posed.betas.image_ids = np.delete(ids, 7)
    others = set(posed.betas.image_ids[posed.some_images(40)])
    assert len(others - set(ids[some])) == (7 in some), "each image is drawn by its id, wherever it stands"
    posed.betas.image_ids = ids
    all_images = solve(Local(LocalSettings(grid=3, centres=2)), posed, tmp_path / "all")
    fewer = solve(readout, posed, tmp_path / "some")
    assert not torch.equal(all_images["weights/0"], fewer["weights/0"])
    assert fewer["weights/0"].isfinite().all()


@pytest.mark.parametrize("changes", [{"grid": 0}, {"centres": 0}, {"sizes": ()}, {"images": 2}, {"compress": "log"}])
def test_settings_are_checked(changes: dict[str, object]) -> None:
    with pytest.raises(ChoiceError):
        LocalSettings(**changes).check()  # type: ignore[arg-type]
