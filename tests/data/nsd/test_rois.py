"""NSD's areas: groups, labels, unions and masks, which volume wins, and what is said of unknown ones."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest

from boldreams_cli.console import BoldreamsError, ChoiceError, MismatchError
from boldreams_cli.data.areas import Areas
from boldreams_cli.data.nsd.anatomy.rois import GROUPS, STANDARD_LABELS, read_label_table
from boldreams_cli.data.nsd.anatomy.volume import read_anatomy
from boldreams_cli.data.volumes import read_float_volume, read_mask, read_volume

from .conftest import AFFINE, LABELS, SHAPE, Experiment, save_nifti

# Written out by hand from the design's table, label numbers and all.
MADE_OF = {
    "V1": ("prf-visualrois", [1, 2]),
    "V2": ("prf-visualrois", [3, 4]),
    "V3": ("prf-visualrois", [5, 6]),
    "hV4": ("prf-visualrois", [7]),
    "V3ab": ("Kastner2015", [16, 17]),
    "LO": ("Kastner2015", [14, 15]),
    "VO": ("Kastner2015", [8, 9]),
    "PHC": ("Kastner2015", [10, 11]),
    "IPS": ("Kastner2015", [18, 19, 20, 21, 22, 23]),
    "MT": ("Kastner2015", [13]),
    "MST": ("Kastner2015", [12]),
    "ecc_1": ("prf-eccrois", [1]),
    "ecc_2": ("prf-eccrois", [2]),
    "ecc_3": ("prf-eccrois", [3]),
    "ecc_4": ("prf-eccrois", [4]),
    "ecc_5": ("prf-eccrois", [5]),
    "faces": ("floc-faces", [1, 2, 3, 4, 5]),
    "places": ("floc-places", [1, 2, 3]),
    "words": ("floc-words", [1, 2, 3, 4, 5]),
    "bodies": ("floc-bodies", [1, 2, 3, 4]),
}


def expected(experiment: Experiment, subject: int, volume: str, numbers: list[int]) -> np.ndarray:
    rois, places = experiment.rois[subject], tuple(experiment.used(subject).T)
    inside = np.isin(rois[volume], numbers)
    if volume == "Kastner2015":
        inside &= ~(rois["prf-visualrois"] > 0)
    return inside[places]


@pytest.fixture
def areas(experiment: Experiment) -> Areas:
    return read_anatomy(experiment.layout, 1).areas


def test_standard_labels_are_those_of_the_tables() -> None:
    assert {volume: list(names) for volume, names in STANDARD_LABELS.items()} == LABELS
    assert list(GROUPS) == list(MADE_OF)


@pytest.mark.parametrize("group", MADE_OF)
def test_groups(experiment: Experiment, areas: Areas, group: str) -> None:
    wanted = expected(experiment, 1, *MADE_OF[group])
    np.testing.assert_array_equal(areas.select(group), wanted)
    assert areas.counts()[group] == wanted.sum() > 0


def test_groups_are_counted_in_the_papers_order(areas: Areas) -> None:
    assert list(areas.counts()) == [name for name in MADE_OF if name in areas.counts()]


def test_retinotopy_overrides_the_atlas(experiment: Experiment, areas: Areas) -> None:
    rois, places = experiment.rois[1], tuple(experiment.used(1).T)
    plain = np.isin(rois["Kastner2015"], [18, 19, 20, 21, 22, 23])[places]
    assert (plain & (rois["prf-visualrois"] > 0)[places]).any()  # else the test shows nothing
    assert areas.select("IPS").sum() < plain.sum()


def test_single_labels_and_unions(experiment: Experiment, areas: Areas) -> None:
    ffa = expected(experiment, 1, "floc-faces", [2])
    np.testing.assert_array_equal(areas.select("FFA-1"), ffa)
    np.testing.assert_array_equal(areas.select("ffa-1"), ffa)
    np.testing.assert_array_equal(areas.select("V1v"), expected(experiment, 1, "prf-visualrois", [1]))
    np.testing.assert_array_equal(areas.select("FEF"), expected(experiment, 1, "Kastner2015", [25]))
    np.testing.assert_array_equal(areas.select("ecc4+"), expected(experiment, 1, "prf-eccrois", [5]))
    union = ffa | expected(experiment, 1, "prf-visualrois", [7]) | expected(experiment, 1, "floc-places", [2])
    np.testing.assert_array_equal(areas.select("FFA-1, HV4,PPA"), union)
    counts = areas.label_counts()
    assert counts["FFA-1"] == ffa.sum()
    assert all(areas.select(name).sum() == count for name, count in counts.items())


def test_unknown_and_empty_areas(experiment: Experiment, areas: Areas) -> None:
    for name in ("V9", "FFA-1,V9", "", "V1,"):
        with pytest.raises(ChoiceError, match=r"groups are V1, V2.*boldreams info --rois"):
            areas.select(name)
    second = read_anatomy(experiment.layout, 2).areas
    with pytest.raises(BoldreamsError, match=r"RSC has no voxels .* areas that have: .*faces") as caught:
        second.select("RSC")
    assert caught.value.exit_code == 1
    assert "RSC" not in second.label_counts()
    assert second.select("RSC,PPA").sum() == second.select("PPA").sum()


def test_mask_file(experiment: Experiment, areas: Areas, tmp_path: Path) -> None:
    mask = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    save_nifti(tmp_path / "a,b.nii.gz", mask)
    found = areas.select(str(tmp_path / "a,b.nii.gz"))
    np.testing.assert_array_equal(found, (mask > 0)[tuple(experiment.used(1).T)])
    save_nifti(tmp_path / "small.nii", mask[:-1])
    with pytest.raises(BoldreamsError, match=r"has shape \(6, 6, 5\), this subject's volumes \(7, 6, 5\)"):
        areas.select(str(tmp_path / "small.nii"))
    save_nifti(tmp_path / "empty.nii", np.zeros(SHAPE, np.uint8))
    with pytest.raises(BoldreamsError, match="has no voxels"):
        areas.select(str(tmp_path / "empty.nii"))
    with pytest.raises(BoldreamsError, match=r"there is no .*correct the path"):
        areas.select(str(tmp_path / "absent.nii"))


def test_label_table_with_colours(tmp_path: Path) -> None:
    path = tmp_path / "x.ctab"
    path.write_text("# made by FreeSurfer\n\n  0  Unknown  0 0 0 0\n 1  OFA  255 0 0 0\n12 FFA-1\n")
    assert read_label_table(path) == {1: "OFA", 12: "FFA-1"}
    path.write_text("OFA 1\n")
    with pytest.raises(BoldreamsError, match="'OFA 1' is not a label's index and name"):
        read_label_table(path)
    with pytest.raises(BoldreamsError, match="there is no"):
        read_label_table(tmp_path / "absent.ctab")


def test_names_come_from_the_table(experiment: Experiment) -> None:
    experiment.layout.label_table(1, "floc-faces").write_text("0 Unknown\n1 FFA-2\n2 OFA\n3 mine\n")
    areas = read_anatomy(experiment.layout, 1).areas
    np.testing.assert_array_equal(areas.select("FFA-2"), expected(experiment, 1, "floc-faces", [1]))
    np.testing.assert_array_equal(areas.select("mine"), expected(experiment, 1, "floc-faces", [3]))
    np.testing.assert_array_equal(areas.select("faces"), expected(experiment, 1, "floc-faces", [1, 2]))


def test_missing_table_falls_back_with_a_warning(
    experiment: Experiment, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("boldreams"), "propagate", True)
    experiment.layout.label_table(1, "floc-faces").unlink()
    areas = read_anatomy(experiment.layout, 1).areas
    assert "floc-faces.mgz.ctab" in caplog.text
    np.testing.assert_array_equal(areas.select("FFA-1"), expected(experiment, 1, "floc-faces", [2]))


def test_missing_volumes(experiment: Experiment) -> None:
    layout = experiment.layout
    layout.roi(1, "prf-visualrois").unlink()
    areas = read_anatomy(layout, 1).areas
    plain = np.isin(experiment.rois[1]["Kastner2015"], [8, 9])[tuple(areas.voxels.T)]
    np.testing.assert_array_equal(areas.select("VO"), plain)  # nothing overrides the atlas
    with pytest.raises(BoldreamsError, match="V1 has no voxels"):
        areas.select("V1")
    for volume in LABELS:
        layout.roi(1, volume).unlink(missing_ok=True)
    with pytest.raises(BoldreamsError, match=r"no ROI volume in .*use --mask FILE"):
        read_anatomy(layout, 1)
    assert read_anatomy(layout, 1, "nsdgeneral").areas.counts() == {}


def test_volumes(experiment: Experiment, tmp_path: Path) -> None:
    labels, affine = read_volume(experiment.layout.roi(1, "floc-faces"))
    assert labels.dtype == np.int16
    np.testing.assert_array_equal(labels, experiment.rois[1]["floc-faces"])
    np.testing.assert_allclose(affine, AFFINE)
    values, _ = read_float_volume(experiment.layout.ncsnr(1))
    np.testing.assert_array_equal(values, experiment.ncsnr[1])
    mask, _ = read_mask(experiment.layout.brain_masks(1)[0])
    np.testing.assert_array_equal(mask, experiment.brain[1] > 0)
    nibabel.save(nibabel.Nifti1Image(np.full(SHAPE, 0.5), AFFINE), tmp_path / "half.nii.gz")
    with pytest.raises(BoldreamsError, match="no labels"):
        read_volume(tmp_path / "half.nii.gz")
    content = (tmp_path / "half.nii.gz").read_bytes()
    for broken in (b"", b"hello", content[:-30]):
        (tmp_path / "half.nii.gz").write_bytes(broken)
        with pytest.raises(BoldreamsError, match="must be a NIfTI file"):
            read_float_volume(tmp_path / "half.nii.gz")
    save_nifti(tmp_path / "four.nii", np.zeros((*SHAPE, 2), np.uint8))
    with pytest.raises(BoldreamsError, match=r"shape \(7, 6, 5, 2\)"):
        read_mask(tmp_path / "four.nii")


def test_one_canonical_name_for_all_ways_to_write_it(experiment: Experiment, areas: Areas, tmp_path: Path) -> None:
    for written, name in (
        ("FACES", "faces"),
        ("ffa-1", "FFA-1"),
        ("v1V", "V1v"),
        (" v1 ,places,V1", "V1,places"),
        ("places,V1", "places,V1"),
    ):
        assert areas.canonical(written) == name
        np.testing.assert_array_equal(areas.select(written), areas.select(name))
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:4] = 1
    save_nifti(tmp_path / "a.nii.gz", mask)
    save_nifti(tmp_path / "b.nii", mask.astype(np.float32) * 3)
    one, two = (areas.canonical(str(tmp_path / name)) for name in ("a.nii.gz", "b.nii"))
    assert one == two
    assert re.fullmatch(r"mask-[0-9a-f]{8}", one)
    mask[0, 0, 0] = 1
    save_nifti(tmp_path / "b.nii", mask)
    assert areas.canonical(str(tmp_path / "b.nii")) != one
    with pytest.raises(ChoiceError, match="no area 'V9'"):
        areas.canonical("V1,V9")


def test_a_union_longer_than_a_file_name(areas: Areas) -> None:
    union = ",".join([*areas.counts(), *areas.label_counts(), *areas.label_counts()])
    assert len(union) > 255
    every = np.logical_or.reduce([areas.select(name) for name in union.split(",")])
    np.testing.assert_array_equal(areas.select(union), every)
    assert areas.canonical(union).count(",") == len(set(union.split(","))) - 1


def flipped(path: Path, data: np.ndarray) -> None:
    """The same mask in mm, stored the other way round along x, as its affine says."""
    affine = AFFINE @ np.diag([-1.0, 1, 1, 1])
    affine[:3, 3] = (AFFINE @ [SHAPE[0] - 1, 0, 0, 1])[:3]
    nibabel.save(nibabel.Nifti1Image(data[::-1], affine), path)


def test_masks_of_another_affine_are_refused(experiment: Experiment, areas: Areas, tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:3] = 1
    flipped(tmp_path / "mask.nii", mask)
    with pytest.raises(
        MismatchError, match=r"another affine .*\[-1.8 0 0 -49.2; .*\[1.8 0 0 -60; .*up to 10.8 mm apart"
    ):
        areas.select(str(tmp_path / "mask.nii"))
    with pytest.raises(MismatchError, match=r"another affine .*resample it to their space \(--mask\)"):
        read_anatomy(experiment.layout, 1, str(tmp_path / "mask.nii"))
    rounded = AFFINE + np.random.default_rng(0).uniform(-1e-4, 1e-4, (4, 4)) * [[1], [1], [1], [0]]
    nibabel.save(nibabel.Nifti1Image(mask, rounded), tmp_path / "rounded.nii")
    inside = areas.select(str(tmp_path / "rounded.nii"))
    np.testing.assert_array_equal(inside, (mask > 0)[tuple(areas.voxels.T)])
    taken = read_anatomy(experiment.layout, 1, str(tmp_path / "rounded.nii")).areas
    np.testing.assert_array_equal(taken.affine, areas.affine)  # maps have the subject's affine, not the mask's
    np.testing.assert_allclose(taken.affine, AFFINE)


def test_another_affine_of_nsds_own_volumes_is_a_warning(
    experiment: Experiment, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("boldreams"), "propagate", True)
    flipped(experiment.layout.ncsnr(1), experiment.ncsnr[1])
    areas = read_anatomy(experiment.layout, 1).areas
    assert "ncsnr.nii.gz has another affine than the other volumes of subject 1" in caplog.text
    np.testing.assert_allclose(areas.affine, AFFINE)
    caplog.clear()
    read_anatomy(experiment.layout, 2)
    assert "affine" not in caplog.text
