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
    """Which fitted model is meant: --backbone --percent --subject --finetune --readout --recipe, or --model."""

    cache: Path
    backbone: str | None
    percent: float | None
    subject: int | None
    finetune: bool | None
    readout: str | None
    model: Path | None
    recipe: str | None = None

    def resolve(self) -> FittedModel:
        """Load it.

        Raises
        ------
        ChoiceError
            If not exactly one matches.
        """
        from boldreams_cli.encoding.model.folder import find_models, resolve, the_model
        from boldreams_cli.encoding.model.spec import FittedModel

        if self.model is not None:
            return FittedModel.load(resolve(self.cache, str(self.model)))
        matching = find_models(
            self.cache,
            backbone=self.backbone,
            percent=self.percent,
            subject=self.subject,
            finetuned=self.finetune,
            readout=self.readout,
            recipe=self.recipe,
        )
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
    @option("--recipe", default=None, metavar="paper|fast", help="Of the model.")
    @option(
        "--model",
        type=click.Path(path_type=Path),
        default=None,
        help="The model outright: its folder, its name, or how that begins.",
    )
    @functools.wraps(command)
    def run(
        *args: Any,
        cache: Path,
        backbone: str | None,
        percent: float | None,
        subject: int | None,
        finetune: bool | None,
        readout: str | None,
        recipe: str | None,
        model: Path | None,
        **kwargs: Any,
    ) -> None:
        if backbone is not None:
            from boldreams_cli.features.backbones.registry import entry

            backbone = entry(backbone).name
        command(
            *args, choice=ModelChoice(cache, backbone, percent, subject, finetune, readout, model, recipe), **kwargs
        )

    return run
