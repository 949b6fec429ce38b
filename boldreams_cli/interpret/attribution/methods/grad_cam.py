"""Maps of the last layer that the model reads, weighed by their mean gradient (Selvaraju et al. 2017), signs kept."""

from __future__ import annotations

import numpy as np
from captum.attr import LayerAttribution, LayerGradCam
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.interpret.attribution.method import Method, Respond, Scene

MODE = "bilinear"  # from the layer's pixels to the image's


def compute(scene: Scene) -> NDArray[np.float64]:
    """One backward pass for each response, to the layer only."""
    assert scene.layer is not None, "the scene names no layer"

    def one(respond: Respond) -> Tensor:
        coarse = LayerGradCam(respond, scene.layer).attribute(scene.pixels(), relu_attributions=False)
        return LayerAttribution.interpolate(coarse, scene.image.shape[-2:], interpolate_mode=MODE)

    return scene.of_each(one)


METHOD = Method(
    compute,
    unit="activation x {response} per activation",
    settings={"mode": MODE, "layer": "the last of several pixels"},
)
