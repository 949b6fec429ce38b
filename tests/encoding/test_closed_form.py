"""Ridge and Gaussian readouts through the whole fit: what is saved predicts what was solved; no test image is read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge

from boldreams_cli.console import BoldreamsError, ChoiceError, StopFlag
from boldreams_cli.encoding import fit as fitting
from boldreams_cli.encoding.fit import FitResult, fit
from boldreams_cli.encoding.model.folder import find_models
from boldreams_cli.encoding.model.full import FullModel, predict_stored
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.encoding.numerics.fields import gaussian_fields, interpolation
from boldreams_cli.encoding.readouts.gaussian import GaussianSettings
from boldreams_cli.encoding.readouts.settings import FitSettings, choose_readout
from boldreams_cli.encoding.spans import Spans

from .conftest import Ready

CPU = torch.device("cpu")
READOUTS = ("ridge", "gaussian")
FEW = {"ridge": {}, "gaussian": {"centres": 3}}


def run(ready: Ready, cache: Path, readout: str, percent: float = 2, memory: int = 4 * 2**30) -> FitResult:
    chosen = choose_readout(readout, None, "images", FEW[readout])
    return fit(ready.store, ready.responses, FitSettings(percent), chosen, cache, CPU, memory, StopFlag())


@pytest.fixture(scope="module", params=READOUTS)
def result(ready: Ready, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    return run(ready, tmp_path_factory.mktemp("closed"), request.param)


def chosen_of(model: FittedModel, voxel: int) -> dict[str, float]:
    """What chosen.csv says of a voxel."""
    rows = (model.folder / "chosen.csv").read_text().splitlines()
    values = next(row.split(",") for row in rows[1:] if int(row.split(",")[0]) == voxel)
    return dict(zip(rows[0].split(","), map(float, values), strict=True))


def read(ready: Ready, model: FittedModel, name: str, images: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Maps as they are stored, or of a readout of roots their roots."""
    maps = ready.store.read_maps(name, ready.store.rows(images), indices).astype(float)
    return np.sqrt(maps + 1e-4) - 1e-2 if model.spec.readout == "ridge" else maps


