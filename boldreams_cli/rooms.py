"""Rooms that find their own files: what one file adds (a readout, an importer, ...) is listed nowhere else."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import ModuleType

from boldreams_cli.console import ChoiceError, listing, meant


def names(room: str) -> list[str]:
    """Names of a room's files, sorted; none of them is imported.

    Parameters
    ----------
    room : a package, as it is imported.
    """
    found = (module.name for module in pkgutil.iter_modules(import_module(room).__path__))
    return sorted(name for name in found if not name.startswith("_"))


def load(room: str, name: str) -> ModuleType:
    """Import one file of a room."""
    return import_module(f"{room}.{name}")


def every(room: str) -> dict[str, ModuleType]:
    """Import all files of a room, by their names."""
    return {name: load(room, name) for name in names(room)}


def refuse_unknown(name: str, known: list[str], what: str, option: str = "") -> None:
    """Raise ChoiceError, with the names that there are, for a name that no file has.

    Parameters
    ----------
    name : that was typed.
    known : those that there are.
    what : they name.
    option : that they are given by.
    """
    if name not in known:
        said = f" ({option})" if option else ""
        raise ChoiceError(f"no {what} {name!r}{meant(name, known)}; choose from {listing(known)}{said}")
