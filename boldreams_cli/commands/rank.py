"""`boldreams rank`: the order of the filters of each layer, by training images alone."""

from __future__ import annotations

from pathlib import Path

from boldreams_cli.commands import options
from boldreams_cli.commands.options import Output
from boldreams_cli.data.subjects import Subject


@options.command(
    "boldreams rank --backbone alexnet --subject 1",
    "boldreams rank --backbone alexnet --subject 1 --json",
)
@options.output_options
@options.cache_option
@options.nsd_option
@options.option("--backbone", default=None, help="The backbone (default: the one that the cache holds).")
@options.store_option
@options.subject_option()
@options.data_options
def rank(
    cache: Path,
    nsd_root: Path | None,
    backbone: str | None,
    features: str | None,
    subject: Subject | None,
    sessions: str | None,
    mask: str | None,
    betas: str | None,
    output: Output,
) -> None:
    """Order the filters of each layer by how much they vary.

    By the standard deviation, over the subject's training images, of the spatial mean activation.
    """
    from boldreams_cli.console import stop_on_signals
    from boldreams_cli.data.choosing import names_of, responses_for
    from boldreams_cli.encoding.inputs.ranking import rank_filters

    backbone = options.choose_backbone(cache, backbone)
    subject = options.the_subject(subject, cache, nsd_root, betas)
    with stop_on_signals() as stop:
        responses = responses_for(cache, subject, nsd_root, sessions, mask, stop, betas)
    store = options.choose_store(cache, backbone, features, names_of(responses.request))
    ranked = rank_filters(store, responses.train_images)
    layers = {name: {"order": order, "std": std} for name, (order, std) in ranked.items()}
    lines = [
        f"{name}: " + ", ".join(f"{k} ({s:.3g})" for k, s in list(zip(o, d, strict=True))[:8]) + " ..."
        for name, (o, d) in ranked.items()
    ]
    output.show(
        {"subject": subject, "backbone": backbone, "layers": layers},
        f"filters of {backbone} by standard deviation over {len(responses.train_images)} training images",
        *lines,
    )
