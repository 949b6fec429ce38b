"""Where data come from: the cache, the root or the file, the subject and what is used of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from boldreams_cli import console
from boldreams_cli.commands.options.environment import Command, option
from boldreams_cli.commands.options.types import SUBJECT
from boldreams_cli.console import ChoiceError, MismatchError, logger
from boldreams_cli.data.subjects import Subject, in_order, store_name, subject_of_store

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
    """Add --nsd-root and --data; the command gets the one that was given as `nsd_root`."""

    @option(
        "--data",
        type=click.Path(path_type=Path, dir_okay=False),
        default=None,
        excludes=["nsd-root"],
        metavar="FILE",
        help="A data file of your own, in place of --nsd-root (default: that which the subject was prepared from).",
    )
    @option(
        "--nsd-root",
        type=click.Path(path_type=Path),
        default=None,
        excludes=["data"],
        help="The folder that holds nsddata, nsddata_betas and nsddata_stimuli; only read.",
    )
    @functools.wraps(command)
    def run(*args: Any, nsd_root: Path | None, data: Path | None, **kwargs: Any) -> None:
        source = click.get_current_context().get_parameter_source
        if data is not None and nsd_root is not None:
            if source("data") is source("nsd_root") is ParameterSource.COMMANDLINE:
                raise ChoiceError("--data and --nsd-root exclude each other; give one of them")
            if any(isinstance(subject, int) for subject in _asked(kwargs)):  # of that root; both are in the environment
                data = None
        command(*args, nsd_root=nsd_root if data is None else data, **kwargs)

    return run


def _asked(given: Mapping[str, Any]) -> tuple[Subject | None, ...]:
    """Subjects that a command was given, in whichever way it takes them."""
    one = given.get("subject")
    several = one if isinstance(one, tuple) else (one,)  # of a sweep
    return (*several, *given.get("subjects", ()), getattr(given.get("choice"), "subject", None))


def subject_option(required: bool = False) -> Callable[[Command], Command]:
    """Add --subject."""
    said = "The subject, as 1, 01 or subj01, or its name."
    return option("--subject", type=SUBJECT, default=None, required=required, help=said)


def betas_option(command: Command) -> Command:
    """Add --betas."""
    return option(
        "--betas",
        default=None,
        metavar="[SPACE/]PREPARATION",
        help="NSD's betas to use: func1pt8mm, func1mm, fsaverage or nativesurface, and betas_fithrf_GLMdenoise_RR, "
        "betas_fithrf or betas_assumehrf, e.g. fsaverage/betas_fithrf (default: the first of both).",
    )(command)


def data_options(command: Command) -> Command:
    """Add --sessions, --mask and --betas."""
    command = betas_option(command)
    command = option(
        "--mask",
        default=None,
        metavar="nsdgeneral|AREA|FILE",
        help="Voxels to use instead of the union of all areas; of a data file, those of an area.",
    )(command)
    return option(
        "--sessions",
        default=None,
        metavar="LIST",
        help="Sessions to use, e.g. 1-40 or 1,3,5-7 (default: 1-37, or all of those there).",
    )(command)


def captions_option(command: Command) -> Command:
    """Add --captions-dir."""
    return option(
        "--captions-dir",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        default=None,
        help="Folder of COCO's captions files, for clip-text (default: under the NSD root).",
    )(command)


def dataset_of(nsd_root: Path | None, betas: str | None = None) -> Dataset:
    """Open the data set under --nsd-root, or in --data."""
    from boldreams_cli.data.opening import open_dataset

    return open_dataset(nsd_root, betas)


def root_for(subject: Subject, cache: Path, nsd_root: Path | None) -> Path | None:
    """The root of a subject's data; see `data.choosing.root_of`."""
    from boldreams_cli.data.prepared.choosing import root_of

    return root_of(cache, subject, nsd_root)


def the_subject(subject: Subject | None, cache: Path, nsd_root: Path | None, betas: str | None = None) -> Subject:
    """--subject, or the only one that there is; of --data FILE its own.

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


def subjects_there(cache: Path, nsd_root: Path | None, betas: str | None = None) -> tuple[Subject, ...]:
    """The subject of the data file, or every subject that the cache or the folder of the root holds betas of."""
    from boldreams_cli.data.opening import is_data_file

    if nsd_root is not None and is_data_file(nsd_root):  # one that is gone is named
        return tuple(dataset_of(nsd_root).subjects())
    held = {of for path in (cache / "responses").glob("*.zarr") if (of := subject_of_store(path.name)) is not None}
    if nsd_root is not None and nsd_root.is_dir():
        held |= set(dataset_of(nsd_root, betas).subjects())
    return tuple(sorted(held, key=in_order))


def responses_of(model: FittedModel, cache: Path, nsd_root: Path | None = None) -> Responses:
    """The responses that a model was fitted to, compared with the data that are given, where these are at hand.

    Raises
    ------
    MismatchError
        If the cache no longer holds them, or they were made from other inputs than those under the root.
    """
    from boldreams_cli.data.prepared.checking import check_inputs
    from boldreams_cli.data.responses import Responses

    name = store_name(model.spec.subject, model.spec.responses)
    path = cache / "responses" / name
    if not path.is_dir():
        raise MismatchError(
            f"{model.folder} was fitted to {name}, which {cache} does not hold; run boldreams prepare "
            f"--subject {model.spec.subject} with the same --sessions, --mask and --betas, or fit again"
        )
    logger.debug("responses: %s", path)
    responses = Responses.open(path)
    root = root_for(model.spec.subject, cache, nsd_root)
    if root is not None and root.exists():
        check_inputs(responses, dataset_of(root))
    return responses


def responses_or_none(
    model: FittedModel, cache: Path, nsd_root: Path | None, needed: bool, without: str
) -> Responses | None:
    """As `responses_of`; None, and a line in the log, where they cannot be had and are not needed.

    Parameters
    ----------
    needed : whether nothing can be done without them.
    without : what is left out then.
    """
    try:
        return responses_of(model, cache, nsd_root)
    except MismatchError as error:
        if needed:
            raise
        logger.info("%s (%s)", without, error)
        return None
