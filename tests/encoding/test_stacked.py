"""Stacked ridges: weights against scipy's, members and their mix against scikit-learn's, grids within grids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.linear_model import RidgeCV

from boldreams_cli.console import BoldreamsError, ChoiceError, StoppedError
from boldreams_cli.encoding.inputs.layout import Group, MapLayout
from boldreams_cli.encoding.inputs.members import Member, members_of
from boldreams_cli.encoding.inputs.pooled import pixel_shares
from boldreams_cli.encoding.numerics import tiles
from boldreams_cli.encoding.numerics.local import DualSystem, node_fields
from boldreams_cli.encoding.numerics.ridge import Ridge
from boldreams_cli.encoding.numerics.stacking import mixture, nested_grids, nonnegative_weights, on_finer_grid
from boldreams_cli.encoding.readouts import stacked
from boldreams_cli.encoding.readouts.base import Problem
from boldreams_cli.encoding.readouts.ridge import RidgeReadout, RidgeSettings
from boldreams_cli.encoding.readouts.settings import choose_readout
from boldreams_cli.encoding.readouts.stacked import Stacked, StackedSettings
from tests.stopping import StopAfter

from .made_up import LAYERS, PLENTY, predict, problem, solve

LITTLE = 5_000_000  # bytes with which 600 voxels take several spans
FEW = StackedSettings(grid=3, centres=2, sizes=(0.3,), penalties=(0.01, 0.1, 1.0, 10.0), compress="none")


@pytest.mark.parametrize("members", [1, 3, 40])
def test_weights_are_scipys(members: int) -> None:
    random = np.random.default_rng(members)
    common = random.normal(size=(60, 1))
    x = [common + 0.3 * random.normal(size=(60, members)) * random.uniform(0.01, 3, members) for _ in range(30)]
    y = [p @ random.normal(size=members) + random.normal(size=60) for p in x]
    gram = np.stack([p.T @ p for p in x])
    target = np.stack([p.T @ wanted for p, wanted in zip(x, y, strict=True)])
    found = nonnegative_weights(gram, target)
    expected = np.stack([nnls(p, wanted)[0] for p, wanted in zip(x, y, strict=True)])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert (found >= 0).all()
    assert members == 1 or ((found == 0).any() and (found > 0).any())


def test_weights_of_members_that_say_nothing_the_same_or_the_reverse() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(50, 3)), random.normal(size=50)
    x[:, 1] = x[:, 0]
    x[:, 2] = 0
    wanted = x[:, 0] + 0.1 * y
    x = np.column_stack([x, -wanted])
    (found,) = nonnegative_weights((x.T @ x)[None], (x.T @ wanted)[None])
    assert found[2] == 0, "it predicts nothing"
    assert found[3] == 0, "the reverse"
    assert found[:2].sum() == pytest.approx(float(x[:, 0] @ wanted / (x[:, 0] @ x[:, 0])), rel=1e-6)
    assert not nonnegative_weights((x.T @ x)[None], -(x[:, :1].T @ wanted * [1, 1, 0, 0])[None]).any()
    assert not nonnegative_weights(np.zeros((2, 4, 4)), np.zeros((2, 4))).any()


def test_a_voxels_weights_depend_on_no_other() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(20, 30, 8)) + random.normal(size=(20, 30, 1))
    gram, target = np.einsum("vim,vin->vmn", x, x), np.einsum("vim,vi->vm", x, random.normal(size=(20, 30)))
    whole = nonnegative_weights(gram, target)
    assert (nonnegative_weights(gram[3:5], target[3:5]) == whole[3:5]).all()


@pytest.mark.parametrize(("height", "width"), [(27, 27), (13, 6), (4, 2), (1, 1)])
@pytest.mark.parametrize("fine", [1, 3, 5, 9])
def test_coarse_grids_are_within_finer_ones(height: int, width: int, fine: int) -> None:
    group = Group("a", height, width, ("a",))
    pooled = torch.kron(*pixel_shares(group, fine)).double()
    for coarse in nested_grids(fine):
        expected = torch.kron(*pixel_shares(group, coarse)).double()
        torch.testing.assert_close(pooled @ on_finer_grid(height, width, coarse, fine), expected, rtol=1e-5, atol=1e-7)


def test_nested_grids() -> None:
    assert [nested_grids(grid) for grid in (1, 2, 3, 5, 7, 9)] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 3, 5],
        [1, 2, 3, 4, 7],
        [1, 2, 3, 5, 9],
    ]


@pytest.mark.parametrize("features", [12, 60])
def test_images_left_out_are_predicted_as_by_a_fit_without_them(features: int) -> None:
    random = np.random.default_rng(0)
    x, y, repeats = random.normal(2, 1, (30, features)), random.normal(size=(30, 4)), random.integers(1, 4, 30)
    ridge = Ridge(torch.from_numpy(x), torch.from_numpy(repeats), (0.1, 1.0))
    chosen = torch.tensor([0, 1, 0, 1])
    found = ridge.left_out(torch.from_numpy(y), chosen)
    mean = np.average(y, 0, repeats)
    for image in range(30):
        some = np.arange(30) != image
        for voxel in range(4):
            fitted = SklearnRidge(ridge.penalties[int(chosen[voxel])]).fit(x[some], y[some, voxel], repeats[some])
            expected = (fitted.predict(x[[image]])[0] - mean[voxel]) * np.sqrt(repeats[image])
            assert float(found[image, voxel]) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def features_of(posed: Problem, settings: StackedSettings, member: Member) -> np.ndarray:
    """(images, F) by the definition."""
    parts = []
    for layout, group in zip(
        posed.maps.layouts, posed.maps.pooled(member.grid, PLENTY, settings.compress), strict=True
    ):
        maps = group.read(np.arange(len(posed.betas.image_ids))).double()
        by_node = maps if group.layout.pixels_first else maps.transpose(1, 2)  # (images, nodes, K)
        size = layout.group.height, layout.group.width
        field = node_fields(*size, member.grid, settings.candidates)[member.field]
        parts.append((by_node * field.sqrt()[None, :, None])[:, :, member.filters(layout)].flatten(1).numpy())
    return np.concatenate(parts, 1)


def test_members_their_weights_and_their_mix_are_scikit_learns_and_scipys(tmp_path: Path) -> None:
    posed = problem(tmp_path, images=40, voxels=4, noise=1.0)
    model = solve(Stacked(FEW), posed, tmp_path / "model")
    repeats, betas = posed.betas.repeats, posed.betas.means(posed.betas.columns).double().numpy()
    mean, root = np.average(betas, 0, repeats), np.sqrt(repeats)
    left, whole = [], []
    members = members_of(FEW.members, 3, FEW.candidates, list(LAYERS))
    assert len(members) == 4 + 1 + 3 * 2
    for member in members:
        x = features_of(posed, FEW, member)
        centred = (x - np.average(x, 0, repeats)) * root[:, None]
        absolute = np.square(centred).sum() / min(len(x) - 1, x.shape[1]) * np.array(FEW.penalties)
        alphas = RidgeCV(absolute, alpha_per_target=True).fit(x, betas, repeats).alpha_
        whole.append([SklearnRidge(a).fit(x, y, repeats).predict(x) for a, y in zip(alphas, betas.T, strict=True)])
        predicted = np.empty(betas.shape)
        for one in range(len(x)):
            some = np.arange(len(x)) != one
            predicted[one] = SklearnRidge(alphas).fit(x[some], betas[some], repeats[some]).predict(x[[one]])[0]
        left.append((predicted - mean) * root[:, None])
    expected, weights = [], []
    for voxel in range(4):
        weight, _ = nnls(np.stack([p[:, voxel] for p in left], 1), (betas[:, voxel] - mean[voxel]) * root)
        weights.append(weight)
        expected.append(mean[voxel] + sum(w * (p[voxel] - mean[voxel]) for w, p in zip(weight, whole, strict=True)))
    found = torch.stack([model[member.name] for member in members], 1)
    np.testing.assert_allclose(found, weights, rtol=0.02, atol=0.01)
    assert model["members"].tolist() == [(w > 0).sum() for w in weights]
    np.testing.assert_allclose(model["sum"], np.sum(weights, 1), rtol=0.01)
    basis = [group.pool.T for group in posed.maps.pooled(3, PLENTY)]
    np.testing.assert_allclose(predict(model, posed, basis), np.stack(expected, 1), rtol=1e-2, atol=1e-2)


def test_one_member_is_its_ridge_times_its_weight(tmp_path: Path) -> None:
    posed = problem(tmp_path, voxels=6)
    stacked = solve(Stacked(StackedSettings(grid=3, members=("ridge",))), posed, tmp_path / "stacked")
    ridge = solve(RidgeReadout(RidgeSettings(grid=3)), posed, tmp_path / "ridge")
    assert torch.equal(stacked["members"] == 1, stacked["sum"] > 0)
    assert (stacked["sum"] > 0).sum() > 2
    for name in ("weights/0", "weights/1"):
        expected = ridge[name] * stacked["sum"][:, None, None]
        torch.testing.assert_close(stacked[name], expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_leaves_images_better_than_any_member_alone(tmp_path: Path) -> None:
    posed = problem(tmp_path, images=200, voxels=30, noise=1.0)
    kinds = (("ridge",), ("local",), ("layers",), ("local", "layers"))
    signal, errors = torch.from_numpy(posed.betas.signal), []
    basis = [group.pool.T for group in posed.maps.pooled(3, PLENTY)]
    for kind in kinds:
        settings = StackedSettings(grid=3, centres=3, sizes=(0.2,), members=kind, compress="none")
        model = solve(Stacked(settings), posed, tmp_path / "-".join(kind))
        errors.append(float((predict(model, posed, basis) - signal).square().mean()))
    assert errors[1] < errors[0], "fields are of this brain's making"
    assert errors[3] < 1.1 * min(errors), "members that do not help do no harm"


def test_chosen_on_some_images_and_solved_on_all(tmp_path: Path) -> None:
    posed = problem(tmp_path, voxels=6)
    fewer = StackedSettings(grid=3, centres=2, sizes=(0.3,), images=40)
    some = posed.some_images(fewer.images)
    assert len(some.unique()) == 40
    model = solve(Stacked(fewer), posed, tmp_path / "some")
    posed.betas._trials[torch.from_numpy(~np.isin(posed.betas.images, some))] += 1
    other = solve(Stacked(fewer), posed, tmp_path / "other")
    assert torch.equal(model["sum"], other["sum"])
    assert not torch.equal(model["bias"], other["bias"])


def counted(patch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often members are decomposed, and factored by a penalty, from now on."""
    counts = {"decomposed": 0, "factored": 0}
    decompose, factor = Ridge._decompose, DualSystem.__init__

    def decomposing(self: Ridge, gram: torch.Tensor) -> None:
        counts["decomposed"] += 1
        decompose(self, gram)

    def factoring(self: DualSystem, gram: torch.Tensor, penalty: float) -> None:
        counts["factored"] += 1
        factor(self, gram, penalty)

    patch.setattr(Ridge, "_decompose", decomposing)
    patch.setattr(DualSystem, "__init__", factoring)
    return counts


