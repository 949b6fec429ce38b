from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from boldreams_cli import plots
from boldreams_cli.console import BoldreamsError, ChoiceError, StoppedError
from boldreams_cli.encoding.model.full import predict_stored, store_of
from boldreams_cli.features import backbones
from boldreams_cli.interpret.attribution import integration, record
from boldreams_cli.interpret.attribution.attributor import STEPS, Attributor, Settings, kept
from boldreams_cli.interpret.attribution.integration import Respond, integrated_gradients
from tests.interpret.conftest import CPU, Fitted, by_hand
from tests.interpret.test_dreaming import After


def two_responses(points: Tensor) -> Tensor:
    """A small smooth function with two outputs."""
    flat = points.flatten(1)
    return torch.stack([(flat**3).sum(1), torch.tanh(flat.sum(1)) * flat[:, 0]], dim=1)


@pytest.fixture
def ends() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    image, baseline = torch.rand(2, 3, 5, 5, generator=random, dtype=torch.float64)
    return image, baseline


def test_equals_captums(ends: tuple[Tensor, Tensor]) -> None:
    image, baseline = ends
    ours = integrated_gradients(two_responses, image, baseline, 20, 7, order=20)
    for number in range(2):
        theirs = IntegratedGradients(lambda points, n=number: two_responses(points)[:, n]).attribute(
            image[None], baseline[None], n_steps=20, method="gausslegendre"
        )
        np.testing.assert_allclose(ours.values[number], theirs[0].numpy(), rtol=1e-7)  # captum works in float32 between


def test_equals_captums_on_the_full_model(fitted: Fitted) -> None:
    area = fitted.full.weighted_sum(torch.full((fitted.model.spec.voxels,), 1 / fitted.model.spec.voxels))
    image = torch.rand(3, 227, 227)
    ours = integrated_gradients(lambda points: area(points)[:, None], image, torch.zeros_like(image), 8, 3, order=8)
    theirs = IntegratedGradients(area).attribute(image[None], n_steps=8, method="gausslegendre", internal_batch_size=4)
    np.testing.assert_allclose(ours.values[0], theirs[0].detach().numpy(), atol=1e-5 * np.abs(ours.values).max())


def test_equals_a_riemann_sum(ends: tuple[Tensor, Tensor]) -> None:
    image, baseline = ends
    ours = integrated_gradients(two_responses, image, baseline, 32, 32)
    total = torch.zeros(2, *image.shape, dtype=torch.float64)
    for alpha in (np.arange(4000) + 0.5) / 4000:
        point = (baseline + alpha * (image - baseline))[None].requires_grad_()
        responses = two_responses(point)[0]
        for number in range(2):
            total[number] += torch.autograd.grad(responses[number], point, retain_graph=True)[0][0] / 4000
    np.testing.assert_allclose(ours.values, (total * (image - baseline)).numpy(), atol=1e-6)


def test_of_a_linear_function_is_exact_in_two_steps(ends: tuple[Tensor, Tensor]) -> None:
    image, baseline = ends
    weight = torch.arange(75.0, dtype=torch.float64).view(3, 5, 5)
    result = integrated_gradients(lambda x: (x * weight).sum((1, 2, 3))[:, None] + 3, image, baseline, 2, 1)
    np.testing.assert_allclose(result.values[0], (weight * (image - baseline)).numpy(), rtol=1e-12)
    assert result.completeness_error[0] < 1e-12
    assert result.prediction[0] - result.baseline_prediction[0] == pytest.approx(result.sums[0])


def test_batches_and_shared_passes_do_not_change_the_result(fitted: Fitted) -> None:
    attributor = Attributor(fitted.full, ["V1", "faces"], fitted.responses, Settings(steps=5))
    image = torch.rand(3, 227, 227, generator=torch.Generator().manual_seed(0))
    both = attributor.integrate(image, [0, 1])
    for area in (0, 1):
        attributor._batch = {1: 2}
        single = attributor.integrate(image, [area])
        np.testing.assert_allclose(single.values[0], both.values[area], atol=1e-5 * np.abs(both.values).max())


def test_batches_do_not_change_the_result_of_many_stretches(fitted: Fitted) -> None:
    """As many as are halved at a time on a CPU."""
    attributor = Attributor(fitted.full, ["V1"], fitted.responses, Settings(steps=64))
    image = torch.rand(3, 227, 227, generator=torch.Generator().manual_seed(0))
    found = []
    for batch in (3, 16):
        attributor._batch = {1: batch}
        found.append(attributor.integrate(image, [0]).values)
    np.testing.assert_allclose(found[0], found[1], atol=1e-5 * np.abs(found[0]).max())


def real_area(backbone: backbones.Backbone) -> tuple[Respond, Tensor]:
    """The sum of twenty filters of each layer over all pixels, and a photograph."""
    size = backbone.entry.preprocessing.size
    with torch.inference_mode():
        shapes = {name: maps.shape[2:] for name, maps in backbone(torch.zeros(1, 3, size, size)).items()}
    fields = {tuple(shape): torch.ones(1, *shape) / shape[0] ** 2 for shape in shapes.values()}
    area = by_hand(backbone, fields, {name: list(range(20)) for name in shapes}).weighted_sum(torch.ones(1))
    picture = torch.from_numpy(skimage.data.astronaut())[None]
    return lambda points: area(points)[:, None], backbone.entry.preprocessing.resize(picture)[0].float() / 255


