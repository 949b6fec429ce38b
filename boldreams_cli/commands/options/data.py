"""Where data come from: the cache, the NSD root, the subject and what is used of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from boldreams_cli import console
from boldreams_cli.commands.options.environment import Command, option
from boldreams_cli.commands.options.types import SUBJECT
from boldreams_cli.console import ChoiceError, MismatchError, logger

if TYPE_CHECKING:
    from boldreams_cli.data.dataset import Dataset
    from boldreams_cli.data.responses import Responses
    from boldreams_cli.encoding.model.spec import FittedModel


def cache_option(command: Command) -> Command:
    """Add --cache."""
    return option(
        "--cache",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("cache"),
        help="The folder of stores and models.",
    )(command)


def nsd_option(command: Command) -> Command:
    """Add --nsd-root."""
    return option(
        "--nsd-root",
        type=click.Path(path_type=Path),
        default=None,
        help="The folder that holds nsddata, nsddata_betas and nsddata_stimuli; only read.",
    )(command)


def subject_option(required: bool = False) -> Callable[[Command], Command]:
    """Add --subject."""
    return option("--subject", type=SUBJECT, default=None, required=required, help="The subject, as 1, 01 or subj01.")


def betas_option(command: Command) -> Command:
    """Add --betas."""
    return option(
        "--betas",
        default=None,
        metavar="[SPACE/]PREPARATION",
        help="NSD's betas to use: func1pt8mm or func1mm, and betas_fithrf_GLMdenoise_RR, betas_fithrf or "
        "betas_assumehrf, e.g. func1mm/betas_fithrf (default: the first of both).",
    )(command)


def data_options(command: Command) -> Command:
    """Add --sessions, --mask and --betas."""
    command = betas_option(command)
    command = option(
        "--mask",
        default=None,
        metavar="nsdgeneral|FILE",
        help="Voxels to use instead of the union of all areas.",
    )(command)
    return option(
        "--sessions",
        default=None,
        metavar="LIST",
        help="Sessions to use, e.g. 1-40 or 1,3,5-7 (default: 1-37, or all of those there).",
    )(command)


def dataset_of(nsd_root: Path | None, betas: str | None = None) -> Dataset:
    """Open the data set under --nsd-root."""
    from boldreams_cli.data.opening import open_dataset

    return open_dataset(nsd_root, betas)


def the_subject(subject: int | None, cache: Path, nsd_root: Path | None, betas: str | None = None) -> int:
    """--subject, or the only one that there is.

    Raises
    ------
    ChoiceError
        If there is none or more than one.
    """
    if subject is not None:
        return subject
    there = subjects_there(cache, nsd_root, betas)
    if len(there) != 1:
        raise ChoiceError(f"choose a subject with --subject; there: {console.listing(there)}")
    return there[0]


def subjects_there(cache: Path, nsd_root: Path | None, betas: str | None = None) -> tuple[int, ...]:
    """Every subject that the cache or the NSD root holds betas of."""
    held = {int(path.name[4:6]) for path in (cache / "responses").glob("subj[0-9][0-9]-*.zarr")}
    if nsd_root is not None and nsd_root.is_dir():
        held |= set(dataset_of(nsd_root, betas).subjects())
    return tuple(sorted(held))


def responses_of(model: FittedModel, cache: Path, nsd_root: Path | None = None) -> Responses:
    """The responses that a model was fitted to, compared with the data under --nsd-root where it is at hand.

    Raises
    ------
    MismatchError
        If the cache no longer holds them, or they were made from other inputs than those under the root.
    """
    from boldreams_cli.data.checking import check_inputs
    from boldreams_cli.data.responses import Responses

    name = f"subj{model.spec.subject:02d}-{model.spec.responses}.zarr"
    path = cache / "responses" / name
    if not path.is_dir():
        raise MismatchError(
            f"{model.folder} was fitted to {name}, which {cache} does not hold; run boldreams prepare "
            f"--subject {model.spec.subject} with the same --sessions, --mask and --betas, or fit again"
        )
    logger.debug("responses: %s", path)
    responses = Responses.open(path)
    if nsd_root is not None and nsd_root.exists():
        check_inputs(responses, dataset_of(nsd_root))
    return responses
