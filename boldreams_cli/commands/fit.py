"""`boldreams fit`: the readout from the store alone, or with `--finetune` the backbone too, from images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import InputChoice, Output
from boldreams_cli.commands.options.tuning import Tuning, tuning_options

if TYPE_CHECKING:
    from boldreams_cli.console import StopFlag
    from boldreams_cli.data.responses import Responses
    from boldreams_cli.encoding.fit import FitResult
    from boldreams_cli.encoding.folds import Folds
    from boldreams_cli.features.store.feature_store import FeatureStore

WITHOUT_TUNING = {"finetune": (False,)}  # beside which readouts, recipes and folds make sense


@options.command(
    "boldreams fit --percent 10 --subject 1",
    "boldreams fit --percent 10 --subject 1 --recipe fast",
    "boldreams fit --percent 10 --subject 1 --readout ridge",
    "boldreams fit --percent 10 --subject 1 --recipe fast --folds 5",
    "boldreams fit --percent 10 --subject 1 --finetune --device cuda",
)
@options.output_options
@options.input_options
@options.option("--percent", type=options.PERCENT, default="10", help="The share of the filters of each layer to read.")
@options.option(
    "--rf",
    type=click.Choice(["shared", "layer"]),
    default="shared",
    help="Receptive fields: shared by layers of equal resolution, or one a layer.",
)
@options.option(
    "--readout",
    default="separable",
    metavar="NAME",
    excludes=["recipe"],
    only_beside=WITHOUT_TUNING,
    help="The readout: separable (the paper's); ridge on pooled maps; local, ridge near a field; stacked, many ridges; "
    "gaussian fields; or attention, fields that depend on the image.",
)
@options.option(
    "--recipe",
    default=None,
    metavar="paper|fast",
    only_beside=options.WITH_RECIPES | WITHOUT_TUNING,
    help="The published training, or a better conditioned one of the same model (default: paper).",
)
@options.readout_options
@options.option(
    "--setting",
    "more",
    multiple=True,
    separators="\n",
    type=options.NamedValue(),
    help="A setting of the readout that has no option of its own, repeatable.",
)
@options.option(
    "--folds",
    type=click.IntRange(2),
    default=None,
    only_beside=WITHOUT_TUNING,
    help="Predict the training images too, each by a model fitted without its fold, of so many.",
)
@options.option("--resume/--no-resume", default=True, help="Go on from a checkpoint of the same settings.")
@options.option("--overwrite", is_flag=True, help="Fit again a model that is there.")
@tuning_options
@options.memory_option
@options.device_option
@options.seed_option
def fit(
    inputs: InputChoice,
    percent: float,
    rf: str,
    readout: str,
    recipe: str | None,
    more: tuple[tuple[str, str], ...],
    folds: int | None,
    resume: bool,
    overwrite: bool,
    tuning: Tuning | None,
    memory: int,
    device: str,
    seed: int,
    output: Output,
    **given: Any,
) -> None:
    """Fit a readout of the stored maps to a subject's voxels, and with --finetune the backbone too.

    By default exactly the paper's: 10 epochs of Adam on single trials. Prepares the subject where that was not
    done. A run that was stopped goes on from its checkpoint; a model that is there is left as it is, and models of
    different settings lie side by side. What the recipes and readouts are, and which to use: docs/models.md.

    --folds K fits K models besides, each without one part of the training images, and keeps their predictions of that
    part: cross-validated predictions of all training images, which `boldreams score --folds K` measures.

    With --finetune no store is needed: images are read from the NSD root and kept, resized, in the cache. Several
    devices are used with --devices N or under torchrun. For RN50x4: --backbone-lr 1e-5 --warmup 200
    --clip-gradient 1.
    """
    from boldreams_cli.console import stop_on_signals
    from boldreams_cli.encoding import fit as fitting
    from boldreams_cli.encoding.folds import fit_folds
    from boldreams_cli.encoding.readouts.settings import OF_OPTIONS, FitSettings, check_precision, choose_readout
    from boldreams_cli.features.backbones import entry
    from boldreams_cli.machine import float32_products

    where = options.pick_device(device)
    given = options.that_readouts_have(given, readout, recipe, entry(inputs.backbone).reads)
    asked = {OF_OPTIONS[name]: value for name, value in given.items()}
    chosen = choose_readout(readout, recipe, entry(inputs.backbone).reads, asked, dict(more))
    # A readout that has no such setting computes in fp32, and says so in no spec.
    precision = (given["precision"] if tuning else getattr(chosen.settings, "precision", None)) or "fp32"
    check_precision(precision, where.type)
    _check(chosen.name, tuning, folds)
    settings, cache = FitSettings(percent, rf, seed), inputs.cache
    result: FitResult | None
    predicted: Folds | None = None
    with float32_products(precision, where), stop_on_signals() as stop:
        if tuning is None:
            store, owned = _read(inputs, folds, seed, stop)
            result = fitting.fit(store, owned, settings, chosen, cache, where, memory, stop, resume, overwrite)
            if folds is not None:
                predicted = fit_folds(
                    *(result.model, folds, store, owned, settings, chosen, where, memory, stop, resume, overwrite)
                )
        else:
            result = tuning.fit(inputs, settings, asked, where, memory, stop, resume, overwrite)
    if result is not None:
        _show(result, predicted, output)


def _read(inputs: InputChoice, folds: int | None, seed: int, stop: StopFlag) -> tuple[FeatureStore, Responses]:
    """What a fit reads; so many folds as cannot be are refused now, rather than after the fit."""
    from boldreams_cli.encoding.folds import deal

    store, owned = inputs.read(stop)
    if folds is not None:
        deal(owned.train_images, folds, seed)
    return store, owned


def _check(solver: str, tuning: Tuning | None, folds: int | None) -> None:
    """Raise ChoiceError for options that do not go together."""
    from boldreams_cli.console import ChoiceError

    if tuning is not None and solver != "separable":
        raise ChoiceError("--finetune trains the separable readout of an image backbone; leave --readout and --recipe")
    if tuning is not None and folds is not None:
        raise ChoiceError("--folds fits from the feature store alone; leave out --finetune, or --folds")


def _show(result: FitResult, predicted: Folds | None, output: Output) -> None:
    from boldreams_cli.console import duration

    summary = result.summary()
    lines = []
    if predicted is not None:
        summary["folds"] = predicted.summary()
        lines.append(f"{predicted.count} folds: predictions of {len(predicted.images)} images in {predicted.path}")
    for name, values in result.curve.items():
        if name.endswith("_loss") and values:
            span = f" in epoch 1, {values[-1]:.4f} in epoch {len(values)}" if len(values) > 1 else ""
            lines.append(f"{name.removesuffix('_loss').replace('_', '-')} loss: {values[0]:.4f}{span}")
    output.show(
        summary,
        f"model: {summary['model']}",
        f"filters: {', '.join(f'{name} {count}' for name, count in summary['filters'].items())}",
        *lines,
        f"time: {duration(result.seconds)}",
    )
