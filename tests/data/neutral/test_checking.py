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

from .conftest import Arrays, Write


def replaced(file: Any, key: str, value: Any) -> None:
    del file[key]
    file[key] = value


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
        (lambda f: replaced(f, "images/name", ["a"] * 8), "images/name has a name twice"),
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
    assert check(tmp_path / "none.h5").errors == [f"there is no {tmp_path / 'none.h5'}; correct --data FILE"]
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
    assert found.facts["test"] == {"images": 1, "trials": 2, "marked": False}
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
