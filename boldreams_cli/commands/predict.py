"""`boldreams predict`: betas of any images."""

from __future__ import annotations

from pathlib import Path

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import ModelChoice, Output


@options.command(
    "boldreams predict --image photo.jpg --output betas.npz",
    "boldreams predict --image test --image pictures/",
)
@options.output_options
@options.model_options
@options.nsd_option
@options.option(
    "--image",
    "images",
    multiple=True,
    metavar="ID|FILE|FOLDER",
    help="An image id, a picture or a folder of pictures, repeatable; or the word test or train "
    "for the subject's own (default: test).",
)
@options.option(
    "--caption",
    "captions",
    multiple=True,
    separators="\n",
    metavar="TEXT",
    help="For a text model, repeatable (in a variable: one a line).",
)
@options.captions_option
@options.option(
    "--output",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="The .npz to write, which is appended to other names (default: predictions/NAME.npz in the model's folder).",
)
@options.option("--overwrite", is_flag=True, help="Predict again what is done, and replace other predictions in FILE.")
@options.moved_weights_option
@options.memory_option
@options.device_option
def predict(
    choice: ModelChoice,
    nsd_root: Path | None,
    images: tuple[str, ...],
    captions: tuple[str, ...],
    captions_dir: Path | None,
    file: Path | None,
    overwrite: bool,
    weights: str | None,
    memory: int,
    device: str,
    output: Output,
) -> None:
    """Predict the betas of any images, or by a text model of any captions.

    Writes an .npz with `betas` (images, voxels), z-scored units, `images` (ids, or -1) and their `names`. Images in
    the feature store need no backbone; others are read from the files or the NSD root and go through the full model.
    """
    from boldreams_cli.encoding.evaluation import predict
    from boldreams_cli.interpret import predictions

    model = choice.resolve()
    nsd_root = options.root_for(model.spec.subject, choice.cache, nsd_root)
    where = options.pick_device(device)
    asked = list(images) if images or captions else ["test"]
    wanted = predict.find_images(asked, nsd_root, lambda: options.responses_of(model, choice.cache, nsd_root))
    wanted += [predict.Wanted(caption=text) for text in captions]
    stimuli = predict.stimuli_of(model, choice.cache, nsd_root)
    product = predictions.product_of(model, wanted, [*asked, *captions], file, where, captions_dir, stimuli)
    made = predictions.keep(
        product,
        model,
        wanted,
        lambda: predict.predict(model, wanted, choice.cache, nsd_root, where, memory, weights, captions_dir),
        overwrite,
        nsd_root,
    )
    output.show(made, f"{len(made['images'])} images, {made['voxels']} voxels: {made['file']}")
