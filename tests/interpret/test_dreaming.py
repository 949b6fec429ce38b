"""Dreams: targets, objectives and responses of the full model, the same for a seed, and resumed to the same end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from boldreams_cli.console import BoldreamsError, ChoiceError, StopFlag
from boldreams_cli.data.nsd.stimuli import Stimuli
from boldreams_cli.encoding.model.full import predict_stored, store_of
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.features import backbones
from boldreams_cli.interpret import targets
from boldreams_cli.interpret.dreams.ascent import objectives, parameterization
from boldreams_cli.interpret.dreams.ascent.loop import Dream, Dreamer, Settings
from boldreams_cli.interpret.dreams.ascent.objectives import Objective
from boldreams_cli.interpret.dreams.ascent.transforms import Transforms
from boldreams_cli.interpret.targets import AreaTarget, FilterTarget, Target
from tests.interpret.conftest import CPU, Fitted, by_hand
from tests.stopping import StopAfter as After

STEPS = 6


def settings_for(target: Target, **changes: object) -> Settings:
    return replace(Settings.default(target.full.backbone.entry, "V1", steps=STEPS, rate=0.02, count=2), **changes)


def dreamer(target: Target, objective: Objective | None = None, **changes: object) -> Dreamer:
    settings = settings_for(target, **changes)
    size = target.full.backbone.entry.preprocessing.size
    generator = torch.Generator().manual_seed(settings.seed)
    return Dreamer(
        target,
        objective or Objective("mean"),
        parameterization.fourier(settings.count, size, generator, CPU),
        settings,
    )


def area(fitted: Fitted, roi: str = "V1", **more: object) -> AreaTarget:
    target = targets.choose(fitted.full, fitted.responses.areas, roi, **more)
    assert isinstance(target, AreaTarget)
    return target


@pytest.fixture(scope="module")
def dreamed(fitted: Fitted) -> Dream:
    return dreamer(area(fitted)).run(StopFlag())


def test_full_model_agrees_with_the_store_within_float16(fitted: Fitted) -> None:
    images = fitted.responses.test_images
    stored = predict_stored(fitted.model, store_of(fitted.model, fitted.cache), images, CPU, 2**30)
    with Stimuli(fitted.root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5") as stimuli, torch.inference_mode():
        full = fitted.full.predict_images(torch.from_numpy(stimuli.read(images))).numpy()
    # float16 keeps 11 bits, so a map is off by at most 2^-12 = 2.4e-4 of itself; a prediction, a difference of sums of
    # maps, was off by at most 1.0e-3 and typically 1e-4 standard deviations.
    assert np.abs(full - stored).max() < 2e-3 * stored.std()
    assert np.median(np.abs(full - stored)) < 2e-4 * stored.std()


def test_area_reads_the_mean_of_its_voxels_and_each_of_them(fitted: Fitted) -> None:
    target = area(fitted, minus="faces", each=True)
    pixels = torch.rand(2, 3, 227, 227)
    with torch.inference_mode():
        betas = fitted.full(pixels)
        found = target.activity(pixels)
    torch.testing.assert_close(found["response"], betas[:, target.voxels].mean(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["minus"], betas[:, target.minus].mean(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["betas"], betas[:, target.voxels], atol=1e-5, rtol=1e-4)
    assert found["maps"].shape == (2, 25, 6, 6)


@pytest.mark.parametrize("what", [{"roi": "V1", "minus": "faces", "each": True}, {"filter_": "features.12:3"}])
def test_stored_maps_give_what_pixels_give(fitted: Fitted, what: dict[str, object]) -> None:
    target = targets.choose(fitted.full, fitted.responses.areas, **what)
    images = fitted.responses.test_images[:3]
    stored = target.stored(store_of(fitted.model, fitted.cache), images, CPU, 2**30)
    with Stimuli(fitted.root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5") as stimuli, torch.inference_mode():
        resized = fitted.full.backbone.entry.preprocessing.resize(torch.from_numpy(stimuli.read(images)))
        activity = target.activity(resized.float() / 255)
    for name, values in stored.items():
        np.testing.assert_allclose(values, activity[name].numpy(), rtol=2e-3, atol=1e-3)


def test_voxels_excluded_from_the_fit_are_left_out(fitted: Fitted, caplog: pytest.LogCaptureFixture) -> None:
    chosen = fitted.responses.areas.select("V1")
    weights = replace(fitted.model.weights, bias=fitted.model.weights.bias.clone())
    model = FittedModel(fitted.model.folder, fitted.model.spec, weights)
    model.weights.bias[np.flatnonzero(chosen)[0]] = torch.nan
    with caplog.at_level("INFO", logger="boldreams"):
        assert targets.voxels_of(model, fitted.responses.areas, "V1").sum() == chosen.sum() - 1
    model.weights.bias[torch.from_numpy(chosen)] = torch.nan
    with pytest.raises(BoldreamsError, match=r"all .* voxels of V1 were excluded"):
        targets.voxels_of(model, fitted.responses.areas, "V1")
    place = fitted.model.weights.voxels[np.flatnonzero(chosen)[0]]
    with pytest.raises(BoldreamsError, match="excluded"):
        targets.voxel_at(model, tuple(int(number) for number in place))


def test_targets_that_are_not_there_name_the_choices(fitted: Fitted) -> None:
    for text, said in (("features.12", "LAYER:K"), ("features.3:1", "features.2"), ("features.2:64", "0 to 63")):
        with pytest.raises(ChoiceError, match=said):
            FilterTarget.parse(fitted.full, text)
    with pytest.raises(ChoiceError, match="no voxel 90,90,90"):
        targets.voxel_at(fitted.model, (90, 90, 90))
    with pytest.raises(ChoiceError, match="no contrast"):
        area(fitted, minus="V1")


def test_model_of_captions_is_refused(fitted: Fitted) -> None:
    spec = replace(fitted.model.spec, backbone="clip-text")
    model = FittedModel(fitted.model.folder, spec, fitted.model.weights)
    with pytest.raises(ChoiceError, match="no gradient to pixels"):
        targets.check_gradients(model)


def test_dream_excites_more_than_its_start(dreamed: Dream) -> None:
    start, end = dreamed.trace[0, 3], dreamed.trace[-1, 3]
    assert end > start + 0.05 * abs(start)
    assert end == pytest.approx(dreamed.response.mean(), rel=1e-5)
    assert dreamed.trace.shape == (STEPS + 1, 5)
    assert (dreamed.step, dreamed.stopped) == (STEPS, False)
    assert dreamed.images.shape == (2, 3, 227, 227)
    assert dreamed.images.dtype == np.float32
    assert 0 <= dreamed.images.min() < dreamed.images.max() <= 1


def test_response_is_of_the_untransformed_image_through_the_full_model(fitted: Fitted, dreamed: Dream) -> None:
    with torch.inference_mode():
        betas = fitted.full(torch.from_numpy(dreamed.images))
    expected = betas[:, fitted.responses.areas.select("V1")].mean(1)
    np.testing.assert_allclose(dreamed.response, expected, rtol=1e-4)


def test_same_seed_gives_identical_images(fitted: Fitted, dreamed: Dream) -> None:
    again = dreamer(area(fitted)).run(StopFlag())
    np.testing.assert_array_equal(again.images, dreamed.images)
    np.testing.assert_array_equal(again.trace, dreamed.trace)


def test_stopped_dream_keeps_its_images_and_goes_on_to_the_same_end(fitted: Fitted, dreamed: Dream, tmp_path) -> None:
    first = dreamer(area(fitted))
    part = first.run(After(3))
    assert (part.step, part.stopped) == (3, True)
    first.save_state(tmp_path, "one")
    other = dreamer(area(fitted), seed=1)
    other.resume(tmp_path, "two")
    assert other.done == 0  # another dream's state is not taken up
    second = dreamer(area(fitted))
    second.resume(tmp_path, "one")
    assert second.done == 3
    whole = second.run(StopFlag())
    np.testing.assert_array_equal(whole.images, dreamed.images)
    np.testing.assert_array_equal(whole.trace, dreamed.trace)


def test_target_objective_approaches_the_betas(fitted: Fitted, dreamed: Dream) -> None:
    target = area(fitted, each=True)
    with torch.inference_mode():
        wanted = target.activity(torch.from_numpy(dreamed.images[:1]))["betas"][0].numpy()
    towards = dreamer(target, Objective("target", wanted)).run(StopFlag())
    assert towards.trace[-2, 1] < 0.7 * towards.trace[0, 1]


def test_contrast_raises_one_area_over_the_other(fitted: Fitted) -> None:
    result = dreamer(area(fitted, minus="faces"), Objective("contrast"))
    start = -result.step()[0]
    assert result.run(StopFlag()).score.mean() > start


def cosine(images: np.ndarray, target: Target) -> float:
    with torch.inference_mode():
        maps = target.activity(torch.from_numpy(images))["maps"].flatten(2)
        grams = torch.nn.functional.normalize((maps @ maps.transpose(1, 2)).flatten(1), dim=1)
    return float(grams[0] @ grams[1])


def test_diversity_makes_images_differ(fitted: Fitted, dreamed: Dream) -> None:
    target = area(fitted)
    apart = dreamer(target, Objective("diversity", diversity=20)).run(StopFlag())
    assert cosine(apart.images, target) < cosine(dreamed.images, target)


def test_diversity_is_a_mean_cosine_of_gram_matrices(fitted: Fitted) -> None:
    target = area(fitted)
    images = torch.rand(2, 3, 227, 227)
    with torch.inference_mode():
        read = target.activity(images).__getitem__
        added = Objective("diversity", diversity=3).loss(2, CPU)(read) - Objective("mean").loss(2, CPU)(read)
    assert float(added) == pytest.approx(3 * cosine(images.numpy(), target), rel=1e-3)


def test_filter_that_is_silent_on_noise_is_woken(fitted: Fitted) -> None:
    full = by_hand(backbones.load("alexnet", "random"), {(27, 27): torch.ones(1, 27, 27)}, {"features.2": [0]})
    convolution = full.backbone.network.get_submodule("features.0")
    convolution.bias[5] = -convolution.weight[5].abs().sum() * 0.2
    target = FilterTarget.parse(full, "features.2:5")
    result = dreamer(target, rate=0.1, transforms=Transforms(0, 0)).run(StopFlag())
    assert result.trace[0, 3] == 0
    assert result.trace[-1, 3] > 0
    with torch.no_grad():  # and values are not changed by the leak
        plain = target.activity(torch.from_numpy(result.images))["response"].numpy()
    np.testing.assert_array_equal(plain, result.response)


def eccentricity(images: np.ndarray) -> float:
    """Mean distance from the centre of an image's energy: its squared differences from grey."""
    energy = ((images - images.mean((2, 3), keepdims=True)) ** 2).sum((0, 1))
    y, x = np.mgrid[: energy.shape[0], : energy.shape[1]]
    distance = np.hypot(y - energy.shape[0] / 2 + 0.5, x - energy.shape[1] / 2 + 0.5)
    return float((energy * distance).sum() / energy.sum())


