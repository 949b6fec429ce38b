"""`boldreams attribute`: which pixels drive an area's response."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import ModelChoice, Output


@options.command(
    "boldreams attribute --roi faces",
    "boldreams attribute --roi V1 --roi faces --image 1234 --image photo.jpg",
)
@options.output_options
@options.model_options
@options.nsd_option
@options.option(
    "--roi",
    "rois",
    multiple=True,
    required=True,
    metavar="AREA",
    help="An area, a comma-joined union, or a NIfTI mask; repeatable, which shares the forward passes.",
)
@options.option(
    "--image",
    "images",
    multiple=True,
    metavar="ID|FILE",
    help="An nsdId or a picture, repeatable (default: each area's best test images).",
)
@options.option("--count", type=click.IntRange(1), default=5, help="Best test images of each area.")
@options.option("--steps", type=click.IntRange(2), default=None, help="Points of the integral, at most (default: 256).")
@options.option(
    "--baseline",
    type=click.Choice(["black", "mean", "blur"]),
    default="black",
    help="Image to integrate from: black, the backbone's mean colour, or the image blurred.",
)
@options.option("--overwrite", is_flag=True, help="Compute again what is done.")
@options.option("--weights", default=None, metavar="FILE", help="The backbone's weights, if they have moved.")
@options.memory_option
@options.device_option
def attribute(
    choice: ModelChoice,
    nsd_root: Path | None,
    rois: tuple[str, ...],
    images: tuple[str, ...],
    count: int,
    steps: int | None,
    baseline: str,
    overwrite: bool,
    weights: str | None,
    memory: int,
    device: str,
    output: Output,
) -> None:
    """Show which pixels of an image drive an area's response.

    Integrated gradients of the area's mean beta, from a baseline to the image. Writes the signed attribution (.npz)
    and a picture of each image, and a sheet of all, into attributions/AREA in the model's folder. Images that are done
    with the same settings are not computed again, so a run that was stopped goes on.
    """
    from boldreams_cli.console import stop_on_signals
    from boldreams_cli.encoding.evaluation.predict import find_images
    from boldreams_cli.encoding.model.full import FullModel
    from boldreams_cli.interpret import products, targets
    from boldreams_cli.interpret.attribution import attributor as attribution
    from boldreams_cli.interpret.attribution import record

    model = choice.resolve()
    targets.check_gradients(model)
    where = options.pick_device(device)
    responses = options.responses_of(model, choice.cache, nsd_root)
    full = FullModel.rebuild(model, where, weights)
    settings = attribution.Settings(steps or attribution.STEPS, baseline, memory)
    attributor = attribution.Attributor(full, rois, responses, settings)
    if images:
        jobs = attributor.all_areas(find_images(images, lambda: responses))
    else:
        jobs = attributor.best_test_images(choice.cache, nsd_root, count, memory)
    with stop_on_signals() as stop:
        made = record.attribute(attributor, jobs, model.folder / "attributions", nsd_root, stop, overwrite)
    about: dict[str, Any] = {"roi": ",".join(attributor.rois), "rois": attributor.rois}
    about |= {"baseline": baseline, "steps": settings.steps}
    output.show(
        products.said_of_model(model) | about | {"results": made.results, "sheets": made.sheets},
        f"model: {model.folder}",
        *(_line(item) for item in made.results),
    )


def _line(item: dict[str, Any]) -> str:
    error = math.nan if item["completeness_error"] is None else item["completeness_error"]
    return (
        f"{item['roi']}, image {item['image']}: mean beta {item['prediction']:.4f}, of the baseline "
        f"{item['baseline_prediction']:.4f}; sum off by {100 * error:.2g} %  {item['files'][1]}"
    )
