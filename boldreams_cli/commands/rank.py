"""`boldreams rank`: the order of the filters of each layer, by training images alone."""

from __future__ import annotations

from boldreams_cli.commands import options
from boldreams_cli.commands.options import InputChoice, Output


@options.command(
    "boldreams rank --backbone alexnet --subject 1",
    "boldreams rank --backbone alexnet --subject 1 --json",
)
@options.output_options
@options.input_options
def rank(inputs: InputChoice, output: Output) -> None:
    """Order the filters of each layer by how much they vary.

    By the standard deviation, over the subject's training images, of the spatial mean activation.
    """
    from boldreams_cli.console import stop_on_signals
    from boldreams_cli.encoding.inputs.ranking import rank_filters

    with stop_on_signals() as stop:
        store, responses = inputs.read(stop)
    ranked = rank_filters(store, responses.train_images)
    layers = {name: {"order": order, "std": std} for name, (order, std) in ranked.items()}
    lines = [
        f"{name}: " + ", ".join(f"{k} ({s:.3g})" for k, s in list(zip(o, d, strict=True))[:8]) + " ..."
        for name, (o, d) in ranked.items()
    ]
    output.show(
        {"subject": inputs.subject, "backbone": inputs.backbone, "layers": layers},
        f"filters of {inputs.backbone} by standard deviation over {len(responses.train_images)} training images",
        *lines,
    )
