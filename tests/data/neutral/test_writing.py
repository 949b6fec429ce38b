"""Data files from arrays: what was given is in them, and what does not fit together is refused and leaves nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from boldreams_cli.console import BoldreamsError, ChoiceError
from boldreams_cli.data.neutral import writing
from boldreams_cli.data.neutral.checking import check
from boldreams_cli.data.neutral.reading import open_file
from boldreams_cli.data.units import VertexUnits, VoxelUnits

from .conftest import Arrays, Write

PAGE = Path(__file__).resolve().parents[3] / "docs/data-format.md"


def test_what_was_written_is_read(written: Write, arrays: Arrays) -> None:
    path = written()
    data = open_file(path)
    assert (data.subject, data.zscored, data.degrees) == ("CSI1", False, None)
    assert np.array_equal(data.trials.image, arrays["trial_image"])
    assert np.array_equal(data.trials.session, arrays["sessions"])
    assert np.array_equal(data.trials.test, arrays["test"])
    assert data.trials.repeats is None
    assert data.images.names == arrays["image_names"]
    assert isinstance(data.units, VoxelUnits)
    assert np.array_equal(data.units.ijk, arrays["units"].ijk)
    assert data.units.shape == (3, 2, 2)
    assert [item.names for item in data.areas] == [{1: "V1"}, {1: "a long name"}]  # in the order given
    with h5py.File(path) as file:
        assert np.array_equal(file["betas"][:], arrays["betas"])
        assert file["betas"].dtype == np.float32
        assert np.array_equal(file["images/pixels"][:], arrays["pixels"])


def test_the_visual_angle_is_kept(written: Write) -> None:
    assert open_file(written(degrees=8.4)).degrees == 8.4


def test_blocks_give_the_same_file_as_arrays(written: Write, arrays: Arrays) -> None:
    betas, pixels = arrays["betas"], arrays["pixels"]
    path = written(betas=(betas[start : start + 5] for start in range(0, 16, 5)), pixels=iter(pixels))
    with h5py.File(path) as file:
        assert np.array_equal(file["betas"][:], betas)
        assert np.array_equal(file["images/pixels"][:], pixels)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"betas": np.zeros((16, 11))}, r"betas is \(16, 11\)"),
        ({"betas": np.zeros((15, 12))}, "betas has 15 rows; there must be 16"),
        ({"betas": [np.zeros((9, 12)), np.zeros((9, 12))]}, "betas has more than 16 rows"),
        ({"trial_image": np.full(16, 8)}, "trial_image must hold .* from 0 to 7"),
        ({"trial_image": np.zeros(16)}, "trial_image is .* whole numbers"),
        ({"image_names": ["a"] * 8}, "no two the same"),
        ({"image_paths": ["a.png"] * 8}, "one of image_paths and pixels"),
        ({"pixels": None}, "one of image_paths and pixels"),
        ({"pixels": np.zeros((8, 4, 4, 3))}, "images/pixels is .* float64"),
        ({"pixels": np.zeros((7, 4, 4, 3), np.uint8)}, "images/pixels has 7 rows; there must be 8"),
        ({"sessions": np.zeros(16, int)}, "sessions goes from 0"),
        ({"test": np.arange(16) < 8, "trial_image": np.repeat(np.arange(8), 2)[::-1] % 4}, "test: 4 images"),
        ({"test": np.zeros(16)}, "test is .* bool"),
        ({"test": np.zeros(16, bool)}, "test marks no trial"),
        ({"test": np.ones(16, bool)}, "test marks all trials"),
        ({"degrees": 0.0}, "degrees is 0.0"),
        ({"zscored": "false"}, "zscored is 'false'; it must be True or False"),
        ({"areas": {"all": np.ones(12, bool)}}, "area 'all'"),
        ({"repeats": np.zeros(16, int)}, "repeats goes from 0"),
        ({"areas": {"V1": np.ones(11, bool)}}, r"areas\['V1'\] is \(11,\)"),
        ({"areas": {"V1,V2": np.ones(12, bool)}}, "area 'V1,V2'"),
        ({"ceiling": np.zeros(5)}, r"ceiling has shape \(5,\)"),
        ({"ceiling_kind": "percent"}, "ceiling_kind is 'percent'"),
        ({"ceiling": None}, "ceiling_kind"),
        ({"subject": "a/b"}, "subject 'a/b'"),
        ({"subject": "subj01"}, "reads as a number"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(written: Write, tmp_path: Path, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ChoiceError, match=said):
        written(**wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_said_before_anything_is_written(
    written: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "free_bytes", lambda path: 16 * 12 * 4 - 1)
    with pytest.raises(BoldreamsError, match=r"own\.h5: its betas take 768 B, of which 767 B are free"):
        written()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(writing, "free_bytes", lambda path: 16 * 12 * 4)
    assert written().is_file()


def test_a_file_that_was_there_outlives_a_refusal(written: Write) -> None:
    before = written().read_bytes()
    with pytest.raises(ChoiceError):
        written(betas=np.zeros((3, 12)))
    assert written("other.h5").parent.joinpath("own.h5").read_bytes() == before


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: VoxelUnits(np.zeros((4, 2)), np.eye(4), (2, 2, 2)), "ijk has shape"),
        (lambda: VoxelUnits(np.zeros((2, 3)), np.eye(4), (2, 2, 2)), "1 voxels are there more than once"),
        (lambda: VoxelUnits(np.array([[0, 0, 2]]), np.eye(4), (2, 2, 2)), "1 voxels lie outside"),
        (lambda: VoxelUnits(np.array([[0, 0, 1]]), np.zeros((4, 4)), (2, 2, 2)), "affine"),
        (lambda: VoxelUnits(np.array([[0, 0, 1]]), np.eye(4) + np.eye(4, k=-3), (2, 2, 2)), "0 0 0 1 as its last row"),
        (lambda: VertexUnits("", np.array(["L"]), np.array([0])), "space is empty"),
        (lambda: VertexUnits("fsaverage", np.array(["l"]), np.array([0])), "'l'"),
        (lambda: VertexUnits("fsaverage", np.array(["L", "L"]), np.array([1, 1])), "1 vertices are there more"),
        (lambda: VertexUnits("fsaverage", np.array(["R"]), np.array([5]), (9, 5)), "hemisphere R, whose mesh has 5"),
        (lambda: VertexUnits("fsaverage", np.array(["R"]), np.array([0.5])), "whole numbers"),
        # Counted on from the left hemisphere's, as in an array of both, or from 1.
        (lambda: VertexUnits("fsaverage5", np.array(["L", "R"]), np.array([0, 10242])), "R, whose mesh has 10242"),
        (lambda: VertexUnits("fs_LR_32k", np.array(["L"]), np.array([32492])), "L, whose mesh has 32492"),
    ],
)
def test_units_that_cannot_be_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ChoiceError, match=said):
        make()


def test_the_example_of_the_page_writes_a_file_without_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert example.count("\n") < 28
    exec(compile(example, str(PAGE), "exec"), {})
    found = check(tmp_path / "S1.h5")
    assert found.errors == []
    assert found.facts["units"] == 40
    assert found.facts["rois"] == {"V1": 20, "V2": 20}
