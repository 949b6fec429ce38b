"""A filter that is silent has a gradient that wakes it, whatever rectifies it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from boldreams_cli.console import ChoiceError, StopFlag
from boldreams_cli.encoding.model.full import FullModel
from boldreams_cli.features import backbones
from boldreams_cli.interpret.dreams.ascent.transforms import Transforms
from boldreams_cli.interpret.rectifiers import LEAK, Leaking, rectified
from boldreams_cli.interpret.targets import FilterTarget
from tests.interpret.conftest import by_hand
from tests.interpret.test_dreaming import dreamer

MODULES = [
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.ReLU6(),
    nn.ReLU6(inplace=True),
    nn.Hardtanh(0, 6),
    nn.Hardswish(),
    nn.Hardswish(inplace=True),
    nn.Hardsigmoid(),
    nn.GELU(),
    nn.GELU(approximate="tanh"),
    nn.SiLU(),
    nn.SiLU(inplace=True),
    nn.Mish(),
    nn.Threshold(0.5, 0.0),
]
FUNCTIONS = [
    *(functional.relu, torch.relu, lambda x: x.relu(), lambda x: x.relu_(), torch.relu_),
    *(lambda x: functional.relu6(x, True), functional.gelu),
]
NAMES = ["functional.relu", "torch.relu", "its own relu", "relu_", "torch.relu_", "functional.relu6", "functional.gelu"]
CLOSED = torch.tensor([-3.5, -10.0, -30.0])


def gradient(function: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    leaf = values.clone().requires_grad_()
    function(leaf * 1.0).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("function", [*MODULES, *FUNCTIONS], ids=[*map(str, MODULES), *NAMES])
def test_closed_rectifiers_pass_a_gradient_upwards_and_keep_their_values(function: Callable) -> None:
    assert (gradient(function, CLOSED) <= 0).all(), "without help the gradient keeps them closed"
    with Leaking():
        torch.testing.assert_close(gradient(function, CLOSED), torch.full((3,), LEAK))
    values = torch.linspace(-9, 9, 61, requires_grad=True)
    with Leaking():
        leaky = function(values * 1.0)
    assert torch.equal(leaky, function(values * 1.0))


@pytest.mark.parametrize("function", [nn.ReLU(), nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.ReLU6()], ids=str)
def test_open_rectifiers_keep_their_gradient(function: nn.Module) -> None:
    values = torch.linspace(0.1, 5.9, 20)
    plain = gradient(function, values)
    with Leaking():
        assert torch.equal(gradient(function, values), plain)


def test_saturated_rectifiers_leak_too() -> None:
    with Leaking():
        assert gradient(nn.ReLU6(), torch.tensor([7.0])).item() == pytest.approx(LEAK)


@pytest.mark.parametrize("function", [nn.LeakyReLU(), nn.ELU(), nn.Softplus(), nn.Tanh()], ids=str)
def test_what_has_no_dead_zone_is_left_alone(function: nn.Module) -> None:
    plain = gradient(function, CLOSED / 10)
    with Leaking():
        assert torch.equal(gradient(function, CLOSED / 10), plain)


@pytest.mark.parametrize("kind", [nn.GELU, nn.SiLU, nn.Hardswish], ids=str)
def test_a_silent_filter_of_another_activation_is_woken(kind: type[nn.Module]) -> None:
    """The gradient of these leads away from 0 where they fall: without the leak the dream stays silent."""
    full = by_hand(backbones.load("alexnet", "random"), {(27, 27): torch.ones(1, 27, 27)}, {"features.2": [0]})
    network = full.backbone.network
    network.get_submodule("features").add_module("1", kind())
    convolution = network.get_submodule("features.0")
    convolution.weight[5] *= 4
    convolution.bias[5] = -convolution.weight[5].abs().sum() * 0.35
    target = FilterTarget.parse(full, "features.2:5")
    result = dreamer(target, rate=0.3, transforms=Transforms(0, 0)).run(StopFlag())
    assert result.trace[0, 3] <= 0
    assert result.trace[-1, 3] > 0.01


VIT = "timm:vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def transformer() -> FullModel:
    """Its usual layers and one that is not among them."""
    layers = ["blocks.2", "blocks.5", "blocks.5.tokens", "blocks.1"]
    fields = {(14, 14): torch.ones(1, 14, 14), (1, 1): torch.ones(1, 1, 1)}
    return by_hand(backbones.load(VIT, "random", layers=layers), fields, {layer: [0] for layer in layers})


@pytest.mark.parametrize("filter_", ["blocks.5:3", "blocks.5.tokens:3", "blocks.1:191"])
def test_filters_of_a_vision_transformer_are_dreamed_of(transformer: FullModel, filter_: str) -> None:
    target = FilterTarget.parse(transformer, filter_)
    result = dreamer(target, rate=0.1, transforms=Transforms(0, 0)).run(StopFlag())
    assert result.trace[-1, 3] > result.trace[0, 3] + 0.1 * abs(result.trace[0, 3])
    with torch.no_grad():
        maps = transformer.backbone(torch.from_numpy(result.images))[target.layer]
    torch.testing.assert_close(torch.from_numpy(result.response), maps[:, target.index].mean((1, 2)))


def test_filters_of_a_layer_of_ones_own_choice_are_counted(transformer: FullModel) -> None:
    with pytest.raises(ChoiceError, match=r"blocks\.1 has filters 0 to 191, not 192"):
        FilterTarget.parse(transformer, "blocks.1:192")


def test_signed_maps_are_not_taken_for_silent_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rectified(functional.silu(torch.linspace(-20, 20, 500)))
    assert not rectified(torch.linspace(-1, 1, 5))
    target = FilterTarget.parse(
        by_hand(backbones.load("alexnet", "random"), {(27, 27): torch.ones(1, 27, 27)}, {"features.2": [0]}),
        "features.2:5",
    )
    passes: list[int] = []
    maps = torch.linspace(-1, 1, 64 * 4).view(1, 64, 2, 2).requires_grad_()
    monkeypatch.setattr(FilterTarget, "_read", lambda self, pixels: passes.append(1) or
                        {"response": maps[:, 5].mean((1, 2)), "maps": maps})  # fmt: skip
    replace(target).activity(torch.zeros(1, 3, 227, 227))
    assert len(passes) == 1
