"""The options of `boldreams sweep`: its axes and settings, and what a job array is given."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from boldreams_cli.commands.options.data import cache_option, data_options, nsd_option, subjects_there
from boldreams_cli.commands.options.environment import Command, option
from boldreams_cli.commands.options.fits import readout_options
from boldreams_cli.commands.options.machine import device_option, memory_option
from boldreams_cli.commands.options.stores import choose_backbone, store_option
from boldreams_cli.commands.options.types import PERCENT, SEED, SUBJECT, WITH_RECIPES, CommaList
from boldreams_cli.console import ChoiceError

if TYPE_CHECKING:
    from boldreams_cli.study.cells.grid import Grid
    from boldreams_cli.study.cells.manifest import Study

FILES = ("mask", "weights")  # settings that may be a file
AXES = ("percent", "backbone", "subject", "readout", "recipe", "finetune", "seed")
MANIFEST = click.Path(path_type=Path)


@dataclass(frozen=True)
class StudyChoice:
    """Which study is meant: that of a grid, or one that is there.

    Parameters
    ----------
    cache : that it lies in.
    nsd_root : of the data, or their file.
    file, given : of the grid: its file, and axes and settings that are not None.
    name : of the study of the grid.
    manifest : of a study that is there, or its folder or name.
    device, memory : to compute on, and bytes to use at most.
    typed : names of the parameters that were typed.
    defaults : of those that were neither typed nor in the environment.
    """

    cache: Path
    nsd_root: Path | None
    file: Path | None
    given: dict[str, Any]
    name: str | None
    manifest: Path | None
    device: str
    memory: int
    typed: frozenset[str]
    defaults: frozenset[str]

    def study(self) -> Study:
        """The study; nothing is written.

        Raises
        ------
        ChoiceError
            If the grid makes no sense, another one has its name, or there is no such study.
        """
        from boldreams_cli.study.cells.manifest import Study

        if self.manifest is not None:
            self.excludes("--manifest", *_of_grids())
            return Study.find(self.cache, self.manifest)
        named, grid = the_grid(self.file, self.given, self.cache, self.nsd_root)
        machine = self.device, self.memory, self.defaults
        return Study.make(self.cache, self.name or named, grid, self.nsd_root, *machine)

    def of_status(self, status: Path) -> Study:
        """The study that --status names.

        Raises
        ------
        ChoiceError
            If there is none, or options were typed that say what to run.
        """
        from boldreams_cli.study.cells.manifest import Study

        self.excludes("--status", *_of_grids(), "manifest", "cell", "executor", "dry_run")
        return Study.find(self.cache, status)

    def machine(self, study: Study) -> tuple[str, int]:
        """Device and memory: those that were typed here, else those of the manifest; a job's environment is no wish."""
        return (
            self.device if "device" in self.typed else study.device,
            self.memory if "memory" in self.typed else study.memory,
        )

    def excludes(self, option: str, *names: str) -> None:
        """Refuse options that were typed beside one that leaves nothing for them to say."""
        if wrong := [name for name in names if name in self.typed]:
            other = "FILE" if wrong[0] == "file" else f"--{wrong[0].replace('_', '-')}"
            raise ChoiceError(f"{other} does not go with {option}; leave out one of them")


def _of_grids() -> tuple[str, ...]:
    from boldreams_cli.study.cells.grid import SETTINGS

    return ("file", *AXES, *SETTINGS, "name", "data", "nsd_root")


def study_options(command: Command) -> Command:
    """Add all that says which study is meant, and where it is computed; the command gets `choice`."""

    @cache_option
    @nsd_option
    @grid_options
    @option("--name", metavar="NAME", help="The study's folder under CACHE/studies (default: sweep-HASH).")
    @option("--manifest", type=MANIFEST, metavar="FILE", help="Run cells of a study by its manifest.")
    @memory_option
    @device_option
    @functools.wraps(command)
    def run(
        *args: Any,
        cache: Path,
        nsd_root: Path | None,
        file: Path | None,
        given: dict[str, Any],
        name: str | None,
        manifest: Path | None,
        device: str,
        memory: int,
        **kwargs: Any,
    ) -> None:
        context = click.get_current_context()
        source = context.get_parameter_source
        typed = frozenset(name for name in context.params if source(name) is ParameterSource.COMMANDLINE)
        defaults = frozenset(name for name in context.params if source(name) is ParameterSource.DEFAULT)
        choice = StudyChoice(cache, nsd_root, file, given, name, manifest, device, memory, typed, defaults)
        command(*args, choice=choice, **kwargs)

    return run


