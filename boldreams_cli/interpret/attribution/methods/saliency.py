"""The gradient at the image (Simonyan et al. 2014), with its sign, which captum drops by default."""

from __future__ import annotations

import numpy as np
from captum.attr import Saliency
from numpy.typing import NDArray

from boldreams_cli.interpret.attribution.method import Method, Scene


def compute(scene: Scene) -> NDArray[np.float64]:
    """One backward pass for each response."""
    return scene.of_each(lambda respond: Saliency(respond).attribute(scene.pixels(), abs=False))


METHOD = Method(compute, unit="{response} per unit of a colour", settings={"signed": True})
