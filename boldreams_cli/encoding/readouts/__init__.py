"""Readouts, one file each; `load` finds them all, so that none is listed anywhere (see base.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boldreams_cli import rooms

if TYPE_CHECKING:
    from boldreams_cli.encoding.readouts.base import Readout


def load() -> dict[str, type[Readout]]:
    """Import every file of this room, which fills READOUTS: solver's name -> class."""
    rooms.every(__name__)
    from boldreams_cli.encoding.readouts.base import READOUTS

    return READOUTS
