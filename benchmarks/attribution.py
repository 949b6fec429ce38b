"""How near integrated gradients come to a fine reference: ours against captum's with as many passes.

    python -m benchmarks.attribution [--backbone NAME=WEIGHTS] [--steps N] [--reference N] [--json FILE]

Needs no data: the readout is random, the image a photograph of scikit-image. The reference is a midpoint sum, which
favours neither rule. Every forward pass of ours counts as one of captum's points, with or without a gradient.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import skimage.data
import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from benchmarks.interpret import VOXELS, synthetic_model
from boldreams_cli.interpret.attribution.integration import integrated_gradients, signed_map

BATCH = 4
DEFAULTS = ("alexnet=pretrained", "efficientnet_lite0=pretrained")


def measure(name: str, weights: str, steps: int, reference: int) -> dict[str, object]:
    """Relative distances (Euclidean) to the reference, of attributions and of smoothed maps."""
    full = synthetic_model(name, weights, torch.device("cpu"))
    area = full.weighted_sum(torch.full((VOXELS,), 1 / VOXELS))
    picture = torch.from_numpy(skimage.data.astronaut())[None]
    image = full.backbone.entry.preprocessing.resize(picture)[0].float() / 255
    black, passes = torch.zeros_like(image), 0

    def counted(points: Tensor) -> Tensor:
        nonlocal passes
        passes += len(points)
        return area(points)[:, None]

    ours = integrated_gradients(counted, image, black, steps, BATCH).values[0]
    rules = {"n_steps": passes, "method": "gausslegendre"}, {"n_steps": reference, "method": "riemann_middle"}
    theirs, fine = (
        IntegratedGradients(area)
        .attribute(image[None], black[None], internal_batch_size=BATCH, **rule)[0]
        .detach()
        .double()
        .numpy()
        for rule in rules
    )

    def distances(values: np.ndarray) -> dict[str, float]:
        pairs = {"attribution": (values, fine), "map": (signed_map(values), signed_map(fine))}
        return {key: float(np.linalg.norm(a - b) / np.linalg.norm(b)) for key, (a, b) in pairs.items()}

    found = {"integrated-gradients": distances(ours), "captum-ig": distances(theirs)}
    nearer = {key: found["integrated-gradients"][key] < found["captum-ig"][key] for key in ("attribution", "map")}
    return {"backbone": name, "passes": passes, "reference": reference, "distance": found, "nearer": nearer}


def main() -> None:
    """Print a table, and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", action="append", metavar="NAME=WEIGHTS", help="e.g. alexnet=FILE")
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--reference", type=int, default=4096, help="points of the reference")
    parser.add_argument("--json", type=Path, help="file to write the figures to as well")
    chosen = parser.parse_args()
    rows = [measure(*which.split("=", 1), chosen.steps, chosen.reference) for which in chosen.backbone or DEFAULTS]
    print(
        f"{'backbone':22} {'passes':>6} {'method':22} {'attribution':>12} {'map':>8}   (distance to {chosen.reference})"
    )
    for row in rows:
        for method, found in row["distance"].items():
            print(
                f"{row['backbone']:22} {row['passes']:6} {method:22} {found['attribution']:12.4f} {found['map']:8.4f}"
            )
    text = json.dumps({"torch": torch.__version__, "results": rows})
    print(text)
    if chosen.json:
        chosen.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
