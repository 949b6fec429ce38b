"""Which fitted model is meant."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boldreams_cli.commands.options.data import cache_option
from boldreams_cli.commands.options.environment import Command, option
from boldreams_cli.commands.options.types import PERCENT, SUBJECT
from boldreams_cli.console import logger

if TYPE_CHECKING:
    from boldreams_cli.encoding.model.spec import FittedModel


@dataclass
class ModelChoice:
    """Which fitted model is meant: --backbone --percent --subject --finetune --readout, or --model."""

    cache: Path
    backbone: str | None
    percent: float | None
    subject: int | None
    finetune: bool | None
    readout: str | None
    model: Path | None

    def resolve(self) -> FittedModel:
        """Load it.

        Raises
        ------
        ChoiceError
            If not exactly one matches.
        """
        from boldreams_cli.encoding.model.folder import find_models, the_model
        from boldreams_cli.encoding.model.spec import FittedModel

        if self.model is not None:
            return FittedModel.load(self.model)
        matching = find_models(self.cache, self.backbone, self.percent, self.subject, self.finetune, self.readout)
        folder = the_model(matching, self.cache)
        logger.debug("model: %s", folder)
        return FittedModel.load(folder)


def model_options(command: Command) -> Command:
    """Add the selectors of a model; the command gets `choice`."""

    @cache_option
    @option("--backbone", default=None, help="Of the model.")
    @option("--percent", type=PERCENT, default=None, help="Of the model's filters.")
    @option("--subject", type=SUBJECT, default=None, help="Of the model: 1, 01 or subj01.")
    @option("--finetune/--no-finetune", default=None, help="A finetuned model or not.")
    @option(
        "--readout", type=click.Choice(["separable", "ridge", "gaussian", "linear"]), default=None, help="Of the model."
    )
    @option("--model", type=click.Path(path_type=Path), default=None, help="The model's folder outright.")
    @functools.wraps(command)
    def run(
        *args: Any,
        cache: Path,
        backbone: str | None,
        percent: float | None,
        subject: int | None,
        finetune: bool | None,
        readout: str | None,
        model: Path | None,
        **kwargs: Any,
    ) -> None:
        if backbone is not None:
            from boldreams_cli.features.backbones.registry import entry

            backbone = entry(backbone).name
        command(*args, choice=ModelChoice(cache, backbone, percent, subject, finetune, readout, model), **kwargs)

    return run
