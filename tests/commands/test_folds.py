"""`boldreams fit --folds` as a user types it: beside the model, stopped by a signal, refused with --finetune."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import scipy.stats
from safetensors.numpy import load_file, save_file

from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.evaluation import folds
from boldreams_cli.files import digest

from .. import held
from ..conftest import Run
from ..forked import Forked

FIT = ("fit", "--percent", 10, "--subject", 1, "--epochs", 3, "--lr", "1e-3")


def test_predictions_lie_beside_the_model_which_stays(run: Run, own: Path) -> None:
    before = run(*FIT, "--cache", own, "--json").json
    assert "folds" not in before
    weights = Path(before["model"], "weights.safetensors").read_bytes()
    done = run(*FIT, "--cache", own, "--folds", 3, "--json")
    assert {name: value for name, value in done.json.items() if name not in ("folds", "seconds")} == {
        name: value for name, value in before.items() if name != "seconds"
    }
    assert done.json["folds"]["folds"] == 3
    stored = load_file(done.json["folds"]["file"])
    assert stored["betas"].shape[0] == len(stored["images"]) == len(stored["fold"]) == done.json["folds"]["images"]
    assert set(stored["fold"]) == {1, 2, 3}
    assert Path(before["model"], "weights.safetensors").read_bytes() == weights
    assert "3 folds: predictions of" in run(*FIT, "--cache", own, "--folds", 3).out
    alone = run(*FIT, "--cache", own, "--json").json
    assert "folds" not in alone


def test_stopped_by_a_signal_it_goes_on_with_what_is_done(run: Run, own: Path, experiment: Path) -> None:
    (model,) = own.glob("models/subj01/alexnet/percent-10-paper-*")
    asked = [*FIT, "--cache", own, "--folds", 2, "--epochs", 2, "--json"]
    values = {key: value for key, value in os.environ.items() if not key.startswith("BOLDREAMS_")}
    values |= {"BOLDREAMS_NSD_ROOT": str(experiment), "BOLDREAMS_DEVICE": "cpu"}
    process = Forked(asked, values, first=held.before_the_third_fit)
    while not (first := list(model.parent.glob("percent-10-paper-*/folds-2/fold-1.safetensors"))):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    assert process.returncode == 75, said
    assert "run the same command to go on" in said
    work = first[0].parent
    assert not work.with_suffix(".json").exists()
    done = run(*asked)
    assert "fold 1 of 2" not in done.err
    assert "fold 2 of 2" in done.err
    assert not work.exists()
    known = json.loads(work.with_suffix(".json").read_text())
    assert [one["fold"] for one in known["folds"]] == [1, 2]


def test_score_correlates_all_training_images(run: Run, own: Path) -> None:
    before = run("score", "--cache", own, "--json").json
    refused = run("score", "--cache", own, "--folds", 3, code=3)
    assert "--percent 10 --subject 1 --recipe paper --folds 3" in refused.err
    assert "folds" not in before
    file = run(*FIT, "--cache", own, "--folds", 3, "--json").json["folds"]["file"]
    done = run("score", "--cache", own, "--folds", 3, "--json").json
    found = done.pop("folds")
    assert done == before
    stored = load_file(file)
    responses = Responses.open(next((own / "responses").glob("subj01-*.zarr")))
    betas = responses.mean_betas(stored["images"]).astype(float)
    predicted = stored["betas"].astype(float)
    for fold in (1, 2, 3):  # each is around its own mean
        for values in (predicted, betas):
            values[stored["fold"] == fold] -= values[stored["fold"] == fold].mean(0)
    pairs = zip(predicted.T, betas.T, strict=True)
    r = np.array([scipy.stats.pearsonr(*pair).statistic for pair in pairs])
    np.testing.assert_allclose(nibabel.load(found["file"]).get_fdata()[tuple(responses.voxels.T)], r, atol=1e-5)
    ceiling = responses.ncsnr**2 / (responses.ncsnr**2 + np.mean(1 / responses.repeats(stored["images"])))
    inside = responses.areas.select("V1")
    for row, mask in ((found, np.ones_like(inside)), (found["rois"]["V1"], inside)):
        p, y = (scipy.stats.zscore(values[:, mask], axis=0) for values in (predicted, betas))
        influence = (p * y - r[mask] * (p**2 + y**2) / 2).mean(1)
        assert row["voxels"] == mask.sum()
        assert row["r_mean"] == pytest.approx(r[mask].mean(), abs=1e-6)
        assert row["r_image_se"] == pytest.approx(scipy.stats.sem(influence), rel=1e-4)
        ends = scipy.stats.t.interval(0.95, len(y) - 1, r[mask].mean(), scipy.stats.sem(influence))
        assert row["r_ci"] == pytest.approx(ends, abs=1e-5)
        assert row["ceiling_mean"] == pytest.approx(np.sqrt(ceiling[mask]).mean(), rel=1e-5)
    assert (found["folds"], found["images"]) == (3, len(responses.train_images))
    assert found["rois"].keys() == done["rois"].keys()


def test_folds_that_are_there_are_scored_once_and_again_when_they_are_others(
    run: Run, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(*FIT, "--cache", own, "--folds", 2)
    first = run("score", "--cache", own, "--json").json["folds"]
    saved = next(own.rglob("scores.json"))
    assert json.loads(saved.read_text())["folds"]["r_mean"] == first["r_mean"]
    times = saved.stat().st_mtime_ns, Path(first["file"]).stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.delattr(folds, "correlate")  # nothing is correlated again
        assert run("score", "--cache", own, "--json").json["folds"] == first
    assert (saved.stat().st_mtime_ns, Path(first["file"]).stat().st_mtime_ns) == times
    assert run("score", "--cache", own, "--overwrite", "--json").json["folds"] == first
    run(*FIT, "--cache", own, "--folds", 3)
    assert run("score", "--cache", own, "--json").json["folds"]["folds"] == 3
    assert run("score", "--cache", own, "--folds", 2, "--json").json["folds"] == first
    out = run("score", "--cache", own, "--folds", 2).out
    assert f"2 folds: {first['images']} training images" in out
    for path in own.rglob("folds-*.json"):
        path.unlink()
    assert "folds" not in run("score", "--cache", own, "--json").json


def test_an_area_without_a_correlation_is_nothing_and_not_nought(run: Run, own: Path) -> None:
    file = Path(run(*FIT, "--cache", own, "--folds", 2, "--json").json["folds"]["file"])
    responses = Responses.open(next((own / "responses").glob("subj01-*.zarr")))
    stored = load_file(file)
    stored["betas"][:, responses.areas.select("V1")] = np.nan
    save_file(stored, file)
    known = json.loads(file.with_suffix(".json").read_text())
    file.with_suffix(".json").write_text(json.dumps(known | {"digest": digest(file)}))
    found = run("score", "--cache", own, "--json").json["folds"]
    assert found["rois"]["V1"] == {
        "voxels": 0, "r_mean": None, "r_image_se": None, "r_ci": [None, None], "ceiling_mean": None
    }  # fmt: skip
    assert found["voxels"] == len(responses.voxels) - responses.areas.select("V1").sum()
    assert found["r_mean"] is not None


def test_too_many_folds_are_refused_before_the_fit(run: Run, own: Path) -> None:
    run("fit", "--percent", 2, *FIT[3:], "--cache", own, "--folds", 16, code=2)
    assert not list(own.glob("models/*/*/percent-2-*"))


def test_refused(run: Run, cache: Path) -> None:
    refused = run(*FIT, "--cache", cache, "--folds", 3, "--finetune", code=2)
    assert "leave out --finetune, or --folds" in refused.err
    assert "--folds" in run(*FIT, "--cache", cache, "--folds", 1, code=2).err
    assert "training images, not 999" in run(*FIT, "--cache", cache, "--folds", 999, code=2).err


def test_a_store_of_chosen_filters_has_folds_where_it_keeps_enough(run: Run, tmp_path: Path, weights: Path) -> None:
    ask = ("extract", "--backbone", "alexnet", "--weights", weights, "--subject", 1)
    run(*ask, "--keep-percent", 10, "--cache", tmp_path)
    run(*ask, "--cache", tmp_path / "all")
    fit = ("fit", "--percent", 1, "--subject", 1, "--recipe", "fast", "--epochs", 2, "--folds", 2, "--json")
    few, everything = (run(*fit, "--cache", cache).json for cache in (tmp_path, tmp_path / "all"))
    of_few, of_all = (load_file(done["folds"]["file"])["betas"] for done in (few, everything))
    np.testing.assert_array_equal(of_few, of_all)
    refused = run("fit", "--percent", 10, *fit[3:], "--cache", tmp_path, code=3)  # a fold ranks others into its tenth
    assert "--keep-percent" in refused.err


def test_the_ceiling_is_that_of_the_training_images_repeats(run: Run, own: Path) -> None:
    fit = (*FIT, "--sessions", "1-2", "--cache", own, "--folds", 2, "--json")
    model = run(*fit).json["model"]
    found = run("score", "--model", model, "--cache", own, "--json").json["folds"]
    responses = next(
        one for path in (own / "responses").glob("subj01-*.zarr") if len((one := Responses.open(path)).sessions) == 2
    )
    means = [np.mean(1 / responses.repeats(images)) for images in (responses.train_images, responses.test_images)]
    assert means[0] != pytest.approx(means[1], rel=0.01), "the data could tell"
    ceiling = np.sqrt(responses.ncsnr**2 / (responses.ncsnr**2 + means[0]))
    assert found["ceiling_mean"] == pytest.approx(ceiling.mean(), rel=1e-5)
