"""Methods of attribution, one file each: to add one, add a file with a `METHOD`, and its name is its file's."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from boldreams_cli.console import ChoiceError, listing

if TYPE_CHECKING:
    from boldreams_cli.interpret.attribution.method import Method

DEFAULT = "integrated-gradients"


def names() -> list[str]:
    """All methods, the default first; nothing is imported."""
    found = sorted(path.stem.replace("_", "-") for path in Path(__file__).parent.glob("[a-z]*.py"))
    return [DEFAULT, *(name for name in found if name != DEFAULT)]


def load(name: str) -> Method:
    """Import a method.

    Raises
    ------
    ChoiceError
        If there is none of that name.
    """
    if name not in names():
        raise ChoiceError(f"no method {name!r}; choose from {listing(names())} (--method)")
    method: Method = import_module(f"{__name__}.{name.replace('-', '_')}").METHOD
    return method
