"""`boldreams score` against the raw files, in numpy and scipy alone."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import scipy.io
import scipy.stats
import sklearn.metrics
import torch

from ..conftest import Run

FOLDER = Path("nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR")


@dataclass
class Raw:
    """Test trials of subject 1, from the files, and what `predict` says of their images."""

    summary: dict[str, Any]
    folder: Path
    places: tuple[np.ndarray, ...]
    images: np.ndarray
    predicted: np.ndarray  # (images, voxels)
    shown: np.ndarray  # (trials,) index into `images`
    betas: np.ndarray  # (trials, voxels)
    ncsnr: np.ndarray

    def mean(self) -> np.ndarray:
        return np.stack([self.betas[self.shown == place].mean(0) for place in range(len(self.images))])

    def saved(self) -> dict[str, Any]:
        return json.loads((self.folder / "scores.json").read_text())


@pytest.fixture(scope="module")
def raw(run: Run, cache: Path, experiment: Path) -> Raw:
    summary = run("score", "--cache", cache, "--json").json
    done = run("predict", "--cache", cache, "--json").json
    with np.load(done["file"]) as saved:
        predicted, images, voxels = saved["betas"].astype(float), saved["images"].astype(int), saved["voxels"]
    places = tuple(voxels.T)
    sessions = [
        scipy.stats.zscore(np.asarray(nibabel.load(path).dataobj).astype(float)[places].T, axis=0)
        for path in sorted((experiment / FOLDER).glob("betas_session*.nii.gz"))
    ]
    betas = np.concatenate(sessions)
    design = scipy.io.loadmat(experiment / "nsddata/experiments/nsd/nsd_expdesign.mat")
    shown = design["subjectim"][0][design["masterordering"].ravel().astype(int) - 1][: len(betas)].astype(int) - 1
    test = np.isin(shown, images)
    ncsnr = nibabel.load(experiment / FOLDER / "ncsnr.nii.gz").get_fdata()[places]
    place = np.array([np.flatnonzero(images == image)[0] for image in shown[test]])
    return Raw(summary, Path(summary["model"]), places, images, predicted, place, betas[test], ncsnr)


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([scipy.stats.pearsonr(*pair).statistic for pair in zip(a.T, b.T, strict=True)])


def test_r_is_of_means_over_repeats(raw: Raw) -> None:
    r = correlations(raw.predicted, raw.mean())
    np.testing.assert_allclose(raw.saved()["r"], r, atol=1e-5)
    assert raw.summary["r_mean"] == pytest.approx(r.mean(), abs=1e-5)
    assert raw.summary["r_median"] == pytest.approx(np.median(r), abs=1e-5)
    volume = nibabel.load(raw.folder / "correlation.nii.gz")
    np.testing.assert_allclose(volume.get_fdata()[raw.places], r, atol=1e-5)


def test_r_single_is_of_each_trial_with_its_own_image(raw: Raw) -> None:
    assert (np.bincount(raw.shown) > 1).any(), "images are repeated"
    r = correlations(raw.predicted[raw.shown], raw.betas)
    np.testing.assert_allclose(raw.saved()["r_single"], r, atol=1e-5)
    assert raw.summary["r_single_mean"] == pytest.approx(r.mean(), abs=1e-5)
    wrong = correlations(raw.predicted[np.roll(raw.shown, 1)], raw.betas)
    assert abs(wrong.mean() - r.mean()) > 0.01, "the data could tell"


def test_ceilings_are_square_roots_of_the_noise_ceiling(raw: Raw) -> None:
    signal = raw.ncsnr**2
    of_means = np.sqrt(signal / (signal + np.mean(1 / np.bincount(raw.shown))))
    of_trials = np.sqrt(signal / (signal + 1))
    saved = raw.saved()
    np.testing.assert_allclose(saved["ceiling"], of_means, rtol=1e-6)
    np.testing.assert_allclose(saved["ceiling_single"], of_trials, rtol=1e-6)
    assert raw.summary["ceiling_mean"] == pytest.approx(of_means.mean(), rel=1e-6)
    assert raw.summary["ceiling_single_mean"] == pytest.approx(of_trials.mean(), rel=1e-6)


def labelled(experiment: Path, volume: str, labels: list[int], places: tuple[np.ndarray, ...]) -> np.ndarray:
    path = experiment / f"nsddata/ppdata/subj01/func1pt8mm/roi/{volume}.nii.gz"
    return np.isin(np.asarray(nibabel.load(path).dataobj)[places], labels)


def influence(raw: Raw) -> np.ndarray:
    """(images, voxels), by the definition."""
    p, y = scipy.stats.zscore(raw.predicted, axis=0), scipy.stats.zscore(raw.mean(), axis=0)
    return p * y - (p * y).mean(0) * (y**2 + p**2) / 2


def explained(raw: Raw) -> np.ndarray:
    return sklearn.metrics.r2_score(raw.mean(), raw.predicted, multioutput="raw_values")


def test_areas(raw: Raw, experiment: Path) -> None:
    inside = labelled(experiment, "prf-visualrois", [1, 2], raw.places)  # V1v, V1d
    r = correlations(raw.predicted, raw.mean())[inside]
    ceiling = np.array(raw.saved()["ceiling"])[inside]
    fair = ceiling >= 0.2
    accuracy = r[fair].sum() / ceiling[fair].sum()
    error = scipy.stats.sem(influence(raw)[:, inside].mean(1))
    accuracy_error = scipy.stats.sem(influence(raw)[:, inside][:, fair].sum(1) / ceiling[fair].sum())
    t = scipy.stats.t.ppf(0.975, len(raw.images) - 1)
    expected = {
        "voxels": inside.sum(),
        "excluded": 0,
        "images": len(raw.images),
        "r_mean": r.mean(),
        "r_image_se": error,
        "r_ci": [r.mean() - t * error, r.mean() + t * error],
        "r_se": scipy.stats.sem(r),
        "r_single_mean": correlations(raw.predicted[raw.shown], raw.betas)[inside].mean(),
        "ceiling_mean": ceiling.mean(),
        "ceiling_single_mean": np.sqrt(1 - 1 / (raw.ncsnr[inside] ** 2 + 1)).mean(),
        "accuracy": accuracy,
        "accuracy_image_se": accuracy_error,
        "accuracy_ci": [accuracy - t * accuracy_error, accuracy + t * accuracy_error],
        "accuracy_voxels": fair.sum(),
        "below_floor": (~fair).sum(),
        "explained_variance_mean": explained(raw)[inside].mean(),
    }

    def flat(values: dict[str, Any]) -> dict[str, Any]:
        ends = {f"{ci}_{end}": values[ci][i] for ci in ("r_ci", "accuracy_ci") for i, end in enumerate(("low", "high"))}
        return {name: value for name, value in values.items() if name not in ("r_ci", "accuracy_ci")} | ends

    assert flat(raw.summary["rois"]["V1"]) == pytest.approx(flat(expected), abs=1e-5)
    with (raw.folder / "rois.csv").open() as stream:
        rows = {row.pop("roi"): row for row in csv.DictReader(stream)}
    named = {name.replace("r_se", "r_se_over_voxels"): value for name, value in flat(expected).items()}
    assert {name: float(value) for name, value in rows["V1"].items()} == pytest.approx(named, abs=1e-5)
    assert {"faces", "FFA-1", "ecc_1", "all"} <= rows.keys()
    assert "all" not in raw.summary["rois"]


def test_all_voxels(raw: Raw) -> None:
    r, error = correlations(raw.predicted, raw.mean()), scipy.stats.sem(influence(raw).mean(1))
    assert raw.summary["r_image_se"] == pytest.approx(error, abs=1e-6)
    assert sum(raw.summary["r_ci"]) / 2 == pytest.approx(r.mean(), abs=1e-5)
    fair = (ceiling := np.array(raw.saved()["ceiling"])) >= 0.2
    assert raw.summary["accuracy"] == pytest.approx(r[fair].sum() / ceiling[fair].sum(), abs=1e-5)
    assert raw.summary["accuracy_voxels"] + raw.summary["below_floor"] == raw.summary["voxels"] == len(r)
    assert raw.summary["retinotopy"] is None or isinstance(raw.summary["retinotopy"], dict)


def test_voxels(raw: Raw, experiment: Path) -> None:
    with (raw.folder / "voxels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "areas"}
    np.testing.assert_array_equal([columns[axis] for axis in "xyz"], raw.places)
    r, error = correlations(raw.predicted, raw.mean()), scipy.stats.sem(influence(raw))
    p = scipy.stats.pearsonr(raw.predicted, raw.mean(), alternative="greater").pvalue
    ceiling = np.array(raw.saved()["ceiling"])
    expected = {
        "ncsnr": raw.ncsnr,
        "ceiling": ceiling,
        "r": r,
        "r_se": error,
        "p": p,
        "q": scipy.stats.false_discovery_control(p),
        "r_over_ceiling": np.where(ceiling >= 0.2, r / ceiling, np.nan),
        "explained_variance": explained(raw),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(columns[name], values, atol=2e-5, err_msg=name)
    assert raw.summary["voxels_q05"] == (expected["q"] < 0.05).sum()
    names = [row["areas"].split(";") for row in rows]
    for area, volume, labels in (("V1", "prf-visualrois", [1, 2]), ("ecc_1", "prf-eccrois", [1])):
        inside = labelled(experiment, volume, labels, raw.places)
        np.testing.assert_array_equal([area in found for found in names], inside)
    for file in ("ceiling", "r_over_ceiling", "q", "explained_variance"):
        volume = nibabel.load(raw.folder / f"{file}.nii.gz")
        np.testing.assert_allclose(volume.get_fdata()[raw.places], expected[file], atol=2e-5)
        assert np.isnan(volume.get_fdata()).sum() >= volume.get_fdata().size - len(r), "nothing beside the voxels"


def test_influences_are_saved_for_comparisons(raw: Raw, experiment: Path, own: Path) -> None:
    from boldreams_cli.console import BoldreamsError, ChoiceError, MismatchError
    from boldreams_cli.encoding.evaluation.certainty.influences import load_influences

    saved = load_influences(raw.folder)
    np.testing.assert_array_equal(saved.images, raw.images)
    np.testing.assert_array_equal(saved.repeats, np.bincount(raw.shown))
    inside = labelled(experiment, "prf-visualrois", [1, 2], raw.places)
    row, ceiling = saved.row("V1"), np.array(raw.saved()["ceiling"])
    np.testing.assert_allclose(saved.r[row], influence(raw)[:, inside].mean(1), atol=1e-5)
    fair = inside & (ceiling >= 0.2)
    np.testing.assert_allclose(saved.accuracy[row], influence(raw)[:, fair].sum(1) / ceiling[fair].sum(), atol=1e-5)
    assert saved.r_mean[row] == pytest.approx(raw.summary["rois"]["V1"]["r_mean"])
    assert saved.accuracy_value[saved.row("all")] == pytest.approx(raw.summary["accuracy"])
    assert saved.areas[-1] == "all"
    assert len(set(saved.voxel_sets)) > 2
    with pytest.raises(ChoiceError, match="V1"):
        saved.row("V9")

    folder = own / raw.folder.relative_to(raw.folder.parents[3])
    whole = (folder / "influences.npz").read_bytes()
    (folder / "influences.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MismatchError, match=r"damaged.*boldreams score"):
        load_influences(folder)
    (folder / "influences.npz").write_bytes(whole)
    spec = json.loads((folder / "spec.json").read_text())
    (folder / "spec.json").write_text(json.dumps(spec | {"weights_digest": "another"}))
    with pytest.raises(MismatchError, match=r"other weights.*boldreams score"):
        load_influences(folder)
    (folder / "influences.npz").unlink()
    with pytest.raises(MismatchError, match="boldreams score"):
        load_influences(folder)
    with pytest.raises(BoldreamsError, match=r"spec\.json"):
        load_influences(own)


def test_all_of_an_area_is_over_voxels_that_have_a_correlation(raw: Raw, cache: Path) -> None:
    from boldreams_cli.data.responses import Responses
    from boldreams_cli.encoding.evaluation.certainty.influences import load_influences
    from boldreams_cli.encoding.evaluation.score import of_prediction
    from boldreams_cli.encoding.model.spec import FittedModel

    responses = Responses.open(next((cache / "responses").glob("subj01-*.zarr")))
    ceiling = np.array(raw.saved()["ceiling"])
    inside = np.flatnonzero(responses.areas.select("V1"))
    gone = inside[np.argsort(ceiling[inside])[len(inside) // 2 :]]  # the better half
    low = np.setdiff1d(inside, gone)[:2]
    prediction = raw.predicted.copy()
    prediction[:, gone[0]], prediction[:, gone[1:]] = np.nan, 3
    responses.ncsnr[low] = [0.05, np.nan]
    scores = of_prediction(FittedModel.load(raw.folder), responses, torch.from_numpy(prediction), 20)
    area, left = scores.area("V1"), np.setdiff1d(inside, gone)
    fair = np.setdiff1d(left, low)
    assert (area["voxels"], area["excluded"]) == (len(left), len(gone))
    assert (area["accuracy_voxels"], area["below_floor"]) == (len(fair), 2)
    for name in ("r", "r_single", "ceiling_single"):
        assert area[f"{name}_mean"] == pytest.approx(np.nanmean(getattr(scores, name)[left]))
    assert area["accuracy"] == pytest.approx(scores.r[fair].sum() / scores.ceiling[fair].sum())
    row = scores.influences.row("V1")
    found = scores.influences
    np.testing.assert_allclose(found.r[row], influence(raw)[:, left].mean(1), atol=1e-5)
    of_fair = influence(raw)[:, fair].sum(1) / scores.ceiling[fair].sum()
    np.testing.assert_allclose(found.accuracy[row], of_fair, atol=1e-5)
    assert (found.r_mean[row], found.accuracy_value[row]) == pytest.approx((area["r_mean"], area["accuracy"]))
    before = load_influences(raw.folder)
    assert found.voxel_sets[row] != before.voxel_sets[row]
    assert found.voxel_sets[found.row("V2")] == before.voxel_sets[before.row("V2")]
    for values in (scores.r_se, scores.p, scores.q, scores.r_over_ceiling):
        assert np.isnan(values[gone]).all()
    assert np.isnan(scores.r_over_ceiling[low]).all()
    assert np.isfinite(scores.q[left]).all()


@pytest.mark.usefixtures("rendered")
def test_an_area_without_any_correlation_has_none(raw: Raw, cache: Path, tmp_path: Path) -> None:
    from boldreams_cli.data.responses import Responses
    from boldreams_cli.encoding.evaluation.saved import files as score_files
    from boldreams_cli.encoding.evaluation.score import of_prediction
    from boldreams_cli.encoding.model.spec import FittedModel

    responses = Responses.open(next((cache / "responses").glob("subj01-*.zarr")))
    prediction = np.where(responses.areas.select("V1"), 0, raw.predicted)
    scores = of_prediction(FittedModel.load(raw.folder), responses, torch.from_numpy(prediction))
    area = scores.area("V1")
    assert (area["voxels"], area["accuracy_voxels"]) == (0, 0)
    assert np.isnan([area["r_mean"], area["r_image_se"], *area["r_ci"], area["accuracy"], *area["accuracy_ci"]]).all()
    assert np.isfinite(scores.area("all")["r_image_se"])
    scores.model = FittedModel(tmp_path, scores.model.spec)
    score_files.save(scores)
    assert json.loads((tmp_path / "scores.json").read_text())["rois"]["V1"]["r_ci"] == [None, None]


def test_permutations(run: Run, raw: Raw, own: Path) -> None:
    arguments = ("score", "--cache", own, "--json", "--permutations", 200)
    first = run(*arguments).json
    assert (first["permutations"], first["permutation_seed"]) == (200, 0)
    folder = Path(first["model"])
    table = (folder / "voxels.csv").read_text()
    with (folder / "voxels.csv").open() as stream:
        p = np.array([float(row["p"]) for row in csv.DictReader(stream)])
    repeats = np.bincount(raw.shown)
    rng = np.random.default_rng(9)
    r, drawn = correlations(raw.predicted, raw.mean()), np.zeros(len(p))
    y, z = scipy.stats.zscore(raw.mean()), scipy.stats.zscore(raw.predicted)
    for _ in range(200):
        order = np.arange(len(repeats))
        for stratum in np.unique(repeats):
            order[repeats == stratum] = rng.permutation(order[repeats == stratum])
        drawn += (z[order] * y).mean(0) >= r
    assert np.abs(p - (drawn + 1) / 201).mean() < 0.03
    assert "are there" in run(*arguments).err
    assert "are there" in run("score", "--cache", own).err, "whatever p comes from"
    assert "are there" not in run(*arguments, "--permutation-seed", 1).err
    assert (folder / "voxels.csv").read_text() != table
    assert "are there" not in run(*arguments).err
    assert (folder / "voxels.csv").read_text() == table, "the seed decides"


def test_bootstrap(run: Run, raw: Raw, own: Path, experiment: Path) -> None:
    arguments = ("score", "--cache", own, "--json")
    assert "bootstrap" not in run(*arguments).json
    found = run(*arguments, "--bootstrap", 300).json
    drawn, repeats, rng = found["bootstrap"], np.bincount(raw.shown), np.random.default_rng(9)
    assert (drawn["draws"], drawn["rois"].keys()) == (300, found["rois"].keys())
    inside = labelled(experiment, "prf-visualrois", [1, 2], raw.places)
    means = []
    for _ in range(300):
        rows = np.arange(len(repeats))
        for stratum in np.unique(repeats):
            rows[repeats == stratum] = rng.choice(rows[repeats == stratum], (repeats == stratum).sum())
        means.append(correlations(raw.predicted[rows][:, inside], raw.mean()[rows][:, inside]).mean())
    assert drawn["rois"]["V1"]["r_se"] == pytest.approx(np.std(means), rel=0.2)
    assert drawn["rois"]["V1"]["r_ci"] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.5 * np.std(means))
    shutil.move(own / "features", own / "elsewhere")  # nothing is read again
    assert run(*arguments, "--bootstrap", 300).json["bootstrap"] == drawn
    assert run(*arguments).json["bootstrap"] == drawn, "what is there is shown"
    assert "bootstrap: 300 draws" in run("score", "--cache", own).out
    run(*arguments, "--bootstrap", 400, code=3)
    shutil.move(own / "elsewhere", own / "features")
    assert run(*arguments, "--bootstrap", 400).json["bootstrap"]["draws"] == 400
    known = run(*arguments, "--permutations", 50).json["bootstrap"]
    assert known["draws"] == 400, "other probabilities of the same predictions leave it as it was"
    assert "bootstrap" not in run(*arguments, "--overwrite").json, "of scores that were made anew there is none"
    assert "leave out" in run(*arguments, "--bootstrap", 300, "--test", "synthetic", code=2).err


def test_scores_of_an_older_version_are_made_again(run: Run, raw: Raw, own: Path) -> None:
    folder = own / raw.folder.relative_to(raw.folder.parents[3])
    old = ("model", "voxels", "r_mean", "r_median", "weights_digest", "files", "rois")
    saved = raw.saved() | {"r_mean": 0.5}
    (folder / "scores.json").write_text(json.dumps({name: saved[name] for name in old} | {"format": 2, "key": "old"}))
    (folder / "influences.npz").unlink()
    assert " 0.500 " in run("info", "--cache", own).out
    assert run("score", "--cache", own, "--json").json["r_image_se"] == pytest.approx(raw.summary["r_image_se"])
    assert (folder / "influences.npz").is_file()


def test_json_tells_models_apart(raw: Raw) -> None:
    wanted = {"subject": 1, "backbone": "alexnet", "percent": 10, "readout": "separable", "recipe": "paper"}
    assert wanted.items() <= raw.summary.items()
    assert {"finetuned": False, "seed": 0}.items() <= raw.summary.items()
    assert all(Path(file).is_file() for file in raw.summary["files"])


def test_table_for_people(run: Run, cache: Path) -> None:
    out = run("score", "--cache", cache).out
    assert "s.e. over voxels (a spread)" in out
    assert " images; 95 % interval " in out
    assert "A, r over ceiling: " in out
    assert out.startswith("model: ")


def test_scores_that_are_there_are_kept_until_the_weights_change(run: Run, raw: Raw, own: Path) -> None:
    folder = own / raw.folder.relative_to(raw.folder.parents[3])
    arguments = ("score", "--cache", own, "--json")
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    shutil.move(own / "features", own / "elsewhere")  # nothing is read again
    kept = run(*arguments)
    assert kept.json["rois"] == raw.summary["rois"]
    assert kept.json["model"] == str(folder)
    assert all(str(own) in file for file in kept.json["files"])
    assert "--overwrite" in kept.err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == times
    run(*arguments, "--overwrite", code=3)
    shutil.move(own / "elsewhere", own / "features")
    (folder / "rois.csv").unlink()
    assert "--overwrite" not in run(*arguments).err
    assert (folder / "rois.csv").is_file()
    scores = json.loads((folder / "scores.json").read_text())
    (folder / "scores.json").write_text(json.dumps(scores | {"key": "of other weights", "r_mean": 9}))
    assert run(*arguments).json["r_mean"] == raw.summary["r_mean"]


def test_saved_scores_are_not_shown_for_other_inputs(run: Run, own: Path, experiment: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(experiment / "nsddata", other / "nsddata")
    for name in ("nsddata_betas", "nsddata_stimuli"):
        (other / name).symlink_to(experiment / name)
    assert "are there" in run("score", "--cache", own, "--nsd-root", other).err, "a copy is no other input"
    table = other / "nsddata/freesurfer/subj01/label/floc-faces.mgz.ctab"
    table.write_text(table.read_text().replace("FFA-1", "FFA-9"))
    refused = run("score", "--cache", own, "--nsd-root", other, code=3)
    assert "label table floc-faces" in refused.err
