"""`boldreams demo`: a small made-up experiment with a known brain, and every command on it."""

from __future__ import annotations

import io
import json
import os
import shlex
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import Output

if TYPE_CHECKING:
    from boldreams_cli.simulation.experiment import SubjectTruth

BACKBONE = "efficientnet_lite0"
PERCENT = "10"
# The published training needs the paper's 25,000 trials; this one also suits a few hundred (README, "Two recipes").
TRAINING = ("--recipe", "fast")
DREAMS = ("V1", "ecc_1", "ecc_2", "ecc_3", "ecc_4", "ecc_5", "faces", "places")
DREAMING = ("--steps", "96", "--lr", "0.05", "--count", "2")


@options.command("boldreams demo", "boldreams demo --output demo --subjects 1 --no-pictures")
@options.output_options
@options.option(
    "--output",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    help="Folder to write the experiment, the cache and the results to.",
)
@options.option("--subjects", type=click.IntRange(1, 2), default=2, help="Subjects of the experiment.")
@options.option("--pictures/--no-pictures", default=True, help="Dreams, attributions and word clouds as well.")
@options.seed_option
def demo(folder: Path, subjects: int, pictures: bool, seed: int, output: Output) -> None:
    """Make a small experiment with a known brain and run everything on it.

    Needs no data and no internet. Writes NSD's layout to OUTPUT/nsd, runs the commands that a user would, and
    compares what they find with the truth: accuracy with its ceiling, and receptive fields with the true ones.
    """
    from boldreams_cli.simulation.experiment import Experiment, write

    _forget_user_settings()
    truth = write(Experiment(subjects=subjects, seed=seed), folder / "nsd")
    results: dict[str, Any] = {}
    common = ("--cache", str(folder / "cache"))
    root = ("--nsd-root", str(folder / "nsd"))
    chosen = [str(number) for number in truth.subjects]
    for number in chosen:
        _run("prepare", *common, *root, "--subject", number)
    extracted = _run("extract", *common, *root, "--backbone", BACKBONE, "--weights", "pretrained")
    for number, known in zip(chosen, truth.subjects.values(), strict=True):
        selectors = ("--backbone", BACKBONE, "--percent", PERCENT, "--subject", number)
        _run("rank", *common, *root, "--backbone", BACKBONE, "--subject", number)
        fitted = _run("fit", *common, *root, *selectors, *TRAINING, "--seed", str(seed))
        scores = _run("score", *common, *selectors)
        predicted = _run("predict", *common, *root, *selectors)
        areas = _compare(Path(fitted["model"]), known, scores["rois"])
        results[number] = {
            "model": fitted["model"],
            "r_mean": scores["r_mean"],
            "ceiling_mean": scores["ceiling_mean"],
            "predictions": predicted["file"],
            "rois": areas,
        }
    result = {"output": str(folder), "store": extracted["store"], "subjects": results}
    if pictures:
        result["pictures"] = _pictures(folder, common, root, chosen[0], seed)
    _show(output, result)


def _pictures(folder: Path, common: tuple[str, ...], root: tuple[str, ...], subject: str, seed: int) -> dict[str, Any]:
    """Dreams of one subject's areas, what drives them in natural images, and words for the dreams."""
    selectors = (*common, "--backbone", BACKBONE, "--percent", PERCENT, "--subject", subject)
    found: dict[str, Any] = {}
    for area in DREAMS:
        dreamt = _run("dream", *selectors, *root, "--roi", area, *DREAMING, "--seed", str(seed))
        words = _run("wordcloud", *selectors, *root, "--roi", area, "--vocabulary", "imagenet")
        natural = dreamt["best_natural"]
        found[area] = {"images": dreamt["images"], "response": dreamt["response"], "best_natural": natural}
        found[area]["words"] = [word for word, _ in words["words"][:3]]
    gallery = folder / "gallery.jpg"
    _gallery(gallery, folder / "nsd", found)
    several = [argument for area in ("V1", "faces", "places") for argument in ("--roi", area)]
    attributed = _run("attribute", *selectors, *root, *several, "--count", "1")
    found["gallery"] = str(gallery)
    found["attributions"] = [file for item in attributed["results"] for file in item["files"]]
    return found


