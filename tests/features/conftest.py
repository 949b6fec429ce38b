"""What tests of extraction share: an AlexNet whose input is small, as most of what they look at has no size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from boldreams_cli.features import backbones
from boldreams_cli.features.backbones import Backbone

SIDE = 67  # pixels; the last layer has 3 x 3


@pytest.fixture(scope="session")
def small_alexnet() -> Backbone:
    """Random weights; to be copied by who changes them."""
    backbone = backbones.load("alexnet", "random")
    preprocessing = replace(backbone.entry.preprocessing, size=SIDE)
    backbone.entry = replace(backbone.entry, preprocessing=preprocessing)
    return backbone
