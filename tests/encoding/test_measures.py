"""Measures of voxels beside r, against scikit-learn; files of the room are found by themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import torch

from boldreams_cli.encoding.evaluation import measures
from boldreams_cli.encoding.evaluation.measures.explained_variance import explained_variance


def drawn(voxels: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    beta = rng.normal(3, 2, (40, voxels))
    return torch.from_numpy(0.5 * beta + rng.normal(size=beta.shape)), torch.from_numpy(beta)


def test_explained_variance_is_scikit_learns() -> None:
    prediction, beta = drawn()
    expected = sklearn.metrics.r2_score(beta, prediction, multioutput="raw_values")
    np.testing.assert_allclose(explained_variance(prediction, beta), expected, rtol=1e-12)
    assert (explained_variance(beta, beta) == 1).all()
    assert explained_variance(beta + 10, beta).max() < 0, "unlike r it asks for the right offset"


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_constant_or_not_finite_has_none(wrong: float) -> None:
    prediction, beta = drawn()
    beta[:, 0] = 0.1 + 0.2
    prediction[3, 1] = wrong
    beta[5, 2] = wrong
    found = explained_variance(prediction, beta)
    assert torch.isnan(found).tolist() == [True, True, True, False, False]


def test_all_files_of_the_room_are_measured_whatever_the_blocks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "offset.py").write_text("def offset(prediction, beta):\n    return (prediction - beta).mean(0)\n")
    monkeypatch.setattr(measures, "__path__", [*measures.__path__, str(tmp_path)])
    prediction, beta = drawn()
    whole = measures.measured(prediction.float(), beta.float())
    assert list(whole) == measures.names() == ["explained_variance", "offset"]
    monkeypatch.setattr(measures, "VOXELS_IN_A_BLOCK", 2)
    parts = measures.measured(prediction.float(), beta.float())
    for name, values in whole.items():
        assert values.dtype == np.float64
        np.testing.assert_allclose(parts[name], values, rtol=1e-12)