def test_energy_moves_outwards_with_the_rings_of_receptive_fields() -> None:
    y, x = torch.meshgrid(torch.arange(27) - 13.0, torch.arange(27) - 13.0, indexing="ij")
    distance = torch.hypot(y, x)
    rings = torch.stack([((distance >= low) & (distance < low + 3)).float() for low in (0, 5, 10)])
    full = by_hand(backbones.load("alexnet", "random"), {(27, 27): rings}, {"features.2": list(range(64))})
    found = []
    for ring in np.eye(3, dtype=bool):
        target = AreaTarget("ring", "ring", full, ring, ring)
        settings = {"steps": 10, "count": 1, "rate": 0.05, "transforms": Transforms(1, 0.05)}
        found.append(eccentricity(dreamer(target, **settings).run(StopFlag()).images))
    assert found == sorted(found)
    assert found[2] - found[0] > 20  # pixels, of 113 to the edge


def test_defaults_are_the_authors() -> None:
    alexnet, vgg = backbones.entry("alexnet"), backbones.entry("vgg11")
    assert Settings.default(alexnet, "V1") == Settings(1024, 5e-3, 4, "fourier", 0, Transforms(1, 0.1, (1, 1)))
    assert Settings.default(vgg, "faces") == Settings(1200, 1e-2, 4, "fourier", 0, Transforms(1, 0.1, (0.4, 0.9)))
    assert Settings.default(vgg, "ecc_1,ecc_2").transforms == Transforms(1, 0.05, (1, 1))
    assert Settings.default(vgg, "ecc_1,V1").transforms == Transforms(1, 0.1, (0.4, 0.9))
    assert Settings.default(vgg, None, steps=3, rate=0.1).steps == 3


