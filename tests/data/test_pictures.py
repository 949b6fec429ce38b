"""Pictures as people have them: of every kind that has a brightness, and those that have none refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boldreams_cli.console import BoldreamsError
from boldreams_cli.data.pictures import check_picture, read_picture

RAMP = np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_of_grey_keep_their_brightness(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"grey.{suffix}"
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(path)
    found = read_picture(path)
    assert found.dtype == np.uint8
    for colour in range(3):
        np.testing.assert_array_equal(found[..., colour], RAMP)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "CMYK", "1", "LA", "RGBA"])
def test_pictures_of_all_modes_are_in_colour(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode).save(path)
    found = read_picture(path)
    assert found.shape == (4, 6, 3)
    assert found.min() > 250
    assert check_picture(path) == (6, 4)


def test_what_is_transparent_lies_on_black(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (2, 1), (200, 100, 50, 255))
    picture.putpixel((1, 0), (255, 255, 255, 0))
    picture.save(tmp_path / "picture.png")
    assert read_picture(tmp_path / "picture.png").tolist() == [[[200, 100, 50], [0, 0, 0]]]


def test_pixels_without_a_known_white_are_refused(tmp_path: Path) -> None:
    for name, values in (("float", np.ones((4, 4), np.float32)), ("long", np.ones((4, 4), np.int32))):
        path = tmp_path / f"{name}.tif"
        Image.fromarray(values).save(path)
        for read in (read_picture, check_picture):
            with pytest.raises(BoldreamsError, match=rf"{name}.tif is not a picture that can be read: .*32 bits"):
                read(path)


def test_a_picture_too_large_to_be_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BoldreamsError, match=r"large.png is not a picture that can be read"):
        read_picture(tmp_path / "large.png")


def test_a_picture_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    Image.effect_noise((64, 64), 80).save(path)
    path.write_bytes(path.read_bytes()[:600])
    assert check_picture(path) == (64, 64)
    with pytest.raises(BoldreamsError, match=r"cut.jpg is not a picture that can be read"):
        read_picture(path)