def test_members_are_decomposed_and_factored_once_for_all_voxels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE", 32)
    monkeypatch.setattr(stacked, "KEPT", 64)
    counts, found = counted(monkeypatch), []
    for name, memory in (("much", PLENTY), ("little", LITTLE)):
        model = solve(Stacked(FEW), problem(tmp_path, voxels=600, memory=memory), tmp_path / name)
        members = [value for key, value in model.items() if key.startswith(("local", "ridge")) or " grid " in key]
        assert counts["decomposed"] == len(members) == 11
        assert sum((value > 0).any() for value in members) <= counts["factored"] <= 11 * len(FEW.penalties)
        found.append((model, dict(counts)))
        counts |= {"decomposed": 0, "factored": 0}
    assert found[0][1] == found[1][1]
    assert found[0][0].pop("spans") == 1
    assert found[1][0].pop("spans") > 2
    assert all(torch.equal(value, found[1][0][name]) for name, value in found[0][0].items())


def test_after_a_stop_no_member_is_decomposed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = solve(Stacked(FEW), problem(tmp_path, voxels=100), tmp_path / "whole")
    counts, stops = counted(monkeypatch), 0
    for looks in (3, 8, 20, 25, 60, 7, 70, 100_000):
        try:
            found = solve(Stacked(FEW), problem(tmp_path, voxels=100), tmp_path / "parts", StopAfter(looks))
            break
        except StoppedError:
            stops += 1
    assert stops > 3
    assert counts["decomposed"] == 11
    assert all(torch.equal(value, found[name]) for name, value in whole.items())
    assert not (tmp_path / "parts" / "spans").exists() or list((tmp_path / "parts" / "spans").glob("images-*"))