def test_errors_of_the_loop_surface(fitted: Fitted) -> None:
    class Failing:
        name, unit, folder, full = "x", "y", "z", fitted.full
        error: Exception

        def activity(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
            raise self.error

    target = Failing()
    target.error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1"):
        dreamer(target).run(StopFlag())
    target.error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(BoldreamsError, match="--count"):
        dreamer(target).run(StopFlag())


def test_loss_that_is_no_number_is_an_error(fitted: Fitted) -> None:
    with pytest.raises(BoldreamsError, match="--lr"):
        dreamer(area(fitted, each=True), Objective("target", np.array([np.inf], np.float32))).run(StopFlag())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((None, None, None), "mean"),
        ((None, "2.5", None), "target"),
        ((None, None, "V2"), "contrast"),
        (("diversity", None, None), "diversity"),
    ],
)
def test_objective_follows_from_the_options(arguments: tuple[str | None, ...], expected: str) -> None:
    assert objectives.choose(*arguments) == expected


@pytest.mark.parametrize(
    "arguments",
    [("mean", "2", None), ("target", None, None), ("contrast", None, None), (None, "2", "V2"), ("best",) * 3],
)
def test_contradicting_options_are_refused(arguments: tuple[str | None, ...]) -> None:
    with pytest.raises(ChoiceError):
        objectives.choose(*arguments)


def test_betas_to_reach_come_from_a_number_or_a_file(tmp_path) -> None:
    used = np.array([True, False, False, True])
    asked = np.array([True, True, False, True])
    betas = np.arange(4, dtype=np.float32)
    path = tmp_path / "betas.npz"
    for stored, expected in (
        (betas, [0, 3]),
        (betas[None], [0, 3]),
        (betas[asked], [0, 3]),
        (betas[used], [0, 3]),
    ):
        np.savez(path, betas=stored)
        np.testing.assert_array_equal(objectives.read_wanted(str(path), used, asked), expected)
    assert objectives.read_wanted("-1.5", used, asked).tolist() == [-1.5]
    for wrong in ({"betas": np.zeros(7)}, {"betas": np.zeros((2, 4))}, {"other": betas}, {"betas": betas * np.nan}):
        np.savez(path, **wrong)
        with pytest.raises(BoldreamsError, match="betas"):
            objectives.read_wanted(str(path), used, asked)
    with pytest.raises(ChoiceError, match="number"):
        objectives.read_wanted("lots", used, asked)
