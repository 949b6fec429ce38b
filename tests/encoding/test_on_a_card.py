"""Every solver on a GPU made of the host's memory (tests/card.py): the same result, no mixing, no step that waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from boldreams_cli.console import StopFlag, StoppedError
from boldreams_cli.encoding import fit as fitting
from boldreams_cli.encoding.finetuning.processes import Process
from boldreams_cli.encoding.finetuning.run import FinetuneResult, finetune
from boldreams_cli.encoding.fit import fit
from boldreams_cli.encoding.inputs.maps import ResidentMaps, ScratchMaps, StoredMaps, open_maps, usable
from boldreams_cli.encoding.inputs.pooled import pool_maps
from boldreams_cli.encoding.model.full import predict_stored
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.encoding.readouts import separable
from boldreams_cli.encoding.readouts.attention import Attention, AttentionSettings
from boldreams_cli.encoding.readouts.base import Problem, Readout
from boldreams_cli.encoding.readouts.gaussian import Gaussian, GaussianSettings
from boldreams_cli.encoding.readouts.local import Local, LocalSettings
from boldreams_cli.encoding.readouts.ridge import RidgeReadout, RidgeSettings
from boldreams_cli.encoding.readouts.separable import AdamSettings, Separable
from boldreams_cli.encoding.readouts.settings import FitSettings
from boldreams_cli.encoding.readouts.smooth import Smooth, SmoothSettings
from boldreams_cli.encoding.readouts.stacked import Stacked, StackedSettings
from tests.card import CARD, Card
from tests.encoding.finetuned import GB, SETTINGS, Small, source_of
from tests.stopping import StopAfter

from .conftest import Ready
from .made_up import PLENTY, layouts, problem, solve

SOLVERS: dict[str, Callable[[], Readout]] = {
    "separable": lambda: Separable(AdamSettings(epochs=2, rate=0.01)),
    "smooth": lambda: Smooth(SmoothSettings(grid=3, epochs=3, rate=0.01, batch_size=16)),
    "attention": lambda: Attention(AttentionSettings(grid=3, epochs=3, batch_size=16, keys=4)),
    "attention of areas": lambda: Attention(AttentionSettings(grid=3, epochs=3, batch_size=16, keys=4, share="area")),
    "gaussian": lambda: Gaussian(GaussianSettings(centres=3, sizes=(0.1, 0.3))),
    "ridge of few features": lambda: RidgeReadout(RidgeSettings(grid=1)),
    "ridge of many features": lambda: RidgeReadout(RidgeSettings(grid=3)),
    "local": lambda: Local(LocalSettings(grid=3, centres=2)),
    "stacked": lambda: Stacked(StackedSettings(grid=3, centres=2, sizes=(0.2,))),
}
TRAINED: dict[str, Callable[[int], Readout]] = {
    "separable": lambda size: Separable(AdamSettings(epochs=2, batch_size=size)),
    "smooth": lambda size: Smooth(SmoothSettings(grid=3, epochs=2, batch_size=size)),
    "attention": lambda size: Attention(AttentionSettings(grid=3, epochs=2, batch_size=size, keys=4)),
    "attention of areas": lambda size: Attention(
        AttentionSettings(grid=3, epochs=2, batch_size=size, keys=4, share="area")
    ),
}


def on_the_card(posed: Problem, folder: Path) -> Problem:
    """The same problem there."""
    assert isinstance(posed.maps, StoredMaps)
    maps = StoredMaps(posed.maps.store, posed.maps.rows, layouts(), CARD, folder / "scratch")
    return replace(posed, maps=maps, device=CARD)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_card_solves_what_the_host_solves(
    tmp_path: Path, card: Card, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(separable, "GPU_BLOCK", 4)  # of ten voxels
    posed = problem(tmp_path)
    expected = solve(SOLVERS[name](), posed, tmp_path / "host")
    found = solve(SOLVERS[name](), on_the_card(posed, tmp_path), tmp_path / "card")
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        torch.testing.assert_close(found[key], values, rtol=1e-3, atol=1e-4, msg=lambda said, key=key: f"{key}: {said}")
    assert card.waits  # the result at least was waited for


@pytest.mark.parametrize("name", TRAINED)
def test_no_step_waits_for_the_card(tmp_path: Path, card: Card, name: str) -> None:
    waited = []
    for size in (6, 35):
        posed = on_the_card(problem(tmp_path), tmp_path / str(size))
        card.waits.clear()
        solve(TRAINED[name](size), posed, tmp_path / f"model-{size}")
        waited.append(Counter(card.waits))
    assert waited[0] == waited[1]


@pytest.mark.parametrize("name", ["separable", "smooth", "gaussian"])
def test_maps_that_a_card_has_no_room_for_are_sent_to_it(tmp_path: Path, card: Card, name: str) -> None:
    posed = problem(tmp_path)
    expected = solve(SOLVERS[name](), posed, tmp_path / "host")
    card.free = 1000
    streamed = on_the_card(posed, tmp_path)
    found = solve(SOLVERS[name](), streamed, tmp_path / "card")
    if name != "smooth":
        assert isinstance(streamed.maps._opened, ScratchMaps)  # type: ignore[attr-defined]
    for key, values in expected.items():
        torch.testing.assert_close(found[key], values, rtol=1e-3, atol=1e-4, msg=lambda said, key=key: f"{key}: {said}")


def test_a_step_on_maps_that_are_sent_does_not_wait(tmp_path: Path, card: Card) -> None:
    card.free = 1000
    waited = []
    for size in (6, 35):
        posed = on_the_card(problem(tmp_path), tmp_path / str(size))
        card.waits.clear()
        solve(TRAINED["separable"](size), posed, tmp_path / f"model-{size}")
        waited.append(Counter(card.waits))
    assert waited[0] == waited[1]


def test_maps_on_a_card_are_those_of_the_host(tmp_path: Path, card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boldreams_cli.encoding.inputs.maps.SCRATCH_BLOCK_BYTES", 10_000)  # several blocks
    maps = problem(tmp_path, shuffled=True, others=9).maps
    assert isinstance(maps, StoredMaps)
    order = [np.array([3, 0, 69]), np.arange(5)]
    on_host = list(ResidentMaps.read(maps.store, maps.rows, layouts(), torch.device("cpu")).batches(order))
    for limit in (PLENTY, 0):
        opened = open_maps(maps.store, maps.rows, layouts(), CARD, limit, tmp_path / "scratch")
        assert isinstance(opened, ResidentMaps if limit else ScratchMaps)
        for found, expected in zip(opened.batches(order), on_host, strict=True):
            for one, other in zip(found, expected, strict=True):
                assert one.device == CARD
                assert torch.equal(one.cpu(), other)


@pytest.mark.parametrize("memory", [PLENTY, 0])
@pytest.mark.parametrize("free", [PLENTY, 0])
def test_pooled_maps_lie_on_the_card_where_it_has_room(tmp_path: Path, card: Card, memory: int, free: int) -> None:
    card.free = free
    maps = problem(tmp_path).maps
    assert isinstance(maps, StoredMaps)
    where = (maps.store, maps.rows, layouts(), 3)
    images, some = np.array([7, 0, 69, 7]), np.s_[3:11]
    for expected, group in zip(
        pool_maps(*where, PLENTY, tmp_path / "scratch", torch.device("cpu")),
        pool_maps(*where, memory, tmp_path / "scratch", CARD),
        strict=True,
    ):
        assert (group._maps.device == CARD) == bool(free)
        assert torch.equal(group.read(images).cpu(), expected.read(images))
        assert torch.equal(group.columns(some).cpu(), expected.columns(some))


def test_memory_of_the_host_and_of_the_card_are_told_apart(tmp_path: Path, card: Card) -> None:
    posed = problem(tmp_path)
    there = on_the_card(posed, tmp_path)
    for maps in (posed.maps, there.maps):
        maps.limit = PLENTY  # type: ignore[attr-defined]
    assert posed.maps.resident_bytes > 0
    assert there.maps.resident_bytes == 0


@pytest.mark.parametrize("limit", [PLENTY, 0])
def test_predictions_on_a_card_are_those_of_the_host(ready: Ready, tmp_path: Path, card: Card, limit: int) -> None:
    model = fit_of(ready, tmp_path)
    images = ready.responses.test_images
    expected = predict_stored(model, ready.store, images, torch.device("cpu"), PLENTY)
    card.free = limit
    found = predict_stored(model, ready.store, images, CARD, PLENTY)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def fit_of(ready: Ready, cache: Path) -> FittedModel:
    """A ridge: it takes no time."""
    settings, readout = FitSettings(5), RidgeReadout(RidgeSettings(grid=1))
    where = (cache, torch.device("cpu"), PLENTY, StopFlag())
    return fit(ready.store, ready.responses, settings, readout, *where).model


def test_a_card_takes_part_of_its_memory_for_voxels_whatever_the_host_has(
    ready: Ready, tmp_path: Path, card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    posed: list[Problem] = []
    monkeypatch.setattr(fitting, "solve_spans", lambda problem, *more: posed.append(problem) or more[-1].check("never"))
    monkeypatch.setattr(fitting, "_save", lambda *more: {})
    card.free = 6 * GB
    for device in (CARD, torch.device("cpu")):
        for memory in (2 * GB, 64 * GB):
            where = (tmp_path, device, memory, StopFlag())
            fit(ready.store, ready.responses, FitSettings(5), RidgeReadout(), *where)
    small, large = usable(2 * GB), usable(64 * GB)
    assert [problem.memory for problem in posed] == pytest.approx([small, 2 * GB, small, large])


@pytest.mark.parametrize("begun", ["host", "card"])
def test_a_fit_that_was_stopped_on_one_kind_of_machine_ends_on_another(
    ready: Ready, tmp_path: Path, card: Card, monkeypatch: pytest.MonkeyPatch, begun: str
) -> None:
    """A job that is requeued may find itself on a node of another kind, whose blocks are of another size."""
    monkeypatch.setattr(separable, "INNER_BYTES", 2**12)
    host, readout = torch.device("cpu"), Separable(AdamSettings(epochs=1))
    one, other = (host, CARD) if begun == "host" else (CARD, host)
    with pytest.raises(StoppedError):
        fit(ready.store, ready.responses, FitSettings(5), readout, tmp_path, one, PLENTY, StopAfter(4))
    assert list(tmp_path.rglob("state-*.safetensors"))
    done = fit(ready.store, ready.responses, FitSettings(5), readout, tmp_path, other, PLENTY, StopFlag())
    assert len(done.curve["train_loss"]) == 1
    assert not list(tmp_path.rglob("state-*.safetensors"))


class TestFinetuning:
    """On AlexNet of 63 pixels."""

    def run(self, small: Small, cache: Path, **changes: object) -> FinetuneResult:
        settings = replace(SETTINGS, epochs=1, validation_fraction=0.2, clip_gradient=1.0, **changes)
        return finetune(source_of(small, cache), settings, Process(CARD), GB, StopFlag())

    def test_a_card_trains_what_the_host_trains(
        self, small: Small, whole: FinetuneResult, tmp_path: Path, card: Card
    ) -> None:
        there = finetune(source_of(small, tmp_path), SETTINGS, Process(CARD), GB, StopFlag())
        assert there.losses == pytest.approx(whole.losses, rel=1e-3)
        assert there.model.spec.training["device"] == "cuda"
        for name, values in whole.model.weights.fields.items():
            torch.testing.assert_close(there.model.weights.fields[name], values, rtol=1e-2, atol=2e-3)

    def test_no_step_waits_for_the_card(self, small: Small, tmp_path: Path, card: Card) -> None:
        waited = []
        for size in (8, 16):
            card.waits.clear()
            self.run(small, tmp_path / str(size), batch_size=size)
            waited.append(Counter(card.waits))
        assert waited[0] == waited[1]
