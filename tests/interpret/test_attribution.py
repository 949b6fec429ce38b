"""Integrated gradients against Riemann sums, captum and linear functions; baselines, completeness, products."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn

from boldreams_cli.console import ChoiceError, StopFlag, StoppedError
from boldreams_cli.encoding.inputs import maps
from boldreams_cli.encoding.model.full import predict_stored, store_of
from boldreams_cli.features import backbones
from boldreams_cli.interpret.attribution import integration, methods, places, record
from boldreams_cli.interpret.attribution.attributor import Attributor, Settings
from boldreams_cli.interpret.attribution.integration import integrated_gradients, signed_map
from boldreams_cli.interpret.attribution.method import Attribution, Respond, Scene
from boldreams_cli.interpret.targets import choose
from tests.interpret.conftest import CPU, Fitted, by_hand
from tests.interpret.test_dreaming import After


def two_responses(points: Tensor) -> Tensor:
    """A small smooth function with two outputs."""
    flat = points.flatten(1)
    return torch.stack([(flat**3).sum(1), torch.tanh(flat.sum(1)) * flat[:, 0]], dim=1)


STEPS = Settings().steps


def attributor_of(fitted: Fitted, *rois: str, **settings: object) -> Attributor:
    """Of areas of the fitted model."""
    aims = [choose(fitted.full, fitted.responses.areas, roi) for roi in rois]
    return Attributor(fitted.full, aims, fitted.responses, Settings(**settings))


@pytest.fixture
def ends() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    image, baseline = torch.rand(2, 3, 5, 5, generator=random, dtype=torch.float64)
    return image, baseline


def test_nears_captums_as_both_take_more_steps(ends: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a smooth function, of which captum's points soon give the integral to the last digits."""
    monkeypatch.setattr(integration, "TOLERANCE", 0)
    image, baseline = ends
    theirs = IntegratedGradients(lambda points: two_responses(points)[:, 0]).attribute(
        image[None], baseline[None], n_steps=40, method="gausslegendre"
    )[0]
    far = []
    for steps in (8, 64, 512):
        ours = integrated_gradients(two_responses, image, baseline, steps, 7).values[0]
        far.append(np.linalg.norm(ours - theirs.numpy()) / float(theirs.norm()))
    assert far[0] > 10 * far[1] > 100 * far[2]
    assert far[2] < 1e-5


def test_is_the_mean_gradient_weighed_by_lengths_of_the_line(fitted: Fitted) -> None:
    """Of the full model, in one round; captum's points and weights are captum-ig's, to the last digits."""
    area = fitted.full.weighted_sum(torch.full((fitted.model.spec.voxels,), 1 / fitted.model.spec.voxels))
    image = torch.rand(3, 227, 227, generator=torch.Generator().manual_seed(0))
    ours = integrated_gradients(lambda points: area(points)[:, None], image, torch.zeros_like(image), 8, 2)
    alphas = places.first_places(8)
    expected = torch.zeros_like(image, dtype=torch.float64)
    for some, lengths in zip(np.split(alphas, 4), np.split(places.lengths_nearest(alphas), 4), strict=True):
        points = (torch.from_numpy(some).to(image)[:, None, None, None] * image).requires_grad_()
        (gradients,) = torch.autograd.grad(area(points).sum(), points)
        expected += torch.tensordot(torch.from_numpy(lengths), gradients.double(), 1) * image
    np.testing.assert_allclose(ours.values[0], expected.numpy(), atol=1e-5 * np.abs(ours.values).max())
    theirs = IntegratedGradients(area).attribute(image[None], n_steps=8, method="gausslegendre", internal_batch_size=4)
    scene = Scene(lambda points: area(points)[:, None], 1, image, torch.zeros_like(image), 8, 4)
    captums = methods.load("captum-ig").compute(scene)[0]
    np.testing.assert_allclose(captums, theirs[0].detach().numpy(), atol=1e-5 * np.abs(captums).max())


