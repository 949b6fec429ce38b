"""How often a way to choose the minimal percent takes one that is not sufficient, on simulated brains.

    python -m benchmarks.minimal [--images N ...] [--brains N] [--margin M] [--seed S]

The models are nested and their true accuracies known; the largest insufficient percent falls short by a little more
than the margin (boldreams_cli/simulation/nested.py). `minimal` must take an insufficient one at most at the nominal
rate, 5 %. Beside it two ways that are found in print: the smallest percent that is not significantly worse over
images, and the smallest whose mean over voxels lies within one standard error over voxels of the reference's.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from boldreams_cli.encoding.evaluation.certainty.noninferiority import Minimal, smallest_sufficient
from boldreams_cli.encoding.evaluation.statistics import influence, mean_and_error, pearson_r
from boldreams_cli.simulation.nested import NestedBrain

RULES = ("not inferior", "not significantly worse", "within one error over voxels")


def chosen(brain: NestedBrain, images: int, margin: float, rng: np.random.Generator) -> tuple[Minimal, float]:
    """Show images to one brain.

    Returns
    -------
    The answer of `minimal`, and the smallest percent within one standard error over voxels of 100 %.
    """
    beta, predictions = brain.draw(images, rng)
    y = torch.from_numpy(beta)
    p = {percent: torch.from_numpy(values) for percent, values in predictions.items()}
    r = {percent: pearson_r(values, y).numpy() for percent, values in p.items()}
    accuracy = {percent: float(values.mean()) / brain.ceiling for percent, values in r.items()}
    influences = {percent: influence(values, y).mean(1).numpy() / brain.ceiling for percent, values in p.items()}
    mean, error = mean_and_error(r[100])
    within = min(percent for percent, values in r.items() if values.mean() >= mean - error)
    return smallest_sufficient(accuracy, influences, margin), within


def rates(images: int, brains: int, margin: float = 0.02, seed: int = 0) -> dict[str, float]:
    """Share of brains in which each rule takes an insufficient percent."""
    brain = NestedBrain()
    sufficient = brain.sufficient(margin)
    wrong = dict.fromkeys(RULES, 0)
    for number in range(brains):
        answer, within = chosen(brain, images, margin, np.random.default_rng([seed, images, number]))
        for rule, percent in zip(RULES, (answer.percent, answer.percent_low, within), strict=True):
            wrong[rule] += percent is not None and percent not in sufficient
    return {rule: count / brains for rule, count in wrong.items()}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 300, 1000, 3000])
    parser.add_argument("--brains", type=int, default=2000)
    parser.add_argument("--margin", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print(f"{'images':>6}  " + "  ".join(f"{rule:>28}" for rule in RULES))
    for images in asked.images:
        found = rates(images, asked.brains, asked.margin, asked.seed)
        print(f"{images:6d}  " + "  ".join(f"{found[rule]:28.3f}" for rule in RULES), flush=True)


if __name__ == "__main__":
    main()
