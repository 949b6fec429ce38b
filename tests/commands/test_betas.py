"""--betas through the commands: prepare, fit, score and sweep of another space's betas, compared with the same ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from boldreams_cli.data.nsd.anatomy.volume import read_anatomy
from boldreams_cli.data.nsd.betas.sessions import read_betas, read_session
from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.data.nsd.synthetic import betas_files
from tests.conftest import Run
from tests.data.nsd.surface_files import save_mgh

FINE = "func1mm/betas_fithrf"


@pytest.fixture
def root(experiment: Path, tmp_path: Path) -> Path:
    """The experiment, whose subject 1 has betas in another space alone."""
    made = Path(shutil.copytree(experiment, tmp_path / "nsd"))
    shutil.move(made / "nsddata/ppdata/subj01/func1pt8mm", made / "nsddata/ppdata/subj01/func1mm")
    folder = made / "nsddata_betas/ppdata/subj01"
    shutil.move(folder / "func1pt8mm/betas_fithrf_GLMdenoise_RR", folder / FINE)
    synthetic = folder / "func1pt8mm/nsdsyntheticbetas_fithrf_GLMdenoise_RR"
    shutil.move(synthetic, folder / "func1mm/nsdsyntheticbetas_fithrf")
    return made


def test_from_prepare_to_score(run: Run, own: Path, root: Path) -> None:
    where = ("--cache", own, "--nsd-root", root)
    said = run("prepare", *where, "--subject", 1, code=2).err
    assert f"of this subject there are {FINE} (--betas)" in said
    first = run("prepare", *where, "--betas", FINE, "--subject", 1, "--json").json
    assert first["preparation"] == FINE
    quick = ("--percent", 10, "--readout", "ridge", "--grid", 2, "--subject", 1)
    fitted = run("fit", *where, *quick, "--json", BOLDREAMS_BETAS=FINE).json
    default = run("fit", "--cache", own, *quick, "--json").json
    assert fitted["model"] != default["model"], "models of other betas lie side by side"
    scored = run("score", *where, "--model", fitted["model"], "--json").json
    assert scored["r_mean"] == pytest.approx(
        run("score", "--cache", own, "--model", default["model"], "--json").json["r_mean"]
    )
    outside = run("score", *where, "--model", fitted["model"], "--test", "synthetic", "--json").json
    assert outside["images"] == 30
    (root / "nsddata/ppdata/subj01/func1mm/roi/floc-faces.nii.gz").unlink()
    assert "ROI volume floc-faces" in run("score", *where, "--model", fitted["model"], "--overwrite", code=3).err


def test_a_sweep_takes_them(run: Run, own: Path, root: Path) -> None:
    grid = ("--cache", own, "--nsd-root", root, "--subject", 1, "--percent", 10, "--readout", "ridge", "--grid", 2)
    done = run("sweep", *grid, "--betas", FINE, "--json").json
    assert done["cells"]["done"] == 1
    (model,) = done["models"]
    assert model["percent"] == 10
    assert run("sweep", *grid, "--betas", FINE, "--json").json["cells"]["done"] == 1
    assert len(list((own / "responses").glob("subj01-*.zarr"))) == 2


AVERAGE = "fsaverage/betas_fithrf_GLMdenoise_RR"


@pytest.fixture
def on_average(experiment: Path, tmp_path: Path) -> tuple[Path, np.ndarray]:
    """The experiment, whose subject 1 is on the average brain too: its voxels as vertices; and which voxels these are.

    Two in three are of the left hemisphere, and areas are those of the volume.
    """
    root = Path(shutil.copytree(experiment, tmp_path / "nsd"))
    volume, surface = Layout.at(root), Layout.at(root, AVERAGE)
    anatomy = read_anatomy(volume, 1)
    voxels, shape = anatomy.areas.voxels, anatomy.areas.shape
    cut = 2 * len(voxels) // 3
    sides = slice(cut), slice(cut, None)
    for name, labels in anatomy.areas.labels.items():
        paths = surface.surface_map(None if name == "Kastner2015" else 1, name)
        for path, side in zip(paths, sides, strict=True):
            save_mgh(path, labels[side].astype(np.float32))
    for path, side in zip(surface.to_average(1), sides, strict=True):
        save_mgh(path, np.arange(1, len(voxels[side]) + 1, dtype=np.int32))
    for path, side in zip(surface.surface_ncsnr(1), sides, strict=True):
        save_mgh(path, anatomy.ncsnr[side])
    sessions = {number: read_session(path, voxels, shape) for number, path in volume.sessions(1).items()}
    outside = read_betas(betas_files(volume, 1), voxels, shape)
    for betas, paths in (
        *((betas, surface.surface_betas(1, number)) for number, betas in sessions.items()),
        (outside, surface.synthetic_betas(1)),
    ):
        for path, side in zip(paths, sides, strict=True):
            save_mgh(path, betas[:, side].T)
    return root, voxels


def test_vertices_of_the_average_brain(run: Run, own: Path, on_average: tuple[Path, np.ndarray]) -> None:
    root, voxels = on_average
    where, quick = ("--cache", own, "--nsd-root", root), ("--percent", 10, "--readout", "ridge", "--grid", 2)
    made = run("prepare", *where, "--betas", "fsaverage", "--subject", 1, "--json").json
    assert made["preparation"] == AVERAGE
    assert made["voxels"] == len(voxels)
    volume = run("fit", *where, *quick, "--subject", 1, "--json").json
    fitted = run("fit", *where, *quick, "--subject", 1, "--betas", "fsaverage", "--json").json
    one, other = (run("score", *where, "--model", model["model"], "--json").json for model in (volume, fitted))
    assert made["rois"] == {name: area["voxels"] for name, area in one["rois"].items()}
    assert {name: area["voxels"] for name, area in other["rois"].items()} == made["rois"]
    assert other["r_mean"] == pytest.approx(one["r_mean"], abs=1e-5)
    assert other["ceiling_mean"] == pytest.approx(one["ceiling_mean"], abs=1e-6)
    folder = Path(fitted["model"])
    left, right = (nibabel.load(folder / f"correlation.{side}.func.gii").agg_data() for side in "LR")
    assert len(left) + len(right) == len(voxels)
    saved = np.array(json.loads((folder / "scores.json").read_text())["r"], np.float32)
    np.testing.assert_array_equal(np.concatenate([left, right]), saved)
    with (folder / "voxels.csv").open() as stream:
        assert next(stream).startswith("space,hemisphere,vertex,")
        assert next(stream).startswith("fsaverage,L,0,")
    tests = [
        run("score", *where, "--model", m["model"], "--test", "synthetic", "--json").json for m in (volume, fitted)
    ]
    assert tests[1]["r_mean"] == pytest.approx(tests[0]["r_mean"], abs=1e-5)
    assert (
        "is a volume, this subject's units are vertices"
        in run("dream", *where, "--model", fitted["model"], "--roi", "mask.nii.gz", code=2).err
    )
