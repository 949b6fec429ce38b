"""bdata of Kamitani's laboratory: sessions, repeats, places, vertices, files that do not fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from tests.conftest import Run

from .miniatures import (
    AFFINE,
    bdata,
    draw,
    numbers,
    write_bdata,
)
from .test_data_sets import failing
from .test_importing import shown, typed


def test_bdata_counts_sessions_on_and_keeps_repeats(run: Run, tmp_path: Path) -> None:
    mini = bdata(tmp_path / "source")
    done = run(*typed(mini, tmp_path / "new.h5", "-v"))
    assert "sub-01_Imagery.h5" in done.err
    assert "left out: 1 files that are neither training nor test" in done.out
    with h5py.File(tmp_path / "new.h5") as file:
        np.testing.assert_array_equal(file["trial/session"][:], [1] * 5 + [2] * 7 + [3] * 5 + [4] * 4)
        ijk = np.argwhere(np.ones((4, 3, 5)))[5:29]
        xyz = ijk @ AFFINE[:3, :3].T + AFFINE[:3, 3]
        affine, found = file["units/affine"][:], file["units/ijk"][:]
        np.testing.assert_allclose(found @ affine[:3, :3].T + affine[:3, 3], xyz, atol=1e-6)
        assert {name: int(area[:].sum()) for name, area in file["areas"].items()} == {"V1": 8, "HVC": 8}


def test_bdata_of_one_file_with_imagenets_numbers(run: Run, tmp_path: Path) -> None:
    """As Generic Object Decoding: DataType tells training, test and imagery, and there are no names."""
    ids = np.array([1518878.005958, 1443537.022563, 1443537.022563, 1621127.01902, 1518878.0])
    names = ["n01518878_5958", "n01443537_22563", "n01443537_22563", "n01621127_19020"]
    draw([tmp_path / f"pictures/{name}.JPEG" for name in set(names)])
    betas = numbers(5, 12)
    xyz = np.argwhere(np.ones((2, 3, 2))) * 3.0 - 31.5
    places = {f"voxel_{axis}": column for axis, column in zip("xyz", xyz.T, strict=True)} | {"ROI_LOC": np.ones(12)}
    path = tmp_path / "Subject1.h5"
    write_bdata(path, betas, {"DataType": np.array([1, 2, 2, 1, 3]), "stimulus_id": ids}, places)
    for source in (path, tmp_path):
        output = tmp_path / f"{source.stem}-new.h5"
        result = run("import", "bdata", source, "--images", tmp_path / "pictures", "-o", output, "--json").json
        assert result["subject"] == "Subject1"
        assert result["left_out"] == {"rows that are neither training nor test": 1}
        with h5py.File(output) as file:
            assert shown(file) == [f"{name}.JPEG" for name in names]
            np.testing.assert_array_equal(file["trial/test"][:], [False, True, True, False])
            np.testing.assert_array_equal(file["betas"][:], betas[:4])
            np.testing.assert_array_equal(file["units/shape"][:], [2, 3, 2])
            np.testing.assert_allclose(
                file["units/affine"][:], [[3, 0, 0, -31.5], [0, 3, 0, -31.5], [0, 0, 3, -31.5], [0, 0, 0, 1]]
            )
            assert "session" not in file["trial"]
        output.unlink()


def test_bdata_of_pictures_with_long_numbers(run: Run, tmp_path: Path) -> None:
    """As COCO's and others' ids: seven digits and more are told apart to the last."""
    ids = [1443537, 1443538, 20443539]
    draw([tmp_path / f"pictures/{number}.png" for number in ids])
    xyz = np.argwhere(np.ones((2, 3, 2))) * 3.0
    places = {f"voxel_{axis}": column for axis, column in zip("xyz", xyz.T, strict=True)}
    path, output = tmp_path / "Subject1.h5", tmp_path / "new.h5"
    write_bdata(path, numbers(3, 12), {"DataType": np.array([1, 1, 2]), "image_index": np.array(ids)}, places)
    command = ("import", "bdata", path, "--images", tmp_path / "pictures", "-o", output)
    run(*command)
    with h5py.File(output) as file:
        assert shown(file) == [f"{number}.png" for number in ids]
    with h5py.File(path, "a") as file:
        file["vmap/image_index/1443537"] = "1443537.png"
    assert "has no name for 1443538" in run(*command, "--overwrite", code=1).err


def test_bdata_places_by_a_volume_or_by_indices(run: Run, tmp_path: Path) -> None:
    oblique = AFFINE.copy()
    oblique[:3, :3] = oblique[:3, :3] @ np.array([[0.8, 0.6, 0], [-0.6, 0.8, 0], [0, 0, 1]])
    ijk = np.argwhere(np.ones((3, 3, 3)))[3:20]
    xyz = ijk @ oblique[:3, :3].T + oblique[:3, 3]
    places = {f"voxel_{axis}": column for axis, column in zip("xyz", xyz.T, strict=True)}
    labels = {"DataType": np.array([1, 1, 2]), "image_index": np.array([1, 2, 3])}
    draw([tmp_path / f"pictures/{i}.png" for i in (1, 2, 3)])
    path, output = tmp_path / "Subject3.h5", tmp_path / "new.h5"
    write_bdata(path, numbers(3, 17), labels, places)
    command = ("import", "bdata", path, "--images", tmp_path / "pictures", "-o", output)
    assert "make no grid along the axes" in run(*command, code=1).err
    volume = tmp_path / "template.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), oblique), volume)
    run(*command, "--template", volume)
    with h5py.File(output) as file:
        np.testing.assert_array_equal(file["units/ijk"][:], ijk)
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 2), np.uint8), oblique), volume)
    assert "do not lie on the grid" in run(*command, "--template", volume, "--overwrite", code=1).err
    places |= {f"voxel_{axis}": column for axis, column in zip("ijk", ijk.T, strict=True)}
    write_bdata(path, numbers(3, 17), labels, places)
    run(*command, "--overwrite")
    with h5py.File(output) as file:
        np.testing.assert_array_equal(file["units/ijk"][:], ijk)
        np.testing.assert_allclose(file["units/affine"][:], oblique, atol=1e-9)


def surface(left: np.ndarray, right: np.ndarray) -> dict[str, np.ndarray]:
    """Places of vertices as bdpy writes them."""
    side = np.repeat([1.0, 0.0], [len(left), len(right)])
    return {"VertexLeft": side, "VertexRight": 1 - side, "vertex_index": np.concatenate([left, right]) * 1.0}


def test_bdata_of_vertices(run: Run, tmp_path: Path) -> None:
    """As bdpy writes fMRIPrep's surfaces: left and right side by side, each counted from 0."""
    draw([tmp_path / f"pictures/{i}.png" for i in (1, 2, 3)])
    labels = {"DataType": np.array([1, 1, 2]), "image_index": np.array([1, 2, 3])}
    path, output = tmp_path / "Subject3.h5", tmp_path / "new.h5"
    command = ("import", "bdata", path, "--images", tmp_path / "pictures", "-o", output, "--overwrite")
    areas = {"hcp180_r_lh.L_V1_ROI": np.arange(13) < 3}
    betas = numbers(3, 13)
    places = surface(np.arange(7), np.arange(6)) | areas
    write_bdata(path, betas, labels, places, "VertexData")
    run(*command)
    with h5py.File(output) as file:
        np.testing.assert_array_equal(file["betas"][:], betas)
        assert file["units"].attrs["space"] == "native"
        assert file["units"].attrs["vertices"].tolist() == [7, 6]
        np.testing.assert_array_equal(file["units/hemisphere"][:], [b"L"] * 7 + [b"R"] * 6)
        np.testing.assert_array_equal(file["units/vertex"][:], [*range(7), *range(6)])
        assert list(file["areas"]) == ["hcp180_r_lh.L_V1_ROI"]
        np.testing.assert_array_equal(file["areas/hcp180_r_lh.L_V1_ROI"][:], np.arange(13) < 3)
    some = np.array([4, 900, 12])
    write_bdata(path, betas[:, :6], labels, surface(some, some), "VertexData")
    run(*command)
    with h5py.File(output) as file:
        assert "vertices" not in file["units"].attrs, "some of them: the mesh's size is not known"
        np.testing.assert_array_equal(file["units/vertex"][:], [*some, *some])
    whole = np.arange(642)
    write_bdata(path, numbers(3, 1284), labels, surface(whole, whole), "VertexData")
    run(*command)
    with h5py.File(output) as file:
        assert file["units"].attrs["space"] == "fsaverage3"
    run("validate", output)
    volume = tmp_path / "volume.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), volume)
    assert "leave it out" in run(*command, "--template", volume, code=2).err
    del places["VertexRight"]
    write_bdata(path, betas, labels, places, "VertexData")
    assert "has not all of the keys VertexLeft, VertexRight, vertex_index" in run(*command, code=1).err


