"""`boldreams demo`: a small made-up experiment with a known brain, and every command on it."""

from __future__ import annotations

import io
import json
import os
import shlex
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import Output
from boldreams_cli.console import logger

if TYPE_CHECKING:
    from boldreams_cli.simulation.experiment import SubjectTruth

BACKBONE = "efficientnet_lite0"
PERCENT = "10"
PERCENTS = "1", "5", "10"  # that a study compares with the last; more takes minutes
# The published training needs the paper's 25,000 trials; this one also suits a few hundred (docs/models.md).
TRAINING = ("--recipe", "fast")
DREAMS = ("V1", "ecc_1", "ecc_2", "ecc_3", "ecc_4", "ecc_5", "faces", "places")
DREAMING = ("--steps", "96", "--lr", "0.05", "--count", "2")
ATTRIBUTED = ("V1", "faces", "places")
FEW_DREAMS, FEW_STEPS = ("V1", "faces"), ("--steps", "2", "--lr", "0.05", "--count", "1")


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
@options.option("--small", is_flag=True, help="Few images, voxels and steps: to see that all works, not how well.")
@options.device_option
@options.seed_option
def demo(folder: Path, subjects: int, pictures: bool, small: bool, device: str, seed: int, output: Output) -> None:
    """Make a small experiment with a known brain and run everything on it.

    Needs no data and no internet. Writes NSD's layout to OUTPUT/nsd, runs the commands that a user would, and
    compares what they find with the truth: accuracy with its ceiling, and receptive fields with the true ones. Ends
    with a study of three percents of the filters, and one page with all that was found (report.html).
    """
    from boldreams_cli.simulation.experiment import Experiment, write

    options.pick_device(device)
    _forget_user_settings()
    kind = Experiment.small if small else Experiment
    truth = write(kind(subjects=subjects, seed=seed), folder / "nsd")
    shell = _Shell.of_this_command(device)
    common = ("--cache", str(folder / "cache"))
    root = ("--nsd-root", str(folder / "nsd"))
    chosen = [str(number) for number in truth.subjects]
    for number in chosen:
        shell.run("prepare", *common, *root, "--subject", number)
    extracted = shell.run("extract", *common, *root, "--backbone", BACKBONE, "--weights", "pretrained")
    shell.run("sweep", *common, *root, *_grid(chosen, seed))
    results: dict[str, Any] = {}
    for number, known in zip(chosen, truth.subjects.values(), strict=True):
        results[number] = _fit_and_score(shell, common, root, number, known, seed)
    result = {"output": str(folder), "store": extracted["store"], "subjects": results}
    if pictures:
        result["pictures"] = _pictures(shell, folder, common, root, results[chosen[0]]["model"], small, seed)
    result["minimal"] = shell.run("minimal", *common, "--backbone", BACKBONE, "--reference", PERCENTS[-1], *TRAINING)
    result["report"] = shell.run("report", *common, *root)["file"]
    _show(output, result)


def _grid(subjects: list[str], seed: int) -> tuple[str, ...]:
    """The study: every subject at three percents, by a recipe that converges."""
    axes = ("--backbone", BACKBONE, "--subject", ",".join(subjects), "--percent", ",".join(PERCENTS))
    return (*axes, "--seed", str(seed), *TRAINING)


def _fit_and_score(
    shell: _Shell, common: tuple[str, ...], root: tuple[str, ...], number: str, known: SubjectTruth, seed: int
) -> dict[str, Any]:
    """One subject: ranking, fit, score, predictions, and how near the fields are to the true ones."""
    shell.run("rank", *common, *root, "--backbone", BACKBONE, "--subject", number)
    selectors = ("--backbone", BACKBONE, "--percent", PERCENT, "--subject", number)
    fitted = shell.run("fit", *common, *root, *selectors, *TRAINING, "--seed", str(seed))
    model = ("--model", fitted["model"])
    scores = shell.run("score", *common, *root, *model)
    outside = shell.run("score", *common, *root, *model, "--test", "synthetic")
    predicted = shell.run("predict", *common, *root, *model)
    return {
        "model": fitted["model"],
        "r_mean": scores["r_mean"],
        "ceiling_mean": scores["ceiling_mean"],
        "synthetic": {name: outside[name] for name in ("r_mean", "ceiling_mean")},
        "predictions": predicted["file"],
        "rois": _compare(Path(fitted["model"]), known, scores["rois"]),
    }


