"""The attention readout against numpy's arithmetic, torch's gradients, and brains that it should or should not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.decomposition import PCA

from boldreams_cli.console import BoldreamsError, ChoiceError, StopFlag, StoppedError
from boldreams_cli.data.areas import Areas
from boldreams_cli.encoding import fit as fitting
from boldreams_cli.encoding.fit import FitResult, fit
from boldreams_cli.encoding.inputs.betas import TrainingBetas
from boldreams_cli.encoding.model.full import FullModel, predict_stored
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.encoding.numerics.attention import AttentionReader, attend, attend_gradients, key_projection
from boldreams_cli.encoding.readouts.attention import AttendingTraining, Attention, AttentionSettings
from boldreams_cli.encoding.readouts.base import Problem
from boldreams_cli.encoding.readouts.settings import FitSettings
from boldreams_cli.encoding.readouts.smooth import Smooth, SmoothSettings
from tests.stopping import StopAfter

from .conftest import Ready
from .made_up import CPU, LAYERS, PLENTY, Nowhere, problem, solve, strict_products

FEW = {"grid": 3, "keys": 4, "batch_size": 16}


def hats(pixels: int, nodes: int) -> np.ndarray:
    """(pixels, nodes) weights of linear interpolation between nodes on the outermost pixels, made to sum to 1."""
    places = np.linspace(0, pixels - 1, nodes)
    found = np.stack([np.interp(np.arange(pixels), places, np.eye(nodes)[node]) for node in range(nodes)], 1)
    return found / found.sum(0)


def pooled_by_hand(maps: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(images, K, H, W) -> (images, nodes, K)."""
    down, across = hats(maps.shape[2], grid[0]), hats(maps.shape[3], grid[1])
    return np.einsum("bkhw,hi,wj->bijk", maps, down, across).reshape(len(maps), -1, maps.shape[1])


