"""Dreams and attributions on a GPU made of the host's memory (tests/card.py): the same result, no step that waits."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from boldreams_cli.console import BoldreamsError, StopFlag
from boldreams_cli.encoding.model.full import FullModel
from boldreams_cli.interpret import targets
from boldreams_cli.interpret.attribution.attributor import Attributor
from boldreams_cli.interpret.attribution.attributor import Settings as AttributionSettings
from boldreams_cli.interpret.attribution.methods import occlusion
from boldreams_cli.interpret.dreams.ascent import loop, parameterization, replay
from boldreams_cli.interpret.dreams.ascent.loop import Dreamer, Settings
from boldreams_cli.interpret.dreams.ascent.objectives import Objective
from boldreams_cli.interpret.dreams.closeness import Photograph
from boldreams_cli.transfers import sent
from tests.card import CARD, Card
from tests.interpret.conftest import CPU, Fitted

STEPS = 3
OBJECTIVES: dict[str, tuple[Objective, dict[str, object]]] = {
    "mean": (Objective("mean"), {}),
    "contrast": (Objective("contrast"), {"minus": "faces"}),
    "both": (Objective("both"), {"plus": "faces"}),
    "diversity": (Objective("diversity"), {}),
    "target": (Objective("target", np.array([1.5], np.float32)), {"each": True}),
}


def dreamer(fitted: Fitted, full: FullModel, name: str, kind: str = "fourier", photograph: bool = False) -> Dreamer:
    """One of OBJECTIVES, for V1, where the model is."""
    objective, more = OBJECTIVES[name]
    target, device = targets.choose(full, fitted.responses.areas, "V1", **more), full.backbone.device
    settings = Settings.default(
        full.backbone.entry, "V1", steps=STEPS, rate=0.02, count=2, parameterization=kind, start=photograph
    )
    size = full.backbone.entry.preprocessing.size
    pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1)).to(device)
    far = np.hypot(np.fft.fftfreq(228)[:, None], np.fft.rfftfreq(228))
    natural = np.tile(np.where(far > 0, 0.2 / np.maximum(far, 1e-3), 0), (3, 1, 1)).astype(np.float32)
    spectrum = parameterization.Spectrum(natural, np.full(3, 0.5, np.float32))
    picture = parameterization.create(kind, 2, size, 0, device, lambda: spectrum, pixels if photograph else None)
    return Dreamer(target, objective, picture, settings, Photograph("it", pixels) if photograph else None)


@pytest.fixture
def there(fitted: Fitted, card: Card) -> FullModel:
    """The full model on the card."""
    return copy.deepcopy(fitted.full).to(CARD)


@pytest.mark.parametrize(
    ("name", "kind", "photograph"),
    [*((name, "fourier", False) for name in OBJECTIVES), ("mean", "maco", False), ("mean", "pixel", True)],
)
def test_a_dream_on_a_card_is_that_of_the_host_and_no_step_waits(
    fitted: Fitted, there: FullModel, card: Card, name: str, kind: str, photograph: bool
) -> None:
    on_card = dreamer(fitted, there, name, kind, photograph)
    on_card.step()  # which may make what is kept
    card.waits.clear()
    for _ in range(STEPS - 1):
        on_card.step()
    assert card.waits == []
    on_card.look()
    on_host = dreamer(fitted, fitted.full, name, kind, photograph)
    for _ in range(STEPS):
        on_host.step()
    on_host.look()
    np.testing.assert_allclose(on_card.trace.array(), on_host.trace.array(), rtol=1e-3, atol=1e-4)
    assert float((on_card.picture().detach().cpu() - on_host.picture().detach()).abs().mean()) < 2e-3


def test_a_whole_dream_on_a_card(fitted: Fitted, there: FullModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOOK_EVERY", 2)
    dreamed = dreamer(fitted, there, "mean").run(StopFlag())
    whole = dreamer(fitted, fitted.full, "mean").run(StopFlag())
    assert dreamed.trace.shape == whole.trace.shape
    np.testing.assert_allclose(dreamed.trace, whole.trace, rtol=1e-3, atol=1e-4)
    assert (dreamed.step, dreamed.stopped) == (STEPS, False)


def test_the_step_whose_loss_is_no_number_is_named(fitted: Fitted, there: FullModel) -> None:
    broken = dreamer(fitted, there, "mean")
    broken.step()
    with torch.no_grad():
        broken.picture.values.fill_(torch.nan)
    with pytest.raises(BoldreamsError, match="the loss became nan at step 2"):
        broken.run(StopFlag())


@pytest.mark.parametrize("method", ["integrated-gradients", "grad-cam", "occlusion"])
def test_an_attribution_on_a_card_is_that_of_the_host(
    fitted: Fitted, there: FullModel, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(occlusion, "SQUARE", 3)
    found = []
    for full, device in ((fitted.full, CPU), (there, CARD)):
        aims = [targets.choose(full, fitted.responses.areas, roi) for roi in ("V1", "faces")]
        asked = AttributionSettings(method, 4 if method == "integrated-gradients" else 0, "black")
        attributor = Attributor(full, aims, fitted.responses, asked)
        attributor._batch[2] = 4  # what fits is not to be asked of this card
        size = full.backbone.entry.preprocessing.size
        pixels: Tensor = torch.rand(3, size, size, generator=torch.Generator().manual_seed(1)).to(device)
        found.append(attributor.attribute(pixels, [0, 1]))
    host, card = found
    np.testing.assert_allclose(card.prediction, host.prediction, rtol=1e-4, atol=1e-5)
    size = np.linalg.norm(host.values)
    assert np.linalg.norm(card.values - host.values) < 1e-2 * size


def test_what_is_free_on_the_card_bounds_a_pass(
    fitted: Fitted, there: FullModel, card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boldreams_cli.interpret.attribution.attributor.kept", lambda respond, pixels: 10**8)
    aims = [targets.choose(there, fitted.responses.areas, "V1")]
    attributor = Attributor(there, aims, fitted.responses, AttributionSettings(memory=1))
    pixels = torch.rand(3, 227, 227).to(CARD)
    card.free = 10**10
    assert attributor.batch(pixels, [0]) == 50
    card.free = 1
    assert attributor.batch(pixels, [0]) == 1


def test_a_network_that_cannot_be_recorded_dreams_step_by_step(
    fitted: Fitted, there: FullModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    @contextmanager
    def refused(graph: object) -> Iterator[None]:
        tried.append("a graph")
        raise RuntimeError("operation not permitted when stream is capturing")
        yield

    monkeypatch.setattr(torch.cuda, "graph", refused)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    whole = dreamer(fitted, there, "mean").run(StopFlag())
    assert not tried
    monkeypatch.setattr(replay, "WARM", 1)
    dreamed = dreamer(fitted, there, "mean").run(StopFlag())
    assert tried == ["a graph"]  # and never again
    np.testing.assert_array_equal(dreamed.trace, whole.trace)


def test_no_copy_from_the_host_is_recorded(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    there = torch.ones(2, device=CARD)
    assert sent(there, CARD) is there
    with pytest.raises(RuntimeError, match="cannot be recorded"):
        sent(torch.ones(2), CARD)


@pytest.mark.parametrize("kind", ["fourier", "pixel"])
@pytest.mark.parametrize("name", loop.RECORDED)
def test_steps_that_are_recorded_copy_nothing_from_the_host(
    fitted: Fitted, there: FullModel, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    onto = dreamer(fitted, there, name, kind)
    onto.step()
    matrix = onto.settings.transforms.draw(0, 1).to(CARD)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    onto._ascend(matrix)
