"""Maps on surfaces, read back: GIFTI of each hemisphere, CIFTI of the fsLR meshes; and meshes found by name."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.cifti2 import BrainModelAxis, ScalarAxis
from nibabel.freesurfer import write_geometry, write_morph_data
from nibabel.gifti import GiftiDataArray, GiftiImage
from scipy.spatial import ConvexHull

from boldreams_cli.console import BoldreamsError, ChoiceError
from boldreams_cli.data.maps.cifti import has_cifti, write_cifti
from boldreams_cli.data.maps.gifti import write_gifti
from boldreams_cli.data.maps.meshes import find_meshes, read_mesh
from boldreams_cli.data.units import VertexUnits, VoxelUnits
from boldreams_cli.plots.brain.surfaces import surfaces

VERTICES = np.array([7, 2, 90, 5, 2])
SIDES = np.array(["L", "R", "L", "R", "L"])
VALUES = np.array([0.1, 0.2, 0.3, np.nan, 0.5], np.float32)


def units(space: str = "fsLR32k", count: int = 100) -> VertexUnits:
    return VertexUnits(space, SIDES, VERTICES, (count, count + 1))


def sphere(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    points = np.random.default_rng(seed).standard_normal((count, 3))
    points *= 80 / np.linalg.norm(points, axis=1, keepdims=True)
    return points, ConvexHull(points).simplices


def test_gifti_reads_back(tmp_path: Path) -> None:
    left, right = write_gifti(tmp_path, "correlation", units(), VALUES)
    assert (left.name, right.name) == ("correlation.L.func.gii", "correlation.R.func.gii")
    for path, structure, size, expected in (
        (left, "CortexLeft", 100, {7: 0.1, 90: 0.3, 2: 0.5}),
        (right, "CortexRight", 101, {2: 0.2}),
    ):
        image = nibabel.load(path)
        values = image.agg_data()
        assert values.shape == (size,)
        assert values.dtype == np.float32
        assert image.meta["AnatomicalStructurePrimary"] == structure
        assert {int(v): pytest.approx(values[v]) for v in np.flatnonzero(np.isfinite(values))} == expected
        assert image.darrays[0].meta["Name"] == "correlation"


def test_cifti_reads_back(tmp_path: Path) -> None:
    path = write_cifti(tmp_path / "scores.dscalar.nii", units(), {"r": VALUES, "ceiling": 2 * VALUES})
    image = nibabel.load(path)
    scalars, brain = (image.header.get_axis(number) for number in (0, 1))
    assert isinstance(scalars, ScalarAxis)
    assert isinstance(brain, BrainModelAxis)
    assert scalars.name.tolist() == ["r", "ceiling"]
    assert brain.nvertices == {"CIFTI_STRUCTURE_CORTEX_LEFT": 100, "CIFTI_STRUCTURE_CORTEX_RIGHT": 101}
    assert brain.vertex.tolist() == [2, 7, 90, 2, 5]
    assert [str(name)[-5:] for name in brain.name] == ["_LEFT", "_LEFT", "_LEFT", "RIGHT", "RIGHT"]
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32)[0], np.float32([0.5, 0.1, 0.3, 0.2, np.nan]))
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32)[1], np.float32([1, 0.2, 0.6, 0.4, np.nan]))
    assert path.name in {file.name for file in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == 1, "nothing is left beside it"


@pytest.mark.parametrize("space", ["fsLR32k", "fs_LR_32k", "fsLR-32k"])
def test_meshes_are_known_however_the_space_is_spelled(tmp_path: Path, space: str) -> None:
    used = VertexUnits(space, SIDES, VERTICES)
    left, _ = write_gifti(tmp_path, "correlation", used, VALUES)
    assert nibabel.load(left).agg_data().shape == (32492,)
    brain = nibabel.load(write_cifti(tmp_path / "s.dscalar.nii", used, {"r": VALUES})).header.get_axis(1)
    assert set(brain.nvertices.values()) == {32492}


def test_one_hemisphere_alone(tmp_path: Path) -> None:
    only = VertexUnits("fsLR", np.array(["R", "R"]), np.array([4, 1]), (10, 10))
    image = nibabel.load(write_cifti(tmp_path / "s.dscalar.nii", only, {"r": np.array([4.0, 1.0])}))
    assert image.get_fdata().tolist() == [[1.0, 4.0]]
    assert image.header.get_axis(1).name.tolist() == ["CIFTI_STRUCTURE_CORTEX_RIGHT"] * 2


def test_cifti_is_of_fslr_alone() -> None:
    assert all(has_cifti(units(space)) for space in ("fsLR32k", "fsLR", "fs_LR", "fs-LR 32k", "FSLR164k"))
    assert not any(has_cifti(units(space)) for space in ("fsaverage", "native", "fsaverage5"))
    assert not has_cifti(VoxelUnits(np.zeros((1, 3), np.int32), np.eye(4), (2, 2, 2)))


def test_meshes_are_found_by_name_and_number_of_vertices(tmp_path: Path) -> None:
    small, large, flat = sphere(30), sphere(50), sphere(50, 1)
    write_geometry(tmp_path / "lh.inflated", *small)
    write_geometry(tmp_path / "lh.white", *large)
    for name, mesh in (
        ("tpl_hemi-L_inflated.surf.gii", large),
        ("sub.R.inflated_MSM.32k.surf.gii", large),
        ("sub.R.flat.surf.gii", flat),
    ):
        arrays = [
            GiftiDataArray(mesh[0].astype(np.float32), intent="NIFTI_INTENT_POINTSET"),
            GiftiDataArray(mesh[1].astype(np.int32), intent="NIFTI_INTENT_TRIANGLE"),
        ]
        nibabel.save(GiftiImage(darrays=arrays), tmp_path / name)
    write_morph_data(tmp_path / "rh.sulc", np.linspace(-1, 1, 50))
    found = find_meshes(tmp_path, {"L": 50, "R": 50})
    assert found["L"].path.name == "tpl_hemi-L_inflated.surf.gii"
    assert found["R"].path.name == "sub.R.inflated_MSM.32k.surf.gii", "inflated before flat"
    np.testing.assert_allclose(found["L"].points, large[0], atol=1e-4)
    assert np.array_equal(found["L"].faces, large[1])
    assert found["L"].depth is None
    assert found["R"].depth is not None
    assert find_meshes(tmp_path, {"L": 30})["L"].path.name == "lh.inflated"
    with pytest.raises(ChoiceError, match=r"hemisphere L with 77 vertices .* lh.inflated \(30\)"):
        find_meshes(tmp_path, {"L": 77})
    with pytest.raises(ChoiceError, match="is not a folder"):
        find_meshes(tmp_path / "none", {"L": 50})


def test_what_else_lies_in_freesurfers_folder_is_no_mesh(tmp_path: Path) -> None:
    write_geometry(tmp_path / "lh.inflated", *sphere(30))
    for name in ("lh.inflated.H", "lh.inflated.K"):
        write_morph_data(tmp_path / name, np.zeros(30))
    (tmp_path / "lh.full.flat.patch.3d").write_bytes(b"some vertices")
    with pytest.raises(ChoiceError, match=r"with 50 vertices .* there are lh.inflated \(30\) "):
        find_meshes(tmp_path, {"L": 50})


def test_a_damaged_mesh_is_named(tmp_path: Path) -> None:
    for name in ("lh.inflated", "lh.inflated.surf.gii"):
        (tmp_path / name).write_bytes(b"no mesh at all")
        with pytest.raises(BoldreamsError, match=name):
            read_mesh(tmp_path / name)


def test_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("nilearn")
    from PIL import Image

    points, faces = sphere(200)
    values = np.where(points[:, 1] < 0, 0.9, np.nan)
    path = surfaces(tmp_path / "surface.png", {"L": (points, faces, None, values)}, (0, 1), "r", "a sphere")
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    warm = (pixels[:, 0] > 200) & (pixels[:, 2] < 100)
    assert warm.mean() > 0.01, "half of it has values"
