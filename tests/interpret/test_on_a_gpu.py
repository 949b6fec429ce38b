"""What only a real GPU can show: recorded steps of a dream."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pytest
import torch

from boldreams_cli.console import StopFlag
from boldreams_cli.interpret import targets
from boldreams_cli.interpret.dreams.ascent import loop, parameterization, replay
from boldreams_cli.interpret.dreams.ascent.loop import Dream, Dreamer, Settings
from boldreams_cli.interpret.dreams.ascent.objectives import Objective
from boldreams_cli.machine import ieee_products
from tests.interpret.conftest import Fitted

GPU = torch.device("cuda")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SIDES: dict[str, dict[str, str]] = {"mean": {}, "contrast": {"minus": "faces"}, "both": {"plus": "faces"}}


@pytest.mark.parametrize("kind", ["fourier", "pixel"])
@pytest.mark.parametrize("name", loop.RECORDED)
def test_a_dream_that_is_played_back_is_that_of_its_steps(
    fitted: Fitted, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    ieee_products(GPU)
    full = copy.deepcopy(fitted.full).to(GPU)
    target = targets.choose(full, fitted.responses.areas, "V1", **SIDES[name])
    settings = Settings.default(full.backbone.entry, "V1", steps=40, rate=0.02, count=2, parameterization=kind)

    def dreamed() -> Dream:
        size = full.backbone.entry.preprocessing.size
        picture = parameterization.create(kind, 2, size, 0, GPU, lambda: pytest.fail("of maco only"))
        return Dreamer(target, Objective(name), picture, settings).run(StopFlag())

    recorded = dreamed()
    monkeypatch.setattr(replay, "WARM", sys.maxsize)
    stepwise = dreamed()
    np.testing.assert_array_equal(recorded.trace, stepwise.trace)
    np.testing.assert_array_equal(recorded.images, stepwise.images)
    assert len(np.unique(recorded.trace[:, 1])) == len(recorded.trace)  # every step is another
