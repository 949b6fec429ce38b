"""How close a dream stays to the photograph that it starts from, in pixels and in the model's features.

As in feature accentuation (Hamblin et al. 2024): the response rises against a penalty on the distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from boldreams_cli.interpret.dreams.ascent import transforms
from boldreams_cli.interpret.targets import Target

WEIGHT = 10.0  # betas that a picture costs which is as far from its photograph as another photograph is
BOUND = 0.5  # largest relative feature distance at which a picture counts as still the photograph


@dataclass(frozen=True)
class Photograph:
    """Where a dream starts.

    Parameters
    ----------
    name : its id or path.
    pixels : (1, 3, size, size) in [0, 1], on the device.
    weight : of the penalty, in the response's unit.
    label : what people call it, where that is not its name.
    """

    name: str
    pixels: Tensor
    weight: float = WEIGHT
    label: str = ""

    def __str__(self) -> str:
        """For people."""
        return self.label or self.name

    def penalty(self, target: Target, images: Tensor, groups: Sequence[Tensor], matrix: Tensor) -> Tensor:
        """Weight times the squared distances, mean over images; one pass more, of the photograph, without gradient.

        Parameters
        ----------
        target : that reads the maps.
        images : (n, 3, size, size) under the transform of the step.
        groups : their maps, as `Target.activity` gives them.
        matrix : of that transform, which the photograph undergoes too.
        """
        with torch.no_grad():
            moved = transforms.apply(self.pixels, matrix)
            reference = target.activity(moved)["groups"]
        far = pixel_distance(images, moved).square() + feature_distance(groups, reference).square()
        return self.weight * far.mean()


def pixel_distance(images: Tensor, photograph: Tensor) -> Tensor:
    """Distance in units of the photograph's contrast: 1 is as far as its mean colour is.

    Parameters
    ----------
    images : (n, 3, H, W).
    photograph : (1, 3, H, W).

    Returns
    -------
    (n,), 0 for the photograph itself.
    """
    contrast = (photograph - photograph.mean((2, 3), keepdim=True)).norm()
    return (images - photograph).flatten(1).norm(dim=1) / contrast.clamp_min(1e-6)


def feature_distance(groups: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """Root mean square, over groups of layers, of the distance relative to the photograph's own maps.

    Parameters
    ----------
    groups : of each resolution, (n, K, P) or (n, K, H, W) maps.
    reference : the same of the photograph, n = 1.

    Returns
    -------
    (n,), 0 for the photograph itself; two photographs are about 1 apart.
    """
    squares = [
        (maps - own).flatten(1).square().sum(1) / own.square().sum().clamp_min(1e-12)
        for maps, own in zip(groups, reference, strict=True)
    ]
    return torch.stack(squares).mean(0).clamp_min(1e-12).sqrt()
