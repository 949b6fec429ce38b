"""What an importer writes is a data file that `validate` finds nothing wrong with, and that the commands take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from tests.conftest import Run

from .miniatures import MAKERS, Miniature, algonauts2023, things
from .test_importing import Maker, typed


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_the_new_file_is_valid_and_prepared(run: Run, tmp_path: Path, maker: Maker) -> None:
    mini, data = maker(tmp_path / "source"), tmp_path / "new.h5"
    result = run(*typed(mini, data, "--json")).json
    run("validate", data)
    found = run("prepare", "--data", data, "--cache", tmp_path / "cache", "--json").json
    assert found["subject"] == mini.subject
    assert (found["train"], found["test"]) == (result["train"], result["test"])
    assert found["rois"].items() >= result["rois"].items() or not result["rois"]


@pytest.mark.parametrize("maker", [algonauts2023, things], ids=lambda maker: maker.__name__)
def test_a_model_of_it_is_fitted_and_scored(run: Run, tmp_path: Path, maker: Maker) -> None:
    mini: Miniature = maker(tmp_path / "source")
    data, cache, weights = tmp_path / "new.h5", tmp_path / "cache", tmp_path / "alexnet.pth"
    torch.manual_seed(0)
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), weights)
    run(*typed(mini, data))
    run("extract", "--data", data, "--backbone", "alexnet", "--weights", weights, "--cache", cache)
    run("fit", "--data", data, "--percent", 10, "--readout", "ridge", "--subject", mini.subject, "--cache", cache)
    scores = run("score", "--subject", mini.subject, "--cache", cache, "--json").json
    assert scores["voxels"] == mini.betas.shape[1]
    assert "V1" in scores["rois"]
