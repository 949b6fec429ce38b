"""`boldreams dream`: the images that excite an area, a voxel or a filter most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import ModelChoice, Output


@options.command(
    "boldreams dream --roi faces",
    "boldreams dream --roi ecc_1 --roi ecc_2 --roi ecc_3 --roi ecc_4 --roi ecc_5",
    "boldreams dream --roi FFA-1,FFA-2 --minus places",
    "boldreams dream --roi faces --start photo.jpg",
    "boldreams dream --voxel best:FFA-1",
    "boldreams dream --filter features.12:7 --count 2",
)
@options.output_options
@options.model_options
@options.nsd_option
@options.target_options("a dream each, of a network built once")
@options.bound_options
@options.option(
    "--objective",
    default=None,
    metavar="mean|diversity|target|contrast|both",
    help="Mean response (the default); with images that differ; betas to reach (--target); one area minus another "
    "(--minus); two areas at once (--plus).",
)
@options.option("--target", default=None, metavar="FILE.npz|NUMBER", help="Betas to reach, in place of the most.")
@options.option("--minus", default=None, metavar="AREA", help="Area to excite least, for the contrast.")
@options.option("--plus", default=None, metavar="AREA", help="Area to excite as well.")
@options.option("--diversity", type=options.Real(0), default=None, help="Weight of diversity, in betas (default: 1).")
@options.option(
    "--start",
    default=None,
    metavar="ID|FILE",
    help="A photograph to start from and to stay close to: what the area would have more of in it.",
)
@options.option(
    "--closeness",
    type=options.Real(0),
    default=None,
    help="Weight of the distance from the --start, in betas (default: 10); its square counts, in pixels and features.",
)
@options.option(
    "--parameterization",
    type=click.Choice(["fourier", "pixel", "maco"]),
    default="fourier",
    help="Lucent's spectra or pixels; or free phases under the mean spectrum of the subject's stimuli, with "
    "transparency.",
)
@options.option(
    "--steps", type=click.IntRange(1), default=None, help="Steps of Adam (default: the authors', by backbone)."
)
@options.option(
    "--lr",
    type=options.Real(0, min_open=True),
    default=None,
    help="The learning rate of Adam (default: the authors', by backbone).",
)
@options.option(
    "--count", type=click.IntRange(1), default=None, help="Images to dream at once (default: 4; 1 with --start)."
)
@options.option(
    "--natural/--no-natural", default=True, help="Search the best natural images too (once for a model and area)."
)
@options.option(
    "--output",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder to write, of several areas one in it each (default: dreams/NAME in the model's folder; the name says "
    "what is not the default).",
)
@options.option("--overwrite", is_flag=True, help="Dream again what is done, and replace another dream in --output.")
@options.moved_weights_option
@options.memory_option
@options.device_option
@options.seed_option
def dream(
    choice: ModelChoice,
    nsd_root: Path | None,
    overwrite: bool,
    weights: str | None,
    memory: int,
    device: str,
    output: Output,
    **asked: Any,
) -> None:
    """Find the images that excite an area, a voxel or a filter most.

    Writes dream-N.png, a contact sheet beside the best natural images, dream.npz, the trace and dream.json. A dream
    that is done is not dreamed again. Stopped by Ctrl-C or SIGTERM it keeps the images so far apart from finished
    ones, and the same command goes on from there; killed, it goes on from the last minute.

    With --start it accentuates in a photograph what the area responds to; the difference is drawn. Of three or more
    eccentricity bands in one call it says how well the dreams' contrast moves outwards with them. A star marks
    predictions beyond all that was measured of the area.
    """
    from boldreams_cli.console import stop_on_signals
    from boldreams_cli.encoding.model.full import FullModel
    from boldreams_cli.interpret import targets
    from boldreams_cli.interpret.dreams import bands
    from boldreams_cli.interpret.dreams.asked import Asked, dream_all
    from boldreams_cli.interpret.dreams.natural import Sources

    wish = Asked(**asked)
    wish.check()
    model = choice.resolve()
    nsd_root = options.root_for(model.spec.subject, choice.cache, nsd_root)
    targets.check_gradients(model)
    where = options.pick_device(device)
    without = "best natural images: none"
    responses = options.responses_or_none(model, choice.cache, nsd_root, wish.needs_areas, without)
    sources = Sources(responses, choice.cache, nsd_root, memory)
    requests = wish.requests(FullModel.rebuild(model, where, weights), sources)
    with stop_on_signals() as stop:
        made = dream_all(requests, sources, stop, overwrite)
        if len(made) == 1:
            output.show(made[0], *_lines(made[0]))
            return
        test = bands.compare(model, made, wish.folder, stop)
    lines = [line for one in made for line in _lines(one)[1:]]
    if test is not None:
        lines.append(f"contrast's distance and the band's rank: rho {test['correlation']:.2f}  {test['files'][0]}")
    found = {"model": str(model.folder), "results": made, "eccentricity": test}
    output.show(found, f"model: {model.folder}", *lines)


def _lines(summary: dict[str, Any]) -> list[str]:
    unit = summary["unit"]
    beyond = summary["beyond_data"] or [False] * len(summary["images"])
    images = [
        f"{file}  {unit} {response:.4f}{' *' if far else ''}"
        for file, response, far in zip(summary["images"], summary["response"], beyond, strict=True)
    ]
    if any(beyond):
        images.append(f"* beyond all that was measured: at most {summary['measured']['beta']:.4f}")
    beat = summary["steps_to_beat"]
    natural = []
    for name, best in (summary["best_natural"] or {}).items():
        passed = "" if beat is None else ", not reached" if beat[name] is None else f", passed at step {beat[name]}"
        natural.append(
            f"best {name} image: {best.get('image_label', best['image'])}  {unit} {best['response']:.4f}{passed}"
        )
    sides = [f"{area}: {', '.join(f'{v:.4f}' for v in values)}" for area, values in (summary["sides"] or {}).items()]
    start = []
    if summary["start"] is not None:
        far = ", ".join(f"{value:.2f}" for value in summary["start"]["feature_distance"])
        called = summary["start"].get("image_label", summary["start"]["image"])
        start = [f"start {called}: {unit} {summary['start']['response']:.4f}; now {far} away"]
    head = [f"model: {summary['model']}", f"{summary['objective']} of {summary['roi']}"]
    return [*head, *images, *sides, *start, *natural]