def grid_options(command: Command) -> Command:
    """Add the axes and settings of a study, and its file; the command gets `given`, those that are not None."""

    @click.argument("file", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False))
    @option("--percent", type=CommaList(PERCENT), help="Shares of the filters (default: the paper's nine).")
    @option("--backbone", type=CommaList(click.STRING), help="Backbones (default: the one that the cache holds).")
    @option("--subject", type=CommaList(SUBJECT), help="Subjects (default: all that there are).")
    @option(
        "--readout",
        type=CommaList(click.STRING),
        excludes=["recipe"],
        help="Readouts, as in fit (default: separable).",
    )
    @option(
        "--recipe",
        type=CommaList(click.STRING),
        only_beside=WITH_RECIPES,
        help="Recipes of the separable readout (default: paper).",
    )
    @option("--finetune", type=CommaList(click.BOOL), help="Whether the backbone is trained too (default: no).")
    @option("--seed", type=CommaList(SEED), help="Seeds of all random numbers (default: 0).")
    @data_options
    @store_option
    @option("--weights", metavar="pretrained|random|FILE", help="Weights of the backbones to extract or finetune.")
    @option("--rf", type=click.Choice(["shared", "layer"]), help="Receptive fields, as in fit (default: shared).")
    @readout_options
    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from boldreams_cli.study.cells.grid import SETTINGS

        given = {name: kwargs.pop(name) for name in (*AXES, *SETTINGS)}
        command(*args, given={name: value for name, value in given.items() if value is not None}, **kwargs)

    return run


@dataclass(frozen=True)
class Arrays:
    """What job arrays are given.

    Parameters
    ----------
    sbatch : long options of sbatch.
    limit : cells of an array that run at a time.
    shards : tasks of an extraction's array.
    """

    sbatch: dict[str, str]
    limit: int
    shards: int


def slurm_options(command: Command) -> Command:
    """Add what a job array is given; the command gets `arrays`."""

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
    def run(*args: Any, sbatch: tuple[str, ...], cpus: int | None, limit: int, shards: int, **kwargs: Any) -> None:
        named = {name: kwargs.pop(name) for name in ("partition", "time", "gres", "mem")} | {"cpus-per-task": cpus}
        asked = {name: str(value) for name, value in named.items() if value is not None}
        for item in sbatch:
            key, _, value = item.partition("=")
            asked[key.strip().lstrip("-")] = value
        command(*args, arrays=Arrays(asked, limit, shards), **kwargs)

    return run


def the_grid(file: Path | None, given: dict[str, Any], cache: Path, nsd_root: Path | None) -> tuple[str | None, Grid]:
    """The name in the file, and the grid of the file and of what was typed, which wins.

    Raises
    ------
    ChoiceError
        If there is no such subject, or the file makes no sense.
    """
    from boldreams_cli.console import listing
    from boldreams_cli.study.cells.grid import make_grid, read_toml

    name, asked = read_toml(file) if file is not None else (None, {})
    asked |= given
    for setting in FILES:  # jobs may start in another folder
        if isinstance(asked.get(setting), str) and Path(asked[setting]).is_file():
            asked[setting] = str(Path(asked[setting]).absolute())
    if asked.get("backbone") is None:
        asked["backbone"] = (choose_backbone(cache, None),)
    there = subjects_there(cache, nsd_root, asked.get("betas"))
    if asked.get("subject") is None:
        if not there:
            raise ChoiceError("no subject is known: use --nsd-root DIR or --data FILE, or name them with --subject")
        asked["subject"] = there
    grid = make_grid(asked)
    if there and (unknown := [subject for subject in grid.subject if subject not in there]):
        raise ChoiceError(f"no betas of subject {listing(unknown)}; there: {listing(there)} (--subject)")
    return name, grid
