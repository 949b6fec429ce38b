"""`boldreams compare`: two models, paired by image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import Output


@options.command(
    "boldreams compare subj01/vgg11/percent-10 subj01/vgg11/percent-100",
    "boldreams compare percent-10-fast-3f9a1c percent-10-ridge-08f749 --json",
)
@options.output_options
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@options.cache_option
@options.nsd_option
@options.memory_option
@options.device_option
def compare(cache: Path, a: str, b: str, nsd_root: Path | None, memory: int, device: str, output: Output) -> None:
    """Compare two models of one subject: which predicts better, per area and voxel.

    A and B are names as info lists them, unique beginnings of those, or folders. Differences are A - B in r with test
    betas averaged over repeats; their standard errors and 95 % intervals are over the test images, paired by image.
    Voxels count as better where q < .05 (Benjamini-Hochberg over all voxels). Only voxels with a correlation in both
    are used. Writes studies/compare/A-B/ in the cache: tables of areas and voxels, maps of the difference and of q, and
    the plane of difference against maximum (the paper's figure 3).
    """
    from boldreams_cli.encoding.model import folder as folders
    from boldreams_cli.encoding.model.spec import FittedModel
    from boldreams_cli.study import compare

    first, second = (FittedModel.load(folders.resolve(cache, name, option="")) for name in (a, b))
    compare.check_comparable(first, second, cache)
    nsd_root = options.root_for(first.spec.subject, cache, nsd_root)
    responses = options.responses_of(first, cache, nsd_root)
    where = options.pick_device(device)
    comparison = compare.compare(first, second, responses, cache, nsd_root, where, memory)
    comparison.save()
    found = comparison.summary()
    counts = found["voxels_q05"]
    output.show(
        found,
        f"A: {first.folder}",
        f"B: {second.folder}",
        *_table(found["rois"]),
        f"voxels better at q < .05: {counts['A']} in A, {counts['B']} in B, of {found['voxels']} "
        f"({found['excluded']} left out)",
        found["verdict"],
        f"files: {comparison.folder}",
    )


def _table(rois: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        f"{'area':10} {'voxels':>6} {'r of A':>7} {'r of B':>7} {'A - B':>8} {'s.e. over images':>16}  95 % interval"
    ]
    for name, row in rois.items():
        low, high = row["ci"]
        lines.append(
            f"{name:10} {row['voxels']:6d} {row['r_a']:7.3f} {row['r_b']:7.3f} {row['difference']:+8.4f} "
            f"{row['se']:16.4f}  {low:+.4f} to {high:+.4f}"
        )
    return lines