def test_equals_a_riemann_sum(ends: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    image, baseline = ends
    good_enough = integrated_gradients(two_responses, image, baseline, 1024, 32)
    monkeypatch.setattr(integration, "TOLERANCE", 0)
    ours = integrated_gradients(two_responses, image, baseline, 1024, 32)
    total = torch.zeros(2, *image.shape, dtype=torch.float64)
    for alpha in (np.arange(4000) + 0.5) / 4000:
        point = (baseline + alpha * (image - baseline))[None].requires_grad_()
        responses = two_responses(point)[0]
        for number in range(2):
            total[number] += torch.autograd.grad(responses[number], point, retain_graph=True)[0][0] / 4000
    expected = (total * (image - baseline)).numpy()
    np.testing.assert_allclose(ours.values, expected, atol=1e-6 * np.abs(expected).max())
    for found, own in zip(good_enough.values, expected, strict=True):
        assert np.linalg.norm(found - own) < 0.003 * np.linalg.norm(own)


def test_of_a_linear_function_is_exact_in_two_steps(ends: tuple[Tensor, Tensor]) -> None:
    image, baseline = ends
    weight = torch.arange(75.0, dtype=torch.float64).view(3, 5, 5)
    result = integrated_gradients(lambda x: (x * weight).sum((1, 2, 3))[:, None] + 3, image, baseline, 2, 1)
    np.testing.assert_allclose(result.values[0], (weight * (image - baseline)).numpy(), rtol=1e-12)
    assert result.completeness_error[0] < 1e-12
    assert result.prediction[0] - result.baseline_prediction[0] == pytest.approx(result.sums[0])


def seeing(side: int, backbone: backbones.Backbone) -> backbones.Backbone:
    """The same with an input of fewer pixels."""
    preprocessing = replace(backbone.entry.preprocessing, size=side)
    backbone.entry = replace(backbone.entry, preprocessing=preprocessing)
    return backbone


def real_area(backbone: backbones.Backbone) -> tuple[Respond, Tensor]:
    """The sum of twenty filters of each layer over all pixels, and a photograph."""
    size = backbone.entry.preprocessing.size
    with torch.inference_mode():
        shapes = {name: maps.shape[2:] for name, maps in backbone(torch.zeros(1, 3, size, size)).items()}
    fields = {tuple(shape): torch.ones(1, *shape) / shape[0] ** 2 for shape in shapes.values()}
    area = by_hand(backbone, fields, {name: list(range(20)) for name in shapes}).weighted_sum(torch.ones(1))
    picture = torch.from_numpy(skimage.data.astronaut())[None]
    return lambda points: area(points)[:, None], backbone.entry.preprocessing.resize(picture)[0].float() / 255


def test_neither_batches_nor_other_responses_change_the_result(alexnet_weights: Path) -> None:
    """Each response halves its own stretches, as many at a time whatever fits into memory."""
    backbone = seeing(131, backbones.load("alexnet", str(alexnet_weights)))
    _, image = real_area(backbone)
    asked = []

    def several(*chosen: int) -> Respond:
        def both(points: Tensor) -> Tensor:
            asked.append(len(points))
            maps = backbone(points)
            deep, early = maps["features.12"], maps["features.2"]
            found = deep[:, 7].mean((1, 2)), deep.std((1, 2, 3)), early.mean((1, 2, 3))
            return torch.stack([found[number] for number in chosen], dim=1)

        return both

    black = torch.zeros_like(image)
    together = integrated_gradients(several(0, 1), image, black, 40, 16)
    assert max(asked) == integration.CPU_PASS
    for batch in (1, 64):
        other = integrated_gradients(several(0, 1), image, black, 40, batch)
        for number in (0, 1):
            found, expected = signed_map(other.values[number]), signed_map(together.values[number])
            assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)
    for chosen, place in (((0,), 0), ((2, 1, 0), 2)):
        other = integrated_gradients(several(*chosen), image, black, 40, 16)
        difference = np.linalg.norm(other.values[place] - together.values[0])
        assert difference <= 1e-4 * np.linalg.norm(together.values[0])


