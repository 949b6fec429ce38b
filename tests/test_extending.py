"""docs/extending.md: each of its files, put where it says into a copy of the package, is all that is needed."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
RUN = """
import contextlib, io, json, sys
from boldreams_cli.cli import boldreams
for words in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        boldreams.main([*words, "--json", "--quiet"], prog_name="boldreams", standalone_mode=False)
    print(said.getvalue().strip())
"""


def test_every_row_of_the_table_is_shown() -> None:
    rooms = [room for room in re.findall(r"^\| a[^|]*\| `(\S+/)`", PAGE, re.MULTILINE) if room != "commands/"]
    assert sorted(f"boldreams_cli/{room}" for room in rooms) == sorted(f"{Path(name).parent}/" for name in FILES)
    for room in rooms:
        assert (ROOT / "boldreams_cli" / room / "__init__.py").is_file()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the page's files in it, and a data set for its importer."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "boldreams_cli", folder / "boldreams_cli", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in FILES.items():
        assert not (folder / name).exists()
        (folder / name).write_text(text, encoding="utf-8")
    rng = np.random.default_rng(0)
    mine = folder / "mine"
    mine.mkdir()
    np.save(mine / "betas.npy", rng.normal(size=(6, 4)))
    np.save(mine / "ijk.npy", np.argwhere(np.ones((2, 2, 1))))
    names = ["a", "b", "c", "a", "test-d", "test-d"]
    (mine / "shown.txt").write_text("\n".join(names))
    for name in set(names):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(mine / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def made(folder: Path, experiment: Path) -> list[dict[str, Any]]:
    """What the commands say that the page names."""
    lines = [
        ("import", "table", folder / "mine", "--output", folder / "mine.h5"),
        ("validate", folder / "mine.h5"),
        ("extract", "--backbone", "gabor:8", "--subject", 1, "--nsd-root", experiment),
        ("fit", "--readout", "mean", "--setting", "penalty=100", "--percent", 100, "--subject", 1,
         "--nsd-root", experiment),
        ("score", "--readout", "mean", "--nsd-root", experiment),
        ("attribute", "--roi", "V1", "--count", 1, "--method", "steepest", "--nsd-root", experiment),
        ("sweep", "--subject", 1, "--backbone", "gabor:8", "--percent", 100, "--readout", "mean",
         "--nsd-root", experiment),
        ("report", "--output", folder / "report.html"),
    ]  # fmt: skip
    asked = json.dumps([[str(word) for word in line] for line in lines])
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=asked, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_commands_find_what_was_added(folder: Path, made: list[dict[str, Any]]) -> None:
    imported, checked, extracted, fitted, scored, attributed, swept, reported = made
    assert (imported["train"], imported["test"]) == ({"images": 3, "trials": 4}, {"images": 1, "trials": 2})
    assert checked["errors"] == []
    assert extracted["layers"] == {"bank9": [16, 32, 32], "bank17": [16, 32, 32]}
    model = Path(fitted["model"])
    assert (model.parent.name, model.name.rpartition("-")[0]) == ("gabor-8", "percent-100-mean")
    assert json.loads((folder / model / "spec.json").read_text())["training"]["penalty"] == 100
    assert scored["spearman_mean"] == pytest.approx(scored["r_mean"], abs=0.2)
    with (folder / model / "voxels.csv").open() as stream:
        assert all(-1 <= float(row["spearman"]) <= 1 for row in csv.DictReader(stream))
    assert (folder / model / "spearman.nii.gz").is_file()
    assert attributed["results"][0]["files"]
    assert swept["cells"]["done"] == 1
    assert "Below the ceiling" in (folder / reported["file"]).read_text(encoding="utf-8")
    assert (folder / "report_files/ceilings.pdf").is_file()


def module(folder: Path, name: str) -> Any:
    """One of the page's files, by itself."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, folder / name)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_measure_is_what_it_is_called(folder: Path) -> None:
    rng = np.random.default_rng(0)
    prediction, beta = rng.normal(size=(2, 30, 3))
    found = module(folder, "boldreams_cli/encoding/evaluation/measures/spearman.py")
    r = found.spearman(torch.from_numpy(prediction), torch.from_numpy(beta))
    expected = [scipy.stats.spearmanr(*pair).statistic for pair in zip(prediction.T, beta.T, strict=True)]
    np.testing.assert_allclose(r, expected, rtol=1e-12)
