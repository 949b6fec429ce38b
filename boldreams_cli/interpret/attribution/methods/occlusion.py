"""How much the response falls when a square of the baseline covers the pixel (Zeiler & Fergus 2014)."""

from __future__ import annotations

import numpy as np
import torch
from captum.attr import Occlusion
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.interpret.attribution.method import Method, Respond, Scene

SQUARE = 8  # of them, side by side, along the image's width
OVERLAP = 2  # squares over each pixel, in each direction


def compute(scene: Scene) -> NDArray[np.float64]:
    """Mean over the squares that cover a pixel; forward passes only."""
    side = max(1, scene.image.shape[-1] // SQUARE)
    step = max(1, side // OVERLAP)

    def one(respond: Respond) -> Tensor:
        with torch.no_grad():
            return Occlusion(respond).attribute(
                scene.image[None],
                sliding_window_shapes=(3, side, side),
                strides=(3, step, step),
                baselines=scene.baseline[None],
                perturbations_per_eval=scene.batch,
            )

    return scene.of_each(one)


METHOD = Method(
    compute,
    unit="{response} lost when covered",
    from_baseline=True,
    of_difference=True,
    settings={"squares": SQUARE, "overlap": OVERLAP},
)
