"""Every mistake in a data file is one line that names key and file; what people do otherwise is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from boldreams_cli.console import BoldreamsError
from boldreams_cli.data.neutral.checking import check
from boldreams_cli.data.neutral.reading import open_file
from boldreams_cli.data.opening import open_dataset

from .conftest import Arrays, Write


def replaced(file: Any, key: str, value: Any) -> None:
    del file[key]
    file[key] = value


def shifted() -> np.ndarray:
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = -3, 4, 5
    return affine


def references(file: Any) -> np.ndarray:
    """As MATLAB stores a cell array of strings."""
    return np.array([file["betas"].ref] * 8, dtype=h5py.ref_dtype)


def labelled(file: Any, names: list[str]) -> None:
    file["labels/atlas"] = np.arange(12) % 3
    file["labels/atlas"].attrs["names"] = names


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((16, 12), np.float32)
    layout[:] = h5py.VirtualSource("elsewhere.h5", "betas", (16, 12))
    del file["betas"]
    file.create_virtual_dataset("betas", layout).attrs["zscored"] = False


def linked(file: Any) -> None:
    with h5py.File(Path(file.filename).with_name("elsewhere.h5"), "w") as other:
        other["pixels"] = file["images/pixels"][()]
    del file["images/pixels"]
    file["images/pixels"] = h5py.ExternalLink("elsewhere.h5", "pixels")


def without_attribute(file: Any, key: str, name: str) -> None:
    del file[key].attrs[name]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: f.__delitem__("betas"), "betas is missing"),
        (lambda f: replaced(f, "betas", np.zeros(16)), "betas is (16,)"),
        (lambda f: replaced(f, "units/ijk", f["units/ijk"][:11]), "units/ijk has 11 units, betas 12"),
        (lambda f: replaced(f, "betas", np.zeros((15, 12))), "trial/image has shape (16,); it must be (15,)"),
        (lambda f: f.__delitem__("trial/image"), "trial/image is missing"),
        (lambda f: replaced(f, "trial/image", np.full(16, 8)), "trial/image goes from 8 to 8"),
        (lambda f: replaced(f, "trial/image", np.full(16, 0.5)), "trial/image must hold whole numbers"),
        (lambda f: replaced(f, "trial/image", ["pictures 1"] * 16), "trial/image names 1 images"),
        (lambda f: replaced(f, "trial/session", np.ones(3)), "trial/session has shape (3,)"),
        (lambda f: replaced(f, "trial/session", np.zeros(16)), "trial/session goes from 0"),
        (lambda f: replaced(f, "trial/test", np.arange(16) < 8), "trial/test marks some trials of an image"),
        (lambda f: replaced(f, "trial/test", np.ones(16)), "trial/test marks all trials"),
        (lambda f: replaced(f, "trial/test", np.full(16, 2)), "trial/test must hold true and false"),
        (lambda f: f.__delitem__("images/name"), "images/name is missing"),
        (lambda f: replaced(f, "images/name", ["a"] * 8), "images/name has a name twice: a"),
        (lambda f: replaced(f, "images/name", [*"abcdefg", ""]), "images/name has an empty name: image 7"),
        (lambda f: f.__delitem__("images/pixels"), "images/path is missing, and so is images/pixels"),
        (lambda f: replaced(f, "images/pixels", np.zeros((8, 4, 4))), "images/pixels is (8, 4, 4)"),
        (lambda f: f.__delitem__("units/ijk"), "units/ijk is missing, and so is units/vertex"),
        (lambda f: f.__delitem__("units/affine"), "units/affine is missing"),
        (lambda f: replaced(f, "units/affine", np.zeros((4, 4))), "units/affine must be"),
        (lambda f: replaced(f, "units/shape", np.array([2, 2, 2])), "units/ijk: 4 voxels lie outside"),
        (lambda f: replaced(f, "areas/V1", np.ones(3, bool)), "areas/V1 has shape (3,)"),
        (lambda f: f.create_dataset("labels/atlas", data=np.ones(12, int)), "labels/atlas has no attribute names"),
        (lambda f: replaced(f, "ceiling", np.zeros(3)), "ceiling has shape (3,)"),
        (lambda f: without_attribute(f, "ceiling", "kind"), "ceiling has the attribute kind None"),
        (lambda f: f.attrs.modify("format", "else"), "format is 'else'"),
        (lambda f: f.attrs.modify("version", 2), "version is 2"),
        (lambda f: f.attrs.modify("subject", "01"), "subject '01' reads as a number"),
        (lambda f: f.attrs.create("degrees", -1.0), "degrees must be one number"),
        (lambda f: replaced(f, "betas", f["betas"][()].T), "units/ijk has 12 units, betas 16, and 12 trials; it looks"),
        (
            lambda f: replaced(f, "units/ijk", f["units/ijk"][()].T),
            "units/ijk has shape (3, 12); it must be (units, 3); it",
        ),
        (
            lambda f: replaced(f, "units/affine", shifted().T),
            "units/affine must be (4, 4) with 0 0 0 1 as its last row",
        ),
        (lambda f: replaced(f, "images/pixels", f["images/pixels"][()].T), "images/pixels is (3, 20, 20, 8) uint8; it"),
        (lambda f: f["betas"].attrs.create("zscored", "perhaps"), "zscored must be true or false, not 'perhaps'"),
        (lambda f: replaced(f, "images/name", references(f)), "images/name must hold text, not Reference; cells of"),
        (lambda f: replaced(f, "images/name", np.arange(8) / 2), "images/name must hold text, not float"),
        (lambda f: replaced(f, "ceiling", ["a"] * 12), "ceiling must hold numbers"),
        (lambda f: replaced(f, "areas/V1", np.ones((3, 4), bool)), "areas/V1 has shape (3, 4)"),
        (lambda f: f.create_dataset("areas/all", data=np.ones(12, bool)), "areas/all: area 'all'"),
        (lambda f: f.create_group("areas/visual"), "areas/visual is a group"),
        (lambda f: labelled(f, ["V1", "V2"]), "labels/atlas has an area 'V1', and so has areas/V1"),
        (lambda f: labelled(f, ["", "V2"]), "labels/atlas: area ''"),
        (lambda f: labelled(f, ["left"]), "labels/atlas goes to 2, and its attribute names has 1 names"),
        (lambda f: virtual(f), "betas points to numbers in other files"),
        (lambda f: linked(f), "images/pixels points to numbers in other files"),
        (lambda f: replaced(f, "trial/session", np.arange(16) // 15 + 1), "trial/session: session 2 has one trial"),
        (lambda f: f["betas"].write_direct(np.full((16, 12), np.nan, np.float32)), "betas: no unit has finite betas"),
    ],
)
def test_a_mistake_is_one_line_that_names_key_and_file(written: Write, spoil: Callable[[Any], Any], said: str) -> None:
    path = written()
    with h5py.File(path, "a") as file:
        spoil(file)
    found = check(path)
    assert len(found.errors) == 1, found.errors
    assert found.errors[0].startswith(f"{path}: {said}")
    assert "\n" not in found.errors[0]


def test_several_mistakes_are_named_together(written: Write) -> None:
    path = written()
    with h5py.File(path, "a") as file:
        replaced(file, "trial/session", np.ones(3))
        replaced(file, "areas/V1", np.ones(3, bool))
    assert len(check(path).errors) == 2
    with pytest.raises(BoldreamsError, match=r"trial/session(.|\n)*areas/V1"):
        open_file(path)


def test_no_such_file_and_no_hdf5_file(tmp_path: Path) -> None:
    assert check(tmp_path / "none.h5").errors == [f"there is no {tmp_path / 'none.h5'}; give the path of a data file"]
    (tmp_path / "text.h5").write_text("no")
    (error,) = check(tmp_path / "text.h5").errors
    assert "text.h5 is truncated or damaged" in error


def test_a_picture_that_is_missing_or_none(written: Write, tmp_path: Path) -> None:
    for number in range(8):
        Image.new("RGB", (20 + number, 30), (number, 9, 9)).save(tmp_path / f"{number}.jpg")
    path = written(pixels=None, image_paths=[f"{number}.jpg" for number in range(8)])
    assert check(path).errors == []
    (tmp_path / "3.jpg").unlink()
    (tmp_path / "4.jpg").write_text("no picture")
    gone, none = check(path).errors
    assert gone.startswith(f"{path}: images/path: there is no {tmp_path / '3.jpg'}")
    assert none.startswith(f"{path}: images/path: {tmp_path / '4.jpg'} is not a picture")


def test_one_picture_under_two_names_is_said(written: Write, arrays: Arrays, tmp_path: Path) -> None:
    """Held out under one name and trained on under the other, it would make any model look good."""
    for number in range(8):
        Image.new("RGB", (20, 20), (number, 9, 9)).save(tmp_path / f"{number}.png")
    (tmp_path / "5.png").write_bytes((tmp_path / "2.png").read_bytes())
    names = [f"{number}.png" for number in range(8)]
    found = check(written(pixels=None, image_paths=names))
    assert found.errors == []
    assert any(
        "images/path: 1 pictures are copies of others (picture 5 of picture 2)" in line for line in found.warnings
    )
    (error,) = check(written(pixels=None, image_paths=[*names[:6], "0.png", "0.png"])).errors
    assert "images/path has a file twice: picture 0 and picture 6 are both" in error
    pixels = arrays["pixels"].copy()
    pixels[7] = pixels[1]
    said = check(written(pixels=pixels)).warnings
    assert any("images/pixels: 1 pictures are copies of others (picture 7 of picture 1)" in line for line in said)


def test_text_as_matlab_saves_it_is_read(written: Write, arrays: Arrays) -> None:
    """``save -v7.3`` writes text as numbers of characters, turned as all else there."""
    path = written(areas={})
    with h5py.File(path, "a") as file:
        del file.attrs["subject"]
        for key, lines in (("subject", ["S1a"]), ("images/name", [f"p{number}" for number in (*range(7), 10)])):
            width = max(map(len, lines))
            if key in file:
                del file[key]
            file[key] = np.array([[ord(letter) for letter in line.ljust(width)] for line in lines], np.uint16).T
            file[key].attrs["MATLAB_class"] = np.bytes_("char")
    data = open_file(path)
    assert data.subject == "S1a"
    assert data.images.names == ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p10"]


def test_what_people_write_otherwise_is_read(arrays: Arrays, tmp_path: Path) -> None:
    """The least file: keys at the top, names in place of numbers, attributes on the file, half precision."""
    path = tmp_path / "S-2.h5"
    with h5py.File(path, "w") as file:
        file["betas"] = arrays["betas"].astype(np.float16)
        file["trial/image"] = [arrays["image_names"][image] for image in arrays["trial_image"]]
        file["images/name"], file["images/pixels"] = arrays["image_names"], arrays["pixels"]
        file["vertex"], file["hemisphere"] = np.arange(12), np.array(["lh"] * 5 + ["R"] * 7, dtype="S2")
        file.attrs["space"], file.attrs["zscored"] = "fsLR32k", True
        file["labels/atlas"] = np.arange(12) % 3
        file["labels/atlas"].attrs["names"] = ["first", "second"]
    data = open_file(path)
    assert (data.subject, data.zscored, data.units.plural) == ("S-2", True, "vertices")
    assert data.units.columns()["hemisphere"].tolist() == ["L"] * 5 + ["R"] * 7
    assert np.array_equal(data.trials.image, arrays["trial_image"])
    found = check(path)
    assert found.errors == []
    assert found.facts["rois"] == {"first": 4, "second": 4}
    assert found.facts["test"] == {"images": 3, "trials": 6, "marked": False}
    assert any("ceiling is missing" in line for line in found.warnings)


def test_what_is_odd_is_counted(written: Write, arrays: Arrays) -> None:
    betas = arrays["betas"].copy()
    betas[3, 2], betas[:, 5] = np.nan, 1
    ceiling = np.linspace(-5, 100, 12)
    path = written(betas=betas, ceiling=ceiling, ceiling_kind="single-trial", areas={"none": np.zeros(12, bool)})
    found = check(path)
    assert found.errors == []
    assert (found.facts["not_finite"], found.facts["constant"]) == (1, 1)
    said = "\n".join(found.warnings)
    assert "betas: 1 units have values that are not finite" in said
    assert "betas: 1 units are the same in all trials" in said
    assert "ceiling: 2 values are no single-trial ceiling" in said
    assert "areas: 1 have no unit: none" in said


def test_what_matlab_and_julia_write_is_read(arrays: Arrays, tmp_path: Path) -> None:
    """Vectors of two axes, doubles, flags as words or bytes, strings of fixed length."""
    path = tmp_path / "S3.h5"
    with h5py.File(path, "w") as file:
        file["betas"] = arrays["betas"].astype(np.float64)
        file["betas"].attrs["zscored"] = "false"
        file["trial/image"], file["trial/session"] = arrays["trial_image"][None] * 1.0, arrays["sessions"][:, None]
        file["trial/test"] = arrays["test"][None].astype(np.uint8)
        file["images/name"] = np.array([name.encode() for name in arrays["image_names"]], "S12")[None]
        file["images/pixels"] = arrays["pixels"]
        file["units/vertex"], file["units/hemisphere"] = np.arange(12.0)[None], np.array([b"lh"] * 12)[:, None]
        file["units"].attrs["space"], file["units"].attrs["vertices"] = np.bytes_("fsaverage5"), [[10242, 10242]]
        file["areas/V1"], file["ceiling"] = np.eye(12)[:1], np.full((12, 1), 0.5)
        file["ceiling"].attrs["kind"] = np.array([b"ncsnr"])
    data = open_file(path)
    assert (data.zscored, data.units.plural) == (False, "vertices")
    assert np.array_equal(data.trials.image, arrays["trial_image"])
    assert data.trials.session is not None
    assert np.array_equal(data.trials.session, arrays["sessions"])
    assert data.images.names == arrays["image_names"]
    assert data.ceiling is not None
    assert data.ceiling.values.shape == (12,)
    found = check(path)
    assert (found.errors, found.facts["rois"]) == ([], {"V1": 1})
    for word, said in (("True", True), ("no", False), (np.uint8(1), True), (np.array([False]), False)):
        with h5py.File(path, "a") as file:
            file["betas"].attrs["zscored"] = word
        assert open_file(path).zscored is said


def test_labels_that_share_a_name_are_one_area(written: Write) -> None:
    path = written(areas={})
    with h5py.File(path, "a") as file:
        file["labels/atlas"] = np.repeat([0, 1, 2, 4], 3)
        file["labels/atlas"].attrs["names"] = ["V1", "V1", "", "V2"]
    areas = open_dataset(path).areas("CSI1")
    assert areas.counts() == {"V1": 6, "V2": 3}
    assert areas.select("V1").tolist() == [False] * 3 + [True] * 6 + [False] * 3
    assert check(path).errors == []


def test_units_that_are_constant_in_a_session_and_small_tests_are_said(written: Write, arrays: Arrays) -> None:
    betas = arrays["betas"].copy()
    betas[arrays["sessions"] == 3, 4] = 2
    found = check(written(betas=betas))
    assert (found.facts["constant"], found.facts["constant_in_a_session"]) == (0, 1)
    said = "\n".join(found.warnings)
    assert "betas: 1 units are the same in all trials of a session; they will be left out" in said
    assert "trial/test: 2 images are the test; a correlation over so few says nothing" in said
    given = check(written(betas=betas, zscored=True))
    assert given.facts["constant_in_a_session"] == 0


def test_indices_that_begin_at_one_are_odd(written: Write, arrays: Arrays) -> None:
    shown = np.tile(np.arange(1, 8), 3)[:16]
    found = check(written(trial_image=shown, test=shown < 3))
    assert any("1 of 8 images are in no trial; the first is one of them: indices" in line for line in found.warnings)


def test_oblong_pictures_are_counted(written: Write, tmp_path: Path) -> None:
    for number in range(8):
        Image.new("RGB", (30, 30 if number else 40), (number, 9, 9)).save(tmp_path / f"{number}.jpg")
    found = check(written(pixels=None, image_paths=[f"{number}.jpg" for number in range(8)]))
    assert any("images/path: 1 pictures are not square" in line for line in found.warnings)
