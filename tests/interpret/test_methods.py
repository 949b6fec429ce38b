"""Methods of attribution against captum, called by hand on the same network, image and response."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from captum import attr
from numpy.typing import NDArray
from torch import Tensor, nn

from boldreams_cli.console import ChoiceError
from boldreams_cli.features import backbones
from boldreams_cli.interpret.attribution import methods
from boldreams_cli.interpret.attribution.attributor import Settings, chosen
from boldreams_cli.interpret.attribution.method import Scene
from boldreams_cli.interpret.attribution.methods import occlusion, smoothgrad
from boldreams_cli.interpret.attribution.scores import Scores
from boldreams_cli.interpret.targets import AreaTarget
from tests.interpret.conftest import by_hand


class Net(nn.Module):
    """A small network of two responses."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 6, 3, stride=2), nn.Conv2d(6, 4, 3)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=random) / 3
            parameter.requires_grad_(False)
        self.last = nn.ReLU()

    def forward(self, pixels: Tensor) -> Tensor:
        """(images, 3, H, W) -> (images, 2)."""
        maps = self.last(self.second(self.first(pixels).relu()))
        return torch.stack([maps[:, :2].sum((1, 2, 3)), (maps[:, 1:] ** 2).mean((1, 2, 3))], dim=1)


NET = Net()


@pytest.fixture
def scene() -> Scene:
    random = torch.Generator().manual_seed(1)
    image, baseline = torch.rand(2, 3, 32, 32, generator=random)
    return Scene(NET, 2, image, baseline, 12, 5, NET.last)


def captums(name: str, respond: Callable[[Tensor], Tensor], scene: Scene) -> Tensor:
    """As captum's own documentation calls it, all at once."""
    image, baseline = scene.image[None], scene.baseline[None]
    asking = image.clone().requires_grad_()
    if name == "captum-ig":
        return attr.IntegratedGradients(respond).attribute(image, baseline, n_steps=scene.steps)
    if name == "saliency":
        return attr.Saliency(respond).attribute(asking, abs=False)
    if name == "input-x-gradient":
        return attr.InputXGradient(respond).attribute(asking)
    if name == "occlusion":
        return attr.Occlusion(respond).attribute(image, (3, 4, 4), (3, 2, 2), baselines=baseline)
    coarse = attr.LayerGradCam(respond, NET.last).attribute(asking)
    return attr.LayerAttribution.interpolate(coarse, (32, 32), "bilinear").expand(1, 3, 32, 32)


@pytest.mark.parametrize("name", ["captum-ig", "saliency", "input-x-gradient", "occlusion", "grad-cam"])
def test_equals_captums_own(name: str, scene: Scene) -> None:
    found = methods.load(name).compute(scene)
    assert found.shape == (2, 3, 32, 32)
    for number in range(2):
        theirs = captums(name, lambda points, n=number: NET(points)[:, n], scene)[0].detach().numpy()
        assert np.abs(theirs).max() > 0
        np.testing.assert_allclose(found[number], theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "timm:swin_tiny_patch4_window7_224"])
def test_grad_cam_weighs_maps_whatever_the_networks_own_layout(name: str) -> None:
    """A transformer's modules give tokens, Swin's have filters last; its class tokens have no map."""
    backbone = backbones.load(name, "random")
    with torch.inference_mode():
        shapes = {layer: tuple(maps.shape[2:]) for layer, maps in backbone(torch.zeros(1, 3, 224, 224)).items()}
    fields = {shape: torch.ones(1, *shape) / shape[0] ** 2 for shape in shapes.values()}
    full = by_hand(backbone, fields, {layer: [0, 1, 2, 3] for layer in shapes})
    everyone = np.ones(1, bool)
    scores = Scores(full, [AreaTarget("all", "all", full, everyone, everyone)])
    layer = [layer for layer, shape in shapes.items() if min(shape) > 1][-1]
    assert scores.layer == layer
    image = torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(0))
    found = methods.load("grad-cam").compute(Scene(scores.some([0]), 1, image, 0 * image, 0, 1, scores.last))
    maps = {key: value.detach().requires_grad_() for key, value in backbone(image[None]).items()}
    scores.areas[0].read(full.chosen(maps)).sum().backward()
    slope = maps[layer].grad
    assert slope is not None
    coarse = (slope.mean((2, 3), keepdim=True) * maps[layer].detach()).sum(1, keepdim=True)
    expected = torch.nn.functional.interpolate(coarse, (224, 224), mode="bilinear")[0, 0].numpy()
    np.testing.assert_allclose(found[0, 1], expected, atol=1e-4 * np.abs(expected).max())
    assert np.ptp(expected) > 0