def attended_by_hand(pooled: np.ndarray, queries: np.ndarray, positions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pooled maps (images, nodes, K); queries, weights (voxels, K); positions (voxels, nodes) -> (images, voxels)."""
    out = np.zeros((len(pooled), len(weights)))
    for image, at in enumerate(pooled):
        for voxel in range(len(weights)):
            field = softmax(at @ queries[voxel] + positions[voxel])
            out[image, voxel] = field @ at @ weights[voxel]
    return out


def predict_by_hand(model: dict[str, torch.Tensor], posed: Problem, grid: int = 3) -> np.ndarray:
    """(images, voxels) of a solution, from the maps as they are stored."""
    total = model["bias"].double().numpy()
    for number, (name, (_, height, width)) in enumerate(LAYERS.items()):
        maps = posed.maps.store.maps[name][posed.maps.store.rows].astype(float)
        pooled = pooled_by_hand(maps, (min(grid, height), min(grid, width)))
        found = (model[f"{kind}/{number}"].double().flatten(1).numpy() for kind in ("queries", "fields", "weights"))
        total = total + attended_by_hand(pooled, *found)
    return total


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("pixels_first", [False, True])
@pytest.mark.parametrize("grid", [(3, 3), (5, 4), (1, 1)])
def test_a_reader_is_the_definition(pixels_first: bool, grid: tuple[int, int]) -> None:
    maps, queries, weights = drawn(4, 6, 5, 4).relu(), drawn(7, 6, seed=1), drawn(7, 6, seed=2)
    positions = drawn(7, grid[0] * grid[1], seed=3) * 3
    expected = attended_by_hand(pooled_by_hand(maps.numpy(), grid), queries.numpy(), positions.numpy(), weights.numpy())
    pool = torch.from_numpy(np.kron(hats(5, grid[0]), hats(4, grid[1])))
    flat = maps.flatten(2)
    found = AttentionReader(pool, positions, queries, weights, pixels_first)(flat.mT if pixels_first else flat)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    some = AttentionReader(pool, positions, queries, weights, False)(flat, slice(2, 5))
    np.testing.assert_allclose(some, expected[:, 2:5], rtol=1e-10)


def test_gradients_are_autograds() -> None:
    maps, keys, error = drawn(5, 9, 6), drawn(5, 9, 3, seed=1), drawn(5, 4, seed=2)
    parameters = [drawn(*shape, seed=s).requires_grad_() for s, shape in ((3, (3, 4)), (4, (9, 4)), (5, (6, 4)))]
    (attend(maps, keys, *parameters)[0] * error).sum().backward()
    with torch.no_grad():
        found = attend_gradients(maps, keys, *attend(maps, keys, *parameters), error)
    for one, parameter in zip(found, parameters, strict=True):
        torch.testing.assert_close(one, parameter.grad)
    assert torch.autograd.gradcheck(lambda *given: attend(maps, keys, *given)[0], parameters)


def test_a_query_of_0_is_a_fixed_field_and_a_strong_one_reads_where_it_finds_its_key() -> None:
    maps, weights, positions = drawn(5, 9, 6), drawn(6, 4, seed=1), drawn(9, 4, seed=2)
    still = attend(maps, maps, torch.zeros(6, 4, dtype=torch.float64), positions, weights)[0]
    torch.testing.assert_close(still, torch.einsum("bnk,nv,kv->bv", maps, positions.softmax(0), weights))
    sharp = attend(maps, maps[:, :, :1], torch.full((1, 4), 1e4, dtype=torch.float64), positions, weights)[0]
    there = maps[torch.arange(5), maps[:, :, 0].argmax(1)]
    torch.testing.assert_close(sharp, there @ weights)
    shifted = attend(maps, maps[:, :, :2], weights[:2], positions + 7, weights)[0]
    torch.testing.assert_close(shifted, attend(maps, maps[:, :, :2], weights[:2], positions, weights)[0])


@pytest.mark.parametrize("images", [11, 16, 37])
def test_threads_change_no_bit_of_attention_nor_of_keys(images: int) -> None:
    """With 11 images one of two threads ends within an image, where torch's softmax has other last bits."""
    maps, queries = drawn(images, 9, 208).float(), drawn(4, 144, seed=1).float()
    positions, weights = drawn(9, 144, seed=2).float(), drawn(208, 144, seed=3).float()
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            projection = key_projection([maps - maps.mean((0, 1))], 4)
            keys = maps @ projection
            error = drawn(images, 144, seed=4).float()
            share, attention, read = attend(maps, keys, queries, positions, weights)
            parts = [projection, share, attention.clone(), read.clone()]
            found.append([*parts, *attend_gradients(maps, keys, share, attention, read, error)])
    finally:
        torch.set_num_threads(before)
    close = {"rtol": 0, "atol": 0} if strict_products() else {"rtol": 1e-5, "atol": 1e-5}
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **close)


def test_keys_are_whitened_principal_components() -> None:
    maps = drawn(30, 4, 6) @ drawn(6, 6, seed=1)
    maps[:, :, 2] = 0
    maps -= maps.mean((0, 1))
    projection = key_projection([maps[:13], maps[13:]], 3).double()
    expected = PCA(3, whiten=True).fit_transform(maps.flatten(0, 1).numpy())
    found = (maps.flatten(0, 1) @ projection).numpy()
    same = np.abs((found * expected).sum(0)) / np.linalg.norm(found, axis=0) / np.linalg.norm(expected, axis=0)
    np.testing.assert_allclose(same, 1, atol=1e-6)
    np.testing.assert_allclose(found.std(0), 1, rtol=1e-5)
    everything = key_projection([maps], 9)
    assert everything.shape == (6, 6)
    assert everything.isfinite().all()
    assert (everything[:, -1] == 0).all(), "of five dimensions"
    assert (key_projection([torch.zeros(3, 2, 4)], 2) == 0).all()


