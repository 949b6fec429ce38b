"""`boldreams attribute`: which pixels drive a response."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import ModelChoice, Output
from boldreams_cli.interpret.attribution import methods as known_methods


@options.command(
    "boldreams attribute --roi faces",
    "boldreams attribute --roi V1 --roi faces --image 1234 --image photo.jpg",
    "boldreams attribute --roi faces --minus places --method occlusion --method grad-cam --check",
    "boldreams attribute --roi FFA-1 --min-ceiling 0.3 --image test --output maps",
    "boldreams attribute --voxel best:FFA-1",
)
@options.output_options
@options.model_options
@options.nsd_option
@options.target_options("they share the forward passes")
@options.bound_options
@options.option("--minus", default=None, metavar="AREA", help="Area whose mean beta is subtracted, for a contrast.")
@options.option(
    "--image",
    "images",
    multiple=True,
    metavar="ID|FILE|FOLDER|test|train",
    help="An image id or a picture, a folder of them, or all of a split; repeatable (default: the best test images).",
)
@options.option("--count", type=click.IntRange(1), default=5, help="Best test images of each target.")
@options.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice(known_methods.names()),
    default=[known_methods.DEFAULT],
    help="How to attribute; repeatable.",
)
@options.option(
    "--steps",
    type=click.IntRange(2),
    default=None,
    help="Points of the integral, at most (default: 256); noisy copies of smoothgrad (default: 50).",
)
@options.option(
    "--baseline",
    type=click.Choice(["black", "mean", "blur"]),
    default=None,
    help="Image to compare with: black (the default), the backbone's mean colour, or the image blurred.",
)
@options.option("--check", is_flag=True, help="Check the maps: see above. Takes several times as long as the maps.")
@options.option(
    "--output",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder to write TARGET/image-ID.png and so on into (default: attributions in the model's folder).",
)
@options.option("--overwrite", is_flag=True, help="Compute again what is done, and replace other maps in --output.")
@options.moved_weights_option
@options.memory_option
@options.device_option
def attribute(
    choice: ModelChoice,
    nsd_root: Path | None,
    check: bool,
    folder: Path | None,
    overwrite: bool,
    weights: str | None,
    memory: int,
    device: str,
    output: Output,
    **asked: Any,
) -> None:
    """Show which pixels of an image drive the response of an area, a voxel or a filter.

    Writes the signed attribution (.npz) and a picture (.png, .pdf) of each image, and sheets of all, into
    attributions/TARGET in the model's folder. Images that are done with the same settings are not computed again, so a
    run that was stopped goes on.

    In the JSON object, delta is the attribution's sum less the difference of the predictions of image and baseline,
    with its sign; relative_delta is its share of the sum of absolute values, which says how far the map may be off.
    completeness_error, delta relative to that difference, is large wherever the two predictions are close, however
    good the map is. All three are null for methods that are not meant to add up.

    --check adds deletion and insertion curves (and the same in an order by chance), captum's infidelity and
    sensitivity, and rank correlations with the maps of random weights: a map that stays the same shows the image, not
    the model.
    """
    from boldreams_cli.console import stop_on_signals
    from boldreams_cli.encoding.evaluation.predict import find_images
    from boldreams_cli.encoding.model.full import FullModel
    from boldreams_cli.interpret import targets
    from boldreams_cli.interpret.attribution import record
    from boldreams_cli.interpret.attribution.asked import Asked

    wish = Asked(**asked)
    wish.check()
    settings = wish.settings(memory)
    model = choice.resolve()
    nsd_root = options.root_for(model.spec.subject, choice.cache, nsd_root)
    targets.check_gradients(model)
    where = options.pick_device(device)
    responses = options.responses_of(model, choice.cache, nsd_root) if wish.needs_responses else None
    images = find_images(wish.images, nsd_root, lambda: options.responses_of(model, choice.cache, nsd_root))
    request = wish.request(FullModel.rebuild(model, where, weights), responses, choice.cache, images)
    place = record.Place(folder or model.folder / "attributions", nsd_root, folder is not None, overwrite)
    with stop_on_signals() as stop:
        made = record.attribute_by(settings, request, place, stop, check)
    output.show(made.described(request, settings), f"model: {model.folder}", *made.lines())
