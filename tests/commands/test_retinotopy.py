"""`boldreams score` says how fitted receptive fields agree with those that were measured."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import scipy.stats

from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.simulation.experiment import Experiment, Truth, write

from ..conftest import Run

MAPS = ("eccentricity", "angle", "size")


def folder_of(summary: dict) -> Path:
    return Path(summary["model"])


def volumes(folder: Path) -> dict[str, np.ndarray]:
    return {name: nibabel.load(folder / f"field_{name}.nii.gz").get_fdata() for name in MAPS}


def table(folder: Path) -> dict[str, np.ndarray]:
    with (folder / "voxels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "areas"}


def test_maps_and_columns_are_the_same_fields(run: Run, cache: Path) -> None:
    summary = run("score", "--cache", cache, "--json").json
    folder, columns = folder_of(summary), table(folder_of(summary))
    places = tuple(columns[axis].astype(int) for axis in "xyz")
    files = {Path(file).name for file in summary["files"]}
    for name, volume in volumes(folder).items():
        np.testing.assert_allclose(volume[places], columns[name], rtol=1e-5)
        assert np.isfinite(volume).sum() == np.isfinite(columns[name]).sum() > 100, "nothing outside the voxels"
        assert f"field_{name}.nii.gz" in files
    # The angle of a place, up being positive.
    np.testing.assert_allclose(np.hypot(columns["field_x"], columns["field_y"]), columns["eccentricity"], rtol=1e-5)
    turned = np.degrees(np.arctan2(columns["field_y"], columns["field_x"])) % 360
    np.testing.assert_allclose(turned, columns["angle"], atol=1e-3)
    assert np.abs(columns["field_x"]).max() <= 4.2


def test_comparison_is_scipy_s_over_the_files(run: Run, cache: Path, experiment: Path) -> None:
    done = run("score", "--cache", cache, "--json").json
    columns = table(folder_of(done))
    places = tuple(columns[axis].astype(int) for axis in "xyz")
    layout = Layout.at(experiment)
    measured = {name: nibabel.load(layout.functional(1, f"prf_{name}")).get_fdata()[places] for name in (*MAPS, "R2")}
    labels = nibabel.load(layout.roi(1, "prf-visualrois")).get_fdata()[places]
    for area, numbers in (("V1", (1, 2)), ("V2", (3, 4))):
        chosen = np.isin(labels, numbers) & (measured["R2"] >= 10) & (measured["eccentricity"] <= 4.2)
        row = done["retinotopy"]["rois"][area]
        assert row["voxels"] == chosen.sum()
        for name in ("eccentricity", "size"):
            expected = scipy.stats.spearmanr(columns[name][chosen], measured[name][chosen]).statistic
            assert row[f"{name}_r"] == pytest.approx(expected, abs=1e-6)
    assert json.loads((folder_of(done) / "scores.json").read_text())["retinotopy"] == done["retinotopy"]
    shown = run("score", "--cache", cache).out
    assert "receptive fields against measured ones within 4.2 degrees and an R2 of at least 10 %" in shown
    assert f"{done['retinotopy']['rois']['V1']['eccentricity_r']:.3f}" in shown


def test_without_a_root_maps_are_there_and_the_comparison_follows_with_one(
    run: Run, own: Path, experiment: Path, tmp_path: Path
) -> None:
    alone = run("score", "--cache", own, "--overwrite", "--permutations", 20, "--json", BOLDREAMS_NSD_ROOT="").json
    assert alone["retinotopy"] is None
    assert "--nsd-root" in alone["retinotopy_note"]
    assert volumes(folder_of(alone))["size"].shape == (14, 12, 11)
    said = run("score", "--cache", own, BOLDREAMS_NSD_ROOT="")
    assert "not compared with measured ones: no NSD root" in said.out
    assert "the scores of these weights are there" in said.err

    with_root = run("score", "--cache", own, "--json")
    assert "made again" in with_root.err
    assert with_root.json["retinotopy"]["voxels"] > 50
    assert with_root.json["permutations"] == 20, "what they were made with stays"
    assert with_root.json["r_mean"] == alone["r_mean"]
    # A root that is gone takes nothing away.
    kept = run("score", "--cache", own, "--json", BOLDREAMS_NSD_ROOT=tmp_path / "gone")
    assert kept.json["retinotopy"] == with_root.json["retinotopy"]
    assert "made again" not in kept.err

    other = tmp_path / "nsd"
    shutil.copytree(experiment, other, copy_function=shutil.copy2)
    path = Layout.at(other).functional(1, "prf_eccentricity")
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image((4.2 - image.get_fdata()).astype(np.float32), image.affine), path)
    turned = run("score", "--cache", own, "--json", BOLDREAMS_NSD_ROOT=other)
    assert "made again" in turned.err, "measured fields that changed are noticed"
    assert turned.json["retinotopy"] != with_root.json["retinotopy"]
    for file in Layout.at(other).anatomy_folder(1).glob("prf_*.nii.gz"):
        file.unlink()
    assert "made again" not in run("score", "--cache", own, BOLDREAMS_NSD_ROOT=other).err
    absent = run("score", "--cache", own, "--overwrite", BOLDREAMS_NSD_ROOT=other)
    assert "no measured fields (prf_eccentricity.nii.gz) of subject 1" in absent.out


def test_models_without_fields_say_so(run: Run, own: Path) -> None:
    run("fit", "--percent", 1, "--subject", 1, "--cache", own, "--readout", "ridge", "--grid", 2)
    done = run("score", "--cache", own, "--readout", "ridge", "--json").json
    assert done["retinotopy"] is None
    assert "ridge readout has no receptive fields" in done["retinotopy_note"]
    assert "eccentricity" not in table(folder_of(done))
    assert not list(folder_of(done).glob("field_*"))
    again = run("score", "--cache", own, "--readout", "ridge")
    assert "made again" not in again.err


@pytest.mark.usefixtures("rendered")
def test_a_fit_finds_where_the_voxels_of_a_known_brain_look(run: Run, tmp_path: Path) -> None:
    root = tmp_path / "nsd"
    write(Experiment.small(subjects=1, images=60, ncsnr=(1.5, 3.0)), root)
    common = ("--cache", tmp_path / "cache", "--nsd-root", root)
    model = ("--backbone", "efficientnet_lite0", "--percent", 10, "--subject", 1)
    run("extract", *common, "--backbone", "efficientnet_lite0", "--weights", "pretrained")
    run("fit", *common, *model, "--readout", "gaussian")
    done = run("score", *common, *model, "--json").json
    rois = done["retinotopy"]["rois"]
    assert rois["V1"]["eccentricity_r"] > 0.5
    assert rois["V1"]["angle_r"] > 0.2
    assert rois["V1"]["angle_apart"] < 60
    assert rois["all"]["eccentricity_r"] > 0.3
    # The truth says the same, without NSD's files.
    known = Truth.load(root.with_name("nsd-truth.npz")).subjects[1]
    columns = table(folder_of(done))
    early = known.area == "V1"
    found = np.stack([0.5 + columns["field_x"] / 8.4, 0.5 - columns["field_y"] / 8.4], 1)
    assert np.median(np.hypot(*(found - known.centre)[early].T)) < 0.2