def training(posed: Problem, **settings: object) -> AttendingTraining:
    readout = Attention(AttentionSettings(**(FEW | settings)))  # type: ignore[arg-type]
    found = readout._training(posed, posed.betas.columns)
    assert isinstance(found, AttendingTraining)
    return found


def test_a_steps_gradient_is_that_of_the_single_trials(tmp_path: Path) -> None:
    posed = problem(tmp_path, voxels=4)
    made = training(posed, epochs=1)
    (block,) = made.training.blocks
    for seed, tensor in enumerate(block.parameters()):
        tensor.copy_(drawn(*tensor.shape, seed=seed) * 0.5)
    maps = [group.read(np.arange(70)) for group in made.maps]
    means = posed.betas.means(posed.betas.columns)
    _, found = block.gradients(maps, means, 2 * float(posed.betas.repeats[made.train].mean()), made.weight)
    parameters = [tensor.double().requires_grad_() for tensor in block.parameters()]
    weights, (bias,), positions, queries = parameters[:2], parameters[2:3], parameters[3:5], parameters[5:]
    predicted = bias
    for number, both in enumerate(maps):
        values, keys = both.double().split([len(weights[number]), len(queries[number])], 2)
        scores = torch.einsum("bnd,dv->bnv", keys, queries[number]) + positions[number]
        field = scores.exp() / scores.exp().sum(1, keepdim=True)
        predicted = predicted + torch.einsum("bnv,bnk,kv->bv", field, values, weights[number])
    trials = posed.betas.trials(posed.betas.columns).double()
    (predicted[torch.from_numpy(posed.betas.images)] - trials).square().sum().backward()
    for one, parameter in zip(found, parameters, strict=True):
        torch.testing.assert_close(one.double(), parameter.grad, rtol=1e-4, atol=1e-4 * float(parameter.grad.norm()))


def test_the_model_as_saved_predicts_what_was_trained(tmp_path: Path) -> None:
    """Scales, centres and components undone, from maps as they are stored; filters that never vary have no weight."""
    posed = problem(tmp_path, voxels=6)
    made = training(posed, epochs=4, rate=3e-2)
    made.held = made.held[:0]  # keeps the last epoch
    for _ in range(4):
        made.run_epoch(Nowhere(), StopFlag())
    (block,) = made.training.blocks
    expected = block.missed([group.read(np.arange(70)) for group in made.maps], -made.mean.float().expand(70, -1))
    solution = made.solution()
    model = {"bias": solution.bias} | {
        f"{kind}/{n}": value
        for kind in ("fields", "weights", "queries")
        for n, value in enumerate(getattr(solution, kind))
    }
    np.testing.assert_allclose(predict_by_hand(model, posed), expected, rtol=1e-3, atol=1e-3)
    assert (model["weights/0"][:, 1] == 0).all()
    assert (model["queries/0"][:, 1] == 0).all()
    assert model["fields/0"].shape == (6, 3, 3)
    assert solution.chosen["epoch"].tolist() == [4] * 6
    assert (solution.chosen["content"] > 0).all()


def test_each_voxel_keeps_its_best_epoch_and_a_tied_area_its_own(tmp_path: Path) -> None:
    posed = problem(tmp_path, voxels=6, noise=3.0)
    means, repeats = posed.betas.means(posed.betas.columns).double(), torch.from_numpy(posed.betas.repeats).double()
    for share in ("voxel", "area"):
        made = training(posed, epochs=10, rate=3e-2, share=share)
        errors = []
        for _ in range(10):
            made.run_epoch(Nowhere(), StopFlag())
            (block,) = made.training.blocks
            missed = block.missed([group.read(np.arange(70)) for group in made.maps], means.float() - made.mean.float())
            errors.append((missed.double().square() * repeats[:, None])[torch.from_numpy(posed.held_out)].sum(0))
        best = torch.stack(errors).argmin(0) if share == "voxel" else torch.stack(errors).mean(1).argmin().expand(6)
        assert made.solution().chosen["epoch"].tolist() == (best + 1).tolist()
        assert best.max() < 9 or share == "voxel"