def test_what_is_kept_of_a_member_and_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        solve(Stacked(FEW), problem(tmp_path), tmp_path / "model", StopAfter(16))
    kept = sorted((tmp_path / "model" / "spans").glob("member-*"))
    content = bytearray(kept[0].read_bytes())
    content[-9] ^= 1
    kept[0].write_bytes(content)
    with pytest.raises(BoldreamsError, match=r"member-0.*is damaged.*delete it"):
        solve(Stacked(FEW), problem(tmp_path), tmp_path / "model")
    kept[0].unlink()
    found = solve(Stacked(FEW), problem(tmp_path), tmp_path / "model")
    whole = solve(Stacked(FEW), problem(tmp_path), tmp_path / "whole")
    assert all(torch.equal(value, found[name]) for name, value in whole.items())


def test_a_mixture_is_what_it_says_and_its_error_is_that_of_its_sum() -> None:
    random = torch.Generator().manual_seed(0)
    repeats = torch.randint(1, 4, (40,), generator=random)
    betas = torch.randn(40, 5, generator=random)
    root, mean = repeats.double().sqrt(), (repeats / repeats.sum()).double() @ betas.double()
    wanted = (betas.double() - mean) * root[:, None]
    left_out = (wanted + torch.randn(3, 40, 5, generator=random)).float()
    weight, error = mixture(left_out, betas, repeats)
    expected = [nnls(left_out[:, :, voxel].double().T.numpy(), wanted[:, voxel].numpy()) for voxel in range(5)]
    np.testing.assert_allclose(weight.T, [found for found, _ in expected], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(error, [norm**2 / int(repeats.sum()) for _, norm in expected], rtol=1e-6)


def test_voxels_of_noise_have_the_member_that_is_the_least_wrong(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    wanted = torch.randn(40, 3, generator=random)
    wanted -= wanted.mean(0)
    errors = torch.tensor([2.0, 0.5, 1.0])[:, None, None] * torch.randn(3, 40, 3, generator=random)
    left_out = errors - 0.5 * wanted  # all of them run against the betas
    left_out[:, :, 1] = 0  # and say nothing of one voxel
    left_out[1, :, 2] = 0
    plain, worse_than_none = mixture(left_out, wanted, torch.ones(40))
    assert not plain.any()
    weight, error = mixture(left_out, wanted, torch.ones(40), never_none=True)
    assert weight.T.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 1]]
    expected = (wanted - torch.stack([left_out[1, :, 0], torch.zeros(40), left_out[2, :, 2]], 1)).double()
    np.testing.assert_allclose(error, expected.square().mean(0), rtol=1e-6)
    assert (error >= worse_than_none).all()
    large = torch.randn(40, 3, generator=random)  # says more than the reverse of the betas, and less that is wrong
    large -= wanted * ((large * wanted).sum(0) / wanted.square().sum(0) + 0.01)
    weight, _ = mixture(torch.stack([-0.6 * wanted, large]), wanted, torch.ones(40), never_none=True)
    assert weight.T.tolist() == [[0, 1]] * 3

    noise = problem(tmp_path, images=40, voxels=60, noise=1000.0)
    assert not (solve(Stacked(FEW), noise, tmp_path / "a")["members"] == 0).any()
    earlier = replace(FEW, never_none=False)
    assert "never_none" not in earlier.recorded(), "models of earlier versions keep their names"
    assert (solve(Stacked(earlier), noise, tmp_path / "b")["members"] == 0).any()


