"""The options of `boldreams sweep`: its axes and settings, and what a job array is given."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boldreams_cli.commands.options.data import data_options, subjects_there
from boldreams_cli.commands.options.environment import Command, option
from boldreams_cli.commands.options.fits import readout_options
from boldreams_cli.commands.options.stores import choose_backbone, store_option
from boldreams_cli.commands.options.types import PERCENT, SUBJECT, CommaList

if TYPE_CHECKING:
    from boldreams_cli.study.grid import Grid

FILES = ("mask", "weights")  # settings that may be a file
AXES = ("percent", "backbone", "subject", "readout", "recipe", "finetune", "seed")


def grid_options(command: Command) -> Command:
    """Add the axes and settings of a study, and its file; the command gets `given`, those that are not None."""

    @click.argument("file", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False))
    @option("--percent", type=CommaList(PERCENT), help="Shares of the filters (default: the paper's nine).")
    @option("--backbone", type=CommaList(click.STRING), help="Backbones (default: the one that the cache holds).")
    @option("--subject", type=CommaList(SUBJECT), help="Subjects (default: all that there are).")
    @option("--readout", type=CommaList(click.STRING), help="Readouts, as in fit (default: separable).")
    @option("--recipe", type=CommaList(click.STRING), help="Recipes of the separable readout (default: paper).")
    @option("--finetune", type=CommaList(click.BOOL), help="Whether the backbone is trained too (default: no).")
    @option("--seed", type=CommaList(click.IntRange(0)), help="Seeds of all random numbers (default: 0).")
    @data_options
    @store_option
    @option("--weights", metavar="pretrained|random|FILE", help="Weights of the backbones to extract or finetune.")
    @option("--rf", type=click.Choice(["shared", "layer"]), help="Receptive fields, as in fit (default: shared).")
    @readout_options
    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from boldreams_cli.study.grid import SETTINGS

        given = {name: kwargs.pop(name) for name in (*AXES, *SETTINGS)}
        command(*args, given={name: value for name, value in given.items() if value is not None}, **kwargs)

    return run


def slurm_options(command: Command) -> Command:
    """Add what a job array is given; the command gets `sbatch`, KEY=VALUE of sbatch's long options."""

    @option("--partition", metavar="NAME", help="The partition of SLURM.")
    @option("--time", metavar="TIME", help="The time limit of a cell, as sbatch takes it.")
    @option("--gres", metavar="LIST", help="Generic resources of a cell, e.g. gpu:1.")
    @option("--cpus", type=click.IntRange(1), help="Cores of a cell.")
    @option(
        "--mem", metavar="SIZE", help="Memory of a cell's job, as sbatch takes it (--memory is what a fit plans with)."
    )
    @option("--limit", type=click.IntRange(1), default=32, help="Cells of an array that run at a time.")
    @option("--shards", type=click.IntRange(1), default=8, help="Tasks of an array that extracts a backbone's maps.")
    @option(
        "--sbatch",
        multiple=True,
        separators="\n",
        metavar="KEY=VALUE",
        help="Any other option of sbatch, repeatable (KEY alone for one without a value).",
    )
    @functools.wraps(command)
    def run(*args: Any, sbatch: tuple[str, ...], cpus: int | None, **kwargs: Any) -> None:
        named = {name: kwargs.pop(name) for name in ("partition", "time", "gres", "mem")} | {"cpus-per-task": cpus}
        asked = {name: str(value) for name, value in named.items() if value is not None}
        for item in sbatch:
            key, _, value = item.partition("=")
            asked[key.strip().lstrip("-")] = value
        command(*args, sbatch=asked, **kwargs)

    return run


def the_grid(file: Path | None, given: dict[str, Any], cache: Path, nsd_root: Path | None) -> tuple[str | None, Grid]:
    """The name in the file, and the grid of the file and of what was typed, which wins.

    Raises
    ------
    ChoiceError
        If there is no subject, or the file makes no sense.
    """
    from boldreams_cli.study.grid import make_grid, read_toml

    name, asked = read_toml(file) if file is not None else (None, {})
    asked |= given
    for setting in FILES:  # jobs may start in another folder
        if isinstance(asked.get(setting), str) and Path(asked[setting]).is_file():
            asked[setting] = str(Path(asked[setting]).absolute())
    if asked.get("backbone") is None:
        asked["backbone"] = (choose_backbone(cache, None),)
    if asked.get("subject") is None:
        asked["subject"] = subjects_there(cache, nsd_root, asked.get("betas"))
    return name, make_grid(asked)
