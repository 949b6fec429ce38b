"""Opens the data set that lies under a folder, or in a file; a new one is named here."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from boldreams_cli.console import ChoiceError
from boldreams_cli.data.dataset import Dataset

FILES = (".h5", ".hdf5", ".hdf")


def open_dataset(root: Path | None, betas: str | None = None) -> Dataset:
    """Open the data set whose files lie under `root`, or that is in this file.

    Parameters
    ----------
    root : of its files.
    betas : which of its betas, where it has several; None for its default.

    Raises
    ------
    ChoiceError
        If it has no such betas.
    BoldreamsError
        If no root was given, or it is missing or holds no data set that is known.
    """
    if root is not None and is_data_file(root):
        from boldreams_cli.data.neutral.maker import DataFiles

        if betas is not None:
            raise ChoiceError(f"{root} has one kind of betas; leave out --betas {betas}")
        return DataFiles(root)
    from boldreams_cli.data.nsd.maker import NSD

    return NSD(root, betas)


def is_data_file(root: Path) -> bool:
    """Whether a root is a file of ours, or is named like one and is gone."""
    return root.is_file() or (root.suffix in FILES and not root.is_dir())


def image_named(root: Path | None, name: str) -> int | None:
    """Id of the image that a data set calls so, None where none is."""
    return _named(root).image_named(name) if root is not None and is_data_file(root) else None


def label_of(root: Path | None, image: int) -> str:
    """What people call an image: its name in a data file that is there, else its number; for captions and titles."""
    return _named(root).image_label(image) if root is not None and root.is_file() else str(image)


def images_of(root: Path | None) -> dict[str, Any] | None:
    """What identifies the images of a data file that is there, whose ids are places in it; None of any other root."""
    if root is None or not root.is_file():
        return None
    from boldreams_cli.data.neutral.maker import DataFiles

    return DataFiles(root).images_at_hand()


def _named(root: Path) -> Dataset:
    """A data file, whose names are read once while it stays the same: they are asked for image by image."""
    if not root.is_file():
        return open_dataset(root)
    found = root.stat()
    return _opened(root, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _opened(root: Path, size: int, changed: int) -> Dataset:
    return open_dataset(root)


def preparation_of(betas: str | None) -> str | None:
    """The ``preparation`` of a request that is made with ``--betas``; None of the default.

    Raises
    ------
    ChoiceError
        If there are no such betas.
    """
    from boldreams_cli.data.nsd.betas.choice import BetasChoice

    return BetasChoice.read(betas).named
