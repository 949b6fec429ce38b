"""The coarse first convolution against torch's own."""

import pytest
import torch
from torch import nn

from boldreams_cli.features import backbones
from boldreams_cli.features.strided import CoarseConvolution, replace_coarse


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"), [(11, 4, 2, 227), (11, 4, 2, 226), (4, 4, 0, 30), (3, 5, 1, 23)]
)
def test_values_and_gradients_are_torchs(kernel: int, stride: int, padding: int, size: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 8, kernel, stride, padding).requires_grad_(False)
    network = nn.Sequential(plain, nn.ReLU())
    replace_coarse(network)
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
    replace_coarse(network)
    network(torch.randn(1, 3, 16, 16, requires_grad=True)).sum().backward()
    assert network[0].weight.grad is not None
