"""`boldreams score` of vertices on the fsLR meshes: CIFTI read back, and pictures on meshes of a folder."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.freesurfer import write_geometry
from PIL import Image
from scipy.spatial import ConvexHull

from boldreams_cli.data.neutral.writing import write
from boldreams_cli.data.units import VertexUnits
from boldreams_cli.encoding.evaluation.saved import on_surface
from tests.conftest import Run

MESH, IMAGES = 120, 30


@pytest.fixture(scope="module")
def scored(run: Run, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A cache with a model of vertices of both hemispheres, and what `score` says of it."""
    folder = tmp_path_factory.mktemp("surfaces")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IMAGES, 4, 4, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    sides, vertices = np.repeat(["R", "L"], 30), np.concatenate([rng.permutation(MESH)[:30] for _ in "RL"])
    light = pixels.mean((1, 2, 3))[:, None] / 64
    write(
        folder / "study.h5",
        subject="folds",
        betas=(light + rng.normal(size=(IMAGES, 60))).astype(np.float32),
        trial_image=np.arange(IMAGES),
        image_names=[f"{number:02d}" for number in range(IMAGES)],
        pixels=pixels,
        zscored=False,
        units=VertexUnits("fsLR", sides, vertices, (MESH, MESH)),
        areas={"all of it": np.ones(60, bool)},
    )
    where = ("--cache", folder / "cache", "--data", folder / "study.h5")
    run("extract", *where, "--backbone", "alexnet", "--weights", weights)
    run("fit", *where, "--percent", 10, "--readout", "ridge", "--grid", 2)
    return folder / "cache", run("score", "--cache", folder / "cache", "--json").json


@pytest.fixture
def meshes(tmp_path: Path) -> Path:
    folder = tmp_path / "meshes"
    folder.mkdir()
    for side in ("lh", "rh"):
        points = np.random.default_rng(ord(side[0])).standard_normal((MESH, 3))
        points *= 80 / np.linalg.norm(points, axis=1, keepdims=True)
        write_geometry(folder / f"{side}.inflated", points, ConvexHull(points).simplices)
    return folder


def test_all_maps_in_one_cifti(scored: tuple[Path, dict]) -> None:
    _, said = scored
    folder = Path(said["model"])
    assert str(folder / "scores.dscalar.nii") in said["files"]
    image = nibabel.load(folder / "scores.dscalar.nii")
    names, brain = image.header.get_axis(0).name.tolist(), image.header.get_axis(1)
    assert names == ["correlation", "ceiling", "r_over_ceiling", "q", "explained_variance"]
    assert set(brain.nvertices.values()) == {MESH}
    values = image.get_fdata(dtype=np.float32)
    for side, structure in (("L", "CIFTI_STRUCTURE_CORTEX_LEFT"), ("R", "CIFTI_STRUCTURE_CORTEX_RIGHT")):
        mine = brain.name == structure
        assert mine.sum() == 30
        for row, name in enumerate(names):
            mesh = nibabel.load(folder / f"{name}.{side}.func.gii").agg_data()
            np.testing.assert_array_equal(values[row, mine], mesh[brain.vertex[mine]])
            assert np.isnan(np.delete(mesh, brain.vertex[mine])).all(), "no value where there are no data"
    r = np.array(json.loads((folder / "scores.json").read_text())["r"], np.float32)
    np.testing.assert_allclose(np.sort(values[0]), np.sort(r), rtol=1e-6)


@pytest.mark.usefixtures("rendered")
def test_a_picture_on_meshes(run: Run, scored: tuple[Path, dict], meshes: Path) -> None:
    pytest.importorskip("nilearn")
    cache, said = scored
    drawn = run("score", "--cache", cache, "--mesh", meshes, "--json").json
    picture = Path(said["model"]) / "figures/surface.png"
    assert drawn["files"] == [*said["files"], str(picture)]
    with Image.open(picture) as opened:
        assert len(np.unique(np.asarray(opened.convert("RGB")).reshape(-1, 3), axis=0)) > 50
    assert run("score", "--cache", cache, "--json").json == said, "the scores are as they were"


@pytest.mark.usefixtures("rendered")
def test_the_report_has_the_picture_or_says_how_to_get_one(
    run: Run, scored: tuple[Path, dict], meshes: Path, tmp_path: Path
) -> None:
    pytest.importorskip("nilearn")
    cache = Path(shutil.copytree(scored[0], tmp_path / "cache"))
    for former in cache.glob("models/*/*/*/figures/surface.png"):
        former.unlink()
    page = Path(run("report", "--cache", cache, "--json").json["file"])
    brain = page.read_text().split('<section id="brain"', 1)[1].split("</section>", 1)[0]
    assert "data of vertices (fsLR) are drawn where a mesh is given" in brain
    assert "--mesh DIR</code>" in brain
    run("score", "--cache", cache, "--mesh", meshes)
    page = Path(run("report", "--cache", cache, "--json").json["file"])
    brain = page.read_text().split('<section id="brain"', 1)[1].split("</section>", 1)[0]
    assert '<figure id="figure-brain-folds">' in brain
    assert 'src="data:image/webp' in brain
    beside = page.with_name("report_files")
    assert (beside / "brain-folds.png").is_file()
    with (beside / "brain-folds.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    (model,) = cache.glob("models/folds/*/*/scores.json")
    r = json.loads(model.read_text())["r"]
    assert [float(row[f"r {model.parent.name}"]) for row in rows] == pytest.approx(r, rel=1e-5)
    with (model.parent / "voxels.csv").open(newline="") as stream:
        places = [(row["hemisphere"], row["vertex"]) for row in csv.DictReader(stream)]
    assert [(row["hemisphere"], row["vertex"]) for row in rows] == places


def test_what_cannot_be_drawn_is_a_line(
    run: Run, scored: tuple[Path, dict], own: Path, meshes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, _ = scored
    assert "those of subject 1 are voxels" in run("score", "--cache", own, "--mesh", meshes, code=2).err
    (meshes / "rh.inflated").unlink()
    pytest.importorskip("nilearn")
    assert "hemisphere R with 120 vertices" in run("score", "--cache", cache, "--mesh", meshes, code=2).err
    assert "has no test synthetic" in run("score", "--cache", cache, "--test", "synthetic", code=2).err
    monkeypatch.setattr(on_surface, "can_draw_surfaces", lambda: False)
    told = run("score", "--cache", cache, "--mesh", meshes, code=1).err
    assert "pip install 'boldreams[surfaces]'" in told
    assert told.strip().count("\n") == 0


def test_areas_of_vertices_are_counted_in_vertices(run: Run, scored: tuple[Path, dict], own: Path) -> None:
    cache, said = scored
    subject = said["subject"]
    assert run("info", "--rois", subject, "--cache", cache).out.startswith(f"areas of subject {subject} (vertices)\n")
    assert run("info", "--rois", 1, "--cache", own).out.startswith("areas of subject 1 (voxels)\n")
