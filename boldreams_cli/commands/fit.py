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
    from boldreams_cli.encoding.fit import FitResult


@options.command(
    "boldreams fit --percent 10 --subject 1",
    "boldreams fit --percent 10 --subject 1 --recipe fast",
    "boldreams fit --percent 10 --subject 1 --readout ridge",
    "boldreams fit --percent 10 --subject 1 --finetune --device cuda",
)
@options.output_options
@options.cache_option
@options.nsd_option
@options.option("--backbone", default=None, help="Of the store (default: the one in the cache).")
@options.store_option
@options.option("--percent", type=options.PERCENT, default="10", help="Of the filters of each layer.")
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
    type=click.Choice(["separable", "ridge", "gaussian"]),
    default="separable",
    help="The paper's; ridge on coarsely pooled maps; or Gaussian fields with ridge weights.",
)
@options.option(
    "--recipe",
    type=click.Choice(["paper", "fast"]),
    default="paper",
    help="The published training, or a better conditioned one of the same model.",
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
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16"]),
    default="fp32",
    help="Of matrix products; tf32 needs CUDA.",
)
@options.option("--resume/--no-resume", default=True, help="Go on from a checkpoint of the same settings.")
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
    subject: int | None,
    sessions: str | None,
    mask: str | None,
    rf: str,
    readout: str,
    recipe: str,
    epochs: int | None,
    lr: float | None,
    batch_size: int | None,
    precision: str,
    resume: bool,
    tuning: Tuning | None,
    memory: int,
    device: str,
    seed: int,
    output: Output,
) -> None:
    """Fit a readout of the stored maps to a subject's voxels, and with --finetune the backbone too.

    By default exactly the paper's: 10 epochs of Adam on single trials. Prepares the subject where that was not
    done. A run that was stopped goes on from its checkpoint. --recipe fast reaches a better fit of the same model
    much sooner (README, "Two recipes"). --readout ridge and gaussian are other readouts, solved at once.

    With --finetune no store is needed: images are read from the NSD root and kept, resized, in the cache. Several
    devices are used with --devices N or under torchrun. For RN50x4: --backbone-lr 1e-5 --warmup 200
    --clip-gradient 1.
    """
    from boldreams_cli.console import stop_on_signals
    from boldreams_cli.data.choosing import responses_for
    from boldreams_cli.encoding import fit as fitting
    from boldreams_cli.encoding.readouts.separable import matrix_precision
    from boldreams_cli.encoding.readouts.settings import settings_for

    where = options.pick_device(device)
    backbone = options.choose_backbone(cache, backbone)
    settings = settings_for(
        backbone, recipe, percent, rf, epochs, lr, batch_size, seed, precision, readout, tuning is not None
    )
    subject = options.the_subject(subject, cache, nsd_root)
    with matrix_precision(precision, where), stop_on_signals() as stop:
        responses = functools.partial(responses_for, cache, subject, nsd_root, sessions, mask, stop)
        result: FitResult | None
        if tuning is None:
            store = options.choose_store(cache, backbone, features)
            if readout != "separable":
                from boldreams_cli.encoding.readouts.closed_form import fit_closed_form

                result = fit_closed_form(store, responses(), settings, cache, where, memory, stop)
            elif recipe == "fast":
                from boldreams_cli.encoding.readouts.smooth import fit_fast

                result = fit_fast(store, responses(), settings, cache, where, memory, stop)
            else:
                result = fitting.fit(store, responses(), settings, cache, where, memory, stop, resume)
        else:
            result = tuning.fit(cache, nsd_root, backbone, features, responses, settings, where, memory, stop, resume)
    if result is not None:
        _show(result, output)


def _show(result: FitResult, output: Output) -> None:
    from boldreams_cli.console import duration

    summary = result.summary()
    loss = f"loss: {result.losses[0]:.4f} in epoch 1, {result.losses[-1]:.4f} in epoch {len(result.losses)}"
    if len(result.losses) == 1:
        loss = f"loss: {result.losses[0]:.4f}"
    output.show(
        summary,
        f"model: {summary['model']}",
        f"filters: {', '.join(f'{name} {count}' for name, count in summary['filters'].items())}",
        f"{loss}; {duration(result.seconds)}",
    )