def test_an_area_shares_its_queries_and_nothing_else(tmp_path: Path) -> None:
    posed = problem(tmp_path, voxels=9)
    settings = AttentionSettings(**FEW, epochs=3, share="area")  # type: ignore[arg-type]
    model = solve(Attention(settings), posed, tmp_path / "model")
    assert model["spans"] == 3
    for name in ("queries/0", "queries/1", "content", "epoch"):
        for area in range(3):
            some = model[name][posed.betas.areas == area]
            assert torch.equal(some, some[:1].expand_as(some)), name
    assert len(model["queries/1"].unique(dim=0)) == 3
    for name in ("fields/0", "weights/0", "bias"):
        assert len(model[name].unique(dim=0)) == 9, name
    alone = problem(tmp_path, voxels=9)
    alone.betas.areas = np.where(posed.betas.areas == 1, 1, 0)
    other = solve(Attention(settings), alone, tmp_path / "other")
    mine = torch.from_numpy(posed.betas.areas == 1)
    for name in ("queries/0", "fields/1", "weights/1", "bias"):
        assert torch.equal(other[name][mine], model[name][mine]), "of an area of the same voxels"
        assert not torch.equal(other[name][~mine], model[name][~mine])


def test_a_tied_query_goes_by_the_gradients_of_all_its_voxels(tmp_path: Path) -> None:
    posed = problem(tmp_path, voxels=6)
    made = training(posed, epochs=1, share="area")
    (block,) = made.training.blocks
    maps = [group.read(np.arange(20)) for group in made.maps]
    _, found = block.gradients(maps, made.betas[:20], 2 / 20, made.weight[:20])
    made.training.step(maps, made.betas[:20], 1e-2, made.weight[:20])
    for tensor, gradient in zip(block.queries, found[-2:], strict=True):
        assert tensor.grad is not None
        torch.testing.assert_close(tensor.grad, gradient.sum(1, keepdim=True).expand(-1, 6))
        assert torch.equal(tensor, tensor[:, :1].expand(-1, 6))


def test_areas_resume_and_refuse_too_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = AttentionSettings(**FEW, epochs=3, share="area")  # type: ignore[arg-type]
    whole = solve(Attention(settings), problem(tmp_path, voxels=30), tmp_path / "whole")
    stops = 0
    for looks in (2, 9, 5, 17, 100_000):
        memory = (PLENTY, 25_200_000)[stops % 2]
        try:
            found = solve(
                Attention(settings), problem(tmp_path, voxels=30, memory=memory), tmp_path / "model", StopAfter(looks)
            )
        except StoppedError:
            stops += 1
    assert stops > 2
    assert all(torch.equal(whole[name], found[name]) for name in whole)
    monkeypatch.setattr(fitting, "LEAST", 0)
    with pytest.raises(BoldreamsError, match="use more --memory"):
        solve(Attention(settings), problem(tmp_path, voxels=300, memory=25_100_000), tmp_path / "little")


