"""Which fitted model is meant."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boldreams_cli.commands.options.data import cache_option
from boldreams_cli.commands.options.environment import Command, option
from boldreams_cli.commands.options.types import PERCENT, READOUT, RECIPE, SEED, SUBJECT, WITH_RECIPES
from boldreams_cli.console import ChoiceError, logger
from boldreams_cli.data.subjects import Subject

if TYPE_CHECKING:
    from boldreams_cli.encoding.model.spec import FittedModel

# Fields of a model's spec that an option asks for; without it, any value matches. In the order of a command line.
SELECTORS = {
    "subject": "--subject",
    "backbone": "--backbone",
    "percent": "--percent",
    "readout": "--readout",
    "recipe": "--recipe",
    "rf": "--rf",
    "finetuned": "--finetune",
    "seed": "--fit-seed",
}


@dataclass(frozen=True)
class ModelChoice:
    """Which fitted model is meant: --model, or any of the selectors.

    Parameters
    ----------
    cache : to look in.
    model : a folder, a model's name or a unique beginning of it.
    subject, backbone, percent, readout, recipe, rf, finetuned, seed : that the model must have; None for any.
    """

    cache: Path
    model: str | None = None
    subject: Subject | None = None
    backbone: str | None = None
    percent: float | None = None
    readout: str | None = None
    recipe: str | None = None
    rf: str | None = None
    finetuned: bool | None = None
    seed: int | None = None

    @property
    def asked(self) -> dict[str, Any]:
        """The selectors that were given."""
        return {name: value for name in SELECTORS if (value := getattr(self, name)) is not None}

    def resolve(self) -> FittedModel:
        """Load it.

        Raises
        ------
        ChoiceError
            If not exactly one matches, or --model names one that the selectors exclude.
        """
        from boldreams_cli.encoding.model.folder import find_models, resolve, the_model
        from boldreams_cli.encoding.model.spec import FittedModel

        if self.model is None:
            folder = the_model(find_models(self.cache, **self.asked), self.cache)
        else:
            folder = resolve(self.cache, self.model)
        fitted = FittedModel.load(folder)
        self._check(fitted)
        logger.debug("model: %s", folder)
        return fitted

    def _check(self, fitted: FittedModel) -> None:
        """Raise ChoiceError if the model is not what the selectors say."""
        spec = fitted.spec
        known = {name: getattr(spec, name, spec.training.get(name)) for name in SELECTORS}
        wrong = [name for name, value in self.asked.items() if known[name] != value]
        if wrong:
            asked = " ".join(_typed(name, self.asked[name]) for name in wrong)
            is_ = ", ".join(f"{name} {known[name]}" for name in wrong)
            raise ChoiceError(f"{fitted.folder} is a model of {is_}, and not of {asked}; leave out one or the other")


def _typed(name: str, value: Any) -> str:
    """A selector as it is typed."""
    if name == "finetuned":
        return "--finetune" if value else "--no-finetune"
    return f"{SELECTORS[name]} {value:g}" if isinstance(value, float) else f"{SELECTORS[name]} {value}"


def moved_weights_option(command: Command) -> Command:
    """Add --weights, where a model's backbone is built again."""
    said = "The backbone's weights, if they have moved."
    return option("--weights", default=None, metavar="FILE", help=said)(command)


def model_options(command: Command) -> Command:
    """Add the selectors of a model; the command gets `choice`.

    The seed of the fit is --fit-seed, and --seed too in a command that draws no random numbers itself.
    """
    taken = {parameter.name for parameter in getattr(command, "__click_params__", ())}
    seed = ["--fit-seed"] if "seed" in taken else ["--seed", "--fit-seed"]
    selector = functools.partial(option, default=None, excludes=["model"])

    @cache_option
    @selector("--backbone", metavar="NAME", help="The model's backbone.")
    @selector("--percent", type=PERCENT, help="The model's share of the filters.")
    @selector("--subject", type=SUBJECT, help="The model's subject, as 1, 01 or subj01, or its name.")
    @selector("--finetune/--no-finetune", "finetuned", help="A finetuned model, or one that is not.")
    @selector(
        "--readout",
        type=READOUT,
        metavar="NAME",
        excludes=["model", "recipe"],
        help="The model's readout; no default, unlike that of fit.",
    )
    @selector(
        "--recipe",
        type=RECIPE,
        metavar="NAME",
        only_beside=WITH_RECIPES,
        help="The model's recipe; no default, unlike that of fit.",
    )
    @selector("--rf", type=click.Choice(["shared", "layer"]), help="The model's receptive fields.")
    @selector(*seed, "fit_seed", type=SEED, help="The seed that the model was fitted with.")
    @option(
        "--model",
        default=None,
        excludes=["backbone", "percent", "subject", "finetune", "readout", "recipe", "rf", seed[0].removeprefix("--")],
        metavar="NAME|FOLDER",
        help="The model outright: its folder, its name, or a unique beginning of it.",
    )
    @functools.wraps(command)
    def run(
        *args: Any,
        cache: Path,
        backbone: str | None,
        percent: float | None,
        subject: Subject | None,
        finetuned: bool | None,
        readout: str | None,
        recipe: str | None,
        rf: str | None,
        fit_seed: int | None,
        model: str | None,
        **kwargs: Any,
    ) -> None:
        if backbone is not None:
            from boldreams_cli.features.backbones import entry

            backbone = entry(backbone).name
        choice = ModelChoice(cache, model, subject, backbone, percent, readout, recipe, rf, finetuned, fit_seed)
        command(*args, choice=choice, **kwargs)

    return run