def _compare(model: Path, known: SubjectTruth, rois: dict[str, Any]) -> dict[str, dict[str, Any]]:
    from boldreams_cli.encoding.model.spec import FittedModel
    from boldreams_cli.simulation import recovery

    fitted = FittedModel.load(model)
    fields = [fitted.weights.fields[group.name].numpy() for group in fitted.spec.groups]
    strength = [fitted.weights.group_weights(group).norm(dim=1).numpy() for group in fitted.spec.groups]
    return recovery.compare(known, fields, strength, rois)


def _pictures(
    shell: _Shell, folder: Path, common: tuple[str, ...], root: tuple[str, ...], model: str, small: bool, seed: int
) -> dict[str, Any]:
    """Dreams of one subject's areas, what drives them in natural images, and words for the dreams."""
    from boldreams_cli.interpret.dreams import gallery

    selectors = (*common, *root, "--model", model)
    found: dict[str, Any] = {}
    several = [argument for area in (FEW_DREAMS if small else DREAMS) for argument in ("--roi", area)]
    dreamt = shell.run("dream", *selectors, *several, *(FEW_STEPS if small else DREAMING), "--seed", str(seed))
    for one in dreamt["results"]:
        words = shell.run("wordcloud", *selectors, "--roi", one["roi"], "--vocabulary", "imagenet")
        found[one["roi"]] = {name: one[name] for name in ("images", "response", "best_natural")}
        found[one["roi"]]["words"] = [word for word, _ in words["words"][:3]]
    photograph = str(found["V1"]["best_natural"]["test"]["image"])
    accentuate = ("--roi", "faces", "--start", photograph, "--no-natural", "--steps", "2" if small else "64")
    found["accentuated"] = shell.run("dream", *selectors, *accentuate, "--seed", str(seed))
    found["eccentricity"] = dreamt["eccentricity"]
    path = folder / "gallery.jpg"
    gallery.draw(path, folder / "nsd", {one["roi"]: found[one["roi"]] for one in dreamt["results"]})
    several = [argument for area in ATTRIBUTED for argument in ("--roi", area)]
    attributed = shell.run("attribute", *selectors, *several, "--count", "1", *(("--steps", "16") if small else ()))
    found["gallery"] = str(path)
    found["attributions"] = [file for item in attributed["results"] for file in item["files"]]
    return found


@dataclass(frozen=True)
class _Shell:
    """Runs commands as a user would type them, with the demo's own flags."""

    flags: tuple[str, ...]
    device: str

    @classmethod
    def of_this_command(cls, device: str) -> _Shell:
        """Hand down -v, -q and --debug."""
        given = click.get_current_context().params
        return cls(tuple(f"--{name}" for name in ("verbose", "quiet", "debug") if given[name]), device)

    def run(self, name: str, *arguments: str) -> dict[str, Any]:
        """Run a command, echoed; its error and exit code become the demo's.

        In this process: importing torch takes seconds, and there are two dozen commands.
        """
        context = click.get_current_context()
        group = context.find_root().command
        assert isinstance(group, click.Group)
        command = group.get_command(context, name)
        assert command is not None
        takes_device = any("--device" in parameter.opts for parameter in command.params)
        device = ("--device", self.device) if takes_device and self.device != "auto" else ()
        typed = (name, *arguments, *device)
        logger.info("$ %s", shlex.join(("boldreams", *typed)))
        said = io.StringIO()
        with redirect_stdout(said):
            group.main([*typed, *self.flags, "--json"], prog_name="boldreams", standalone_mode=False)
        result: dict[str, Any] = json.loads(said.getvalue())
        return result


def _forget_user_settings() -> None:
    """Variables like BOLDREAMS_MASK are meant for the user's data and would change what is run here."""
    for name in [name for name in os.environ if name.startswith("BOLDREAMS_")]:
        del os.environ[name]


def _show(output: Output, result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    pages = [result["pictures"]["gallery"]] if "pictures" in result else []
    output.show(result, *pages, result["report"])
    if output.as_json:
        return
    console = Console(file=output.stream)
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