def features(ready: Ready, model: FittedModel, fields: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """(images, filters of all layers times fields): maps read straight from the store, summed against fields."""
    parts = []
    for group in model.spec.groups:
        for name in group.layers:
            indices = np.array(model.spec.layers[name])
            maps = read(ready, model, name, images, indices)
            parts.append(np.einsum("bkp,np->bkn", maps.reshape(*maps.shape[:2], -1), fields[group.name]))
    return np.concatenate([part.reshape(len(images), -1) for part in parts], 1)


def test_predicts_what_scikit_learns_ridge_predicts(ready: Ready, result: FitResult) -> None:
    """With the penalty that chosen.csv says, and the field."""
    model, images = result.model, ready.responses.train_images
    predicted = predict_stored(model, ready.store, images, CPU, 2**30)
    betas, repeats = ready.responses.mean_betas(images), ready.responses.repeats(images)
    for voxel in (0, 40):
        chosen, fields = chosen_of(model, voxel), {}
        for group in model.spec.groups:
            if model.spec.readout == "ridge":
                weights = interpolation(group.height, group.width, 5)
                fields[group.name] = (weights / weights.sum(0)).T.double().numpy()
            else:
                gaussian = np.array([[chosen["x"], chosen["y"], chosen["size"]]])
                fields[group.name] = gaussian_fields(group.height, group.width, gaussian)
        x = features(ready, model, fields, images)
        # Of ridge a filter has one scale, that of its pixels; of gaussian, that of what the field reads.
        x = _scaled(ready, model, x, images) if model.spec.readout == "ridge" else x / x.std(0, ddof=1)
        centred = (x - np.average(x, 0, repeats)) * np.sqrt(repeats)[:, None]
        penalty = chosen["penalty"] * np.square(centred).sum() / min(len(x) - 1, x.shape[1])
        expected = SklearnRidge(penalty).fit(x, betas[:, voxel], repeats).predict(x)
        np.testing.assert_allclose(predicted[:, voxel], expected, atol=5e-3 * predicted[:, voxel].std() + 1e-4)


def _scaled(ready: Ready, model: FittedModel, x: np.ndarray, images: np.ndarray) -> np.ndarray:
    scale = []
    for group in model.spec.groups:
        for name in group.layers:
            indices = np.array(model.spec.layers[name])
            maps = read(ready, model, name, images, indices)
            nodes = min(5, group.height) * min(5, group.width)
            scale.append(np.repeat(maps.std((0, 2, 3), ddof=1), nodes))
    return x / np.concatenate(scale)


def test_gaussian_fields_are_of_the_set(ready: Ready, tmp_path: Path) -> None:
    model = run(ready, tmp_path, "gaussian").model
    candidates = GaussianSettings(centres=3).candidates
    names = []
    for group in model.spec.groups:
        known = torch.from_numpy(gaussian_fields(group.height, group.width, candidates)).float()
        distance = (model.weights.group_field(group)[:, None] - known).abs().amax(2)
        assert distance.min(1).values.max() < 1e-5
        names.append(distance < 1e-5)
    assert torch.stack(names).all(0).any(1).all(), "the same Gaussian on all resolutions"


def test_full_model_agrees_and_is_differentiable(ready: Ready, result: FitResult) -> None:
    model = result.model
    assert FittedModel.load(model.folder).spec.readout == model.spec.readout
    full = FullModel.rebuild(model, CPU)
    area = torch.zeros(model.spec.voxels)
    area[3:9] = 1 / 6
    pixels = torch.rand(2, 3, 63, 63, requires_grad=True)
    betas, mean = full(pixels), full.weighted_sum(area)(pixels)
    torch.testing.assert_close(mean, betas[:, 3:9].mean(1), rtol=1e-3, atol=1e-4)
    (gradient,) = torch.autograd.grad(mean.sum(), pixels)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize(("readout", "little"), [("gaussian", 1_500_000), ("ridge", 1_500_000)])
def test_little_memory_solves_in_spans_to_the_same_bits(
    ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readout: str, little: int
) -> None:
    monkeypatch.setattr(fitting, "LEAST", 0)
    kept: list[int] = []
    keep = Spans.keep
    monkeypatch.setattr(Spans, "keep", lambda self, voxels, *a: (kept.append(len(voxels)), keep(self, voxels, *a))[1])
    rich, poor = (run(ready, tmp_path / str(m), readout, memory=m).model for m in (4 * 2**30, little))
    assert rich.spec.weights_digest == poor.spec.weights_digest
    assert len(kept) > 2, "one span, then several"
    with pytest.raises(BoldreamsError, match="--memory"):
        run(ready, tmp_path / "none", readout, memory=1000)


@pytest.mark.parametrize("readout", READOUTS)
def test_test_images_are_never_read(ready: Ready, tmp_path: Path, images_read: list[int], readout: str) -> None:
    run(ready, tmp_path, readout)
    assert images_read
    assert not np.isin(images_read, ready.responses.test_images).any()


def test_models_of_different_readouts_lie_side_by_side(ready: Ready, tmp_path: Path) -> None:
    for readout in READOUTS:
        run(ready, tmp_path, readout)
    assert [row.readout for row in find_models(tmp_path)] == ["gaussian", "ridge"]
    assert [row.readout for row in find_models(tmp_path, readout="ridge")] == ["ridge"]


def test_options_of_training_are_refused(ready: Ready) -> None:
    with pytest.raises(ChoiceError, match="ridge has no --epochs; leave it out"):
        choose_readout("ridge", None, "images", {"epochs": 5, "rate": None})
    with pytest.raises(ChoiceError, match="Leave out --recipe"):
        choose_readout("ridge", "paper", "images", {})
    with pytest.raises(ChoiceError, match="text models have one readout"):
        choose_readout("ridge", None, "captions", {})
