"""What Algonauts, THINGS and BOLD5000 have of their own: places, areas, ceilings, sessions, files that do not fit."""

from __future__ import annotations

import builtins
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from tests.conftest import Run

from .miniatures import (
    AFFINE,
    algonauts2023,
    bold5000,
    bold5000_areas,
    draw,
    things,
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


def test_algonauts_pictures_at_any_depth_with_any_suffix(run: Run, tmp_path: Path) -> None:
    mini = algonauts2023(tmp_path / "source")
    run(*typed(mini, tmp_path / "new.h5"))
    for number, name in enumerate(mini.shown):
        (folder := tmp_path / f"elsewhere/{number % 3}").mkdir(parents=True, exist_ok=True)
        path = mini.source / "subj01/training_split/training_images" / name
        path.rename(folder / (name.replace(".png", ".JPG") if number % 2 else name.upper()))
    run(*typed(mini, tmp_path / "other.h5", "--images", tmp_path / "elsewhere"))
    with h5py.File(tmp_path / "new.h5") as one, h5py.File(tmp_path / "other.h5") as other:
        for key in ("trial/image", "trial/test", "images/name", "betas"):
            np.testing.assert_array_equal(one[key][:], other[key][:])
        assert [Path(name).stem.lower() for name in shown(other)] == [Path(name).stem for name in mini.shown]


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


def test_bold5000_betas_that_lie_elsewhere_than_the_brain_mask(run: Run, tmp_path: Path) -> None:
    """Their affine says nothing, so a mask of another subject, or one that is flipped, is seen by the numbers alone."""
    mini = bold5000(tmp_path / "source")
    assert "brain mask" not in run(*typed(mini, tmp_path / "new.h5")).err
    path = mini.source / "CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-01.nii.gz"
    volumes = np.asarray(nibabel.load(path).dataobj).copy()
    volumes[1, 1:3], volumes[1, 3] = 0, np.nan
    nibabel.save(nibabel.Nifti1Image(volumes, np.eye(4)), path)
    said = run(*typed(mini, tmp_path / "other.h5")).err
    assert f"9 of the 18 voxels of the brain mask vary in {path}" in said


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