def test_bdata_without_places_is_a_table(run: Run, tmp_path: Path) -> None:
    mini = bdata(tmp_path / "source")
    for path in mini.source.glob("*.h5"):
        with h5py.File(path, "a") as file:
            keys = np.array([key.decode().replace("voxel_", "place_") for key in file["metadata/key"][:]])
            keep = [not key.startswith("place_") for key in keys]
            values = file["metadata/value"][:][keep]
            del file["metadata/key"], file["metadata/value"]
            file["metadata/key"], file["metadata/value"] = keys[keep].astype("S"), values
    done = run(*typed(mini, tmp_path / "new.h5"))
    assert "do not say where voxels lie" in done.err
    with h5py.File(tmp_path / "new.h5") as file:
        np.testing.assert_array_equal(file["betas"][:], mini.betas)
        np.testing.assert_array_equal(file["units/ijk"][:], [[column, 0, 0] for column in range(24)])
        assert int(file["areas/V1"][:].sum()) == 8
    run("validate", tmp_path / "new.h5")
    volume = tmp_path / "template.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), AFFINE), volume)
    done = run(*typed(mini, tmp_path / "other.h5", "--template", volume), code=2)
    assert "leave out --template" in done.err


@pytest.mark.parametrize("phase", ["Training", "Test"])
def test_bdata_of_two_versions_of_one_file(run: Run, tmp_path: Path, phase: str) -> None:
    """Taken both, every trial would count twice, and its noise as what repeats agree on."""
    mini = bdata(tmp_path / "source")
    path = mini.source / f"sub-01_NaturalImage{phase}.h5"
    shutil.copy(path, mini.source / f"{path.stem}_v2.h5")
    said = failing(run, mini, tmp_path / "new.h5")
    assert f"2 files of {phase.lower()} of sub-01" in said
    assert f"{path.name}, {path.stem}_v2.h5; keep one" in said


