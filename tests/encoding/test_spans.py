"""The spans of a fit: what is kept of one that was solved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from boldreams_cli.encoding.readouts.base import Solution
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
