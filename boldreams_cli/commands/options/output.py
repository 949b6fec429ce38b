"""How commands speak and end: results, logging, errors as one line and an exit code."""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, TextIO

import click

from boldreams_cli import console, machine
from boldreams_cli.commands.options.environment import Command, option
from boldreams_cli.commands.options.errors import INTERRUPTED, described, with_places
from boldreams_cli.console import BoldreamsError

BROKEN_PIPE = 128 + 13  # a shell's exit code for a process that SIGPIPE ended
# All others make files, and a job may be made of them: whenever a scheduler stops one, the same command goes on.
MAKE_NOTHING = ("info", "validate", "remove")


@dataclass
class Output:
    """How a command speaks: results to stdout, as text or as one JSON object; all else to stderr.

    Parameters
    ----------
    as_json : one object in place of text.
    stream : stdout as it was when the command began.
    """

    as_json: bool
    stream: TextIO

    def show(self, result: dict[str, Any], *lines: str) -> None:
        """Print the JSON object, or the lines for people."""
        from boldreams_cli.files import to_json

        if self.as_json:
            click.echo(json.dumps(to_json(result)), self.stream)
        else:
            for line in lines:
                click.echo(line, self.stream)


def output_options(command: Command) -> Command:
    """Add --json, -v, -q and --debug, start logging, and turn errors into one line and an exit code."""

    @option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
    @option("-v", "--verbose", is_flag=True, excludes=["quiet"], help="Log more to stderr: what is read, and timings.")
    @option("-q", "--quiet", is_flag=True, excludes=["verbose"], help="Log only warnings and errors to stderr.")
    @option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(command)
    def run(*args: Any, as_json: bool, verbose: bool, quiet: bool, debug: bool, **kwargs: Any) -> None:
        console.start_logging(1 if verbose else -1 if quiet else 0)
        machine.keep_freed()
        machine.same_products()
        try:
            spoken = Output(as_json, sys.stdout)
            with console.ended_by_signals(), redirect_stdout(sys.stderr):  # libraries say there that they download
                command(*args, output=spoken, **kwargs)
        except BrokenPipeError:  # `boldreams score | head`: end as quietly as a signal would have it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(BROKEN_PIPE) from None
        except console.SignalExit as ended:
            if ended.signal.name == "SIGHUP" or click.get_current_context().info_name in MAKE_NOTHING:
                click.echo(f"boldreams: {ended}", err=True)
                raise
            click.echo(f"boldreams: {ended}; run the same command to go on", err=True)
            raise SystemExit(console.StoppedError.exit_code) from None
        except (BoldreamsError, OSError, MemoryError, KeyboardInterrupt, RuntimeError) as error:
            said = described(error)
            if said is None:
                raise
            if debug:
                traceback.print_exc()
            click.echo(f"boldreams: {with_places(said, click.get_current_context())}", err=True)
            code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
            raise SystemExit(code) from error

    return run
