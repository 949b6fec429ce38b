"""Opens the data set that lies under a folder; a new one is named here."""

from __future__ import annotations

from pathlib import Path

from boldreams_cli.data.dataset import Dataset


def open_dataset(root: Path | None, betas: str | None = None) -> Dataset:
    """Open the data set whose files lie under `root`.

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
    from boldreams_cli.data.nsd.maker import NSD

    return NSD(root, betas)


def preparation_of(betas: str | None) -> str | None:
    """The ``preparation`` of a request that is made with ``--betas``; None of the default.

    Raises
    ------
    ChoiceError
        If there are no such betas.
    """
    from boldreams_cli.data.nsd.betas_choice import BetasChoice

    return BetasChoice.read(betas).named
