"""Methods of attribution, one file each: to add one, add a file with a `METHOD`, and its name is its file's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boldreams_cli import rooms

if TYPE_CHECKING:
    from boldreams_cli.interpret.attribution.method import Method

DEFAULT = "integrated-gradients"


def names() -> list[str]:
    """All methods, the default first; nothing is imported."""
    found = [name.replace("_", "-") for name in rooms.names(__name__)]
    return [DEFAULT, *(name for name in found if name != DEFAULT)]


def load(name: str) -> Method:
    """Import a method.

    Raises
    ------
    ChoiceError
        If there is none of that name.
    """
    rooms.refuse_unknown(name, names(), "method", "--method")
    method: Method = rooms.load(__name__, name.replace("-", "_")).METHOD
    return method
