"""Importers of public data sets, one file each: to add one, add a file with an `IMPORTER`; its name is its file's."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from boldreams_cli.console import ChoiceError, listing

if TYPE_CHECKING:
    from boldreams_cli.data.importing.recording import Importer


def names() -> list[str]:
    """All importers; nothing is imported."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def load(name: str) -> Importer:
    """Import an importer.

    Raises
    ------
    ChoiceError
        If there is none of that name.
    """
    if name not in names():
        raise ChoiceError(f"no importer {name!r}; choose from {listing(names())}")
    importer: Importer = import_module(f"{__name__}.{name}").IMPORTER
    return importer
