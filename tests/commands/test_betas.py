"""--betas through the commands: prepare, fit, score and sweep of another space's betas, compared with the same ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import Run

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


def test_surfaces_are_refused(run: Run, own: Path) -> None:
    said = run("fit", "--cache", own, "--subject", 1, "--betas", "fsaverage/betas_fithrf", code=2).err
    assert "betas on surfaces are not read" in said
