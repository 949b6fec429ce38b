"""Opens the data set that lies under a folder, or in a file; a new one is named here."""

from __future__ import annotations

from pathlib import Path

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
    return open_dataset(root).image_named(name) if root is not None and is_data_file(root) else None


def preparation_of(betas: str | None) -> str | None:
    """The ``preparation`` of a request that is made with ``--betas``; None of the default.

    Raises
    ------
    ChoiceError
        If there are no such betas.
    """
    from boldreams_cli.data.nsd.betas_choice import BetasChoice

    return BetasChoice.read(betas).named
