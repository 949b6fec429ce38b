"""Cross-validated predictions: by hand on the other images, untouched by the images' own betas, kept after a stop."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeCV

from boldreams_cli.console import ChoiceError, MismatchError, StopFlag, StoppedError
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding import folds
from boldreams_cli.encoding.fit import fit
from boldreams_cli.encoding.folds import Folds, deal, fit_folds, load_folds, there_are
from boldreams_cli.encoding.model.full import predict_stored
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.encoding.numerics.fields import interpolation_along
from boldreams_cli.encoding.numerics.ridge import HALF_DECADES
from boldreams_cli.encoding.readouts.base import Readout
from boldreams_cli.encoding.readouts.gaussian import Gaussian, GaussianSettings
from boldreams_cli.encoding.readouts.ridge import RidgeReadout, RidgeSettings
from boldreams_cli.encoding.readouts.separable import AdamSettings, Separable
from boldreams_cli.encoding.readouts.settings import FitSettings
from boldreams_cli.encoding.readouts.smooth import Smooth, SmoothSettings
from tests.stopping import StopAt

from .conftest import Ready

CPU, GB = torch.device("cpu"), 2**30
READOUTS: dict[str, Readout] = {
    "paper": Separable(AdamSettings(epochs=2, rate=1e-3)),
    "fast": Smooth(SmoothSettings(grid=3, epochs=3)),
    "ridge": RidgeReadout(RidgeSettings(grid=2, compress="none")),
    "gaussian": Gaussian(GaussianSettings(centres=2, sizes=(0.2,))),
}


def fresh(name: str) -> Readout:
    return READOUTS[name].__class__(READOUTS[name].settings)


def base(ready: Ready, cache: Path, name: str = "ridge", seed: int = 0) -> FittedModel:
    settings = FitSettings(5, seed=seed)
    return fit(ready.store, ready.responses, settings, fresh(name), cache, CPU, GB, StopFlag()).model


def cross(ready: Ready, model: FittedModel, name: str = "ridge", count: int = 3, **changes: Any) -> Folds:
    stop = changes.pop("stop", StopFlag())
    settings = FitSettings(5, seed=model.spec.training["seed"])
    return fit_folds(model, count, ready.store, ready.responses, settings, fresh(name), CPU, GB, stop, **changes)


@pytest.fixture(scope="module")
def plain(ready: Ready, tmp_path_factory: pytest.TempPathFactory) -> tuple[FittedModel, Folds]:
    """A ridge model and the predictions of its three folds."""
    model = base(ready, tmp_path_factory.mktemp("plain"))
    return model, cross(ready, model)


def test_images_are_dealt_evenly_once_each_by_the_seed() -> None:
    images = np.arange(100, 203)
    dealt = deal(images, 5, 0)
    assert sorted(np.bincount(dealt)[1:]) == [20, 20, 21, 21, 21]
    order = np.random.default_rng(0).permutation(103)
    np.testing.assert_array_equal(deal(images[order], 5, 0), dealt[order])  # by the image, not by its place
    assert (deal(images, 5, 1) != dealt).mean() > 0.5
    assert deal(np.arange(100, 112), 3, 0).tolist() == [1, 3, 2, 2, 2, 1, 1, 3, 3, 2, 3, 1]  # for good


def test_ridge_is_scikit_learns_on_the_other_images(ready: Ready, plain: tuple[FittedModel, Folds]) -> None:
    found = plain[1]
    responses, store = ready.responses, ready.store
    np.testing.assert_array_equal(found.images, responses.train_images)
    repeats, betas = responses.repeats(found.images), responses.mean_betas(found.images)
    expected = np.empty_like(betas)
    chosen = []
    for number in (1, 2, 3):
        left, others = found.fold == number, found.fold != number
        features = []
        for name, (count, height, width) in store.layers.items():
            rows = store.rows(found.images)
            maps = store.read_maps(name, rows, np.arange(count)).astype(float)
            std = maps[others].mean((2, 3)).std(0)
            best = np.argsort(-std, kind="stable")[: max(1, int(count * 0.05))]
            chosen.append(best.tolist())
            maps = maps[:, best]
            down, across = (interpolation_along(side, 2).double().numpy() for side in (height, width))
            pooled = np.einsum("ikhw,ha,wb->ikab", maps, down / down.sum(0), across / across.sum(0))
            scale = maps[others].transpose(0, 2, 3, 1).reshape(-1, len(best)).std(0, ddof=1)
            features.append((pooled / scale[:, None, None]).reshape(len(maps), -1))
        x = np.concatenate(features, 1)
        share = repeats[others]
        centred = (x[others] - np.average(x[others], 0, share)) * np.sqrt(share)[:, None]
        mean = np.square(centred).sum() / min(others.sum() - 1, x.shape[1])
        reference = RidgeCV(mean * np.array(HALF_DECADES), alpha_per_target=True)
        expected[left] = reference.fit(x[others], betas[others], sample_weight=share).predict(x[left])
    np.testing.assert_allclose(found.predictions(), expected, atol=2e-3 * expected.std())
    known = json.loads(found.path.with_suffix(".json").read_text())
    assert [layer for one in known["folds"] for layer in one["layers"].values()] == chosen
    assert len({str(one["layers"]) for one in known["folds"]}) > 1, "the ranking could tell folds apart"
    np.testing.assert_array_equal(found.predictions(slice(3, 9)), found.predictions()[:, 3:9])


@pytest.mark.parametrize("name", READOUTS)
def test_every_readout_is_fitted_without_the_fold_and_the_model_is_the_same(
    ready: Ready, tmp_path: Path, name: str
) -> None:
    model = base(ready, tmp_path, name, seed=4)
    before = {path: path.read_bytes() for path in model.folder.rglob("*") if path.is_file()}
    found = cross(ready, model, name)
    assert {path: path.read_bytes() for path in before} == before
    after = {path.name for path in model.folder.iterdir()} - {path.name for path in before}
    assert after == {"folds-3.safetensors", "folds-3.json"}, "and nothing else is left"
    np.testing.assert_array_equal(found.fold, deal(found.images, 3, 4))
    rest = ready.responses.leaving_out(found.images[found.fold == 2])
    other = fit(ready.store, rest, FitSettings(5, seed=4), fresh(name), tmp_path / "hand", CPU, GB, StopFlag()).model
    assert other.spec.key != model.spec.key, "it is taken for no other model"
    by_hand = predict_stored(other, ready.store, found.images[found.fold == 2], CPU, GB)
    np.testing.assert_array_equal(found.predictions()[found.fold == 2], by_hand)


@pytest.mark.parametrize("name", ["fast", "ridge"])
def test_an_images_own_betas_do_not_matter(
    ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    model = base(ready, tmp_path, name)
    found = cross(ready, model, name)
    mine, before = found.fold == 1, found.predictions()
    real = Responses.read_betas

    def other_betas(self: Responses, trials: Any = slice(None), voxels: slice = slice(None)) -> np.ndarray:
        betas, wrong = real(self, trials, voxels), np.isin(self.trial_images[trials], found.images[mine])
        betas[wrong] = -3 * betas[wrong] + 1
        return betas

    monkeypatch.setattr(Responses, "read_betas", other_betas)
    after = cross(ready, model, name, overwrite=True).predictions()
    np.testing.assert_array_equal(after[mine], before[mine])
    assert (after[~mine] != before[~mine]).mean() > 0.9, "to the others they do"


def test_a_fold_has_two_images_at_least() -> None:
    assert np.bincount(deal(np.arange(9), 4, 0)).tolist() == [0, 3, 2, 2, 2]
    for count in (1, 5, 9):
        with pytest.raises(ChoiceError, match="from 2 to 4, half of the training images"):
            deal(np.arange(9), count, 0)


def test_stopped_and_resumed_by_fold(
    ready: Ready, plain: tuple[FittedModel, Folds], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FittedModel.load(Path(shutil.copytree(plain[0].folder, tmp_path / "model")))
    for path in model.folder.glob("folds-*"):
        path.unlink()
    fitted: list[int] = []

    def counting(store: Any, responses: Responses, *rest: Any) -> Any:
        fitted.append(len(responses.train_images))
        if len(fitted) == 2:
            raise StoppedError("stopped")
        return fit(store, responses, *rest)

    monkeypatch.setattr(folds, "fit", counting)
    with pytest.raises(StoppedError):
        cross(ready, model)
    assert not there_are(model)
    with pytest.raises(MismatchError, match="has no predictions of 3 folds"):
        load_folds(model, 3)
    found = cross(ready, model)
    assert len(fitted) == 4, "the first fold was kept"
    np.testing.assert_array_equal(found.predictions(), plain[1].predictions())
    assert not found.path.with_suffix("").exists()
    cross(ready, model)
    assert len(fitted) == 4, "all are there"
    cross(ready, model, overwrite=True)
    assert len(fitted) == 7
    work = found.path.with_suffix("")

    def killed(path: Path, **_: Any) -> None:
        if path == work:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            cross(ready, model, overwrite=True)
    assert list(work.glob("fold-*.safetensors")), "as of a kill at the end"
    cross(ready, model, overwrite=True)
    assert len(fitted) == 13, "it is no beginning of another"
    work.mkdir()
    cross(ready, model)
    assert not work.exists()


def test_stopped_inside_a_fold(ready: Ready, tmp_path: Path) -> None:
    model = base(ready, tmp_path / "one", "paper")
    whole = cross(ready, model, "paper", count=2).predictions()
    again = base(ready, tmp_path / "other", "paper")
    with pytest.raises(StoppedError):
        cross(ready, again, "paper", count=2, stop=StopAt(3))
    assert list(again.folder.glob("folds-2/fold-1/**/spans/state-*")), "it was in the middle"
    np.testing.assert_array_equal(cross(ready, again, "paper", count=2).predictions(), whole)


def test_a_damaged_fold_is_fitted_again_and_damaged_predictions_do_not_count(
    ready: Ready, plain: tuple[FittedModel, Folds], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FittedModel.load(Path(shutil.copytree(plain[0].folder, tmp_path / "model")))
    assert load_folds(model, 3).summary() == {
        "folds": 3,
        "images": len(ready.responses.train_images),
        "file": str(model.folder / "folds-3.safetensors"),
    }
    for path in (model.folder / "folds-3.safetensors", model.folder / "folds-3" / "fold-1.safetensors"):
        if not path.exists():  # stopped when the first fold was done

            def once(*arguments: Any) -> Any:
                monkeypatch.undo()
                raise StoppedError("stopped")

            real = folds._join
            monkeypatch.setattr(folds, "_join", once)
            with pytest.raises(StoppedError):
                cross(ready, model)
            assert folds._join is real
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)
        with pytest.raises(MismatchError, match="--folds 3"):
            load_folds(model, 3)
    np.testing.assert_array_equal(cross(ready, model).predictions(), plain[1].predictions())


def test_another_number_of_folds_lies_beside_and_no_other_models_are_taken(
    ready: Ready, plain: tuple[FittedModel, Folds], tmp_path: Path
) -> None:
    model = FittedModel.load(Path(shutil.copytree(plain[0].folder, tmp_path / "model")))
    cross(ready, model, count=2)
    assert there_are(model) == [2, 3]
    np.testing.assert_array_equal(load_folds(model, 3).predictions(), plain[1].predictions())
    shutil.copy(model.folder / "folds-2.json", model.folder / "folds-4.json")
    shutil.copy(model.folder / "folds-2.safetensors", model.folder / "folds-4.safetensors")
    with pytest.raises(MismatchError):
        load_folds(model, 4)
    with pytest.raises(ValueError, match="other settings"):
        fit_folds(
            *(model, 2, ready.store, ready.responses, FitSettings(5, seed=9), fresh("ridge")),
            *(CPU, GB, StopFlag()),
        )
