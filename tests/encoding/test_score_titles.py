"""Figures of scores are titled so that models that differ are told apart, on slices and on surfaces alike."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from boldreams_cli.encoding.evaluation.saved import on_surface
from boldreams_cli.encoding.evaluation.saved.files import title_of
from boldreams_cli.files import write_json


def spec(**other: Any) -> Any:
    known = {"backbone": "alexnet", "percent": 10.0, "recipe": "fast", "readout": "separable", "finetuned": False}
    return SimpleNamespace(**(known | {"subject": "CSI1"} | other))


def test_recipe_finetuning_and_test_are_in_the_title() -> None:
    assert title_of(spec()) == "alexnet, 10 % of filters, fast, subject CSI1"
    assert title_of(spec(recipe=None, readout="ridge"), "synthetic").endswith("ridge, subject CSI1, synthetic test")
    assert "paper, finetuned" in title_of(spec(recipe="paper", finetuned=True))


def test_a_surface_has_the_same_title(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mesh = SimpleNamespace(points=np.zeros((2, 3)), faces=np.zeros((0, 3), int), depth=np.zeros(2), flat=False)
    monkeypatch.setattr(on_surface, "mesh_sizes", lambda units: {"left": 2})
    monkeypatch.setattr(on_surface, "find_meshes", lambda folder, sizes: {"left": mesh})
    titles: list[str] = []
    monkeypatch.setattr(on_surface, "surfaces", lambda path, data, limits, label, title, flat: titles.append(title))
    write_json(tmp_path / "scores.json", {"r": [0.5, None]})
    units = SimpleNamespace(hemisphere=np.array(["left", "left"]), vertex=np.array([0, 1]))
    model = SimpleNamespace(folder=tmp_path, spec=spec(finetuned=True, recipe="paper"))
    on_surface.draw_r(cast(Any, model), cast(Any, units), tmp_path)
    assert titles == [f"r with test betas: {title_of(model.spec)}"]
