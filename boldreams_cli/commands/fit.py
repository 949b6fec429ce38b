"""`boldreams fit`: the readout, from the store alone."""

from __future__ import annotations

from pathlib import Path

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import Output


@click.command()
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
@options.option("--epochs", type=click.IntRange(1), default=10, help="Passes over the training trials.")
@options.option("--lr", type=click.FloatRange(0, min_open=True), default=1e-4, help="Learning rate of Adam.")
@options.option("--batch-size", type=click.IntRange(1), default=16, help="Trials in a step.")
@options.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16"]),
    default="fp32",
    help="Of matrix products; tf32 needs CUDA.",
)
@options.option("--resume/--no-resume", default=True, help="Go on from a checkpoint of the same settings.")
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
    epochs: int,
    lr: float,
    batch_size: int,
    precision: str,
    resume: bool,
    memory: int,
    device: str,
    seed: int,
    output: Output,
) -> None:
    """Fit a readout of the stored maps to a subject's voxels.

    By default exactly the paper's: 10 epochs of Adam on single trials. Prepares the subject where that was not
    done. A run that was stopped goes on from its checkpoint.
    """
    from boldreams_cli.console import duration, stop_on_signals
    from boldreams_cli.encoding import fitting
    from boldreams_cli.nsd.responses import responses_for

    settings = fitting.FitSettings(percent, rf, epochs, lr, batch_size, seed, precision)
    where = options.pick_device(device)
    backbone = options.choose_backbone(cache, backbone)
    store = options.choose_store(cache, backbone, features)
    subject = options.the_subject(subject, cache, nsd_root)
    with stop_on_signals() as stop:
        responses = responses_for(cache, subject, nsd_root, sessions, mask, stop)
        result = fitting.fit(store, responses, settings, cache, where, memory, stop, resume)
    summary = result.summary()
    output.show(
        summary,
        f"model: {summary['model']}",
        f"filters: {', '.join(f'{name} {count}' for name, count in summary['filters'].items())}",
        f"loss: {result.losses[0]:.4f} in epoch 1, {result.losses[-1]:.4f} in epoch {len(result.losses)}; "
        f"{duration(result.seconds)}",
    )
