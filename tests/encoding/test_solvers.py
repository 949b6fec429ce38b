"""What the solvers choose, against references: penalties, fields, epochs, weights of repeats, images left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.linear_model import RidgeCV

from boldreams_cli.console import ChoiceError
from boldreams_cli.encoding.inputs.pooled import PooledMaps
from boldreams_cli.encoding.numerics.blocks import aligned_blocks, normal_draws
from boldreams_cli.encoding.numerics.field_shapes import shapes
from boldreams_cli.encoding.numerics.fields import gaussian_fields
from boldreams_cli.encoding.numerics.ridge import HALF_DECADES, PENALTIES
from boldreams_cli.encoding.readouts import gaussian as gaussian_module
from boldreams_cli.encoding.readouts.attention import AttentionSettings
from boldreams_cli.encoding.readouts.base import Problem
from boldreams_cli.encoding.readouts.gaussian import Gaussian, GaussianSettings
from boldreams_cli.encoding.readouts.ridge import RidgeReadout, RidgeSettings
from boldreams_cli.encoding.readouts.separable import squared_error
from boldreams_cli.encoding.readouts.smooth import BestEpoch, Smooth, SmoothSettings, SmoothTraining
from boldreams_cli.simulation.brain import field_distance

from .made_up import CPU, LAYERS, PLENTY, Nowhere, predict, problem, solve
from .references import left_out, penalties_of


@pytest.mark.parametrize("grid", [1, 3])
def test_ridge_takes_the_penalty_that_ridge_cv_takes_and_its_weights(tmp_path: Path, grid: int) -> None:
    """Primal (35 features of 70 images) and dual (315)."""
    posed = problem(tmp_path, voxels=12, noise=2.0)
    model = solve(RidgeReadout(RidgeSettings(grid=grid, compress="none")), posed, tmp_path / "model")
    pooled = posed.maps.pooled(grid, PLENTY)
    x = torch.cat([group.columns(slice(0, group.values)) for group in pooled], 1).double().numpy()
    repeats, betas = posed.betas.repeats, posed.betas.means(posed.betas.columns).double().numpy()
    absolute = penalties_of(x, repeats)
    reference = RidgeCV(absolute, alpha_per_target=True).fit(x, betas, repeats)
    np.testing.assert_allclose(model["penalty"] * absolute[0] / HALF_DECADES[0], reference.alpha_, rtol=1e-9)
    assert len(model["penalty"].unique()) > 1
    expected = np.column_stack(
        [SklearnRidge(a).fit(x, y, repeats).predict(x) for a, y in zip(reference.alpha_, betas.T, strict=True)]
    )
    found = predict(model, posed, [group.pool.T for group in pooled])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_log_says_the_left_out_error_and_the_edge_of_the_penalties(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    posed = problem(tmp_path, voxels=3, noise=30.0)
    caplog.set_level("INFO", "boldreams")
    readout = RidgeReadout(RidgeSettings(grid=1, penalties=(1e-4, 1e-3), compress="none"))
    from boldreams_cli.encoding.spans import Spans

    solution = readout.solve(
        posed, posed.betas.columns, Spans(tmp_path, "key").checkpoint(posed.betas.columns), _never()
    )
    assert "of 3 voxels 0 take the smallest penalty and 3 the largest" in caplog.text
    x = torch.cat([group.columns(slice(0, group.values)) for group in posed.maps.pooled(1, PLENTY)], 1).double().numpy()
    penalty = penalties_of(x, posed.betas.repeats, (1e-4, 1e-3))[1]
    betas = posed.betas.means(posed.betas.columns).double().numpy()
    expected = np.mean([left_out(x, y, posed.betas.repeats, penalty) for y in betas.T]) / posed.betas.repeats.sum()
    assert solution.curve["left_out_loss"] == [pytest.approx(expected, rel=1e-4)]


def _never():
    from boldreams_cli.console import StopFlag

    return StopFlag()


def test_gaussian_takes_the_best_field_and_penalty_of_all(tmp_path: Path) -> None:
    settings = GaussianSettings(centres=2, sizes=(0.1, 0.3))
    posed = problem(tmp_path, voxels=5, noise=1.0)
    model = solve(Gaussian(settings), posed, tmp_path / "model")
    repeats, betas = posed.betas.repeats, posed.betas.means(posed.betas.columns).double().numpy()
    store = posed.maps.store
    errors, fits = [], []
    for candidate in settings.candidates:
        parts = []
        for name, (filters, height, width) in LAYERS.items():
            maps = store.maps[name][store.rows].astype(float).reshape(len(repeats), filters, -1)
            parts.append(maps @ gaussian_fields(height, width, candidate[None])[0])
        x = np.concatenate(parts, 1)
        scale = x.std(0, ddof=1)
        x = x[:, scale > 1e-9] / scale[scale > 1e-9]
        absolute = (
            np.square((x - np.average(x, 0, repeats)) * np.sqrt(repeats)[:, None]).sum() / 35 * np.array(PENALTIES)
        )
        cv = RidgeCV(absolute, alpha_per_target=True).fit(x, betas, repeats)
        chosen = [int(np.argmin(np.abs(absolute - alpha))) for alpha in cv.alpha_]
        errors.append([left_out(x, y, repeats, a) for y, a in zip(betas.T, cv.alpha_, strict=True)])
        fits.append(
            [
                (PENALTIES[c], SklearnRidge(a).fit(x, y, repeats).predict(x))
                for c, a, y in zip(chosen, cv.alpha_, betas.T, strict=True)
            ]
        )
    field = np.argmin(errors, 0)
    expected = settings.candidates[field]
    found = torch.stack([model["x"], model["y"], model["size"]], 1)
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(model["penalty"], [fits[f][v][0] for v, f in enumerate(field)])
    np.testing.assert_allclose(
        predict(model, posed), np.column_stack([fits[f][v][1] for v, f in enumerate(field)]), rtol=1e-3, atol=1e-3
    )


def test_gaussian_finds_the_fields_of_a_brain_of_gaussian_fields(tmp_path: Path) -> None:
    posed = problem(tmp_path, images=160, voxels=24, noise=0.3)
    model = solve(Gaussian(), posed, tmp_path / "model")
    truth = posed.betas
    distance = np.hypot(*(torch.stack([model["x"], model["y"]], 1).numpy() - truth.centre).T)
    assert np.median(distance) == 0, "the very candidate"
    assert (distance < 0.12).mean() > 0.9, "or its neighbour"
    assert (np.abs(np.log(model["size"].numpy() / truth.size)) < 0.6).mean() > 0.8
    fields = model["fields/0"].view(-1, *LAYERS["a"][1:]).numpy()
    assert np.median(field_distance(truth.centre, shapes(fields).centre)) < 0.1


def test_gaussian_decomposes_every_candidate_once_and_those_chosen_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    real = gaussian_module.Ridge
    monkeypatch.setattr(gaussian_module, "Ridge", lambda *given: made.append(1) or real(*given))
    monkeypatch.setattr(gaussian_module, "VOXELS", 16)
    posed = problem(tmp_path, voxels=100, noise=1.0, memory=250_000)
    readout = Gaussian(GaussianSettings(centres=3, sizes=(0.1, 0.3)))
    from boldreams_cli.encoding.spans import Spans

    readout.prepare(posed, Spans(tmp_path, "key").prepared(posed.betas.columns), _never())
    assert len(made) == 18
    model = solve(readout, posed, tmp_path / "model")
    spans = int(model["spans"])
    assert spans > 1
    chosen = torch.stack([model["x"], model["y"], model["size"]], 1)
    assert len(made) <= 18 + spans * len(chosen.unique(dim=0)), "nothing but the solutions"


@pytest.mark.parametrize("changes", [{"grid": 0}, {"penalties": ()}, {"penalties": (0.0,)}])
def test_settings_of_ridge_are_checked(changes: dict[str, object]) -> None:
    with pytest.raises(ChoiceError):
        RidgeSettings(**changes).check()  # type: ignore[arg-type]


def train(posed: Problem, folder: Path, **settings: object) -> dict[str, torch.Tensor]:
    return solve(Smooth(SmoothSettings(grid=3, batch_size=16, **settings)), posed, folder)  # type: ignore[arg-type]


def test_the_gradient_is_that_of_the_single_trials(tmp_path: Path) -> None:
    """Bias included, of unequal repeats."""
    posed = problem(tmp_path, voxels=4)
    assert len(np.unique(posed.betas.repeats)) == 3
    random = torch.Generator().manual_seed(0)
    groups = posed.maps.pooled(3, PLENTY)
    maps = [group.read(np.arange(70)) for group in groups]
    left, right = ([torch.randn(m.shape[side], 4, generator=random) for m in maps] for side in (1, 2))
    bias = torch.randn(4, generator=random)
    parameters = [tensor.double().requires_grad_() for tensor in (*left, *right, bias)]
    images = torch.from_numpy(posed.betas.images)
    predicted = parameters[-1] + sum(
        torch.einsum("bac,av,cv->bv", m.double(), parameters[n], parameters[2 + n]) for n, m in enumerate(maps)
    )
    trials = posed.betas.trials(posed.betas.columns).double()
    (predicted[images] - trials).square().sum().backward()
    training = SmoothTraining(posed, groups, SmoothSettings(grid=3), posed.betas.columns, torch.arange(4), 4)
    scale = 2 * float(posed.betas.repeats[training.train].mean())
    means = posed.betas.means(posed.betas.columns)
    _, gradients = squared_error(maps, left, right, bias, means, scale, (), training.weight)
    for found, parameter in zip(gradients, parameters, strict=True):
        torch.testing.assert_close(found.double(), parameter.grad, rtol=1e-5, atol=1e-5 * float(parameter.grad.norm()))


def test_a_step_weighs_images_by_their_repeats(tmp_path: Path) -> None:
    """The gradient of the first step, of all training images at once."""
    posed = problem(tmp_path, voxels=4)
    pooled, columns = posed.maps.pooled(3, PLENTY), posed.betas.columns
    training = SmoothTraining(
        posed, pooled, SmoothSettings(grid=3, batch_size=100, epochs=1), columns, torch.arange(4), 4
    )
    block = training.training.blocks[0]
    maps = [group.read(training.train).double() for group in pooled]
    predicted = sum(
        torch.einsum("bac,av,cv->bv", m, block.left[n].double(), block.right[n].double()) for n, m in enumerate(maps)
    )
    repeats = torch.from_numpy(posed.betas.repeats[training.train]).double()
    missed = predicted - training.betas[training.train].double()
    training.run_epoch(Nowhere(), _never())
    expected = 2 * (missed * repeats[:, None]).sum(0) / repeats.sum()
    torch.testing.assert_close(block.bias.grad.double(), expected, rtol=1e-4, atol=1e-6)


def test_blocks_are_cut_at_multiples_of_all_voxels() -> None:
    places = np.array([3, 4, 7, 8, 9, 30])
    found = [(part.start, part.stop, offsets.tolist()) for part, offsets in aligned_blocks(places, 4)]
    assert found == [(0, 1, [3]), (1, 3, [0, 3]), (3, 5, [0, 1]), (5, 6, [2])]


def test_repeats_decide_what_is_learnt(tmp_path: Path) -> None:
    posed = problem(tmp_path, voxels=4)
    other = problem(tmp_path, voxels=4)
    other.betas.repeats = posed.betas.repeats[::-1].copy()
    other.betas.means = posed.betas.means  # the same means of other repeats
    one, two = (train(some, tmp_path / str(number), epochs=3) for number, some in enumerate((posed, other)))
    for name in ("fields/0", "weights/0", "bias"):
        assert not torch.allclose(one[name], two[name], rtol=1e-3)


def test_a_training_on_trials_that_are_equal_is_one_on_images(tmp_path: Path) -> None:
    """Repeats enter as relative weights: all of them doubled change nothing."""
    posed, twice = problem(tmp_path, voxels=4), problem(tmp_path, voxels=4)
    twice.betas.repeats = 2 * posed.betas.repeats
    twice.betas.means = posed.betas.means
    one, two = (train(some, tmp_path / str(number), epochs=2) for number, some in enumerate((posed, twice)))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_each_voxel_keeps_its_best_epoch(tmp_path: Path) -> None:
    """Against all epochs kept by hand and their held-out errors by the definition."""
    posed = problem(tmp_path, voxels=6, noise=3.0)
    pooled = posed.maps.pooled(3, PLENTY)
    settings = SmoothSettings(grid=3, epochs=12, batch_size=16, rate=3e-2)
    training = SmoothTraining(posed, pooled, settings, posed.betas.columns, torch.arange(6), 6)
    last = SmoothTraining(posed, pooled, settings, posed.betas.columns, torch.arange(6), 6)
    keep, stop = Nowhere(), _never()
    epochs, errors = [], []
    means, repeats = posed.betas.means(posed.betas.columns).double(), torch.from_numpy(posed.betas.repeats).double()
    held = torch.from_numpy(posed.held_out)
    for _ in range(12):
        training.run_epoch(keep, stop)
        last.run_epoch(keep, stop)
        last.best = BestEpoch(last.training)  # so that its solution is that of the epoch just seen
        last.best.look(pooled, last.betas, last.held, last.weight, 0)
        solution = last.solution()
        model = {"bias": solution.bias, **{f"fields/{n}": f for n, f in enumerate(solution.fields)}}
        model |= {f"weights/{n}": w for n, w in enumerate(solution.weights)}
        missed = (predict(model, posed) - means).square() * repeats[:, None]
        errors.append(missed[held].sum(0))
        epochs.append(model)
    best = torch.stack(errors).argmin(0)
    assert len(best.unique()) > 1
    assert best.max() < 11 or best.min() < 11, "not all of the last"
    found = training.solution()
    assert found.chosen["epoch"].tolist() == (best + 1).tolist()
    for voxel, epoch in enumerate(best.tolist()):
        for number in range(2):
            torch.testing.assert_close(found.weights[number][voxel], epochs[epoch][f"weights/{number}"][voxel])
            torch.testing.assert_close(found.fields[number][voxel], epochs[epoch][f"fields/{number}"][voxel])
        torch.testing.assert_close(found.bias[voxel], epochs[epoch]["bias"][voxel])
    kept = torch.stack(errors).min(0).values.mean() / repeats[held].sum()
    assert found.curve["held_out_loss"][-1] == pytest.approx(float(kept), rel=1e-4)


def test_held_out_images_are_not_trained_on(tmp_path: Path) -> None:
    """After one epoch, the only one to choose, their betas have changed nothing; those of others have."""
    found = []
    for number, which in enumerate((None, "held", "trained")):
        posed = problem(tmp_path, voxels=4)
        if which:
            wanted = posed.held_out if which == "held" else ~posed.held_out
            posed.betas._trials[torch.from_numpy(wanted[posed.betas.images])] += 7
        found.append(train(posed, tmp_path / str(number), epochs=1))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not torch.allclose(found[0]["bias"], found[2]["bias"], atol=1)


def test_they_choose_the_epoch(tmp_path: Path) -> None:
    one = problem(tmp_path, voxels=20, noise=3.0)
    two = replace(one, held_out=~one.held_out & (np.arange(70) < 20))
    epochs = [train(posed, tmp_path / str(n), epochs=12, rate=3e-2)["epoch"] for n, posed in enumerate((one, two))]
    assert not torch.equal(*epochs)


def test_without_held_out_images_the_last_epoch_is_kept(tmp_path: Path) -> None:
    posed = problem(tmp_path, images=5, voxels=3, held_out=0)
    model = train(posed, tmp_path / "model", epochs=4)
    assert model["epoch"].tolist() == [4, 4, 4]
    assert model["weights/1"].abs().max() > 0


def test_voxels_whose_betas_are_centred_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    posed = problem(tmp_path, images=40, voxels=7)
    whole = train(posed, tmp_path / "whole", epochs=2)
    monkeypatch.setattr("boldreams_cli.encoding.readouts.smooth.COLUMNS", 3)
    parts = train(posed, tmp_path / "parts", epochs=2)
    assert all(torch.equal(parts[name], whole[name]) for name in whole)


def test_epochs_mean_what_they_say() -> None:
    assert SmoothSettings(epochs=1).passes(300) == 1
    assert SmoothSettings(epochs=50).passes(300) == 50
    assert SmoothSettings().passes(300) == 32, "few images: 600 steps at least"
    assert SmoothSettings().passes(9000) == 5
    assert AttentionSettings().passes(300) == 120
    assert AttentionSettings().passes(9000) == 10


def test_a_voxels_start_is_its_own() -> None:
    whole = normal_draws(3, np.arange(50), 200)
    assert torch.equal(normal_draws(3, np.array([7, 30]), 200), whole[:, [7, 30]])
    assert not torch.equal(normal_draws(4, np.arange(50), 200), whole)
    assert float(whole.mean().abs()) < 0.03
    assert float(whole.std()) == pytest.approx(1, abs=0.03)
    assert float(torch.corrcoef(whole.T).fill_diagonal_(0).abs().max()) < 0.4


def test_a_voxel_depends_on_no_other(tmp_path: Path) -> None:
    """Other betas beside it, and another number of voxels."""
    one = problem(tmp_path, voxels=9)
    other = problem(tmp_path, voxels=9)
    other.betas._trials[:, 5:] = 3 * other.betas._trials[:, 5:].flip(0)
    for name, readout in {"smooth": Smooth(SmoothSettings(grid=3, epochs=3)), "ridge": RidgeReadout()}.items():
        a = solve(readout, one, tmp_path / f"{name}-a")
        b = solve(type(readout)(readout.settings), other, tmp_path / f"{name}-b")
        for key in ("bias", "weights/0", "weights/1"):
            assert torch.equal(a[key][:5], b[key][:5]), (name, key)
            assert not torch.equal(a[key][5:], b[key][5:])


def test_pooled_maps_are_made_once(tmp_path: Path) -> None:
    posed = problem(tmp_path)
    first = posed.maps.pooled(3, PLENTY)
    assert posed.maps.pooled(3, 0) is first
    assert isinstance(first[0], PooledMaps)
    assert first[0].device == CPU
