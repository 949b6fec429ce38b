"""The gradient's mean over copies of the image with noise (Smilkov et al. 2017)."""

from __future__ import annotations

import numpy as np
import torch
from captum.attr import NoiseTunnel, Saliency
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.interpret.attribution.method import Method, Respond, Scene

NOISE = 0.15  # standard deviation; the authors' advice is 0.1 to 0.2 of the range of values


def compute(scene: Scene) -> NDArray[np.float64]:
    """One copy in a pass, so that the noise is the same whatever fits into memory; the same for all responses."""

    def one(respond: Respond) -> Tensor:
        devices = [scene.image.device] if scene.image.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(scene.seed)
            return NoiseTunnel(Saliency(respond)).attribute(
                scene.pixels(),
                nt_type="smoothgrad",
                nt_samples=scene.steps,
                nt_samples_batch_size=1,
                stdevs=NOISE,
                abs=False,
            )

    return scene.of_each(one)


METHOD = Method(
    compute,
    unit="{response} per unit of a colour",
    steps=50,
    steps_are="noisy copies",
    settings={"noise": NOISE, "signed": True},
)