def test_alexnet_is_complete_and_a_riemann_sum_agrees(alexnet_weights: Path) -> None:
    respond, image = real_area(backbones.load("alexnet", str(alexnet_weights)))
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
    """Its gradients jump near black, where evenly spread points miss 1.4 % even at 256."""
    respond, image = real_area(backbones.load("efficientnet_lite0", "pretrained"))
    result = integrated_gradients(respond, image, torch.zeros_like(image), STEPS, 16)
    assert result.completeness_error[0] < 0.01


def test_steps_go_where_the_gradient_jumps() -> None:
    """A steep rise near black: even points do not resolve it, halving finds it."""
    asked: list[float] = []

    def respond(points: Tensor) -> Tensor:
        if points.requires_grad:
            asked.extend(points[:, 0, 0, 0].tolist())
        place = points.double().sum((1, 2, 3))
        return 200 * (torch.relu(place - 0.0123) - torch.relu(place - 0.0154))[:, None]

    image = torch.ones(3, 1, 1) / 3
    result = integrated_gradients(respond, image, torch.zeros_like(image), 256, 8, order=4)
    assert result.completeness_error[0] < 0.01
    assert len(asked) < 256, "and stops when it is found"
    assert np.mean(np.array(asked) * 3 < 1 / 16) > 0.3
    even = integrated_gradients(respond, image, torch.zeros_like(image), 256, 8, order=256)
    assert even.completeness_error[0] > 5 * result.completeness_error[0]


def test_no_more_than_the_steps_asked_for() -> None:
    """Each stretch is new work; the ends' forward passes are not counted."""
    asked = []

    def respond(points: Tensor) -> Tensor:
        asked.append(len(points) if points.requires_grad else 0)
        return (points**5).flatten(1).sin().sum(1)[:, None] * 50

    for steps in (1, 4, 7, 64, 100):
        asked.clear()
        image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
        integrated_gradients(respond, image, torch.zeros_like(image), steps, 8)
        assert sum(asked) <= max(integration.ORDER, steps)


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


def test_intensity_mask_shows_the_positive_part() -> None:
    mask = plots.intensity_mask(np.array([[-4.0, 0, 1, 2]]))
    assert mask[0, :2].tolist() == [0, 0]
    assert 0 < mask[0, 2] < mask[0, 3] <= 1
    assert not plots.intensity_mask(np.full((2, 2), -1.0)).any()


def test_batch_is_halved_when_memory_runs_out(fitted: Fitted, caplog: pytest.LogCaptureFixture) -> None:
    attributor = Attributor(fitted.full, ["V1"], fitted.responses, Settings(steps=8))
    area, limit = attributor.means.areas[0], 2

    class Small:
        def read(self, maps: list[Tensor]) -> Tensor:
            if len(maps[0]) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return area.read(maps)

    image = torch.rand(3, 227, 227)
    whole = attributor.integrate(image, [0])
    attributor.means.areas = [Small()]
    attributor._batch = {1: 8}
    with caplog.at_level("INFO", logger="boldreams"):
        halved = attributor.integrate(image, [0])
    assert attributor._batch == {1: 2}
    np.testing.assert_allclose(halved.values, whole.values, atol=1e-5 * np.abs(whole.values).max())
    limit = 0
    with pytest.raises(BoldreamsError, match="--device"):
        attributor.integrate(image, [0])


def test_batch_follows_from_memory(fitted: Fitted) -> None:
    attributor = Attributor(fitted.full, ["V1"], fitted.responses, Settings(memory=1))
    image = torch.rand(3, 227, 227)
    assert attributor._fitting_batch(attributor.means.areas[0], image) == 1
    size = kept(attributor.means.areas[0], image)
    assert 1e6 < size < 3e7  # AlexNet's maps, without its weights


def test_default_images_are_each_areas_best_test_images(fitted: Fitted) -> None:
    attributor = Attributor(fitted.full, ["V1", "faces"], fitted.responses, Settings())
    jobs = attributor.best_test_images(fitted.cache, None, 3, 2**30)
    images = fitted.responses.test_images
    betas = predict_stored(fitted.model, store_of(fitted.model, fitted.cache), images, CPU, 2**30)
    for area, roi in enumerate(attributor.rois):
        best = np.argsort(-betas[:, fitted.responses.areas.select(roi)].mean(1))[:3]
        assert {job.image.nsd_id for job in jobs if area in job.areas} == set(images[best].tolist())


def test_stop_keeps_finished_images(fitted: Fitted, tmp_path: Path) -> None:
    attributor = Attributor(fitted.full, ["V1"], fitted.responses, Settings(steps=2))
    jobs = attributor.best_test_images(fitted.cache, None, 3, 2**30)
    with pytest.raises(StoppedError, match="finished maps"):
        record.attribute(attributor, jobs, tmp_path, fitted.root, After(1))
    first = f"image-{jobs[0].image.nsd_id:05d}"
    folder = tmp_path / "V1-steps-2"
    assert {path.name for path in folder.iterdir()} == {f"{first}.npz", f"{first}.png", f"{first}.json"}
