"""Extraction on a GPU made of the host's memory (tests/card.py): the same maps, and one wait a unit."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from boldreams_cli.console import BoldreamsError, StopFlag
from boldreams_cli.features import extraction
from boldreams_cli.features.backbones import Backbone
from boldreams_cli.features.extraction import extract, make_plan
from boldreams_cli.features.source import Source
from tests.card import CARD, Card

IMAGES = np.arange(40)


@pytest.fixture
def backbone(small_alexnet: Backbone) -> Backbone:
    return small_alexnet


@pytest.fixture
def source() -> Source:
    pictures = np.random.default_rng(0).integers(0, 256, (40, 60, 60, 3), dtype=np.uint8)
    return Source(IMAGES, [IMAGES[:30]], lambda ids: pictures[np.asarray(ids)], {"made": "up"})


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "shard_rows", lambda image_bytes: 16)


def stored(
    backbone: Backbone, source: Source, cache: Path, batch_size: int = 8, keep: float | None = None
) -> dict[str, np.ndarray]:
    """All that a run stores."""
    plan = make_plan(backbone, source, cache, "float16", keep)
    store = extract(backbone, source, plan, cache, StopFlag(), batch_size).store
    names = [f"layers/{layer}/{kind}" for layer in store.layers for kind in ("maps", "mean")]
    return {name: store.array(name)[:] for name in names}


@pytest.mark.parametrize("keep", [None, 20.0])
def test_a_card_stores_what_the_host_stores(
    backbone: Backbone, source: Source, tmp_path: Path, card: Card, keep: float | None
) -> None:
    expected = stored(backbone, source, tmp_path / "host", keep=keep)
    found = stored(copy.deepcopy(backbone).to(CARD), source, tmp_path / "card", keep=keep)
    for name, values in expected.items():
        # The host's convolutions are Winograd's, off by 3e-6; float16 keeps 11 bits.
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-4, err_msg=name)


def test_no_batch_waits_for_the_card(backbone: Backbone, source: Source, tmp_path: Path, card: Card) -> None:
    there, waited = copy.deepcopy(backbone).to(CARD), []
    for size in (4, 8):
        card.waits.clear()
        stored(there, source, tmp_path / str(size), size)
        waited.append(Counter(card.waits))
    assert waited[0] == waited[1]


def test_what_float16_cannot_hold_is_not_stored(backbone: Backbone, source: Source, tmp_path: Path, card: Card) -> None:
    loud = copy.deepcopy(backbone)
    plan = make_plan(loud, source, tmp_path, "float16", None)
    with torch.no_grad():
        loud.network.features[0].weight.mul_(1e8)
    for device in (torch.device("cpu"), CARD):
        with pytest.raises(BoldreamsError, match=r"features.* float16 cannot hold; use --dtype float32"):
            extract(loud.to(device), source, plan, tmp_path / device.type, StopFlag(), 8)
        (store,) = (tmp_path / device.type / "features").glob("*.zarr")
        assert not list(store.glob("layers/*/maps/c/**/0"))
