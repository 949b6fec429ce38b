"""What a fit reads, and the settings of its readout: options that rank, fit and sweep share."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from boldreams_cli.commands.options.data import (
    cache_option,
    data_options,
    nsd_option,
    root_for,
    subject_option,
    the_subject,
)
from boldreams_cli.commands.options.environment import Command, option
from boldreams_cli.commands.options.stores import choose_backbone, choose_store, store_option
from boldreams_cli.commands.options.types import CommaList, Real
from boldreams_cli.data.subjects import Subject

if TYPE_CHECKING:
    from boldreams_cli.console import StopFlag
    from boldreams_cli.data.dataset import Dataset
    from boldreams_cli.data.responses import Responses
    from boldreams_cli.features.store.feature_store import FeatureStore


@dataclass(frozen=True)
class InputChoice:
    """A backbone's maps and a subject's responses, as the options say.

    Parameters
    ----------
    cache : of stores.
    nsd_root : of the subject's data, or their file; None where neither is known.
    backbone, features : of the maps, and which of its stores.
    subject : whose responses.
    sessions, mask, betas : of these.
    """

    cache: Path
    nsd_root: Path | None
    backbone: str
    features: str | None
    subject: Subject
    sessions: str | None
    mask: str | None
    betas: str | None

    def dataset(self) -> Dataset:
        """Open the data set."""
        from boldreams_cli.data.prepared.choosing import dataset_for

        return dataset_for(self.cache, self.subject, self.nsd_root, self.betas)

    def responses(self, stop: StopFlag) -> Responses:
        """Responses as asked for, prepared where the cache lacks them; see `data.choosing.responses_for`."""
        from boldreams_cli.data.prepared.choosing import responses_for

        return responses_for(self.cache, self.subject, self.nsd_root, self.sessions, self.mask, stop, self.betas)

    def read(self, stop: StopFlag) -> tuple[FeatureStore, Responses]:
        """Open both."""
        from boldreams_cli.data.prepared.choosing import names_of

        if isinstance(self.subject, int):  # of numbered images any store will do, and is looked for before betas are
            return choose_store(self.cache, self.backbone, self.features, root=self.nsd_root), self.responses(stop)
        responses = self.responses(stop)
        names = names_of(responses.request)
        return choose_store(self.cache, self.backbone, self.features, names, self.nsd_root), responses


def input_options(command: Command) -> Command:
    """Add --cache, the data's options, --subject, --backbone and --features; the command gets `inputs`."""

    @cache_option
    @nsd_option
    @option("--backbone", default=None, metavar="NAME", help="The backbone (default: the one that the cache holds).")
    @store_option
    @subject_option()
    @data_options
    @functools.wraps(command)
    def run(
        *args: Any,
        cache: Path,
        nsd_root: Path | None,
        backbone: str | None,
        features: str | None,
        subject: Subject | None,
        sessions: str | None,
        mask: str | None,
        betas: str | None,
        **kwargs: Any,
    ) -> None:
        backbone = choose_backbone(cache, backbone)
        subject = the_subject(subject, cache, nsd_root, betas)
        root = root_for(subject, cache, nsd_root)
        inputs = InputChoice(cache, root, backbone, features, subject, sessions, mask, betas)
        command(*args, inputs=inputs, **kwargs)

    return run


def that_readouts_have(given: dict[str, Any], readout: str, recipe: str | None, reads: str) -> dict[str, Any]:
    """Settings of a readout, without those of variables of the environment that it does not have, which is said."""
    from dataclasses import fields

    from boldreams_cli.console import logger
    from boldreams_cli.encoding.readouts.settings import OF_OPTIONS, choose_readout

    known = {field.name for field in fields(choose_readout(readout, recipe, reads, {}).settings)}
    context, kept = click.get_current_context(), dict(given)
    for parameter in context.command.params:
        name = parameter.name or ""
        if kept.get(name) is None or OF_OPTIONS[name] in known:
            continue
        if context.get_parameter_source(name) is ParameterSource.ENVIRONMENT:
            logger.info("%s is not read: --readout %s has no such setting", parameter.get_error_hint(context), readout)
            kept[name] = None
    return kept


def readout_options(command: Command) -> Command:
    """Add the settings of readouts, each None where it was not given."""

    @option(
        "--epochs",
        type=click.IntRange(1),
        help="Passes over the training data (default: 10; clip-text 30; fast 5, attention 10, or as many as 600 "
        "steps take).",
    )
    @option(
        "--lr",
        type=Real(0, min_open=True),
        help="Learning rate of Adam (default: 1e-4; fast 1.5e-3, attention 3e-3).",
    )
    @option(
        "--batch-size",
        type=click.IntRange(1),
        help="Trials in a step, of fast and attention images (default: 16; attention 64).",
    )
    @option(
        "--grid",
        type=click.IntRange(1),
        help="Nodes along each side of a field, of --recipe fast, --readout attention (default: 9), ridge, local and "
        "stacked (5).",
    )
    @option(
        "--compress",
        type=click.Choice(["none", "sqrt"]),
        help="Take the square root of each map value first, of --readout ridge, local and stacked (default: sqrt).",
    )
    @option(
        "--members",
        type=CommaList(click.STRING),
        metavar="LIST",
        help="Ridges to stack, of --readout stacked: ridge, local, layers (default: local,layers).",
    )
    @option(
        "--share",
        type=click.Choice(["voxel", "area"]),
        help="Who has queries of their own, of --readout attention: each voxel, or each area (default: voxel).",
    )
    @option(
        "--precision",
        type=click.Choice(["fp32", "tf32", "bf16"]),
        help="The precision of matrix products; tf32 needs CUDA (default: fp32).",
    )
    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        command(*args, **kwargs)

    return run
