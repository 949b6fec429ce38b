"""Pictures from their files, upright and in colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from boldreams_cli.console import BoldreamsError


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read a picture as (height, width, 3) uint8, upright as its camera says; a transparent one is laid on black.

    Raises
    ------
    BoldreamsError
        If it is no picture or is damaged.
    """
    try:
        with Image.open(path) as opened:
            picture: Image.Image = ImageOps.exif_transpose(opened)
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture.convert("RGBA"))
            return np.array(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise BoldreamsError(f"{path} is not a picture that can be read: {error}") from error


def check_picture(path: Path) -> None:
    """Look at a picture's header alone; errors as `read_picture`."""
    try:
        with Image.open(path) as opened:
            opened.size  # noqa: B018
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise BoldreamsError(f"{path} is not a picture that can be read: {error}") from error