@pytest.mark.parametrize("changes", [{"members": ()}, {"members": ("ridge", "ridge")}, {"grid": 0}, {"centres": 0}])
def test_settings_are_checked(changes: dict[str, object]) -> None:
    with pytest.raises(ChoiceError):
        StackedSettings(**changes).check()  # type: ignore[arg-type]


def test_members_that_do_not_fold_are_refused_by_name() -> None:
    with pytest.raises(ChoiceError, match=r"--members takes ridge, local, layers.* not 'gaussian'"):
        choose_readout("stacked", None, "images", {"members": ("ridge", "gaussian")})
    chosen = choose_readout("stacked", None, "images", {"members": ["layers"]})
    assert chosen.settings.members == ("layers",)


def test_a_member_of_one_layer_reads_that_alone() -> None:
    group = Group("4x4", 4, 4, ("a", "b"))
    layout = MapLayout(group, {"a": range(3), "b": range(5)})
    other = MapLayout(Group("2x2", 2, 2, ("c",)), {"c": range(7)})
    member = Member("b grid 3", 3, "b", 0)
    assert [member.filters(one) for one in (layout, other)] == [slice(3, 8), slice(0, 0)]
    assert member.features([layout, other]) == 9 * 5
    assert Member("all", 1, None, 0).features([layout, other]) == 8 + 7
