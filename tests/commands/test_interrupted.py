"""Scores that are met half-way by a kill, or whose model is removed while they are made."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from boldreams_cli.encoding.evaluation import score
from boldreams_cli.encoding.evaluation.saved import files as score_files
from boldreams_cli.encoding.model.folder import find_models

from ..conftest import Run
from ..forked import Forked


def be_killed_while_drawing() -> None:
    """When tables and maps are replaced, and scores.json is not yet."""
    score_files.save.__defaults__ = (lambda *_: os.kill(os.getpid(), signal.SIGKILL), ())  # type: ignore[attr-defined]


def test_scores_that_were_half_replaced_count_as_none(run: Run, own: Path, experiment: Path) -> None:
    (row,) = find_models(own)
    before = (row.folder / "voxels.csv").read_text()
    arguments = ("score", "--cache", own, "--json", "--permutations", 20)
    environment = os.environ | {"BOLDREAMS_NSD_ROOT": str(experiment), "BOLDREAMS_DEVICE": "cpu"}
    process = Forked(arguments, environment, be_killed_while_drawing)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert (row.folder / "voxels.csv").read_text() != before
    assert find_models(own)[0].r_mean is None
    done = run("score", "--cache", own, "--json")
    assert "are there" not in done.err
    assert (row.folder / "voxels.csv").read_text() == before, "of the permutations that were asked for, not the killed"
    assert json.loads((row.folder / "scores.json").read_text())["r_mean"] == pytest.approx(done.json["r_mean"])


def test_scores_of_a_model_that_is_removed_leave_nothing(run: Run, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = find_models(own)
    real = score.score

    def removed(*given: object) -> object:
        found = real(*given)  # type: ignore[arg-type]
        shutil.rmtree(row.folder)
        return found

    monkeypatch.setattr(score, "score", removed)
    assert "was removed meanwhile" in run("score", "--cache", own, "--overwrite", code=1).err
    assert not row.folder.exists()
