"""A small data file, and arrays to write others from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boldreams_cli.data.neutral.writing import write
from boldreams_cli.data.units import VoxelUnits

Arrays = dict[str, Any]
Write = Callable[..., Path]


@pytest.fixture
def arrays() -> Arrays:
    """12 voxels; 8 images, each shown twice, in two sessions whose trials alternate; images 0 and 1 are the test."""
    rng = np.random.default_rng(0)
    shown = np.tile(np.arange(8), 2)
    return {
        "subject": "CSI1",
        "betas": (rng.normal(size=(16, 12)) * 3 + 5).astype(np.float32),
        "trial_image": shown,
        "image_names": [f"picture {number}" for number in range(8)],
        "pixels": rng.integers(0, 256, (8, 20, 20, 3), dtype=np.uint8),
        "zscored": False,
        "sessions": np.tile([3, 1], 8),
        "test": shown < 2,
        "units": VoxelUnits(np.argwhere(np.ones((3, 2, 2)))[::-1], np.diag([2.0, 2, 2, 1]), (3, 2, 2)),
        "areas": {"V1": np.arange(12) < 4, "a long name": np.arange(12) % 2 == 0},
        "ceiling": np.linspace(0.1, 1.2, 12),
        "ceiling_kind": "ncsnr",
    }


@pytest.fixture
def written(arrays: Arrays, tmp_path: Path) -> Write:
    """Write a file of those arrays but for what is given otherwise."""

    def made(name: str = "own.h5", **others: Any) -> Path:
        write(tmp_path / name, **(arrays | others))
        return tmp_path / name

    return made
