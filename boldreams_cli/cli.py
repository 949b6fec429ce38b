"""The command line: a group whose commands are imported when called, so that --help stays quick."""

from __future__ import annotations

import importlib
import io
import keyword
import sys
from typing import NoReturn

import click

from boldreams_cli import __version__

# What is listed together -> name -> what it does, for the group's help without importing anything.
SECTIONS = {
    "Data": {
        "import": "Write a subject of a public data set into one neutral file.",
        "validate": "Say what is missing or odd in a data file of your own.",
        "prepare": "Bring betas, masks, areas and split of a subject into the cache.",
    },
    "Models": {
        "extract": "Compute a backbone's ReLU maps of the subjects' images, once.",
        "rank": "Order the filters of each layer by how much they vary.",
        "fit": "Fit a readout of the stored maps to a subject's voxels.",
        "score": "Measure the test accuracy of a fitted model, per voxel and area.",
        "predict": "Predict the betas of any images.",
    },
    "What they see": {
        "dream": "Find the images that excite an area, a voxel or a filter most.",
        "attribute": "Show which pixels of an image drive an area's response.",
        "wordcloud": "Draw the words that fit an image, a dream or an area best.",
        "gallery": "Show areas by models: their dreams, words and attributions.",
    },
    "Studies": {
        "sweep": "Fit and score a grid of models, here or as SLURM arrays.",
        "compare": "Compare two models of one subject: which predicts better, and where.",
        "minimal": "Find the smallest percent of filters that will do, per area.",
        "report": "Write one page of all that the cache holds.",
    },
    "The cache": {
        "info": "Say what the cache holds, or list layers and areas.",
        "remove": "Delete fitted models, with all that was made from them.",
    },
    "To begin with": {
        "demo": "Make a small experiment with a known brain and run everything on it.",
    },
}
COMMANDS = {name: said for section in SECTIONS.values() for name, said in section.items()}


def load(name: str) -> click.Command:
    """Import a command; one whose name is a word of Python's has an underscore after it in the code."""
    plain = f"{name}_" if keyword.iskeyword(name) else name
    command: click.Command = getattr(importlib.import_module(f"boldreams_cli.commands.{plain}"), plain)
    return command


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports the one that is called."""

    def list_commands(self, context: click.Context) -> list[str]:
        """In the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import one command."""
        return load(name) if name in COMMANDS else None

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the valid commands in the error."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from boldreams_cli.console import meant

            near = meant(args[0], COMMANDS)
            context.fail(f"no command {args[0]!r}{near}; choose from {', '.join(COMMANDS)}")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """List commands without importing them."""
        widest = max(map(len, COMMANDS))
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), said) for name, said in section.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="boldreams")
def boldreams() -> None:
    """Train and interpret models of the brain's response to natural images.

    Maps of a pretrained network are computed once (extract); a readout from them to each voxel is fitted and
    scored from that store (fit, score). COMMAND --help has examples; demo needs no data.

    Every option has an environment variable: BOLDREAMS_<OPTION> for those that mean the same everywhere
    (BOLDREAMS_NSD_ROOT, BOLDREAMS_CACHE, BOLDREAMS_DEVICE), and BOLDREAMS_<COMMAND>_<OPTION> for all
    (BOLDREAMS_DREAM_STEPS); COMMAND --help names them. What is typed wins. In the variable of a repeatable option,
    values are parted by newlines or, as in PATH, by colons; subjects by blanks or commas.
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point: run a command and exit with its code.

    0 done, 1 failed, 2 usage, 3 mismatch, 75 resumable, and as of a shell 128 plus the number of a signal.
    """
    from boldreams_cli.commands.options.errors import INTERRUPTED, described, usage

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks ± or a path's letters is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        result = boldreams.main(arguments, prog_name="boldreams", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:  # click's own message would be four lines
        click.echo(usage(error), err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("boldreams: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except OSError as error:  # what is not a command's own: help to a disk that is full
        click.echo(f"boldreams: {described(error)}", err=True)
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)


if __name__ == "__main__":
    main()
