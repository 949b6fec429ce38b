"""Options and commands whose values may come from environment variables, with examples in their help.

Every option reads BOLDREAMS_<COMMAND>_<OPTION>. BOLDREAMS_<OPTION> is read by all commands where the option means the
same in all (SHARED), by the command that alone has such an option, and by none where it would mean several things.
An option that was typed wins over every variable, of its own and of the options that it excludes.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from click.core import ParameterSource

from boldreams_cli.commands.options.types import SubjectName

Command = Callable[..., Any]

OF_DATA = {"cache", "nsd-root", "data", "subject", "sessions", "mask", "betas", "captions-dir", "features"}
OF_MODELS = {"backbone", "clip", "percent", "readout", "recipe", "rf", "finetune", "fit-seed", "folds", "model"}
OF_FITS = {"compress", "epochs", "grid", "members", "precision", "share"}
OF_RUNNING = {"device", "memory", "seed", "json", "verbose", "quiet", "debug"}
SHARED = OF_DATA | OF_MODELS | OF_FITS | OF_RUNNING
COMMON = OF_RUNNING | {"cache", "nsd-root", "data"}  # that stand last in a command's help
# Options of several commands that mean another thing in each, and the commands that BOLDREAMS_<OPTION> is meant for.
SEVERAL = {
    "batch-size": ("fit", "sweep"),
    "count": (),
    "dry-run": ("extract",),
    "image": (),
    "layers": ("extract",),  # to read; info's is a backbone whose layers to list
    "lr": ("fit", "sweep"),
    "output": (),
    "overwrite": (),
    "reference": ("wordcloud",),  # its images; that of minimal is a percent
    "roi": (),
    "steps": (),
    "weights": (
        "extract",
        "fit",
        "sweep",
    ),  # the backbone's; wordcloud's are CLIP's, the others' say where a file has moved to
    "filter": (),
    "minus": (),
    "min-ceiling": ("dream",),
    "min-r": ("dream",),
    "voxel": (),
}


def long_name(parameter: click.Parameter) -> str:
    """The option without its dashes, e.g. ``nsd-root``."""
    return long_names(parameter)[0]


def long_names(parameter: click.Parameter) -> list[str]:
    """The option and its other names, without dashes."""
    return [name.removeprefix("--") for name in parameter.opts if name.startswith("--")]


def variables(command: str, option: str) -> list[str]:
    """Environment variables of a command's option: the one to show first, then others that are read."""

    def written(*words: str) -> str:
        return "_".join(["BOLDREAMS", *(word.replace("-", "_").upper() for word in words)])

    own, plain = written(command, option), written(option)
    if option in SHARED:
        return [plain, own]
    return [own, plain] if option not in SEVERAL or command in SEVERAL[option] else [own]


class ShellOption(click.Option):
    """An option that may come from the environment.

    Parameters
    ----------
    excludes : long names of options beside which this one makes no sense. Once one of them was typed, this option's
        variables are not read.
    only_beside : long names of options, and the values beside which alone this one makes sense. Once one was typed with
        another value, this option's variables are not read.
    separators : characters that part the values of a repeatable option in its variable; never blanks, which paths
        and captions have.
    """

    def __init__(
        self,
        *args: Any,
        excludes: Sequence[str] = (),
        only_beside: Mapping[str, Sequence[Any]] | None = None,
        separators: str = "\n" + os.pathsep,
        **more: Any,
    ):
        super().__init__(*args, **more)
        self.excludes, self.only_beside = tuple(excludes), only_beside or {}
        self.separators = r" ,\s" if isinstance(self.type, SubjectName) else re.escape(separators)

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """As click's, the command's own variable first; none where this one makes no sense beside what was typed."""
        typed = {
            long_name(parameter): ctx.params.get(parameter.name or "")
            for parameter in ctx.command.params
            if isinstance(parameter, ShellOption)
            and ctx.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        }
        if typed.keys() & set(self.excludes):
            return None
        for name, values in self.only_beside.items():
            value = typed.get(name, values[0])
            if not set(value if isinstance(value, tuple | list) else (value,)) & set(values):
                return None
        names = sorted(self.envvar or (), key=len, reverse=True)
        return next((os.environ[name] for name in names if os.environ.get(name)), None)

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """As click's, but a repeatable option's values are parted at its separators."""
        if not self.multiple:
            return super().value_from_envvar(ctx)
        value = self.resolve_envvar_value(ctx)
        return value and [part for part in re.split(f"[{self.separators}]+", value) if part]

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Name the option, or the variable that its value came from."""
        if ctx is not None and ctx.get_parameter_source(self.name or "") is ParameterSource.ENVIRONMENT:
            return " ".join(name for name in self.envvar or () if os.environ.get(name))
        return f"--{long_name(self)}"

    def get_help_extra(self, ctx: click.Context) -> Any:
        """As click's, with the first variable only."""
        extra = super().get_help_extra(ctx)
        if extra.get("envvars"):
            extra["envvars"] = extra["envvars"][:1]
        return extra


class ShellCommand(click.Command):
    """A command whose options have environment variables, and whose help ends with examples.

    Parameters
    ----------
    examples : command lines.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **more: Any):
        super().__init__(*args, **more)
        self.examples = tuple(examples)
        for parameter in self.params:
            if isinstance(parameter, ShellOption):
                named = [variables(self.name or "", name) for name in long_names(parameter)]
                parameter.envvar = list(itertools.chain(*named))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, whose errors of the parser itself do not say of which command they are."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options first, then those that are the same in most; arguments are in the text."""
        own: list[tuple[str, str]] = []
        common: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Argument):
                continue
            if (record := parameter.get_help_record(ctx)) is not None:
                same = not isinstance(parameter, ShellOption) or long_name(parameter) in COMMON
                (common if same else own).append(record)
        for title, records in (("Options", own), ("Data, machine and output", common)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are typed."""
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def command(*examples: str, name: str | None = None) -> Callable[[Command], click.Command]:
    """Make a command of a function, by its name or another; the examples are shown at the end of its help."""
    return click.command(name, cls=ShellCommand, examples=examples)


def option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """Make an option with its environment variables; takes what click.option and `ShellOption` do."""
    return click.option(*names, cls=ShellOption, **({"show_envvar": True, "show_default": True} | settings))
