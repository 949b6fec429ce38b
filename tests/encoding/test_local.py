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
from boldreams_cli.encoding.numerics.local import add_times, dual_weights, node_fields, with_penalty
from boldreams_cli.encoding.readouts.local import Local, LocalSettings
from boldreams_cli.encoding.readouts.ridge import RidgeReadout, RidgeSettings

from .made_up import LAYERS, PLENTY, predict, problem, solve

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


def absolute_penalties(x: np.ndarray, repeats: np.ndarray, settings: LocalSettings) -> np.ndarray:
    centred = (x - np.average(x, 0, repeats)) * np.sqrt(repeats)[:, None]
    return np.square(centred).sum() / min(len(x) - 1, x.shape[1]) * np.array(settings.penalties)


def left_out(x: np.ndarray, y: np.ndarray, repeats: np.ndarray, penalty: float) -> float:
    error = 0.0
    for one in range(len(x)):
        some = np.arange(len(x)) != one
        fitted = SklearnRidge(penalty).fit(x[some], y[some], sample_weight=repeats[some])
        error += repeats[one] * (fitted.predict(x[[one]])[0] - y[one]) ** 2
    return error


@pytest.mark.parametrize("compress", ["none", "sqrt"])
def test_field_and_penalty_and_weights_are_scikit_learns(tmp_path: Path, compress: str) -> None:
    settings = LocalSettings(grid=3, centres=2, penalties=FEW.penalties, compress=compress)
    posed = problem(tmp_path, voxels=5, noise=1.0)
    model = solve(Local(settings), posed, tmp_path / "model")
    repeats, betas = posed.betas.repeats, posed.betas.means(posed.betas.columns).double().numpy()
    errors, fits = [], []
    for x in scaled_features(posed, settings):
        absolute = absolute_penalties(x, repeats, settings)
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


def test_dual_weights_are_kernel_ridges() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(30, 80)), random.normal(size=(30, 4))
    x, y = x - x.mean(0), y - y.mean(0)
    gram = torch.from_numpy(x @ x.T)
    gram[0, 20] = torch.nan  # above the diagonal
    ones = torch.ones(30, dtype=torch.float64)
    found, mean = dual_weights(with_penalty(gram, 3.0), torch.from_numpy(y), ones, ones / 30)
    np.testing.assert_allclose(found, KernelRidge(alpha=3.0).fit(x, y).dual_coef_, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(mean, 0, atol=1e-12)


@pytest.mark.parametrize("block", [3, 1024])
def test_products_of_nodes_add_up_below_the_diagonal(block: int) -> None:
    part, total = torch.rand(8, 8, dtype=torch.float64), torch.rand(8, 8, dtype=torch.float64)
    expected = (total + 0.3 * part).tril()
    add_times(total, part, 0.3, block)
    torch.testing.assert_close(total.tril(), expected)


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
    some = readout._chosen_images(posed)
    assert len(some.unique()) == 40
    assert (some.diff() > 0).all()
    assert torch.equal(some, readout._chosen_images(posed))
    all_images = solve(Local(LocalSettings(grid=3, centres=2)), posed, tmp_path / "all")
    fewer = solve(readout, posed, tmp_path / "some")
    assert not torch.equal(all_images["weights/0"], fewer["weights/0"])
    assert fewer["weights/0"].isfinite().all()


@pytest.mark.parametrize("changes", [{"grid": 0}, {"centres": 0}, {"sizes": ()}, {"images": 2}, {"compress": "log"}])
def test_settings_are_checked(changes: dict[str, object]) -> None:
    with pytest.raises(ChoiceError):
        LocalSettings(**changes).check()  # type: ignore[arg-type]
