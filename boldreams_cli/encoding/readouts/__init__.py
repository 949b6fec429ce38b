"""Readouts, one file each; `load` finds them all, so that none is listed anywhere (see base.py)."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from boldreams_cli.encoding.readouts.base import Readout


def load() -> dict[str, type[Readout]]:
    """Import every file of this room, which fills READOUTS: solver's name -> class."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    from boldreams_cli.encoding.readouts.base import READOUTS

    return READOUTS
