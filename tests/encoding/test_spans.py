"""The spans of a fit: what is kept of one that was solved."""

from __future__ import annotations

import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from boldreams_cli.encoding import spans as module
from boldreams_cli.encoding.readouts.base import Solution
from boldreams_cli.encoding.result import write_weights
from boldreams_cli.encoding.spans import Spans


def test_what_is_kept_of_a_span_does_not_keep_its_weights_in_memory(tmp_path: Path) -> None:
    spans, count = Spans(tmp_path, "key"), 7
    for first in (0, count):
        weights = [torch.ones(count, 1000)]
        chosen = {"penalty": torch.arange(count)}
        spans.keep(
            np.arange(first, first + count), Solution([], weights, torch.zeros(count), {}, [torch.eye(3)], chosen)
        )
    for (_, known), (voxels, solution) in zip(spans._solved_files(), spans.solved(), strict=True):
        for kept in (known, voxels):
            assert kept.base is None  # a view is of all of the file
        assert solution.chosen["penalty"].untyped_storage().nbytes() == 8 * count
        np.testing.assert_array_equal(voxels, known)


def test_one_span_at_a_time_is_in_memory_while_they_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans' files are mapped: each that something still refers to counts."""
    spans = Spans(tmp_path, "key")
    alive: list[weakref.ref[torch.Tensor]] = []
    for start in (0, 2, 4):
        part = Solution([], [torch.rand(2, 3, 4)], torch.zeros(2), {"loss": [0.1]}, [torch.rand(4, 25)])
        spans.keep(np.arange(start, start + 2), part)
    real = module.read_tensors

    def read(path: Path) -> dict[str, torch.Tensor]:
        assert not [other for other in alive if other() is not None], "the one before is let go of first"
        found = real(path)
        alive.append(weakref.ref(found["weights/0"]))
        return found

    monkeypatch.setattr(module, "read_tensors", read)
    spec = SimpleNamespace(
        voxels=6, layers={"one": [0, 1, 2]}, groups=[SimpleNamespace(name="g", layers=["one"], height=5, width=5)]
    )
    write_weights(tmp_path / "w.safetensors", spec, spans.solved, np.zeros((6, 3), np.int32))  # type: ignore[arg-type]
    assert len(alive) > 3
    joined = load_file(tmp_path / "w.safetensors")
    assert joined["weights/one"].shape == (6, 3, 4)
    assert (joined["weights/one"] != 0).any(2).any(1).all()
