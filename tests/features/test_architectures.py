"""Every architecture of timm and every classification model of torchvision has layers (`make architectures`)."""

from __future__ import annotations

import warnings

import pytest
import timm
import torchvision

from boldreams_cli.features import backbones

pytestmark = pytest.mark.architectures
SMALL = ("test", "tiny", "nano", "small", "pico", "atto", "_s", "xxs", "b0", "050", "18", "xs")
# It computes with its weights while it is built, and at a size for which this needs some GB.
LEFT_OUT = {"gemma4_vit"}


def smallest(module: str) -> str:
    names = timm.list_models(module=module)
    return min(names, key=lambda name: (not any(part in name for part in SMALL), len(name), name))


MODULES = [name for name in timm.list_modules() if timm.list_models(module=name) and name not in LEFT_OUT]


@pytest.mark.parametrize("module", MODULES)
def test_timm(module: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = backbones.entry(f"timm:{smallest(module)}")
    assert len(chosen.layers) >= 2
    assert all(
        filters > 0 and height == width for filters, (height, width) in zip(chosen.filters, chosen.shapes, strict=True)
    )


@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_torchvision(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = backbones.entry(f"torchvision:{name}")
    assert len(chosen.layers) >= 3
    sizes = [height for height, _ in chosen.shapes]
    assert sizes == sorted(sizes, reverse=True)