def test_bdata_of_pictures_by_lists_of_each_phase(run: Run, tmp_path: Path) -> None:
    """Where image_index is all there is, tables beside the files say the names; training and test share numbers."""
    mini = bdata(tmp_path / "source")
    names: dict[str, list[str]] = {"Training": mini.shown[:12], "Test": mini.shown[12:15]}
    for phase in names:
        with h5py.File(mini.source / f"sub-01_NaturalImage{phase}.h5", "a") as file:
            keys = [key.decode().replace("stimulus_name", "image_index") for key in file["metadata/key"][:]]
            del file["metadata/key"], file["vmap/stimulus_name"]
            file["metadata/key"] = [key.encode() for key in keys]
    said = failing(run, mini, tmp_path / "new.h5")
    assert "image_index numbers the pictures of training by a list of their own" in said
    assert "stimulus_*Training*.tsv" in said
    for phase, shown_then in names.items():
        lines = [f"{Path(name).stem}\t{1e6 + i}\t{i}" for i, name in enumerate(shown_then, start=1)]
        (mini.source / f"stimulus_NaturalImage{phase}.tsv").write_text("\n".join(lines) + "\n")
    run(*typed(mini, tmp_path / "new.h5"))
    with h5py.File(tmp_path / "new.h5") as file:
        assert shown(file) == mini.shown
        np.testing.assert_array_equal(file["trial/test"][:], mini.test)
    (mini.source / "stimulus_NaturalImageTest.tsv").write_text("\n".join(lines[:2]))
    assert "have no name for image_index 3" in failing(run, mini, tmp_path / "other.h5")
    (mini.source / "stimulus_OtherTest.tsv").write_text("\n".join(lines))
    assert "2 are there, keep one" in failing(run, mini, tmp_path / "other.h5")