def test_alexnet_is_complete_and_a_riemann_sum_agrees(alexnet_weights: Path) -> None:
    respond, image = real_area(seeing(131, backbones.load("alexnet", str(alexnet_weights))))
    result = integrated_gradients(respond, image, torch.zeros_like(image), STEPS, 16)
    assert result.completeness_error[0] < 0.01
    riemann = 0.0
    for part in torch.arange(0.5, 128).split(16):
        points = (part[:, None, None, None] / 128 * image).requires_grad_()
        (gradients,) = torch.autograd.grad(respond(points).sum(), points)
        riemann += float((gradients.double() * image).sum()) / 128
    assert riemann == pytest.approx(result.sums[0], rel=0.01)
    assert riemann == pytest.approx(result.prediction[0] - result.baseline_prediction[0], rel=0.01)


def test_efficientnet_is_complete_at_the_default_steps() -> None:
    """Its gradients jump near black, where evenly spread points miss 2.2 % even at 256."""
    respond, image = real_area(seeing(160, backbones.load("efficientnet_lite0", "pretrained")))
    result = integrated_gradients(respond, image, torch.zeros_like(image), STEPS, 16)
    assert result.completeness_error[0] < 0.01


def test_steps_go_where_the_gradient_jumps() -> None:
    """A steep rise near black: even points do not resolve it."""
    asked: list[float] = []

    def respond(points: Tensor) -> Tensor:
        if points.requires_grad:
            asked.extend(points[:, 0, 0, 0].tolist())
        place = points.double().sum((1, 2, 3))
        return 200 * (torch.relu(place - 0.0123) - torch.relu(place - 0.0154))[:, None]

    image = torch.ones(3, 1, 1) / 3
    result = integrated_gradients(respond, image, torch.zeros_like(image), 256, 8)
    assert result.completeness_error[0] < 0.01
    assert len(asked) < 256, "and stops when it is found"
    assert np.mean(np.array(asked) * 3 < 1 / 16) > 0.3
    rule = {"n_steps": 256, "method": "riemann_middle"}
    even = IntegratedGradients(lambda points: respond(points)[:, 0]).attribute(image[None], **rule).sum()
    rise = result.prediction[0] - result.baseline_prediction[0]
    assert abs(float(even) - rise) > 5 * abs(result.delta[0])


class Rectified(nn.Module):
    """A small network of one kind of rectifier, whose units open, and close again, all along the way from black."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 24, 5, 2), kind(), nn.Conv2d(24, 24, 3, 2), kind())
        for layer in (self.layers[0], self.layers[2]):
            fan = layer.weight[0].numel()
            layer.weight.data = 8 * torch.randn(layer.weight.shape, generator=random) / fan**0.5
            layer.bias.data = 3 * torch.randn(layer.bias.shape, generator=random)
        self.requires_grad_(False).double()

    def forward(self, points: Tensor) -> Tensor:
        """(images, 3, H, W) -> (images, 1)."""
        return self.layers(points).mean((2, 3))[:, :12].sum(1, keepdim=True)


@pytest.mark.parametrize("kind", [nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.GELU])
def test_is_as_near_as_it_says_whatever_rectifies(kind: type[nn.Module]) -> None:
    """Against 4,096 even points; of those with kinks, nearer than captum's with as many passes."""
    net, random = Rectified(kind), torch.Generator().manual_seed(1)
    image = torch.rand(3, 32, 32, generator=random, dtype=torch.float64)
    black, asked = torch.zeros_like(image), []

    def respond(points: Tensor) -> Tensor:
        asked.append(len(points))
        return net(points)

    total = torch.zeros_like(image)
    for alphas in (torch.arange(4096).double() + 0.5).div(4096).split(256):
        points = (alphas[:, None, None, None] * image).requires_grad_()
        total += torch.autograd.grad(net(points).sum(), points)[0].sum(0)
    expected = (total * image / 4096).numpy()
    ours = integrated_gradients(respond, image, black, 512, 4)
    assert np.linalg.norm(ours.values[0] - expected) < 2 * integration.TOLERANCE * np.linalg.norm(expected)
    theirs = IntegratedGradients(lambda points: net(points)[:, 0]).attribute(
        image[None], n_steps=sum(asked), method="gausslegendre", internal_batch_size=64
    )
    if kind in (nn.ReLU, nn.ReLU6):
        far = [np.linalg.norm(found - expected) for found in (ours.values[0], theirs[0].numpy())]
        assert far[0] < far[1]


