"""Test images drawn again: against a bootstrap written out, and as a check of the errors by influences."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import scipy.stats
import torch

from boldreams_cli.encoding.evaluation.certainty import bootstrap, influences
from boldreams_cli.encoding.evaluation.certainty.bootstrap import correlations, image_counts, of_areas, strata_of
from boldreams_cli.encoding.evaluation.certainty.influences import ALL
from boldreams_cli.encoding.evaluation.saved import files as score_files
from boldreams_cli.encoding.evaluation.statistics import image_error

REPEATS = np.repeat([1, 2, 3], [60, 90, 150])


def draw(voxels: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and betas averaged over repeats; voxels share a signal and half of their noise."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(len(REPEATS), 1)) + 0.5 * rng.normal(size=(len(REPEATS), voxels))
    noise = rng.normal(size=(len(REPEATS), 1)) + rng.normal(size=signal.shape)
    prediction = signal + 0.6 * rng.normal(size=signal.shape)
    return prediction.astype(np.float32), (signal + noise / np.sqrt(REPEATS)[:, None] + 3).astype(np.float32)


def test_each_draw_takes_as_many_images_of_each_stratum() -> None:
    counts = image_counts(REPEATS, 50)
    for repeats in (1, 2, 3):
        assert (counts[:, repeats == REPEATS].sum(1) == (repeats == REPEATS).sum()).all()
    assert (counts == np.rint(counts)).all()
    assert len(np.unique(counts, axis=0)) == 50
    np.testing.assert_array_equal(counts, image_counts(REPEATS, 50))


def test_few_images_of_equal_repeats_are_drawn_with_those_of_neighbouring_ones() -> None:
    assert strata_of(REPEATS).tolist() == [0] * 60 + [1] * 90 + [2] * 150
    several = np.repeat([1, 2, 5, 9, 40], [4, 7, 12, 30, 3])
    assert strata_of(several[::-1]).tolist() == [2] * 33 + [1] * 12 + [0] * 11
    assert strata_of(np.arange(5)).tolist() == [0] * 5
    prediction, beta = draw()
    some = slice(0, 20)  # each of other repeats: no image could be drawn in place of another
    counts = image_counts(np.arange(20), 2000)
    areas = {"all": np.ones(8, bool)}
    found = of_areas(prediction[some], beta[some], np.full(8, 0.5), areas, counts)["all"]
    arguments = (np.full(8, 0.5), areas, np.zeros((8, 3), np.int32), np.arange(20), np.ones(20))
    _, _, moves = influences.of_areas(torch.from_numpy(prediction[some]), torch.from_numpy(beta[some]), *arguments)
    assert found["r_se"] == pytest.approx(image_error(moves.r[0]), rel=0.25)


def test_areas_of_no_voxel_with_a_correlation_have_no_error() -> None:
    one = np.ones((1, 3), np.float32)
    found = of_areas(one, one, np.full(3, 0.5), {"all": np.ones(3, bool)}, image_counts(np.ones(1), 10))["all"]
    assert np.isnan([found["r_se"], *found["r_ci"], found["accuracy_se"], *found["accuracy_ci"]]).all()


def test_correlations_are_those_of_the_images_drawn() -> None:
    prediction, beta = draw()
    counts = image_counts(REPEATS, 3)
    found = correlations(prediction, beta, counts)
    for row, count in zip(found, counts, strict=True):
        rows = np.repeat(np.arange(len(REPEATS)), count.astype(int))
        for voxel, r in enumerate(row):
            assert r == pytest.approx(scipy.stats.pearsonr(prediction[rows, voxel], beta[rows, voxel])[0], abs=1e-6)


def test_errors_are_those_by_influences() -> None:
    prediction, beta = draw()
    ceiling = np.linspace(0.1, 0.9, 8)
    areas = {"some": np.arange(8) < 5, "low": np.arange(8) == 0, "none": np.zeros(8, bool)}
    found = of_areas(prediction, beta, ceiling, areas, image_counts(REPEATS, 2000))
    arguments = (ceiling, areas, np.zeros((8, 3), np.int32), np.arange(len(REPEATS)), REPEATS)
    r, _, moves = influences.of_areas(torch.from_numpy(prediction), torch.from_numpy(beta), *arguments)
    assert found["some"]["r_se"] == pytest.approx(image_error(moves.r[0]), rel=0.08)
    assert found["some"]["accuracy_se"] == pytest.approx(image_error(moves.accuracy[0]), rel=0.08)
    low, high = found["some"]["r_ci"]
    assert low < r[:5].mean() < high
    assert high - low == pytest.approx(2 * 1.96 * found["some"]["r_se"], rel=0.1)
    assert np.isfinite(found["low"]["r_se"])
    assert np.isnan([found["low"]["accuracy_se"], *found["low"]["accuracy_ci"], found["none"]["r_se"]]).all()


def test_a_voxel_without_a_correlation_is_left_out_and_changes_no_other() -> None:
    prediction, beta = draw()
    areas = {"all": np.ones(8, bool), "first": np.arange(8) < 2}
    counts = image_counts(REPEATS, 200)
    rest = of_areas(prediction[:, :7], beta[:, :7], np.full(7, 0.5), {"all": np.ones(7, bool)}, counts)
    beta[:, 7] = np.nan
    found = of_areas(prediction, beta, np.full(8, 0.5), areas, counts)
    for name, value in rest["all"].items():
        assert found["all"][name] == pytest.approx(value)
    once = np.where(np.arange(len(REPEATS)) == 7, 1.0, 0.0)  # varies in the draws with that image alone
    beta[:, 7] = once
    found = of_areas(prediction, beta, np.full(8, 0.5), areas, counts)
    assert np.isnan(found["all"]["r_se"])
    assert np.isfinite(found["first"]["r_se"]), "of an area without that voxel"


@pytest.mark.parametrize(("digest", "kept"), [("mine", {"folds", "bootstrap"}), ("of other weights", {"folds"})])
def test_what_others_put_into_the_scores_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: str, kept: set[str]
) -> None:
    model, path, held = SimpleNamespace(folder=tmp_path), tmp_path / "scores.json", []
    given = MagicMock()
    given.areas.counts.return_value = {}

    def others(*_: object) -> dict[str, dict[str, float]]:
        path.write_text(json.dumps({"weights_digest": digest, "folds": {}}))
        return {ALL: {"r_se": 0.1}}

    for name in ("memberships", "image_counts", "noise_ceiling"):
        monkeypatch.setattr(bootstrap, name, lambda *_: 1.0)
    monkeypatch.setattr(bootstrap, "of_areas", others)
    monkeypatch.setattr(score_files, "added_to", lambda folder: held.append(folder) or nullcontext())
    path.write_text(json.dumps({"weights_digest": "mine"}))
    found = bootstrap.scored(model, 100, lambda: given, MagicMock())  # type: ignore[arg-type]
    assert found is not None
    assert found["r_se"] == 0.1
    assert json.loads(path.read_text()).keys() == {"weights_digest", *kept}
    assert held == [tmp_path]