def test_bdata_of_one_file_whose_training_and_test_share_numbers(run: Run, tmp_path: Path) -> None:
    draw([tmp_path / f"{i}.png" for i in (1, 2)])
    labels = {"DataType": np.array([1, 1, 2]), "image_index": np.array([1, 2, 1])}
    write_bdata(tmp_path / "Subject1.h5", numbers(3, 4), labels, {"ROI_V1": np.ones(4)})
    command = ("import", "bdata", tmp_path / "Subject1.h5", "-o", tmp_path / "new.h5")
    assert "by a list of their own" in run(*command, code=1).err


def test_bdata_of_an_experiment_that_was_split(run: Run, tmp_path: Path) -> None:
    """As THINGS becomes bdata: small letters, one numbering of trials and sessions, numbers of voxels and subjects."""
    mini = bdata(tmp_path / "source")
    for number, path in enumerate(sorted(mini.source.glob("*NaturalImage*.h5"))):  # the test's first
        with h5py.File(path, "a") as file:
            rows, (count, width) = file["dataset"][:], file["metadata/value"].shape
            keys = [key.decode().replace("Session", "session") for key in file["metadata/key"][:]]
            values = np.full((count + 3, width + 1), np.nan)
            values[:count, :width], values[count, -1] = file["metadata/value"][:], 1
            values[count + 1, :24], values[count + 2, :24] = 1, np.arange(24) == 1
            del file["dataset"], file["metadata/key"], file["metadata/value"]
            file["dataset"] = np.column_stack([rows, np.arange(len(rows)) * 2 + number])
            file["metadata/key"] = [key.encode() for key in (*keys, "trial_id", "subject_id", "voxel_id")]
            file["metadata/value"] = values
    run(*typed(mini, tmp_path / "new.h5"))
    with h5py.File(tmp_path / "new.h5") as file:
        np.testing.assert_array_equal(file["trial/session"][:], [1] * 5 + [2] * 7 + [1] * 5 + [2] * 4)
        assert set(file["areas"]) == {"HVC", "V1"}
        np.testing.assert_array_equal(file["betas"][:], mini.betas)


def test_bdata_files_that_do_not_fit(run: Run, tmp_path: Path) -> None:
    mini = bdata(tmp_path / "source")
    test = mini.source / "sub-01_NaturalImageTest.h5"
    with h5py.File(test, "a") as file:
        del file["vmap/stimulus_name/2.0"]
    assert "/vmap/stimulus_name has no name for 2" in failing(run, mini, tmp_path / "new.h5")
    with h5py.File(test, "a") as file:
        keys = [key.decode() for key in file["metadata/key"][:]]
        file["metadata/value"][keys.index("voxel_x"), 0] += 2
        file["vmap/stimulus_name/2.0"] = b"n02440002_2"
    assert "hold other voxels" in failing(run, mini, tmp_path / "new.h5")
    test.unlink()
    assert "*Test*.h5; download it" in failing(run, mini, tmp_path / "new.h5")
    test.write_bytes(b"not HDF5")
    assert str(test) in failing(run, mini, tmp_path / "new.h5")