def test_every_step_asked_for_is_taken_and_counts() -> None:
    """Gradients that change everywhere take all; each place is looked at once, and weighs more than nothing."""
    asked: list[float] = []

    def respond(points: Tensor) -> Tensor:
        if points.requires_grad:
            asked.extend(points[:, 0, 0, 0].tolist())
        return (50 * points).sin().flatten(1).sum(1)[:, None]

    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    for steps in (1, 4, 7, 64, 100, 300):
        asked.clear()
        integrated_gradients(respond, image, torch.zeros_like(image), steps, 8)
        assert len(set(asked)) == len(asked) == steps


def test_baselines() -> None:
    image = torch.rand(3, 40, 40)
    assert not integration.baseline_of("black", image, (0.1, 0.2, 0.3)).any()
    assert integration.baseline_of("mean", image, (0.1, 0.2, 0.3))[:, 7, 9].tolist() == pytest.approx([0.1, 0.2, 0.3])
    blurred = integration.baseline_of("blur", image, (0.1, 0.2, 0.3))
    assert blurred.std((1, 2)).max() < 0.2 * image.std((1, 2)).min()
    torch.testing.assert_close(blurred.mean((1, 2)), image.mean((1, 2)), atol=0.02, rtol=0)
    with pytest.raises(ChoiceError, match="black, mean, blur"):
        integration.baseline_of("white", image, (0, 0, 0))


def test_map_averages_colours_and_smooths_by_two_pixels_keeping_signs() -> None:
    spots = np.zeros((3, 41, 41))
    spots[:, 20, 10], spots[:, 20, 30] = 3, -3
    found = integration.signed_map(spots)
    assert found.sum() == pytest.approx(0, abs=1e-9)
    assert found[20, 12] / found[20, 10] == pytest.approx(np.exp(-0.5), rel=0.01)  # one sigma away
    assert found[20, 30] == pytest.approx(-found[20, 10])


def test_delta_is_captums(ends: tuple[Tensor, Tensor]) -> None:
    """With its sign; beside it its share of the absolute attributions, which cannot be infinite."""
    image, baseline = ends
    values = methods.load("captum-ig").compute(Scene(two_responses, 2, image, baseline, 1, 7))
    with torch.no_grad():
        ours = Attribution(values, *(two_responses(end[None])[0].numpy() for end in (image, baseline)))
    for number in range(2):
        explainer = IntegratedGradients(lambda points, n=number: two_responses(points)[:, n])
        _, delta = explainer.attribute(
            image[None], baseline[None], n_steps=1, method="gausslegendre", return_convergence_delta=True
        )
        assert ours.delta[number] == pytest.approx(float(delta), rel=1e-5, abs=1e-5)
        assert ours.relative_delta[number] == pytest.approx(ours.delta[number] / np.abs(ours.values[number]).sum())
    assert abs(ours.delta[0]) > 1e-3
    same = integrated_gradients(two_responses, image, image, 3, 7)
    np.testing.assert_allclose([same.delta, same.relative_delta], 0, atol=1e-12)


