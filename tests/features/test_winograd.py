"""Convolutions by Winograd's algorithm against numpy's correlation and torch's convolutions in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from boldreams_cli.features import backbones
from boldreams_cli.features.backbones import winograd
from boldreams_cli.features.backbones.frozen import hasten
from boldreams_cli.features.backbones.winograd import (
    WinogradConvolution,
    best_outputs,
    convolve,
    transformed,
    transforms,
)


@pytest.mark.parametrize("outputs", winograd.OUTPUTS)
def test_one_dimension_is_numpys_correlation(outputs: int) -> None:
    rng = np.random.default_rng(0)
    into, kernel, out = transforms(outputs)
    values, taps = rng.normal(size=outputs + 2), rng.normal(size=3)
    found = out @ ((kernel @ taps) * (into @ values))
    np.testing.assert_allclose(found, np.correlate(values, taps, "valid"), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("outputs", winograd.OUTPUTS)
@pytest.mark.parametrize(("images", "height", "width"), [(1, 13, 13), (5, 9, 14), (3, 2, 1)])
def test_maps_are_those_of_a_convolution(
    outputs: int, images: int, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    maps, kernels, bias = torch.randn(images, 24, height, width), torch.randn(32, 24, 3, 3), torch.randn(32)
    expected = nn.functional.conv2d(maps.double(), kernels.double(), bias.double(), padding=1)
    # In one block, and in blocks of which the last is not full.
    one = -(-height // outputs) * -(-width // outputs) * (outputs + 2) ** 2 * 32 * 4
    for room in (winograd.BUFFER_BYTES, 2 * one):
        monkeypatch.setattr(winograd, "BUFFER_BYTES", room)
        found = convolve(maps, transformed(kernels, outputs), bias, outputs)
        assert found.shape == expected.shape
        assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_rounds_far_less_than_float16_does() -> None:
    torch.manual_seed(0)
    maps, layer = torch.randn(2, 256, 28, 28).relu(), nn.Conv2d(256, 256, 3, padding=1).requires_grad_(False)
    expected = layer.double()(maps.double())
    layer.float()
    for outputs in winograd.OUTPUTS:
        found = convolve(maps, transformed(layer.weight, outputs), layer.bias, outputs)
        assert float((found - expected).norm() / expected.norm()) < 5e-6
    assert float((expected.half() - expected).norm() / expected.norm()) > 1e-4


def test_gradient_by_the_maps_is_torchs() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(256, 512, 3, padding=1).requires_grad_(False)
    network = nn.Sequential(plain, nn.ReLU())
    hasten(network)
    assert isinstance(network[0], WinogradConvolution)
    assert network[0].weight is plain.weight
    maps = torch.randn(4, 256, 28, 28)
    assert best_outputs(4, 256, 512, 28, 28) is not None
    with torch.inference_mode():  # kernels that were transformed in it serve a gradient later
        network(maps)
    maps.requires_grad_()
    weight = torch.randn(4, 512, 28, 28)
    (wanted,) = torch.autograd.grad((plain(maps) * weight).sum(), maps)
    (found,) = torch.autograd.grad((network[0](maps) * weight).sum(), maps)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5


def test_is_used_where_it_pays_and_only_there() -> None:
    assert best_outputs(8, 512, 512, 28, 28) == 4
    assert best_outputs(16, 512, 512, 14, 14) == 5
    assert best_outputs(1, 512, 512, 14, 14) is None  # the kernels' transforms are too large to read for one image
    assert best_outputs(8, 64, 128, 112, 112) is None  # few channels: mostly transforms
    assert best_outputs(16, 3, 64, 224, 224) is None


def test_other_convolutions_and_trained_weights_stay_torchs() -> None:
    others = [
        nn.Conv2d(256, 256, 3),
        nn.Conv2d(256, 256, 3, stride=2, padding=1),
        nn.Conv2d(256, 256, 3, padding=2, dilation=2),
        nn.Conv2d(256, 256, 3, padding=1, groups=256),
        nn.Conv2d(256, 256, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(256, 256, 5, padding=2),
        nn.Conv2d(256, 256, (3, 1), padding=(1, 0)),
    ]
    assert not any(WinogradConvolution.fits(other) for other in others)
    network = nn.Sequential(nn.Conv2d(256, 256, 3, padding=1))
    hasten(network)
    network(torch.randn(2, 256, 56, 56)).sum().backward()
    assert network[0].weight.grad is not None
    double = network.double().requires_grad_(False)(torch.randn(1, 256, 56, 56).double())
    assert double.dtype == torch.float64
    assert network.float()(torch.randn(0, 256, 56, 56)).shape == (0, 256, 56, 56)


@pytest.mark.parametrize("name", ["vgg11", "rn50x4"])
def test_maps_of_backbones(name: str) -> None:
    layers = list(backbones.entry(name).layers)[:5]
    plain, fast = (backbones.load(name, "random", layers=layers, trainable=trainable) for trainable in (True, False))
    assert plain.digest == fast.digest
    pixels = torch.rand(2, 3, *[backbones.entry(name).preprocessing.size] * 2)
    used = []
    for module in fast.network.modules():
        if isinstance(module, WinogradConvolution):
            module.register_forward_hook(lambda layer, inputs, output: used.append(bool(layer._kernels)))
    with torch.inference_mode():
        expected, found = plain(pixels), fast(pixels)
    assert any(used)
    for layer in layers:
        scale = float(expected[layer].abs().max())
        torch.testing.assert_close(found[layer], expected[layer], rtol=1e-4, atol=2e-5 * scale)
