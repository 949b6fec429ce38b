"""Fits from the store: like a live backbone, repeatable, bounded, resumable; what they must not do."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from boldreams_cli.console import ChoiceError, MismatchError, StopFlag, StoppedError
from boldreams_cli.encoding.evaluation.statistics import pearson_r
from boldreams_cli.encoding.fit import FitResult, fit
from boldreams_cli.encoding.inputs import maps
from boldreams_cli.encoding.inputs.layout import make_groups, read_groups
from boldreams_cli.encoding.inputs.ranking import rank_filters
from boldreams_cli.encoding.model.folder import find_models, the_model
from boldreams_cli.encoding.model.full import FullModel, Predictor, predict_stored
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.encoding.numerics.contraction import learning_rate, published_start
from boldreams_cli.encoding.readouts import separable
from boldreams_cli.encoding.readouts.separable import AdamSettings, Separable, batch_order
from boldreams_cli.encoding.readouts.settings import FitSettings, choose_readout
from boldreams_cli.features.store.feature_store import FeatureStore
from tests.stopping import StopAt

from .conftest import Ready

CPU = torch.device("cpu")
GB = 2**30


def run(
    ready: Ready, tmp_path: Path, memory: int = 4 * GB, stop: StopFlag | None = None, **settings: object
) -> FitResult:
    adam = {"epochs": 2, "rate": 1e-3} | {k: settings.pop(k) for k in ("epochs", "rate") if k in settings}
    more = {k: settings.pop(k) for k in ("overwrite",) if k in settings}
    chosen = FitSettings(**({"percent": 10} | settings))
    readout = Separable(AdamSettings(**adam))
    stop = StopFlag() if stop is None else stop
    return fit(ready.store, ready.responses, chosen, readout, tmp_path, CPU, memory, stop, **more)


class Live(nn.Module):
    """The published model with the backbone in the loop, written plainly."""

    def __init__(self, ready: Ready, percent: float, voxels: int, seed: int) -> None:
        super().__init__()
        self.backbone = ready.backbone
        ranked = rank_filters(ready.store, ready.responses.train_images)
        self.filters = {n: order[: max(1, int(len(order) * percent / 100))] for n, (order, _) in ranked.items()}
        self.groups = make_groups({n: s[1:] for n, s in ready.store.layers.items()}, "shared")
        sizes = [(sum(len(self.filters[n]) for n in g.layers), g.pixels) for g in self.groups]
        fields, weights, bias = published_start(sizes, voxels, np.arange(voxels), seed)
        self.fields, self.weights = nn.ParameterList(fields), nn.ParameterList(weights)
        self.bias = nn.Parameter(bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            found = self.backbone.maps_of(images)
        out = self.bias
        for group, field, weight in zip(self.groups, self.fields, self.weights, strict=True):
            phi = torch.cat([found[n][:, self.filters[n]].flatten(2) for n in group.layers], dim=1)
            out = out + torch.einsum("bkp,pv,kv->bv", phi, field, weight)
        return out


def test_fit_is_the_live_backbones_training(ready: Ready, experiment: Path, tmp_path: Path) -> None:
    from boldreams_cli.data.nsd.layout import Layout
    from boldreams_cli.data.nsd.stimuli import Stimuli

    responses = ready.responses
    result = run(ready, tmp_path, percent=100, epochs=2, rate=1e-3, seed=3)
    live = Live(ready, 100, len(responses.voxels), seed=3)
    adam = torch.optim.Adam(live.parameters(), lr=1e-3)
    betas = torch.from_numpy(responses.read_betas(~responses.trial_test, slice(None)))
    shown = responses.trial_images[~responses.trial_test]
    with Stimuli(Layout.at(experiment).stimuli) as stimuli:
        for epoch in range(2):
            adam.param_groups[0]["lr"] = learning_rate(1e-3, epoch)
            for trials in batch_order(len(shown), 16, 3, epoch):
                adam.zero_grad()
                images = torch.from_numpy(stimuli.read(shown[trials]))
                (live(images) - betas[torch.from_numpy(trials)]).square().mean().backward()
                adam.step()
        with torch.no_grad():
            expected = live(torch.from_numpy(stimuli.read(responses.test_images)))
    found = predict_stored(result.model, ready.store, responses.test_images, CPU, GB)
    target = torch.from_numpy(responses.mean_betas(responses.test_images))
    r_live, r_cached = (float(pearson_r(p, target).mean()) for p in (expected, torch.from_numpy(found)))
    assert abs(r_live - r_cached) < 0.01
    # float16 maps are the only difference; Adam's division makes small ones grow.
    np.testing.assert_allclose(found, expected, atol=0.03 * float(expected.std()))


def test_memory_does_not_say_which_stored_images_are_multiplied_together(
    ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "IMAGE_BLOCK", 4)
    model = run(ready, tmp_path).model
    layouts = Predictor(model, CPU).layouts
    rows = np.random.default_rng(0).permutation(len(ready.store.images))[:27]
    sizes = set()
    for memory in (1, 300_000, GB):  # a block at a time, some, and all of them
        blocks = list(maps.stored_blocks(ready.store, rows, layouts, CPU, memory))
        sizes.add(tuple(len(block[0]) for block in blocks))
        expected = [group.float() for group in read_groups(ready.store, rows, layouts)]
        for number, group in enumerate(expected):
            assert torch.equal(torch.cat([block[number] for block in blocks]), group)
    assert sizes == {(5, 5, 5, 4, 4, 4)}


def test_same_seed_same_bits_other_seed_other_model(ready: Ready, tmp_path: Path) -> None:
    digests = [
        run(ready, tmp_path / name, seed=seed).model.spec.weights_digest
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_little_memory_changes_the_way_and_not_the_result(
    ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(separable, "INNER_BYTES", 2**15)  # blocks of 64 voxels
    plenty = run(ready, tmp_path / "plenty").model
    used: list[str] = []
    real = maps.ScratchMaps.__init__
    monkeypatch.setattr(maps.ScratchMaps, "__init__", lambda self, *a: (used.append("scratch"), real(self, *a))[1])
    little = run(ready, tmp_path / "little", memory=500_000).model  # scratch file, some voxels at a time
    assert used
    for name, values in plenty.weights.fields.items():
        torch.testing.assert_close(little.weights.fields[name], values, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(little.weights.bias, plenty.weights.bias, rtol=1e-4, atol=1e-6)
    assert not list((tmp_path / "little/scratch").iterdir()), "the scratch file has no name"


@pytest.mark.parametrize("voxels_at_a_time", [10**6, 60])
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(
    ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, voxels_at_a_time: int
) -> None:
    monkeypatch.setattr(Separable, "bytes_per_voxel", lambda self, problem: problem.memory // 2 // voxels_at_a_time)
    monkeypatch.setattr(Separable, "bytes_resident", lambda self, problem: problem.memory // 2)
    monkeypatch.setattr(Separable, "voxels_together", lambda self, problem: 1)
    whole = run(ready, tmp_path / "whole")
    with pytest.raises(StoppedError, match=r"SIGTERM.*checkpoint at epoch 2"):
        run(ready, tmp_path / "parts", stop=StopAt(8))
    if voxels_at_a_time == 60:
        with pytest.raises(StoppedError):
            run(ready, tmp_path / "parts", stop=StopAt(14))
    assert not find_models(tmp_path / "parts"), "half a model is no model"
    rest = run(ready, tmp_path / "parts")
    assert rest.model.spec.weights_digest == whole.model.spec.weights_digest
    assert rest.losses == pytest.approx(whole.losses)
    assert not (rest.model.folder / "spans").exists()


def spoil(store: FeatureStore, rows: np.ndarray) -> None:
    """Give some rows maps and means of 1000, as if these had been extracted."""
    size = store.rows_per_shard
    for kind in ("mean", "maps"):
        for number, line in store.writable.done(kind).items():
            unit = np.arange(number * size, min((number + 1) * size, len(store.images)))
            values = {}
            for name in store.layers:
                if kind == "maps":
                    values[name] = store.read_maps(name, unit, store.filters(name))
                else:
                    values[name] = store.means(name, unit)
                values[name][np.isin(unit, rows)] = 1000
            store.write(kind, number, values, line["read"])


def test_test_images_have_no_influence(ready: Ready, tmp_path: Path) -> None:
    responses = ready.responses
    ranked = rank_filters(ready.store, responses.train_images)
    before = run(ready, tmp_path / "before").model.spec
    copy = tmp_path / "copy"
    shutil.copytree(ready.cache, copy)
    store = type(ready.store)(copy / "features" / ready.store.path.name)
    spoil(store, store.rows(responses.test_images))
    again = rank_filters(store, responses.train_images)
    assert all((again[name][0] == order).all() for name, (order, _) in ranked.items())
    after = run(ready._replace(store=store), tmp_path / "after").model.spec
    assert after.weights_digest == before.weights_digest


def test_voxels_without_betas_are_named_and_never_zero(
    ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = type(ready.responses).read_betas

    def with_gap(self: object, *arguments: object, **named: object) -> np.ndarray:
        betas = real(self, *arguments, **named).copy()  # type: ignore[arg-type]
        columns = np.arange(len(ready.responses.voxels))[named.get("voxels", arguments[1])]
        betas[:, np.flatnonzero(columns == 7)] = np.nan
        return betas

    monkeypatch.setattr(type(ready.responses), "read_betas", with_gap)
    model = run(ready, tmp_path).model
    assert np.flatnonzero(~model.weights.included).tolist() == [7]
    found = predict_stored(model, ready.store, ready.responses.test_images, CPU, GB)
    assert np.isnan(found[:, 7]).all()
    assert np.isfinite(np.delete(found, 7, axis=1)).all()


def test_full_model_agrees_with_the_store_within_float16(ready: Ready, experiment: Path, tmp_path: Path) -> None:
    from boldreams_cli.data.nsd.layout import Layout
    from boldreams_cli.data.nsd.stimuli import Stimuli

    model = run(ready, tmp_path, percent=100).model
    ids = ready.responses.test_images
    stored = predict_stored(model, ready.store, ids, CPU, GB)
    with Stimuli(Layout.at(experiment).stimuli) as stimuli, torch.inference_mode():
        live = FullModel.rebuild(model, CPU).predict_images(torch.from_numpy(stimuli.read(ids))).numpy()
    # float16 has 11 bits: relative 2**-11 of each map value, less after summing over many.
    assert np.abs(stored - live).max() < 2**-11 * np.abs(live).max()


def test_area_response_is_the_mean_of_its_voxels(ready: Ready, tmp_path: Path) -> None:
    full = FullModel.rebuild(run(ready, tmp_path, percent=50).model, CPU)
    area = torch.from_numpy(ready.responses.areas.select("V1,faces"))
    pixels = torch.rand(3, 3, 63, 63, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = full(pixels)[:, area].mean(1)
        found = full.weighted_sum(area.float() / area.sum())(pixels)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_rebuilding_with_other_weights_is_refused(ready: Ready, tmp_path: Path) -> None:
    model = run(ready, tmp_path).model
    with pytest.raises(MismatchError, match="not those that"):
        FullModel.rebuild(model, CPU, weights="random:9")


def test_saved_model_comes_back(ready: Ready, tmp_path: Path) -> None:
    model = run(ready, tmp_path, rf="layer").model
    again = FittedModel.load(model.folder)
    assert again.spec == model.spec
    assert [group.name for group in again.spec.groups] == list(ready.store.layers)
    values = [torch.rand(2, *layout.shape) for layout in Predictor(again, CPU).layouts]
    torch.testing.assert_close(Predictor(again, CPU)(values), Predictor(model, CPU)(values))
    spec = json.loads((model.folder / "spec.json").read_text())
    assert {"backbone", "layers", "preprocessing", "readout", "voxels", "training", "versions"} <= spec.keys()


def test_changed_weights_are_refused(ready: Ready, tmp_path: Path) -> None:
    model = run(ready, tmp_path).model
    with (model.folder / "weights.safetensors").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(MismatchError, match=r"weights\.safetensors"):
        FittedModel.load(model.folder)


def listing(cache: Path) -> dict[str, tuple[int, int]]:
    """Every file of the models, with its time of change and size."""
    files = [path for path in (cache / "models").rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def test_models_of_different_settings_lie_side_by_side_untouched(ready: Ready, tmp_path: Path) -> None:
    different = [{}, {"seed": 2}, {"rf": "layer"}, {"epochs": 1}, {"percent": 20}]
    known: dict[str, tuple[int, int]] = {}
    for count, settings in enumerate(different, 1):
        run(ready, tmp_path, **settings)
        now = listing(tmp_path)
        assert known.items() <= now.items(), "no fit touches what another made"
        assert len(find_models(tmp_path)) == count
        known = now
    for settings in different:
        run(ready, tmp_path, **settings)
    assert listing(tmp_path) == known, "the same fit again finds its model done"


def test_choice_of_model_lists_what_there_is(ready: Ready, tmp_path: Path) -> None:
    with pytest.raises(ChoiceError, match=r"no fitted model.*there: none.*boldreams fit"):
        the_model(find_models(tmp_path), tmp_path)
    run(ready, tmp_path, percent=10, epochs=1)
    second = run(ready, tmp_path, percent=20, epochs=1, seed=4).model
    with pytest.raises(ChoiceError) as raised:
        the_model(find_models(tmp_path), tmp_path)
    assert "--model DIR" in str(raised.value)
    lines = str(raised.value).splitlines()[1:]
    assert lines[0].split() == ["model", "subject", "readout", "seed", "r", "made"]
    assert [line.split()[:5] for line in lines[1:]][1] == [
        f"subj01/alexnet/percent-20-paper-{second.spec.key[:6]}",
        *("1", "paper", "4", "-"),
    ]
    for selectors in ({"percent": 20}, {"seed": 4}, {"rf": "shared", "seed": 4}, {"key": second.spec.key}):
        assert the_model(find_models(tmp_path, **selectors), tmp_path) == second.folder
    assert not find_models(tmp_path, rf="layer")


@pytest.mark.parametrize("settings", [{"percent": 0}, {"percent": 101}, {"epochs": 0}, {"rate": 0.0}, {"rf": "none"}])
def test_settings_that_make_no_sense(ready: Ready, tmp_path: Path, settings: dict) -> None:
    with pytest.raises(ChoiceError):
        run(ready, tmp_path, **settings)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("readout", "typed", "expected"),
    [
        ("ridge", "penalties=1,2.5", (1.0, 2.5)),
        ("ridge", "penalties=3.0", (3.0,)),
        ("ridge", "compress=none", "none"),
        ("attention", "bias_times=3", 3.0),
        ("stacked", "members=ridge,local", ("ridge", "local")),
    ],
)
def test_a_setting_is_typed_as_its_readout_has_it(readout: str, typed: str, expected: object) -> None:
    name, _, text = typed.partition("=")
    settings = choose_readout(readout, None, "images", {}, {name: text}).settings
    assert getattr(settings, name) == expected
    assert type(getattr(settings, name)) is type(expected)


@pytest.mark.parametrize(
    ("typed", "said"),
    [("gird=3", "no setting 'gird'; there: compress, grid, penalties"), ("grid=many", "a value like 5"),
     ("grid=0", "--grid"), ("grid=2.5", "a value like 5")],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused_with_the_remedy(typed: str, said: str) -> None:
    name, _, text = typed.partition("=")
    with pytest.raises(ChoiceError, match=said):
        choose_readout("ridge", None, "images", {}, {name: text})


@pytest.mark.parametrize(("recipe", "typed"), [("paper", "precision=tf32"), ("fast", "epochs=2.5")])
def test_a_setting_that_its_option_checks_is_refused(recipe: str, typed: str) -> None:
    """Else a model would say tf32 of products that were not."""
    name, _, text = typed.partition("=")
    with pytest.raises(ChoiceError, match=f"use --{name} {text}"):
        choose_readout("separable", recipe, "images", {}, {name: text})
