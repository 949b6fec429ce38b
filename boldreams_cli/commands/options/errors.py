"""What is said of an error, in one or two lines: what was wrong, what is valid, what to type."""

from __future__ import annotations

import re

import click
from click.core import ParameterSource

from boldreams_cli.console import meant, quoted
from boldreams_cli.files import NO_ROOM
from boldreams_cli.machine import is_out_of_memory

# What a message says to type: not where it speaks of a command.
TO_TYPE = re.compile(
    r"(?:(?<=[Rr]un )|(?<=[Rr]un `)|(?<=and )|(?<=and `)|(?<=: ))boldreams ([a-z]+)\b|boldreams ([a-z]+)(?= --)"
)
PLACES = {"cache": "--cache", "nsd_root": "--nsd-root", "data": "--data"}  # parameters, and how they are typed
INTERRUPTED = 128 + 2  # a shell's exit code for a process that SIGINT ended


def described(error: BaseException) -> str | None:
    """Say what went wrong; None for an error that only a traceback explains."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if is_out_of_memory(error):
        where = "the device is out of memory" if type(error).__name__ == "OutOfMemoryError" else "out of memory"
        return f"{where}; use a smaller --memory, --batch-size or --count, or a larger machine"
    if isinstance(error, RuntimeError):
        return None
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename is not None else ""
        remedy = "; make room or use a place on another disk, then run the same command to go on"
        return f"{place}{error.strerror}{remedy if error.errno in NO_ROOM else ''}"
    return str(error)


def with_places(message: str, context: click.Context) -> str:
    """Add the places that were typed, of the cache and the data, to the commands that a message says to run."""
    group, typed = context.parent, ParameterSource.COMMANDLINE
    places = {name: context.params[name] for name in PLACES if context.get_parameter_source(name) is typed}
    if group is None or not isinstance(group.command, click.Group) or not places:
        return message
    commands = group.command

    def completed(found: re.Match[str]) -> str:
        command = commands.get_command(group, found[1] or found[2])
        takes = {parameter.name for parameter in command.params} if command is not None else set()
        options = [f" {PLACES[name]} {quoted(value)}" for name, value in places.items() if name in takes]
        return found[0] + "".join(option for option in options if option.split()[0] not in message)

    return TO_TYPE.sub(completed, message)


def usage(error: click.ClickException) -> str:
    """One or two lines of click's error: what was wrong, the valid choices, and where help is."""
    message = re.sub(r"\s+", " ", error.format_message()).strip().rstrip(".")
    message = message[:1].lower() + message[1:]
    context = getattr(error, "ctx", None)
    if isinstance(error, click.BadParameter) and error.param is not None and isinstance(error.param.type, click.Choice):
        typed = re.match(r"'([^']*)' is not one of", error.message)
        message += meant(typed[1], error.param.type.choices) if typed else ""
    command = context.command_path if context is not None else "boldreams"
    if isinstance(error, click.NoSuchOption) and context is not None and isinstance(context.command, click.Group):
        message = f"no option {error.option_name} before a command; options stand behind it: boldreams COMMAND --json"
    return f"boldreams: {message}; see {command} --help"
