"""Integrated gradients (Sundararajan et al. 2017; paper, equation 2), with points where the gradient jumps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.interpret.attribution.integration import AT_A_TIME, ORDER, TOLERANCE, integrated_gradients
from boldreams_cli.interpret.attribution.method import Method, Scene


def compute(scene: Scene) -> NDArray[np.float64]:
    """Of all responses at once; see `integration`."""
    return integrated_gradients(scene.respond, scene.image, scene.baseline, scene.steps, scene.batch).values


METHOD = Method(
    compute,
    unit="{response} per value",
    steps=256,
    steps_are="points of the integral, at most",
    from_baseline=True,
    adds_up=True,
    of_difference=True,
    settings={"order": ORDER, "tolerance": TOLERANCE, "at_a_time": AT_A_TIME},
)
