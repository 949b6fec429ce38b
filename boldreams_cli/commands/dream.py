"""`boldreams dream`: the images that excite an area, a voxel or a filter most."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import ModelChoice, Output

if TYPE_CHECKING:
    from boldreams_cli.data.responses import Responses
    from boldreams_cli.encoding.model.spec import FittedModel


class VoxelPlace(click.ParamType):
    """A voxel as ``X,Y,Z``."""

    name = "X,Y,Z"

    def convert(
        self, value: object, parameter: click.Parameter | None, context: click.Context | None
    ) -> tuple[int, int, int]:
        """To three numbers from 0 up."""
        match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*", str(value))
        if not match:
            self.fail(f"{value!r} is no voxel; write X,Y,Z, counted from 0 in the subject's volume", parameter, context)
        return int(match[1]), int(match[2]), int(match[3])


@options.command(
    "boldreams dream --roi faces",
    "boldreams dream --roi FFA-1,FFA-2 --minus places --objective contrast",
    "boldreams dream --filter features.12:7 --count 2",
)
@options.output_options
@options.model_options
@options.nsd_option
@options.option(
    "--roi",
    default=None,
    excludes=["voxel", "filter"],
    metavar="AREA",
    help="An area, a comma-joined union, or a NIfTI mask.",
)
@options.option(
    "--voxel",
    type=VoxelPlace(),
    default=None,
    excludes=["roi", "filter"],
    help="One voxel of the volume, counted from 0.",
)
@options.option(
    "--filter",
    "filter_",
    default=None,
    excludes=["roi", "voxel"],
    metavar="LAYER:K",
    help="A filter of the backbone: its mean map.",
)
@options.option(
    "--objective",
    default=None,
    metavar="mean|diversity|target|contrast",
    help="Mean response (the default); with images that differ; betas to reach (--target); one area minus another "
    "(--minus).",
)
@options.option("--target", default=None, metavar="FILE.npz|NUMBER", help="Betas to reach, in place of the most.")
@options.option("--minus", default=None, metavar="AREA", help="Area to excite least, for the contrast.")
@options.option(
    "--diversity", type=click.FloatRange(0), default=None, help="Weight of diversity, in betas (default: 1)."
)
@options.option(
    "--parameterization",
    type=click.Choice(["fourier", "pixel", "maco"]),
    default="fourier",
    help="Lucent's spectra or pixels; or free phases under the mean spectrum of the subject's stimuli.",
)
@options.option(
    "--steps", type=click.IntRange(1), default=None, help="Steps of Adam (default: the authors', by backbone)."
)
@options.option(
    "--lr",
    type=click.FloatRange(0, min_open=True),
    default=None,
    help="The learning rate of Adam (default: the authors', by backbone).",
)
@options.option("--count", type=click.IntRange(1), default=4, help="Images to dream at once.")
@options.option(
    "--output",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder to write (default: dreams/NAME in the model's folder; the name says what is not the default).",
)
@options.option("--overwrite", is_flag=True, help="Dream again what is done, and replace another dream in --output.")
@options.option("--weights", default=None, metavar="FILE", help="The backbone's weights, if they have moved.")
@options.memory_option
@options.device_option
@options.seed_option
def dream(
    choice: ModelChoice,
    nsd_root: Path | None,
    roi: str | None,
    voxel: tuple[int, int, int] | None,
    filter_: str | None,
    objective: str | None,
    target: str | None,
    minus: str | None,
    diversity: float | None,
    parameterization: str,
    steps: int | None,
    lr: float | None,
    count: int,
    folder: Path | None,
    overwrite: bool,
    weights: str | None,
    memory: int,
    device: str,
    seed: int,
    output: Output,
) -> None:
    """Find the images that excite an area, a voxel or a filter most.

    Writes dream-N.png, a contact sheet beside the best natural images, dream.npz, the trace and dream.json. A dream
    that is done is not dreamed again. Stopped by Ctrl-C or SIGTERM it keeps the images so far apart from finished
    ones, and the same command goes on from there.
    """
    from boldreams_cli.console import stop_on_signals
    from boldreams_cli.encoding.model.full import FullModel
    from boldreams_cli.interpret import targets
    from boldreams_cli.interpret.dreams import objectives, record
    from boldreams_cli.interpret.dreams.loop import Settings
    from boldreams_cli.interpret.dreams.natural import Sources

    kind = objectives.choose(objective, target, minus, diversity)
    _check(roi, voxel, filter_, kind, count)
    model = choice.resolve()
    targets.check_gradients(model)
    where = options.pick_device(device)
    responses = _responses(model, choice.cache, nsd_root, needed=roi is not None)
    full = FullModel.rebuild(model, where, weights)
    areas = responses.areas if responses is not None else None
    aim = targets.choose(full, areas, roi, voxel, filter_, minus, each=kind == "target")
    wanted = None
    if target is not None and isinstance(aim, targets.AreaTarget):
        wanted = objectives.read_wanted(target, aim.voxels, aim.asked)
    request = record.Request(
        target=aim,
        objective=objectives.Objective(kind, wanted, 1.0 if diversity is None else diversity),
        settings=Settings.default(
            full.backbone.entry, aim.folder if roi else None, steps, lr, count, parameterization, seed
        ),
        folder=folder,
        device=where,
    )
    with stop_on_signals() as stop:
        made = record.dream(request, Sources(responses, choice.cache, nsd_root, memory), stop, overwrite)
    output.show(made, *_lines(made))


def _check(roi: str | None, voxel: object, filter_: str | None, kind: str, count: int) -> None:
    """Raise ChoiceError for options that do not go together."""
    from boldreams_cli.console import ChoiceError

    if sum(item is not None for item in (roi, voxel, filter_)) != 1:
        raise ChoiceError("say what to dream of: one of --roi AREA, --voxel X,Y,Z and --filter LAYER:K")
    if kind == "diversity" and count < 2:
        raise ChoiceError("--objective diversity needs images to differ: --count 2 or more")
    if filter_ is not None and kind in ("target", "contrast"):
        raise ChoiceError(f"--objective {kind} is of betas and does not go with --filter")


def _responses(model: FittedModel, cache: Path, nsd_root: Path | None, needed: bool) -> Responses | None:
    """The subject's responses: areas, and images to compare with. Without them only areas cannot be dreamed of."""
    from boldreams_cli.console import MismatchError, logger

    try:
        return options.responses_of(model, cache, nsd_root)
    except MismatchError as error:
        if needed:
            raise
        logger.info("best natural images: none (%s)", error)
        return None


def _lines(summary: dict[str, Any]) -> list[str]:
    unit = summary["unit"]
    images = [
        f"{file}  {unit} {response:.4f}" for file, response in zip(summary["images"], summary["response"], strict=True)
    ]
    natural = [
        f"best {name} image: {best['image']}  {unit} {best['response']:.4f}"
        for name, best in (summary["best_natural"] or {}).items()
    ]
    return [f"model: {summary['model']}", f"{summary['objective']} of {summary['roi']}", *images, *natural]