def test_it_reads_a_brain_that_attends_better_than_a_fixed_field_does(tmp_path: Path) -> None:
    """Each voxel reads the node where a filter is strongest; compared on noise-free responses to held-out images."""
    posed = problem(tmp_path, images=500, voxels=12, noise=0.3, held_out=100)
    random = np.random.default_rng(3)
    maps = posed.maps.store.maps["b"][posed.maps.store.rows].astype(float)
    pooled = pooled_by_hand(maps, (3, 3))
    pooled = (pooled - pooled.mean((0, 1))) / pooled.std((0, 1))
    queries = np.zeros((12, 30))
    queries[np.arange(12), random.integers(0, 30, 12)] = 4
    signal = attended_by_hand(pooled, queries, np.zeros((12, 9)), random.normal(size=(12, 30)))
    signal = (signal - signal.mean(0)) / signal.std(0)
    trials = signal[posed.betas.images] + 0.3 * random.normal(size=(len(posed.betas.images), 12))
    posed.betas._trials = torch.from_numpy(trials).float()
    attending = solve(Attention(AttentionSettings(grid=3, keys=30)), posed, tmp_path / "attention")
    fixed = solve(Smooth(SmoothSettings(grid=3)), posed, tmp_path / "fast")
    from .made_up import predict

    r = [
        np.mean(
            [np.corrcoef(p, s)[0, 1] for p, s in zip(found[posed.held_out].T, signal[posed.held_out].T, strict=True)]
        )
        for found in (predict_by_hand(attending, posed), predict(fixed, posed).numpy())
    ]
    assert r[0] > r[1] + 0.1
    assert float(attending["content"].median()) > 0.5


@pytest.mark.parametrize("changes", [{"keys": 0}, {"share": "hemisphere"}, {"bias_times": 0.0}, {"grid": 0}])
def test_settings_are_checked(changes: dict[str, object]) -> None:
    with pytest.raises(ChoiceError):
        AttentionSettings(**changes).check()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def result(ready: Ready, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    readout = Attention(AttentionSettings(grid=4, epochs=3))
    cache = tmp_path_factory.mktemp("attention")
    return fit(ready.store, ready.responses, FitSettings(10), readout, cache, CPU, 2**32, StopFlag())


def test_the_full_model_agrees_with_the_store_and_is_differentiable(
    ready: Ready, experiment: Path, result: FitResult
) -> None:
    from boldreams_cli.data.opening import open_dataset

    model = FittedModel.load(result.model.folder)
    ids = ready.responses.test_images
    stored = predict_stored(model, ready.store, ids, CPU, 2**30)
    with open_dataset(experiment).stimuli() as stimuli, torch.inference_mode():
        live = FullModel.rebuild(model, CPU).predict_images(torch.from_numpy(stimuli.read(ids))).numpy()
    np.testing.assert_allclose(stored, live, atol=2e-3 * np.nanstd(live))
    area = torch.zeros(model.spec.voxels)
    area[3:9] = 1 / 6
    full, pixels = FullModel.rebuild(model, CPU), torch.rand(2, 3, 63, 63, requires_grad=True)
    betas, mean = full(pixels), full.weighted_sum(area)(pixels)
    torch.testing.assert_close(mean, betas[:, 3:9].mean(1), rtol=1e-3, atol=1e-4)
    (gradient,) = torch.autograd.grad(mean.sum(), pixels)
    assert gradient.abs().max() > 0


def test_its_files_say_what_it_is(result: FitResult) -> None:
    spec, weights = result.model.spec, FittedModel.load(result.model.folder).weights
    assert (spec.readout, spec.recipe, spec.training["share"], spec.training["keys"]) == (
        "attention",
        None,
        "voxel",
        16,
    )
    for group in spec.groups:
        assert weights.fields[group.name].shape == (spec.voxels, min(4, group.height), min(4, group.width))
        for layer in group.layers:
            assert (
                weights.queries[layer].shape == weights.weights[layer].shape == (spec.voxels, len(spec.layers[layer]))
            )
    assert (result.model.folder / "chosen.csv").read_text().startswith("voxel,content,epoch\n")


def test_the_area_of_a_voxel_is_its_first(ready: Ready) -> None:
    betas = TrainingBetas(ready.responses)
    areas: Areas = ready.responses.areas
    names = [*areas.counts()]
    for place, column in enumerate(betas.columns):
        inside = [number for number, name in enumerate(names) if areas.select(name)[column]]
        assert betas.areas[place] == (inside[0] if inside else len(names))
    assert len(np.unique(betas.areas)) > 3
