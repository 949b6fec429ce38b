"""`boldreams score --test synthetic`: against a computation of its own, beside the test's files and never over them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import scipy.io
import scipy.stats
from PIL import Image

from tests.conftest import Run

from .conftest import listing

BETAS = "nsddata_betas/ppdata/subj01/func1pt8mm/nsdsyntheticbetas_fithrf_GLMdenoise_RR"
DESIGN = "nsddata/experiments/nsdsynthetic/nsdsynthetic_expdesign.mat"
STIMULI = "nsddata_stimuli/stimuli/nsdsynthetic"


@pytest.fixture(scope="module")
def scored(run: Run, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """What it says, and the cache."""
    path = tmp_path_factory.mktemp("synthetic") / "cache"
    shutil.copytree(cache.with_name("as-made"), path)
    before = {name: stamp for name, stamp in listing(path).items() if not name.endswith(".lock")}
    said = run("score", "--test", "synthetic", "--cache", path, "--json").json
    assert {name: listing(path)[name] for name in before} == before, "no file that was there is touched"
    return said, path


def pictures(experiment: Path, folder: Path) -> Path:
    """The images as photographs are stored, in the order of their numbers."""
    folder.mkdir()
    number = 0
    for name in ("nsdsynthetic_stimuli.hdf5", "nsdsynthetic_colorstimuli_subj01.hdf5"):
        with h5py.File(experiment / STIMULI / name) as file:
            for pixels in file["imgBrick"][:]:
                stored = np.rint(np.sqrt(pixels / 255) * 255).astype(np.uint8)
                Image.fromarray(stored).save(folder / f"{number:03d}.png")
                number += 1
    return folder


def means(experiment: Path, voxels: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Mean z-scored beta of each image, and the trials of each."""
    volume = nibabel.load(experiment / BETAS / "betas_nsdsynthetic.nii.gz").get_fdata()
    trials = scipy.stats.zscore(volume[tuple(voxels.T)].T / 300, axis=0)
    order = scipy.io.loadmat(experiment / DESIGN)["masterordering"].ravel().astype(int) - 1
    apart = [trials[order == image] for image in np.unique(order)]
    return np.array([some.mean(0) for some in apart]), apart


@pytest.mark.usefixtures("rendered")
def test_r_and_ceiling_are_those_of_another_computation(
    run: Run, experiment: Path, scored: tuple[dict, Path], tmp_path: Path
) -> None:
    said, cache = scored
    folder = Path(said["model"])
    saved = json.loads((folder / "scores-synthetic.json").read_text())
    with (folder / "voxels-synthetic.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    voxels = np.array([[int(row[axis]) for axis in "xyz"] for row in rows])
    betas, apart = means(experiment, voxels)
    shown = pictures(experiment, tmp_path / "pictures")
    file = run("predict", "--cache", cache, "--image", shown, "--output", tmp_path / "p.npz", "--json").json["file"]
    with np.load(file) as arrays:
        predicted = arrays["betas"]
    assert len(predicted) == len(betas) == said["images"] == 30
    expected = [np.corrcoef(predicted[:, v], betas[:, v])[0, 1] for v in range(len(voxels))]
    np.testing.assert_allclose(np.array(saved["r"], dtype=float), expected, atol=2e-4)
    assert said["r_mean"] == pytest.approx(np.nanmean(expected), abs=1e-4)
    flat = [
        np.array([rows - rows.mean(0) for rows in np.split(side, 6)]).reshape(side.shape) for side in (predicted, betas)
    ]
    inner = [np.corrcoef(flat[0][:, v], flat[1][:, v])[0, 1] for v in range(len(voxels))]
    assert said["r_within_kinds_mean"] == pytest.approx(np.nanmean(inner), abs=1e-3)
    noise = sum(some.var(0) * len(some) for some in apart) / sum(len(some) - 1 for some in apart)
    share = np.mean([1 / len(some) for some in apart])
    signal = np.maximum(betas.var(0, ddof=1) - noise * share, 0)
    ceiling = np.sqrt(signal / (signal + noise * share))
    np.testing.assert_allclose(np.array(saved["ceiling"], dtype=float), ceiling, atol=1e-4)
    np.testing.assert_allclose([float(row["ncsnr"]) for row in rows], np.sqrt(signal / noise), atol=1e-4)
    assert 0.2 < np.median(ceiling) < 1


def test_its_files_say_what_they_are(scored: tuple[dict, Path]) -> None:
    said, _ = scored
    folder = Path(said["model"])
    assert said["test"] == "synthetic"
    names = {Path(file).relative_to(folder).as_posix() for file in said["files"]}
    assert {"scores-synthetic.json", "rois-synthetic.csv", "voxels-synthetic.csv", "influences-synthetic.npz"} < names
    assert {f"{kind}-synthetic.nii.gz" for kind in ("correlation", "ceiling", "r_over_ceiling", "q")} < names
    assert {"figures-synthetic/histogram.png", "figures-synthetic/rois.png"} < names
    assert all(Path(file).is_file() for file in said["files"])
    own = json.loads((folder / "scores.json").read_text())
    assert "test" not in own
    saved = json.loads((folder / "scores-synthetic.json").read_text())
    assert saved["key"] != own["key"], "the one is never taken for the other"
    assert said["rois"].keys() == own["rois"].keys()


def test_the_same_again_computes_nothing(run: Run, scored: tuple[dict, Path]) -> None:
    said, cache = scored
    before = listing(cache)
    again = run("score", "--test", "synthetic", "--cache", cache, "--json")
    assert again.json == said
    assert "are there" in again.err
    assert listing(cache) == before


def test_other_betas_are_scored_again(run: Run, own: Path, experiment: Path, tmp_path: Path) -> None:
    root = tmp_path / "nsd"
    shutil.copytree(experiment, root)
    first = run("score", "--test", "synthetic", "--cache", own, "--nsd-root", root, "--json").json
    path = root / BETAS / "betas_nsdsynthetic.nii.gz"
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[..., ::-1].copy(), image.affine), path)
    second = run("score", "--test", "synthetic", "--cache", own, "--nsd-root", root, "--json").json
    assert second["r_mean"] != first["r_mean"]


def test_what_is_missing_is_said_in_a_line(run: Run, own: Path, experiment: Path, tmp_path: Path) -> None:
    root = tmp_path / "nsd"
    shutil.copytree(experiment, root)
    ask = ("score", "--test", "synthetic", "--cache", own, "--nsd-root", root)
    assert "--folds" in run(*ask, "--folds", 2, code=2).err
    (root / DESIGN).rename(root / "kept.mat")
    assert "nsdsynthetic_expdesign.mat" in run(*ask, code=1).err
    (root / "kept.mat").rename(root / DESIGN)
    (root / STIMULI / "nsdsynthetic_colorstimuli_subj01.hdf5").unlink()
    assert "download nsdsynthetic_colorstimuli_subj01.hdf5" in run(*ask, code=1).err
    (root / BETAS).rename((root / BETAS).with_name("nsdsyntheticbetas_fithrf"))
    said = run(*ask, code=2).err
    assert "there are nsdsyntheticbetas_fithrf: fit to those with --betas" in said
    assert len(said.strip().splitlines()) <= 2
    assert not list(own.rglob("*synthetic*"))
