"""A command that kills its process in the midst of a dream or between two attributions."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from boldreams_cli.cli import main
from boldreams_cli.interpret.attribution import record
from boldreams_cli.interpret.dreams.ascent import loop


def run_and_be_killed(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """To be run in a process of its own: it is killed at the fifth step of a dream, or at the second image."""
    os.environ.clear()
    os.environ.update(environment)
    loop.KEEP_EVERY = 0
    loop.Dreamer.step = _killing(loop.Dreamer.step, 4)
    record._attribute_one = _killing(record._attribute_one, 1)
    main([*arguments])


def _killing(function: Callable[..., Any], calls: int) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        if not calls:
            os.kill(os.getpid(), signal.SIGKILL)
        calls -= 1
        return function(*arguments, **named)

    return call
