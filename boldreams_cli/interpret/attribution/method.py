"""What a method of attribution looks at and gives; a method is one file in `methods`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Respond = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scene:
    """One image and the responses that it is attributed to.

    Parameters
    ----------
    respond : (images, 3, H, W) -> (images, count), differentiable.
    count : of the responses.
    image, baseline : (3, H, W) in [0, 1], on the device to compute on.
    steps : what the method takes them for; 0 for methods that take none.
    batch : images in one forward pass; it does not change the result but in rounding.
    layer : the module whose maps, (images, filters, height, width), Grad-CAM weighs.
    seed : of methods that draw random numbers.
    """

    respond: Respond
    count: int
    image: Tensor
    baseline: Tensor
    steps: int
    batch: int
    layer: nn.Module | None = None
    seed: int = 0

    def pixels(self) -> Tensor:
        """(1, 3, H, W) the image, that asks for a gradient: the network's weights do not."""
        return self.image[None].clone().requires_grad_()

    def one(self, number: int) -> Respond:
        """One of the responses: (images, 3, H, W) -> (images,), as captum wants it."""
        return lambda points: self.respond(points)[:, number]

    def of_each(self, compute: Callable[[Respond], Tensor]) -> NDArray[np.float64]:
        """(count, 3, H, W) of a method that knows one response: (1, channels, H, W) for each, channels alike if 1."""
        found = [
            compute(self.one(number)).detach().double().expand(1, *self.image.shape) for number in range(self.count)
        ]
        return torch.cat(found).cpu().numpy()


@dataclass(frozen=True)
class Method:
    """A way from an image to the share of each pixel in a response.

    Parameters
    ----------
    compute : (count, 3, H, W) of a scene.
    unit : of the map, for the bar of colours, with ``{response}`` for that of the response.
    steps : how many, if the user does not say; None for a method that takes none.
    steps_are : what --steps counts.
    from_baseline : whether it compares the image with a baseline.
    adds_up : whether the sum over pixels is meant to be the response less that of the baseline.
    of_difference : whether values are of the image less the baseline, rather than of a unit of colour.
    holds : images' worth of numbers that it keeps for each response while it computes, at most.
    settings : constants that decide the result, for the product's key.
    """

    compute: Callable[[Scene], NDArray[np.float64]]
    unit: str
    steps: int | None = None
    steps_are: str = ""
    from_baseline: bool = False
    adds_up: bool = False
    of_difference: bool = False
    holds: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Attribution:
    """Attributions of one image to n responses.

    Parameters
    ----------
    values : (n, 3, H, W) float64.
    prediction, baseline_prediction : (n,) float64, of the image and of the baseline.
    """

    values: NDArray[np.float64]
    prediction: NDArray[np.float64]
    baseline_prediction: NDArray[np.float64]

    @classmethod
    def joined(cls, parts: Sequence[Attribution]) -> Attribution:
        """Of all responses of some attributions of one image, in their order."""
        names = ("values", "prediction", "baseline_prediction")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    @property
    def sums(self) -> NDArray[np.float64]:
        """(n,) sum of each attribution."""
        return self.values.sum((1, 2, 3))

    @property
    def absolute_sums(self) -> NDArray[np.float64]:
        """(n,) sum of the absolute values of each attribution."""
        return np.abs(self.values).sum((1, 2, 3))

    @property
    def delta(self) -> NDArray[np.float64]:
        """(n,) sum less the difference of the predictions: captum's convergence delta, with its sign."""
        return self.sums - (self.prediction - self.baseline_prediction)

    @property
    def relative_delta(self) -> NDArray[np.float64]:
        """(n,) delta as a share of the sum of absolute values; 0 where all are 0.

        How far the map may be off: shares of either sign cancel in the sum, so what is missing from it can be large
        beside the difference of the predictions where the map is right to a hundredth.
        """
        return self.delta / np.where(self.absolute_sums > 0, self.absolute_sums, 1)

    @property
    def completeness_error(self) -> NDArray[np.float64]:
        """(n,) |delta| / |difference of the predictions|: infinite where these are equal, whatever the map is worth."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.abs(self.delta) / np.abs(self.prediction - self.baseline_prediction)