def test_smoothgrad_is_the_mean_gradient_of_noisy_copies(scene: Scene) -> None:
    many = replace(scene, steps=500)
    found = smoothgrad.compute(many)
    random = torch.Generator().manual_seed(7)
    copies = scene.image + smoothgrad.NOISE * torch.randn(500, 3, 32, 32, generator=random)
    copies.requires_grad_()
    for number in range(2):
        (gradients,) = torch.autograd.grad(NET(copies)[:, number].sum(), copies)
        expected = gradients.mean(0).numpy()
        assert np.corrcoef(found[number].ravel(), expected.ravel())[0, 1] > 0.98
        assert found[number].std() == pytest.approx(expected.std(), rel=0.05)


@pytest.mark.parametrize("name", methods.names())
def test_neither_batch_nor_other_responses_matter(name: str, scene: Scene) -> None:
    compute = methods.load(name).compute
    before = torch.random.get_rng_state()
    whole = compute(scene)
    assert torch.equal(torch.random.get_rng_state(), before), "no random numbers of others are used up"
    for batch in (1, 16, 64):
        np.testing.assert_allclose(compute(replace(scene, batch=batch)), whole, atol=1e-4 * np.abs(whole).max())
    alone = compute(replace(scene, respond=lambda points: NET(points)[:, 1:], count=1))
    np.testing.assert_allclose(alone[0], whole[1], atol=1e-4 * np.abs(whole[1]).max())


@pytest.mark.parametrize("name", [name for name in methods.names() if methods.load(name).adds_up])
def test_those_that_add_up_do(name: str, scene: Scene) -> None:
    values = methods.load(name).compute(replace(scene, steps=256))
    expected = (NET(scene.image[None]) - NET(scene.baseline[None]))[0].numpy()
    assert (np.abs(values.sum((1, 2, 3)) - expected) < 1e-3 * np.abs(values).sum((1, 2, 3))).all()


def test_occlusion_is_positive_where_covering_lowers_the_response() -> None:
    """Of a response that reads one corner only."""
    image = torch.ones(3, 32, 32)
    scene = Scene(lambda points: points[:, :, :8, :8].mean((1, 2, 3))[:, None], 1, image, 0 * image, 0, 7)
    found: NDArray[np.float64] = occlusion.compute(scene)[0]
    assert (found[:, :8, :8] > 0).all()
    assert not found[:, 12:, 12:].any()


def test_captum_is_given_batches(monkeypatch: pytest.MonkeyPatch, scene: Scene) -> None:
    """It runs out of memory else."""
    sizes = []

    def respond(points: Tensor) -> Tensor:
        sizes.append(len(points))
        return NET(points)

    methods.load("captum-ig").compute(replace(scene, respond=respond, steps=50, batch=5))
    assert max(sizes) <= 5


def test_a_method_is_one_file() -> None:
    folder = Path(methods.__file__).parent
    files = {path.stem.replace("_", "-") for path in folder.glob("[a-z]*.py")}
    assert set(methods.names()) == files
    assert methods.names()[0] == "integrated-gradients"
    with pytest.raises(ChoiceError, match="grad-cam"):
        methods.load("gradcam")


def test_options_go_to_the_methods_that_take_them() -> None:
    found = chosen(["integrated-gradients", "smoothgrad", "saliency"], 10, "blur", 1)
    assert [(each.steps, each.baseline) for each in found] == [(10, "blur"), (10, ""), (0, "")]
    assert chosen(["smoothgrad", "captum-ig"], None, None, 1) == [
        Settings("smoothgrad", 50, "", 1),
        Settings("captum-ig", 256, "black", 1),
    ]
    with pytest.raises(ChoiceError, match="--steps does not apply to --method saliency"):
        chosen(["saliency"], 10, None, 1)
    with pytest.raises(ChoiceError, match="--baseline does not apply to --method grad-cam"):
        chosen(["grad-cam"], None, "mean", 1)
