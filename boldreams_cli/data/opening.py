"""Opens the data set that lies under a folder; a new one is named here."""

from __future__ import annotations

from pathlib import Path

from boldreams_cli.data.dataset import Dataset


def open_dataset(root: Path | None) -> Dataset:
    """Open the data set whose files lie under `root`.

    Raises
    ------
    BoldreamsError
        If no root was given, or it is missing or holds no data set that is known.
    """
    from boldreams_cli.data.nsd.maker import NSD

    return NSD(root)
