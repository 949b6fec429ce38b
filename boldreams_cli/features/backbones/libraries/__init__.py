"""Libraries of networks, one file each; `load` finds them all, so that none is listed anywhere.

To add a library, add a file to this room with its `ENTRIES`, those of its networks that have a name of their own here,
and ``named(model)``, the entry of any other (`features.backbones.entry.Entry`). Its file's name is the library's on the
command line: ``--backbone LIBRARY:MODEL``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, cast

from boldreams_cli import rooms

if TYPE_CHECKING:
    from boldreams_cli.features.backbones.entry import Entry


class Library(Protocol):
    """What a file of this room holds."""

    ENTRIES: Sequence[Entry]
    named: Callable[[str], Entry]


def load() -> dict[str, Library]:
    """Import every file of this room: library's name -> what it offers."""
    return {name: cast("Library", module) for name, module in rooms.every(__name__).items()}
