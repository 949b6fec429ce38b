"""Stimuli that were touched or changed since their maps were made: said by fit and score, and never the old answer."""

import os
import shutil
from pathlib import Path

import pytest

from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.features.store.feature_store import FeatureStore, paths
from boldreams_cli.features.store.store_arrays import OTHER_STIMULI

from ..conftest import Run
from .conftest import listing

FIT = ("fit", "--percent", 10, "--subject", 1, "--epochs", 3, "--lr", "1e-3", "--json")
SAID = "were changed or copied since"


@pytest.fixture
def root(experiment: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(experiment, tmp_path / "nsd"))


def made_anew_of_others(cache: Path) -> None:
    """What extract leaves in the ledger when stimuli turn out to be others."""
    (path,) = paths(cache)
    units = FeatureStore(path).writable
    line = units.last("maps")[0]
    units.revoke("maps", 0, OTHER_STIMULI)
    (first, end, ids, _), *rest = line["read"]
    units.add("maps", 0, line["files"], read=[[first, end, ids, "others"], *rest], filters=line["filters"])


def test_stimuli_that_were_touched_cost_a_line_and_no_fit(run: Run, own: Path, root: Path) -> None:
    before = run(*FIT, "--cache", own, "--nsd-root", root)
    assert SAID not in before.err, "a copy with the same times is the same"
    os.utime(Layout.at(root).stimuli, (1, 1))
    for command in (FIT, ("rank", "--subject", 1), ("score",)):
        done = run(*command, "--cache", own, "--nsd-root", root)
        assert f"the stimuli under {root} {SAID}" in done.err
        assert "boldreams extract --backbone alexnet" in done.err
    assert run(*FIT, "--cache", own, "--nsd-root", root).json == before.json
    Layout.at(root).stimuli.unlink()
    assert run(*FIT, "--cache", own, "--nsd-root", root).json == before.json, "a fit needs no images"


def test_a_model_of_other_stimuli_is_not_taken_for_one_of_these(run: Run, own: Path, root: Path) -> None:
    old = run(*FIT, "--cache", own, "--nsd-root", root).json
    made_anew_of_others(own)
    kept = listing(Path(old["model"]))
    for more in ((), ("--overwrite",)):
        done = run("score", "--cache", own, "--nsd-root", root, *more, code=3)
        assert "made anew of other stimuli" in done.err
        assert "fit again" in done.err
    new = run(*FIT, "--cache", own, "--nsd-root", root).json
    assert new["model"] != old["model"]
    assert listing(Path(old["model"])) == kept
    run("score", "--model", new["model"], "--cache", own, "--nsd-root", root)
    assert run(*FIT, "--cache", own, "--nsd-root", root).json["seconds"] == 0, "it is there already"


def test_a_sweep_fits_cells_again_whose_maps_are_of_other_stimuli(run: Run, own: Path, root: Path) -> None:
    sweep = ("sweep", *FIT[1:-1], "--backbone", "alexnet", "--cache", own, "--nsd-root", root, "--json")
    (old,) = run(*sweep).json["models"]
    made_anew_of_others(own)
    (new,) = run(*sweep).json["models"]
    assert new["model"] != old["model"]
    assert run(*sweep).json["models"] == [new]


def test_a_prediction_is_made_again_once_the_maps_are_of_other_stimuli(run: Run, own: Path, root: Path) -> None:
    model = run(*FIT, "--cache", own, "--nsd-root", root).json["model"]
    asked = ("predict", "--model", model, "--cache", own, "--nsd-root", root, "--json")
    file = Path(run(*asked).json["file"])
    before = file.stat().st_mtime_ns
    run(*asked)
    assert file.stat().st_mtime_ns == before, "it is kept"
    made_anew_of_others(own)
    assert Path(run(*asked).json["file"]).stat().st_mtime_ns != before
