"""The parts of the page: the files beside this one have them, and none is listed anywhere.

To add a figure or a table to the page, add a file to this room with its `PARTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from boldreams_cli import rooms
from boldreams_cli.study.report.assets import Assets
from boldreams_cli.study.report.blocks import Section
from boldreams_cli.study.report.collect import Holdings


@dataclass(frozen=True)
class Part:
    """A section of the page, and where it stands.

    Parameters
    ----------
    make : from what the cache holds; None where there is nothing to say.
    place : on the page, from the top.
    turn : to take room on the page, whose size is bounded: pictures come after all that is small.
    """

    make: Callable[[Holdings, Assets], Section | None]
    place: int
    turn: int = 0


def parts() -> list[Part]:
    """Those of all files of this room, in the order in which they take room."""
    room = __name__.rpartition(".")[0]
    found = [part for module in rooms.every(room).values() for part in getattr(module, "PARTS", ())]
    return sorted(found, key=lambda part: (part.turn, part.place))
