"""What people call an image, in captions, titles and on the screen."""

from __future__ import annotations

from pathlib import Path

from boldreams_cli.data.opening import label_of
from boldreams_cli.encoding.evaluation.predict import Wanted


def called(image: Wanted, data_root: Path | None) -> str:
    """Its name or number in the data set; of a file, the file's name.

    Parameters
    ----------
    image : from `find_images`.
    data_root : of the data set that ids are of.
    """
    if image.image_id is not None:
        return label_of(data_root, image.image_id)
    return image.file.name if image.file is not None else str(image.name)
