"""Integrated gradients (paper, section 2.4, equation 2) of several responses at once; numerics only.

Captum's IntegratedGradients computes the same sum for one response; here one forward pass serves all of them, and
nothing is kept but the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from boldreams_cli.console import ChoiceError

Respond = Callable[[Tensor], Tensor]
BASELINES = ("black", "mean", "blur")
SMOOTHING = 2.0  # pixels, the paper's
BLUR = 0.1  # standard deviation of the blurred baseline, as a fraction of the size


@dataclass(frozen=True)
class Integral:
    """Attributions of one image to n responses.

    Parameters
    ----------
    values : (n, 3, H, W) float64; each sums to about prediction - baseline_prediction.
    prediction, baseline_prediction : (n,) float64.
    """

    values: NDArray[np.float64]
    prediction: NDArray[np.float64]
    baseline_prediction: NDArray[np.float64]

    @property
    def sums(self) -> NDArray[np.float64]:
        """(n,) sum of each attribution."""
        return self.values.sum((1, 2, 3))

    @property
    def completeness_error(self) -> NDArray[np.float64]:
        """(n,) |sum - difference of the predictions| / |that difference|."""
        difference = self.prediction - self.baseline_prediction
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.abs(self.sums - difference) / np.abs(difference)


def integrated_gradients(respond: Respond, image: Tensor, baseline: Tensor, steps: int, batch: int) -> Integral:
    """Integrate the gradients along the line from baseline to image, by the rule of Gauss and Legendre.

    Parameters
    ----------
    respond : (images, 3, H, W) -> (images, n), differentiable.
    image, baseline : (3, H, W), on the device to compute on.
    steps : points on the line.
    batch : points in one forward pass; it does not change the result but in rounding.

    Returns
    -------
    Attributions (I - I') ∫ dF/dI, one for each response.
    """
    total = None
    difference = image - baseline
    for alphas, weights in _points(steps, batch):
        points = (baseline + alphas.to(image)[:, None, None, None] * difference).requires_grad_()
        responses = respond(points)
        weighted = (responses * weights.to(responses)[:, None]).sum(0)
        if total is None:
            total = torch.zeros(len(weighted), *image.shape, dtype=torch.float64, device=image.device)
        for number, value in enumerate(weighted):
            (gradient,) = torch.autograd.grad(value, points, retain_graph=number + 1 < len(weighted))
            total[number] += gradient.sum(0)
    assert total is not None
    with torch.no_grad():
        ends = respond(torch.stack([baseline, image])).double().cpu().numpy()
    return Integral((total * difference).cpu().numpy(), ends[1], ends[0])


def _points(steps: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Places in [0, 1] and weights that sum to 1, `batch` at a time."""
    places, weights = np.polynomial.legendre.leggauss(steps)
    for start in range(0, steps, batch):
        part = slice(start, start + batch)
        yield torch.from_numpy((places[part] + 1) / 2), torch.from_numpy(weights[part] / 2)


def baseline_of(name: str, image: Tensor, mean: tuple[float, float, float]) -> Tensor:
    """The image to start from, in pixel space, before normalisation.

    Parameters
    ----------
    name : ``black``; ``mean``, the mean colour that the backbone subtracts; ``blur``, the image without detail.
    image : (3, H, W) in [0, 1].
    mean : of the backbone's preprocessing.

    Raises
    ------
    ChoiceError
        If there is no such baseline.
    """
    if name == "black":
        return torch.zeros_like(image)
    if name == "mean":
        return image.new_tensor(mean)[:, None, None].expand_as(image).clone()
    if name == "blur":
        width = BLUR * image.shape[-1]
        return torch.from_numpy(gaussian_filter(image.cpu().numpy(), (0, width, width), mode="nearest")).to(image)
    raise ChoiceError(f"unknown baseline {name!r}; choose from {', '.join(BASELINES)} (--baseline)")


def signed_map(attribution: NDArray[np.floating]) -> NDArray[np.float64]:
    """Average the colours of (3, H, W) and smooth by a Gaussian of two pixels, signs kept: (H, W)."""
    return gaussian_filter(attribution.mean(0, dtype=np.float64), SMOOTHING)
