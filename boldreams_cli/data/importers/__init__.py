"""Importers of public data sets, one file each: to add one, add a file with an `IMPORTER`; its name is its file's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boldreams_cli import rooms

if TYPE_CHECKING:
    from boldreams_cli.data.importing.recording import Importer


def names() -> list[str]:
    """All importers; nothing is imported."""
    return rooms.names(__name__)


def load(name: str) -> Importer:
    """Import an importer.

    Raises
    ------
    ChoiceError
        If there is none of that name.
    """
    rooms.refuse_unknown(name, names(), "importer")
    importer: Importer = rooms.load(__name__, name).IMPORTER
    return importer
