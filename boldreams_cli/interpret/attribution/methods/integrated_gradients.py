"""Integrated gradients (Sundararajan et al. 2017; paper, equation 2), with most points where the gradient changes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.interpret.attribution.integration import FIRST, KEPT, TOLERANCE, integrated_gradients
from boldreams_cli.interpret.attribution.method import Method, Scene
from boldreams_cli.interpret.attribution.places import GRADING


def compute(scene: Scene) -> NDArray[np.float64]:
    """Of all responses at once; see `integration`."""
    return integrated_gradients(scene.respond, scene.image, scene.baseline, scene.steps, scene.batch).values


METHOD = Method(
    compute,
    unit="{response} per pixel and colour",
    steps=256,
    steps_are="points of the integral, at most",
    from_baseline=True,
    adds_up=True,
    of_difference=True,
    holds=KEPT,
    settings={"grading": GRADING, "first": FIRST, "kept": KEPT, "tolerance": TOLERANCE},
)
