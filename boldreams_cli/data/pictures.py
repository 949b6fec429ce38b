"""Pictures from their files, upright and in colour."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from boldreams_cli.console import BoldreamsError

GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # converted as they are, all but the darkest would be white


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read a picture as (height, width, 3) uint8, upright as its camera says; a transparent one is laid on black.

    Raises
    ------
    BoldreamsError
        If it is no picture, is damaged, or has numbers that are no brightness.
    """
    with _opened(path) as opened:
        picture: Image.Image = ImageOps.exif_transpose(opened)
        if picture.mode in GREY_16:
            return _grey(np.asarray(picture))
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture.convert("RGBA"))
        return np.array(picture.convert("RGB"))


def check_picture(path: Path) -> tuple[int, int]:
    """Width and height by a picture's header alone; errors as `read_picture`, but for damage behind it."""
    with _opened(path) as opened:
        return opened.size


def _grey(values: NDArray[np.integer]) -> NDArray[np.uint8]:
    """(height, width) of 16 bits to 8 bits of each colour."""
    if values.min() < 0 or values.max() >= 2**16:
        raise ValueError(f"it goes from {values.min()} to {values.max()}, which 16 bits do not hold")
    return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture, open; whatever is wrong with it is one error."""
    try:
        with Image.open(path) as opened:
            if opened.mode == "F" or (opened.mode == "I" and opened.format != "PNG"):
                raise ValueError("its pixels have 32 bits, of which nothing says what is white")
            yield opened
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BoldreamsError(f"{path} is not a picture that can be read: {error}") from error
