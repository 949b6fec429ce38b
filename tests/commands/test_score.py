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


def test_areas(raw: Raw, experiment: Path) -> None:
    inside = labelled(experiment, "prf-visualrois", [1, 2], raw.places)  # V1v, V1d
    r = correlations(raw.predicted, raw.mean())[inside]
    ceiling = np.array(raw.saved()["ceiling"])[inside]
    expected = {
        "voxels": inside.sum(),
        "excluded": 0,
        "r_mean": r.mean(),
        "r_se": scipy.stats.sem(r),
        "r_single_mean": correlations(raw.predicted[raw.shown], raw.betas)[inside].mean(),
        "ceiling_mean": ceiling.mean(),
        "ceiling_single_mean": np.sqrt(1 - 1 / (raw.ncsnr[inside] ** 2 + 1)).mean(),
    }
    assert raw.summary["rois"]["V1"] == pytest.approx(expected, abs=1e-5)
    with (raw.folder / "rois.csv").open() as stream:
        rows = {row.pop("roi"): row for row in csv.DictReader(stream)}
    named = {name.replace("r_se", "r_se_over_voxels"): value for name, value in expected.items()}
    assert {name: float(value) for name, value in rows["V1"].items()} == pytest.approx(named, abs=1e-5)
    assert {"faces", "FFA-1", "ecc_1"} <= rows.keys()


def test_all_of_an_area_is_over_voxels_that_have_a_correlation(raw: Raw, cache: Path) -> None:
    from boldreams_cli.data.responses import Responses
    from boldreams_cli.encoding.evaluation.score import Scores
    from boldreams_cli.encoding.model.spec import FittedModel

    responses = Responses.open(next((cache / "responses").glob("subj01-*.zarr")))
    saved = raw.saved()
    names = ("r", "r_single", "ceiling", "ceiling_single")
    arrays = {name: np.array(saved[name]) for name in names}
    inside = np.flatnonzero(responses.areas.select("V1"))
    gone = inside[np.argsort(arrays["ceiling"][inside])[len(inside) // 2 :]]  # the better half
    arrays["r"][gone] = arrays["r_single"][gone] = np.nan
    area = Scores(FittedModel.load(raw.folder), responses, **arrays, files=[]).areas()["V1"]
    left = np.setdiff1d(inside, gone)
    assert (area["voxels"], area["excluded"]) == (len(left), len(gone))
    for name in ("ceiling", "ceiling_single", "r_single"):
        assert area[f"{name}_mean"] == pytest.approx(arrays[name][left].mean())


def test_json_tells_models_apart(raw: Raw) -> None:
    wanted = {"subject": 1, "backbone": "alexnet", "percent": 10, "readout": "separable", "recipe": "paper"}
    assert wanted.items() <= raw.summary.items()
    assert {"finetuned": False, "seed": 0}.items() <= raw.summary.items()
    assert all(Path(file).is_file() for file in raw.summary["files"])


def test_table_for_people(run: Run, cache: Path) -> None:
    out = run("score", "--cache", cache).out
    assert "s.e. over voxels" in out
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
