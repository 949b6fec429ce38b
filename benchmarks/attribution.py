"""How near integrated gradients come to a fine reference: ours against captum's with as many passes.

    python -m benchmarks.attribution [--backbone NAME=WEIGHTS] [--image FILE] [--steps N] [--reference N] [--json FILE]

Needs no data: the readouts are random, the images photographs of scikit-image. The reference is a midpoint sum, which
favours neither rule. Every forward pass of ours counts as one of captum's points, with or without a gradient. A
backbone takes some four minutes an image on two cores, nearly all of them the reference's 4,096 points of three
gradients each.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from captum.attr import IntegratedGradients
from PIL import Image
from torch import Tensor

from benchmarks.interpret import VOXELS, synthetic_model
from boldreams_cli.console import progress, start_logging
from boldreams_cli.encoding.model.full import FullModel, ResponseOfArea
from boldreams_cli.interpret.attribution.integration import integrated_gradients, signed_map
from boldreams_cli.machine import keep_freed

BATCH = 4
STEPS = (32, 64, 256)
DEFAULTS = ("alexnet=pretrained", "efficientnet_lite0=pretrained")
PICTURES = ("astronaut", "chelsea", "coffee")
WHAT = ("attribution", "map")  # the latter is averaged over colours and smoothed, as it is shown


def areas_of(full: FullModel) -> dict[str, ResponseOfArea]:
    """Responses of three kinds: the mean over all voxels, one voxel, one half of the voxels less the other."""
    halves = torch.where(torch.arange(VOXELS) < VOXELS // 2, 1.0, -1.0) / (VOXELS // 2)
    weights = {"mean": torch.full((VOXELS,), 1 / VOXELS), "voxel": torch.eye(VOXELS)[0], "contrast": halves}
    return {name: full.weighted_sum(weight) for name, weight in weights.items()}


def fine(full: FullModel, areas: dict[str, ResponseOfArea], image: Tensor, points: int) -> dict[str, np.ndarray]:
    """Midpoint sums from black, of all areas at once: (3, H, W) of each."""
    sums = {name: torch.zeros_like(image, dtype=torch.float64) for name in areas}
    with progress("reference", points, "points") as shown:
        for some in torch.arange(points).add(0.5).div(points).split(BATCH):
            pixels = (some[:, None, None, None] * image).requires_grad_()
            maps = full.maps(pixels)
            for name, area in areas.items():
                (gradient,) = torch.autograd.grad(area.read(maps).sum(), pixels, retain_graph=True)
                sums[name] += gradient.double().sum(0)
            shown.advance(len(some))
    return {name: (total * image / points).numpy() for name, total in sums.items()}


def both(area: ResponseOfArea, image: Tensor, steps: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Passes, our attribution, captum's by so many points."""
    black, passes = torch.zeros_like(image), 0

    def counted(points: Tensor) -> Tensor:
        nonlocal passes
        passes += len(points)
        return area(points)[:, None]

    ours = integrated_gradients(counted, image, black, steps, BATCH).values[0]
    theirs = IntegratedGradients(area).attribute(
        image[None], black[None], n_steps=passes, method="gausslegendre", internal_batch_size=BATCH
    )
    return passes, ours, theirs[0].detach().double().numpy()


def measure(
    name: str, weights: str, pictures: dict[str, np.ndarray], steps: list[int], reference: int
) -> Iterator[Any]:
    """Relative distances (Euclidean) to the reference, of attributions and of smoothed maps."""
    full = synthetic_model(name, weights, torch.device("cpu"))
    areas = areas_of(full)
    for title, picture in pictures.items():
        image = full.backbone.entry.preprocessing.resize(torch.from_numpy(picture)[None])[0].float() / 255
        references = fine(full, areas, image, reference)
        for area, expected in references.items():
            for count in steps:
                passes, *found = both(areas[area], image, count)
                row = {"backbone": name, "image": title, "area": area, "steps": count, "passes": passes}
                for method, values in zip(("ours", "captum"), found, strict=True):
                    pairs = (values, expected), (signed_map(values), signed_map(expected))
                    far = [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs]
                    row[method] = dict(zip(WHAT, far, strict=True))
                yield row


def summary(rows: list[Any]) -> Iterator[str]:
    """By backbone and steps: medians over images and areas, and of how many ours is nearer."""
    for backbone, steps in dict.fromkeys((row["backbone"], row["steps"]) for row in rows):
        some = [row for row in rows if (row["backbone"], row["steps"]) == (backbone, steps)]
        cells = [f"{statistics.median(row['passes'] for row in some):g}"]
        for what in WHAT:
            ours, theirs = (statistics.median(row[method][what] for row in some) for method in ("ours", "captum"))
            nearer = sum(row["ours"][what] < row["captum"][what] for row in some)
            cells.append(f"{ours:.4f} | {theirs:.4f} | {nearer} of {len(some)}")
        yield f"| {backbone} | {steps} | {' | '.join(cells)} |"


def main() -> None:
    """Print each case, a table of medians, and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", action="append", metavar="NAME=WEIGHTS", help="e.g. alexnet=FILE")
    parser.add_argument("--image", action="append", metavar="FILE", help=f"or one of {', '.join(PICTURES)}")
    parser.add_argument("--steps", type=int, action="append")
    parser.add_argument("--reference", type=int, default=4096, help="points of the reference")
    parser.add_argument("--json", type=Path, help="file to write the figures to as well")
    chosen = parser.parse_args()
    start_logging(0)
    keep_freed()  # as every command does
    pictures = {
        Path(name).stem: getattr(skimage.data, name)()
        if name in PICTURES
        else np.array(Image.open(name).convert("RGB"))
        for name in chosen.image or PICTURES
    }
    rows = []
    for which in chosen.backbone or DEFAULTS:
        for row in measure(*which.split("=", 1), pictures, chosen.steps or STEPS, chosen.reference):
            rows.append(row)
            print(json.dumps(row), flush=True)
    print("\n| backbone | steps | passes | ours | captum's | nearer | map: ours | captum's | nearer |")
    print("|---|---|---|---|---|---|---|---|---|", *summary(rows), sep="\n")
    if chosen.json:
        text = json.dumps({"torch": torch.__version__, "reference": chosen.reference, "results": rows})
        chosen.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
