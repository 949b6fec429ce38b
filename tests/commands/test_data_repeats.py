"""A data file without noise ceilings whose images were shown several times: estimated, said, and compared with."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from boldreams_cli.data.neutral.writing import write
from boldreams_cli.data.units import VoxelUnits

from ..conftest import Run

IMAGES, REPEATS, VOXELS = 40, 3, 24
SAID = "noise ceiling: estimated from repeats of 40 images"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    shown = np.tile(np.arange(IMAGES), REPEATS)
    light = rng.random(IMAGES)
    pixels = (rng.integers(0, 80, (IMAGES, 32, 32, 3)) + 170 * light[:, None, None, None]).astype(np.uint8)
    signal = np.linspace(0, 2, VOXELS)  # the ncsnr of each voxel
    betas = (light[shown, None] - light.mean()) / light.std() * signal + rng.normal(size=(len(shown), VOXELS))
    path = tmp_path_factory.mktemp("repeats") / "S1.h5"
    write(
        path,
        subject="S1",
        betas=betas,
        trial_image=shown,
        image_names=[f"{number:02d}.png" for number in range(IMAGES)],
        pixels=pixels,
        zscored=False,
        sessions=np.repeat(np.arange(1, REPEATS + 1), IMAGES),
        test=shown < 8,
        units=VoxelUnits(np.argwhere(np.ones((4, 3, 2))), np.eye(4), (4, 3, 2)),
        areas={"low": np.arange(VOXELS) < 12, "high": np.arange(VOXELS) >= 12},
    )
    return path


def test_every_command_says_where_the_ceiling_comes_from(run: Run, file: Path, tmp_path: Path) -> None:
    cache = ("--cache", tmp_path / "cache")
    found = run("validate", file, "--json").json
    assert (found["ceiling"], found["repeated_images"]) == ("estimated from repeats", IMAGES)
    assert SAID in run("prepare", "--data", file, *cache).out
    prepared = run("prepare", "--data", file, *cache, "--json").json
    assert (prepared["ceiling_source"], prepared["ceiling_images"]) == ("estimated from repeats", IMAGES)
    run("extract", "--backbone", "alexnet", "--weights", "random", "--data", file, *cache)
    run("fit", "--subject", "S1", "--percent", 10, "--readout", "ridge", *cache)
    assert SAID in run("score", "--subject", "S1", *cache).out
    assert SAID in run("score", "--subject", "S1", *cache).out  # as it was saved
    scores = run("score", "--subject", "S1", *cache, "--json").json
    assert (scores["ceiling_source"], scores["ceiling_images"]) == ("estimated from repeats", IMAGES)
    rows = list(csv.DictReader(Path(scores["model"], "voxels.csv").read_text().splitlines()))
    ncsnr, ceiling = (np.array([float(row[name]) for row in rows]) for name in ("ncsnr", "ceiling"))
    assert np.abs(ncsnr - np.linspace(0, 2, VOXELS)).max() < 0.6
    assert np.allclose(ceiling, np.sqrt(ncsnr**2 / (ncsnr**2 + 1 / REPEATS)), atol=1e-5)
    assert scores["rois"]["high"]["ceiling_mean"] > 0.85
    assert scores["rois"]["high"]["accuracy"] is not None
    run("fit", "--subject", "S1", "--percent", 50, "--readout", "ridge", *cache)
    run("score", "--subject", "S1", "--percent", 50, *cache)
    least = run("minimal", "--subject", "S1", "--backbone", "alexnet", "--reference", 50, *cache, "--json")
    assert "no noise ceiling" not in least.err