def test_a_signal_is_heard_while_the_best_images_are_searched(copied: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the network, as of a finetuned model, and from the store."""
    monkeypatch.setattr(maps, "IMAGE_BLOCK", 1)
    attributor = attributor_of(copied, "V1", steps=2)
    with pytest.raises(StoppedError, match="1 of"):
        attributor.best_test_images(copied.cache, copied.root, 1, After(1))
    stored = attributor.best_test_images(copied.cache, copied.root, 1, StopFlag())
    monkeypatch.setattr(copied.full.model.spec, "finetuned", True)
    with pytest.raises(StoppedError, match="not found yet"):
        attributor.best_test_images(copied.cache, copied.root, 1, After(0))
    assert attributor.best_test_images(copied.cache, copied.root, 1, StopFlag()) == stored


def test_default_images_are_each_areas_best_test_images(fitted: Fitted) -> None:
    attributor = attributor_of(fitted, "V1", "faces")
    jobs = attributor.best_test_images(fitted.cache, None, 3, StopFlag())
    images = fitted.responses.test_images
    betas = predict_stored(fitted.model, store_of(fitted.model, fitted.cache), images, CPU, 2**30)
    for area, roi in enumerate(attributor.rois):
        best = np.argsort(-betas[:, fitted.responses.areas.select(roi)].mean(1))[:3]
        assert {job.image.image_id for job in jobs if area in job.areas} == set(images[best].tolist())


def test_contrast_is_the_difference_of_two_areas(fitted: Fitted) -> None:
    one, other = (attributor_of(fitted, roi, steps=16) for roi in ("V1", "faces"))
    both = Attributor(
        fitted.full, [choose(fitted.full, fitted.responses.areas, "V1", minus="faces")], fitted.responses, one.settings
    )
    image = torch.rand(3, 227, 227, generator=torch.Generator().manual_seed(0))
    predictions = [each.attribute(image, [0]).prediction[0] for each in (one, other, both)]
    assert predictions[2] == pytest.approx(predictions[0] - predictions[1], abs=1e-5)
    assert both.rois == ["V1 minus faces"]
    jobs = both.best_test_images(fitted.cache, None, 1, StopFlag())
    areas, images = fitted.responses.areas, fitted.responses.test_images
    betas = predict_stored(fitted.model, store_of(fitted.model, fitted.cache), images, CPU, 2**30)
    difference = betas[:, areas.select("V1")].mean(1) - betas[:, areas.select("faces")].mean(1)
    assert jobs[0].image.image_id == images[difference.argmax()]


def test_silent_filter_gets_nothing(fitted: Fitted) -> None:
    """The leak that lets dreams start must not count as attribution."""
    with torch.inference_mode():
        maps = fitted.full.backbone(torch.zeros(1, 3, 227, 227))["features.12"][0]
    silent = next(number for number, one in enumerate(maps) if not one.any())
    target = choose(fitted.full, None, filter_=f"features.12:{silent}")
    attributor = Attributor(fitted.full, [target], None, Settings(method="saliency", steps=0, baseline=""))
    assert not attributor.attribute(torch.zeros(3, 227, 227), [0]).values.any()
    assert attributor.scores.layer == "features.12"


def test_stop_keeps_finished_images(fitted: Fitted, tmp_path: Path) -> None:
    attributor = attributor_of(fitted, "V1", steps=2)
    jobs = attributor.best_test_images(fitted.cache, None, 3, StopFlag())
    with pytest.raises(StoppedError, match="finished maps"):
        record.attribute(attributor, jobs, record.Place(tmp_path, fitted.root), After(1))
    first = f"image-{jobs[0].image.image_id:05d}"
    folder = tmp_path / "V1-steps-2"
    assert {path.name for path in folder.iterdir()} == {f"{first}.{suffix}" for suffix in ("npz", "png", "pdf", "json")}
