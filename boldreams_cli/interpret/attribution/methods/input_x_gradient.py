"""The gradient at the image times the image: what each pixel adds to a linear approximation (Shrikumar et al. 2016)."""

from __future__ import annotations

import numpy as np
from captum.attr import InputXGradient
from numpy.typing import NDArray

from boldreams_cli.interpret.attribution.method import Method, Scene


def compute(scene: Scene) -> NDArray[np.float64]:
    """One backward pass for each response."""
    return scene.of_each(lambda respond: InputXGradient(respond).attribute(scene.pixels()))


METHOD = Method(compute, unit="{response} per pixel and colour", of_difference=True)
