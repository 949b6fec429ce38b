"""`boldreams fit`: the readout from the store alone, or with `--finetune` the backbone too, from images."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import Output
from boldreams_cli.commands.tuning import Tuning, tuning_options

if TYPE_CHECKING:
    from boldreams_cli.data.subjects import Subject
    from boldreams_cli.encoding.fit import FitResult
    from boldreams_cli.encoding.folds import Folds


@options.command(
    "boldreams fit --percent 10 --subject 1",
    "boldreams fit --percent 10 --subject 1 --recipe fast",
    "boldreams fit --percent 10 --subject 1 --readout ridge",
    "boldreams fit --percent 10 --subject 1 --recipe fast --folds 5",
    "boldreams fit --percent 10 --subject 1 --finetune --device cuda",
)
@options.output_options
@options.cache_option
@options.nsd_option
@options.option("--backbone", default=None, help="The backbone (default: the one that the cache holds).")
@options.store_option
@options.option("--percent", type=options.PERCENT, default="10", help="The share of the filters of each layer to read.")
@options.subject_option()
@options.data_options
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
    help="The readout: separable (the paper's); ridge on pooled maps; local, ridge near a field; stacked, many ridges; "
    "gaussian fields; or attention, fields that depend on the image.",
)
@options.option(
    "--recipe",
    default=None,
    metavar="paper|fast",
    help="The published training, or a better conditioned one of the same model (default: paper).",
)
@options.option("--epochs", type=click.IntRange(1), default=None, help="Passes over the training data (default: 10).")
@options.option(
    "--lr",
    type=click.FloatRange(0, min_open=True),
    default=None,
    help="Learning rate of Adam (default: 1e-4; fast 3e-3).",
)
@options.option("--batch-size", type=click.IntRange(1), default=None, help="Trials in a step (default: 16; fast 64).")
@options.option(
    "--grid",
    type=click.IntRange(1),
    default=None,
    help="Nodes along each side of a field, of --recipe fast, --readout attention (default: 9), ridge, local and "
    "stacked (5).",
)
@options.option(
    "--compress",
    type=click.Choice(["none", "sqrt"]),
    default=None,
    help="Take the square root of each map value first, of --readout ridge, local and stacked (default: sqrt).",
)
@options.option(
    "--members",
    type=options.CommaList(click.STRING),
    default=None,
    metavar="LIST",
    help="Ridges to stack, of --readout stacked: ridge, local, layers (default: local,layers).",
)
@options.option(
    "--share",
    type=click.Choice(["voxel", "area"]),
    default=None,
    help="Who has queries of their own, of --readout attention: each voxel, or each area (default: voxel).",
)
@options.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16"]),
    default=None,
    help="The precision of matrix products; tf32 needs CUDA (default: fp32).",
)
@options.option(
    "--folds",
    type=click.IntRange(2),
    default=None,
    help="Predict the training images too, each by a model fitted without its fold, of so many.",
)
@options.option("--resume/--no-resume", default=True, help="Go on from a checkpoint of the same settings.")
@options.option("--overwrite", is_flag=True, help="Fit a model again that is there already.")
@tuning_options
@options.memory_option
@options.device_option
@options.seed_option
def fit(
    cache: Path,
    nsd_root: Path | None,
    backbone: str | None,
    features: str | None,
    percent: float,
    subject: Subject | None,
    sessions: str | None,
    mask: str | None,
    betas: str | None,
    rf: str,
    readout: str,
    recipe: str | None,
    epochs: int | None,
    lr: float | None,
    batch_size: int | None,
    grid: int | None,
    compress: str | None,
    members: tuple[str, ...] | None,
    share: str | None,
    precision: str | None,
    folds: int | None,
    resume: bool,
    overwrite: bool,
    tuning: Tuning | None,
    memory: int,
    device: str,
    seed: int,
    output: Output,
) -> None:
    """Fit a readout of the stored maps to a subject's voxels, and with --finetune the backbone too.

    By default exactly the paper's: 10 epochs of Adam on single trials. Prepares the subject where that was not
    done. A run that was stopped goes on from its checkpoint; a model that is there is left as it is. --recipe fast
    reaches a better fit of the same model much sooner (docs/models.md). --readout ridge, local, stacked and
    gaussian are other readouts, solved at once; attention is trained, and not linear in the maps. Models of different
    settings lie side by side.

    --folds K fits K models besides, each without one part of the training images, and keeps their predictions of that
    part: cross-validated predictions of all training images, which `boldreams score --folds K` measures. The model
    itself is the same with and without.

    With --finetune no store is needed: images are read from the NSD root and kept, resized, in the cache. Several
    devices are used with --devices N or under torchrun. For RN50x4: --backbone-lr 1e-5 --warmup 200
    --clip-gradient 1.
    """
    from boldreams_cli.console import ChoiceError, stop_on_signals
    from boldreams_cli.data.choosing import names_of, responses_for
    from boldreams_cli.encoding import fit as fitting
    from boldreams_cli.encoding.folds import fit_folds
    from boldreams_cli.encoding.readouts.settings import FitSettings, choose_readout
    from boldreams_cli.features.backbones import entry
    from boldreams_cli.machine import float32_products

    where = options.pick_device(device)
    if precision == "tf32" and where.type != "cuda":
        raise ChoiceError("--precision tf32 needs a CUDA device; choose fp32 or bf16")
    backbone = options.choose_backbone(cache, backbone)
    asked = {"epochs": epochs, "rate": lr, "batch_size": batch_size, "precision": precision}
    asked |= {"grid": grid, "compress": compress, "share": share}
    chosen = choose_readout(readout, recipe, entry(backbone).reads, {**asked, "members": members})
    if tuning is not None and chosen.name != "separable":
        raise ChoiceError("--finetune trains the separable readout of an image backbone; leave --readout and --recipe")
    if tuning is not None and folds is not None:
        raise ChoiceError("--folds fits from the feature store alone; leave out --finetune, or --folds")
    settings = FitSettings(percent, rf, seed)
    subject = options.the_subject(subject, cache, nsd_root, betas)
    nsd_root = options.root_for(subject, cache, nsd_root)
    with float32_products(precision or "fp32", where), stop_on_signals() as stop:
        responses = functools.partial(responses_for, cache, subject, nsd_root, sessions, mask, stop, betas)
        result: FitResult | None
        predicted: Folds | None = None
        if tuning is None:
            # Of numbered images any store will do, and is looked for before betas are prepared.
            names = None if isinstance(subject, int) else names_of(responses().request)
            store = options.choose_store(cache, backbone, features, names)
            owned = responses()
            result = fitting.fit(store, owned, settings, chosen, cache, where, memory, stop, resume, overwrite)
            if folds is not None:
                predicted = fit_folds(
                    *(result.model, folds, store, owned, settings, chosen, where, memory, stop, resume, overwrite)
                )
        else:
            from boldreams_cli.encoding.finetuning.start import Source

            source = Source(cache, options.dataset_of(nsd_root, betas), backbone, features, tuning.weights, responses)
            result = tuning.fit(source, settings, asked, where, memory, stop, resume, overwrite)
    if result is not None:
        _show(result, predicted, output)


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
