"""Faster layers against those they replace."""

import pytest
import torch
from torch import nn

from boldreams_cli.features import backbones
from boldreams_cli.features.backbones.frozen import CoarseConvolution, hasten


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"), [(11, 4, 2, 227), (11, 4, 2, 226), (4, 4, 0, 30), (3, 5, 1, 23)]
)
def test_values_and_gradients_are_torchs(kernel: int, stride: int, padding: int, size: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 8, kernel, stride, padding).requires_grad_(False)
    network = nn.Sequential(plain, nn.ReLU())
    hasten(network)
    assert isinstance(network[0], CoarseConvolution)
    assert network[0].weight is plain.weight
    pixels = torch.randn(2, 3, size, size + 1, requires_grad=True)
    expected = plain(pixels)
    (wanted,) = torch.autograd.grad((expected.relu() ** 2).sum(), pixels)
    found = network(pixels)
    (gradient,) = torch.autograd.grad((found**2).sum(), pixels)
    torch.testing.assert_close(found, expected.relu())
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-4)


def test_only_alexnets_first_convolution_is_coarse() -> None:
    for name in ("alexnet", "vgg11", "efficientnet_lite0", "rn50x4"):
        network = backbones.load(name, "random", layers=list(backbones.entry(name).layers)[:1]).network
        coarse = [path for path, module in network.named_modules() if isinstance(module, CoarseConvolution)]
        assert coarse == (["features.0"] if name == "alexnet" else []), name


def test_weights_in_training_have_their_gradient() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 8, 4))
    hasten(network)
    network(torch.randn(1, 3, 16, 16, requires_grad=True)).sum().backward()
    assert network[0].weight.grad is not None


@pytest.mark.parametrize(
    ("name", "weights", "size"), [("efficientnet_lite0", "pretrained", 96), ("rn50x4", "random", 64)]
)
def test_folded_norms_leave_the_maps_and_gradients(name: str, weights: str, size: int) -> None:
    layers = list(backbones.entry(name).layers)[:3]
    plain, fast = (backbones.load(name, weights, layers=layers, trainable=trainable) for trainable in (True, False))
    norms = [sum(isinstance(module, nn.BatchNorm2d) for module in part.modules()) for part in (plain, fast)]
    assert norms[0] > norms[1] == 0
    assert plain.digest == fast.digest
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    maps, gradients = [], []
    for backbone in (plain, fast):
        found = backbone(pixels)
        maps.append(found)
        gradients.append(torch.autograd.grad(sum(value.square().sum() for value in found.values()), pixels)[0])
    for layer in layers:
        scale = float(maps[0][layer].detach().abs().max())
        torch.testing.assert_close(maps[1][layer], maps[0][layer], rtol=1e-4, atol=1e-5 * scale)
    # In norm: rounding puts the odd unit on the other side of its ReLU.
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 1e-3
