"""`boldreams compare`: its numbers are those of the scores, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from boldreams_cli.console import MismatchError
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.study.compare import check_comparable

from ..conftest import Run


@pytest.fixture(scope="module")
def mine(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the cache, for more models."""
    return Path(shutil.copytree(cache, tmp_path_factory.mktemp("compare") / "cache"))


@pytest.fixture(scope="module")
def two(run: Run, mine: Path) -> tuple[Path, Path]:
    """A paper's model and a ridge of subject 1, scored."""
    run("fit", "--percent", 10, "--subject", 1, "--cache", mine, "--readout", "ridge")
    run("score", "--readout", "ridge", "--cache", mine)
    (paper,), (ridge,) = ((mine / "models/subj01/alexnet").glob(f"percent-10-{kind}-*") for kind in ("paper", "ridge"))
    return ridge, paper


def scores(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "scores.json").read_text())


@pytest.mark.usefixtures("rendered")
def test_differences_are_those_of_the_scores(run: Run, mine: Path, two: tuple[Path, Path]) -> None:
    found = run("compare", *two, "--cache", mine, "--json").json
    a, b = (scores(folder) for folder in two)
    assert found["models"] == [str(folder) for folder in two]
    assert found["images"] == 15
    assert found["difference"]["mean"] == pytest.approx(a["r_mean"] - b["r_mean"])
    low, high = found["difference"]["ci"]
    assert low < found["difference"]["mean"] < high
    assert found["rois"].keys() == a["rois"].keys()
    for name, row in found["rois"].items():
        assert row["difference"] == pytest.approx(a["rois"][name]["r_mean"] - b["rois"][name]["r_mean"])
        assert row["voxels"] == a["rois"][name]["voxels"]
    assert set(found["voxels_q05"]) == {"A", "B"}
    assert {Path(file).name for file in found["files"]} == {
        *("compare.json", "rois.csv", "voxels.csv", "difference.nii.gz", "q.nii.gz", "plane.png", "plane.pdf")
    }
    assert all(Path(file).is_file() for file in found["files"])
    assert json.loads(Path(found["files"][0]).read_text()) == found


def test_the_files_agree(run: Run, mine: Path, two: tuple[Path, Path]) -> None:
    found = run("compare", *(folder.name for folder in two), "--cache", mine, "--json").json
    folder = Path(found["files"][0]).parent
    assert folder == mine / "studies" / "compare" / f"{two[0].name}-{two[1].name}"
    with (folder / "voxels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    a, b = (np.array(scores(path)["r"], dtype=float) for path in two)
    np.testing.assert_allclose([float(row["difference"] or "nan") for row in rows], a - b, atol=1e-9)
    places = tuple(np.array([[int(row[axis]) for row in rows] for axis in "xyz"]))
    volume = nibabel.load(folder / "difference.nii.gz")
    np.testing.assert_allclose(volume.get_fdata()[places], a - b, atol=1e-6)
    assert np.isfinite(volume.get_fdata()).sum() == found["voxels"]
    q = np.array([float(row["q"] or "nan") for row in rows])
    np.testing.assert_allclose(nibabel.load(folder / "q.nii.gz").get_fdata()[places], q, atol=1e-6)
    counted = {name: int(((q < 0.05) & (sign * (a - b) > 0)).sum()) for name, sign in (("A", 1), ("B", -1))}
    assert counted == found["voxels_q05"]
    with (folder / "rois.csv").open() as stream:
        table = {row["roi"]: row for row in csv.DictReader(stream)}
    assert float(table["V1"]["low"]) == pytest.approx(found["rois"]["V1"]["ci"][0])
    assert float(table["all"]["difference"]) == pytest.approx(found["difference"]["mean"])
    assert "V1v" in table, "single labels too"


def test_which_is_better_where_is_said(run: Run, mine: Path, two: tuple[Path, Path]) -> None:
    found = run("compare", *two, "--cache", mine, "--json").json
    shown = run("compare", *two, "--cache", mine).out
    assert found["verdict"] in shown
    better = [name for name, row in found["rois"].items() if row["ci"][0] > 0]
    worse = [name for name, row in found["rois"].items() if row["ci"][1] < 0]
    for sentence, names in ((f"A is better in {', '.join(better)}", better), (f"B is better in {worse[:1]}", worse)):
        assert not names or sentence.split("[")[0] in found["verdict"]


def test_models_that_cannot_be_compared_are_refused(run: Run, mine: Path, two: tuple[Path, Path]) -> None:
    before = sorted((mine / "studies").rglob("*"))
    run("fit", "--percent", 10, "--subject", 2, "--cache", mine, "--readout", "ridge")
    run("fit", "--percent", 10, "--subject", 1, "--cache", mine, "--readout", "ridge", "--sessions", "1-2")
    (other,) = (mine / "models/subj02/alexnet").glob("percent-10-ridge-*")
    (fewer,) = set((mine / "models/subj01/alexnet").glob("percent-10-ridge-*")) - set(two)
    refused = run("compare", two[0], other, "--cache", mine, code=3).err
    assert "is of subject 1" in refused
    assert "of subject 2" in refused
    assert "other sessions" in run("compare", two[0], fewer, "--cache", mine, code=3).err
    assert "with itself" in run("compare", two[0], two[0].name, "--cache", mine, code=2).err
    assert "no model 'nothing'" in run("compare", two[0], "nothing", "--cache", mine, code=2).err
    assert sorted((mine / "studies").rglob("*")) == before, "nothing is written"


def test_finetuned_models_of_other_pixels_are_not_compared(mine: Path, two: tuple[Path, Path]) -> None:
    model = FittedModel.load(two[0])

    def tuned(name: str, pixels: str) -> FittedModel:
        spec = replace(model.spec, finetuned=True, training=model.spec.training | {"pixels": pixels})
        return FittedModel(two[0].with_name(name), spec, model.weights)

    check_comparable(tuned("a", "old"), tuned("b", "old"), mine)
    check_comparable(tuned("a", "old"), model, mine)
    with pytest.raises(MismatchError, match="alexnet/a was trained on other stimuli than subj01/alexnet/b"):
        check_comparable(tuned("a", "old"), tuned("b", "new"), mine)
