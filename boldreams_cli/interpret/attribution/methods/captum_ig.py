"""Integrated gradients as captum computes them, with Gauss-Legendre points over the whole line."""

from __future__ import annotations

import numpy as np
from captum.attr import IntegratedGradients
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.interpret.attribution.method import Method, Respond, Scene

RULE = "gausslegendre"  # captum's default


def compute(scene: Scene) -> NDArray[np.float64]:
    """Captum keeps all points at once unless it is given a batch."""

    def one(respond: Respond) -> Tensor:
        return IntegratedGradients(respond).attribute(
            scene.image[None],
            scene.baseline[None],
            n_steps=scene.steps,
            method=RULE,
            internal_batch_size=min(scene.batch, scene.steps),
        )

    return scene.of_each(one)


METHOD = Method(
    compute,
    unit="{response} per pixel and colour",
    steps=256,
    steps_are="points of the integral",
    from_baseline=True,
    adds_up=True,
    of_difference=True,
    settings={"rule": RULE},
)
