"""`boldreams extract`: ReLU maps of the subjects' images into the store, once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import Output

if TYPE_CHECKING:
    from boldreams_cli.data.subjects import Subject
    from boldreams_cli.features.extraction import Plan, Result


@options.command(
    "boldreams extract --backbone vgg11",
    "boldreams extract --backbone timm:convnext_tiny --subject 1",
    "boldreams extract --backbone alexnet --data mydata.h5",
    "boldreams extract --backbone rn50x4 --subject 1 --keep-percent 25 --dry-run",
    "boldreams extract --backbone vgg11 --shard-index $SLURM_ARRAY_TASK_ID --shard-count 8",
)
@options.output_options
@options.cache_option
@options.nsd_option
@options.option(
    "--backbone",
    required=True,
    metavar="NAME|LIBRARY:NAME",
    help="The backbone: alexnet, vgg11, rn50x4, efficientnet_lite0, clip-text, or any timm:NAME, torchvision:NAME or "
    "open_clip:MODEL/TAG.",
)
@options.option(
    "--layers",
    default=None,
    metavar="NAME,...",
    help="Modules to read (default: one a resolution; boldreams info --layers NAME lists them).",
)
@options.option(
    "--map",
    "rectified",
    type=click.Choice(["signed", "rectified"]),
    default="signed",
    help="Maps as the layers give them, or max(0, x) of them; of ReLUs both are the same.",
)
@options.option(
    "--weights",
    default="pretrained",
    metavar="pretrained|random|FILE",
    help="The library's own weights, seeded random ones, or a state dict or safetensors file.",
)
@options.option(
    "--subject",
    "subjects",
    type=options.SUBJECT,
    multiple=True,
    help="Subject, repeatable (default: all whose betas lie under the root).",
)
@options.option("--sessions", default=None, metavar="LIST", help="Sessions, e.g. 1-40 (default: 1-37 or all there).")
@options.betas_option
@options.captions_option
@options.option("--clip", default="RN50x4", metavar="NAME[:TAG]", help="A CLIP that open_clip knows, for clip-text.")
@options.option("--batch-size", type=click.IntRange(1), default=None, help="Images in a pass of the backbone.")
@options.option(
    "--dtype", type=click.Choice(["float16", "float32"]), default="float16", help="The type of the stored numbers."
)
@options.option(
    "--keep-percent",
    type=options.PERCENT,
    default=None,
    help="Rank in a first pass and store only this share of the filters.",
)
@options.option(
    "--shard-index", type=click.IntRange(0), default=0, help="The number of this task in a job array, from 0."
)
@options.option("--shard-count", type=click.IntRange(1), default=1, help="Tasks in the job array.")
@options.option("--dry-run", is_flag=True, help="Print shapes, sizes and free disk, and compute nothing.")
@options.device_option
@options.seed_option
def extract(
    cache: Path,
    nsd_root: Path | None,
    subjects: tuple[Subject, ...],
    betas: str | None,
    batch_size: int | None,
    dtype: str,
    keep_percent: float | None,
    shard_index: int,
    shard_count: int,
    dry_run: bool,
    device: str,
    output: Output,
    **asked: Any,
) -> None:
    """Compute a backbone's ReLU maps of the subjects' images, once; of clip-text, embeddings of their captions.

    Images that the store already has are not computed again, and a run that was stopped goes on where it was.
    """
    from boldreams_cli.console import ChoiceError, stop_on_signals
    from boldreams_cli.data.prepared.choosing import known_root
    from boldreams_cli.features import extraction
    from boldreams_cli.features.asked import Asked

    if shard_index >= shard_count:
        raise ChoiceError(f"--shard-index counts from 0 to {shard_count - 1} (--shard-count {shard_count})")
    wanted, where = Asked(subjects=subjects, **asked), options.pick_device(device)
    at_once = batch_size or (wanted.entry.batch_size if where.type == "cpu" else 64)
    for subject in subjects:
        nsd_root = known_root(cache, subject, nsd_root)
    with wanted.opened(options.dataset_of(nsd_root, betas), where) as (network, source):
        plan = extraction.make_plan(network, source, cache, dtype, keep_percent)
        if dry_run:
            output.show(_described(plan), *_lines(plan))
            plan.check_disk()
            return
        with stop_on_signals() as stop:
            shard = shard_index, shard_count
            result = extraction.extract(network, source, plan, cache, stop, at_once, shard)
    _show(result, output)


def _show(result: Result, output: Output) -> None:
    from boldreams_cli.console import duration

    summary = result.summary()
    output.show(
        summary,
        f"store: {summary['store']}",
        f"{summary['computed']} images computed in {duration(summary['seconds'])} "
        f"({summary['images_per_second']:.1f}/s), {summary['skipped']} were there",
        *(f"  {name}: {' x '.join(map(str, shape))}" for name, shape in summary["layers"].items()),
    )


def _described(plan: Plan) -> dict[str, object]:
    return {
        "store": str(plan.path),
        "images": plan.rows,
        "layers": plan.spec["layers"],
        "stored_filters": {name: most for name, (_, most) in plan.stored.items()},
        "fewest_filters": {name: fewest for name, (fewest, _) in plan.stored.items()},
        "chunks": plan.chunks,
        "raw_bytes": plan.raw_bytes,
        "expected_bytes": plan.bytes,
        "free_bytes": plan.free,
        "fits": plan.bytes <= plan.free,
    }


def _lines(plan: Plan) -> list[str]:
    from boldreams_cli.console import size

    lines = [f"store: {plan.path}", f"images to compute: {plan.rows}"]
    for name, shape in plan.spec["layers"].items():
        chunk = " x ".join(map(str, plan.chunks[name]))
        fewest, most = plan.stored[name]
        count = f"{fewest} to {most}" if most > fewest else f"{most}"
        lines.append(f"  {name}: {count} of {shape[0]} filters, {shape[1]} x {shape[2]}, chunks {chunk}")
    known = all(fewest == most for fewest, most in plan.stored.values())
    about, at_most = ("about", "") if known else ("at most about", "at most ")
    lines.append(
        f"maps: {at_most}{size(plan.raw_bytes)}, {about} {size(plan.bytes)} compressed "
        f"({plan.ratio:.2f} : 1 on a sample)"
    )
    if not known:
        lines.append("the filters stored are those among the best of any subject: how many, the first pass finds out")
    return [*lines, f"free disk: {size(plan.free)}"]