def _gallery(path: Path, nsd_root: Path, areas: dict[str, dict[str, Any]]) -> None:
    """Beside each other, each area's dream, the best natural test image, and words for the dream."""
    import numpy as np
    from PIL import Image

    from boldreams_cli import plots

    columns = []
    with options.dataset_of(nsd_root).stimuli() as stimuli:
        for area, item in areas.items():
            best = item["best_natural"]["test"]
            dreamt = np.asarray(Image.open(item["images"][0])) / 255
            natural = stimuli.read([best["image"]])[0] / 255
            pictures = [
                (dreamt, f"dream: beta {item['response'][0]:.2f}"),
                (natural, f"best photograph: {best['response']:.2f}"),
            ]
            columns.append((area, pictures, "\n".join(item["words"])))
    plots.gallery(path, columns)


def _run(*arguments: str) -> dict[str, Any]:
    """Run a command as a user would type it, echoed; its error and exit code become the demo's.

    In this process: importing torch takes seconds, and there are two dozen commands.
    """
    from boldreams_cli.cli import boldreams

    click.echo(f"$ {shlex.join(('boldreams', *arguments))}", err=True)
    said = io.StringIO()
    with redirect_stdout(said):
        boldreams.main([*arguments, "--json"], prog_name="boldreams", standalone_mode=False)
    result: dict[str, Any] = json.loads(said.getvalue())
    return result


def _forget_user_settings() -> None:
    """Variables like BOLDREAMS_MASK are meant for the user's data and would change what is run here."""
    for name in [name for name in os.environ if name.startswith("BOLDREAMS_")]:
        del os.environ[name]


def _compare(model: Path, known: SubjectTruth, rois: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Add the median distance of recovered from true fields to the scores of each area."""
    import numpy as np

    from boldreams_cli.encoding.model.spec import FittedModel
    from boldreams_cli.simulation.experiment import field_distance, recovered_centres_of_groups

    fitted = FittedModel.load(model)
    fields = [fitted.weights.fields[group.name].numpy() for group in fitted.spec.groups]
    strength = [fitted.weights.group_weights(group).norm(dim=1).numpy() for group in fitted.spec.groups]
    distance = field_distance(known.centre, recovered_centres_of_groups(fields, strength))
    guess = field_distance(known.centre, np.full(known.centre.shape, 0.5))
    found = {}
    for name, row in rois.items():
        band = int(name[4:]) if name.startswith("ecc_") else 0
        inside = known.band == band if band else known.area == name
        found[name] = {key: row[key] for key in ("voxels", "r_mean", "ceiling_mean")} | {
            "field_distance": float(np.nanmedian(distance[inside])),
            "field_distance_of_image_centre": float(np.median(guess[inside])),
        }
    return found


def _show(output: Output, result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    output.show(result, *([result["pictures"]["gallery"]] if "pictures" in result else []))
    if output.as_json:
        return
    console = Console()
    for number, subject in result["subjects"].items():
        table = Table(title=f"subject {number}: {subject['model']}")
        table.add_column("area")
        for name in ("voxels", "r", "ceiling", "field distance", "(of image centre)"):
            table.add_column(name, justify="right")
        for name, row in subject["rois"].items():
            values = (row["r_mean"], row["ceiling_mean"])
            distances = (row["field_distance"], row["field_distance_of_image_centre"])
            cells = [*(f"{value:.3f}" for value in values), *(f"{value:.3f}" for value in distances)]
            table.add_row(name, str(row["voxels"]), *cells)
        console.print(table)
    console.print(
        "field distance: median over voxels between the centres of recovered and true receptive fields, in image "
        "widths; beside it that of always guessing the middle of the image."
    )
