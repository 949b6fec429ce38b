"""Integrated gradients (paper, section 2.4, equation 2) of several responses at once; numerics only.

Captum's IntegratedGradients computes such a sum for one response, with points spread evenly. But along the line
from black the gradients of real networks jump wildly in the first few percent and hardly at all later. Forward
passes tell how much each stretch of the line must add up to, so points are spent on the stretches that miss it most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from boldreams_cli.console import ChoiceError

Respond = Callable[[Tensor], Tensor]
BASELINES = ("black", "mean", "blur")
ORDER = 8  # points on a stretch
TOLERANCE = 0.003  # expected size of the sum of all stretches' misses, as a fraction of the whole difference
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


def integrated_gradients(
    respond: Respond, image: Tensor, baseline: Tensor, steps: int, batch: int, order: int = ORDER
) -> Integral:
    """Integrate the gradients along the line from baseline to image, by the rule of Gauss and Legendre on stretches.

    Half of the steps are spread evenly; the others go, two halves for one, to the stretches whose gradients miss the
    difference of their ends' responses most, until these misses, whose signs are random, come to less than TOLERANCE.

    Parameters
    ----------
    respond : (images, 3, H, W) -> (images, n), differentiable.
    image, baseline : (3, H, W), on the device to compute on.
    steps : points on the line at most, or `order` if that is more.
    batch : points in one forward pass; it does not change the result but in rounding.
    order : points on a stretch; equal to `steps`, it gives captum's sum.

    Returns
    -------
    Attributions (I - I') ∫ dF/dI, one for each response.
    """
    line = _Line(respond, image, baseline, batch, order)
    edges = np.linspace(0, 1, max(1, steps // 2 // order) + 1)
    at_edges = line.responses(edges)
    stretches = line.stretches(edges[:-1], edges[1:], np.stack([at_edges[:-1], at_edges[1:]], 1))
    whole = np.abs(at_edges[-1] - at_edges[0])
    while True:
        misses = np.stack([stretch.miss for stretch in stretches])  # (stretches, n)
        share = misses / np.where(whole > 0, whole, np.inf)
        several = min((steps - order * line.used) // (2 * order), max(1, batch // (2 * order)))
        if several < 1 or (np.linalg.norm(share, axis=0) <= TOLERANCE).all():
            break
        worst = np.argsort(-share.max(1), kind="stable")[:several]
        old = [stretches[number] for number in sorted(worst)]
        stretches = [stretch for number, stretch in enumerate(stretches) if number not in worst]
        stretches += line.halves(old)
    total = torch.stack([stretch.gradient for stretch in stretches]).double().sum(0)
    return Integral((total * line.difference).cpu().numpy(), at_edges[-1], at_edges[0])


@dataclass(frozen=True)
class _Stretch:
    """A part of the line: its ends, their responses (2, n), the gradient's integral (n, 3, H, W), its miss (n,)."""

    start: float
    stop: float
    responses: NDArray[np.float64]
    gradient: Tensor
    miss: NDArray[np.float64]


class _Line:
    """The way from baseline to image; `used` counts the stretches that gradients were computed for."""

    def __init__(self, respond: Respond, image: Tensor, baseline: Tensor, batch: int, order: int) -> None:
        self.respond, self.baseline, self.difference = respond, baseline, image - baseline
        self.batch, self.used = batch, 0
        places, weights = np.polynomial.legendre.leggauss(order)
        self.places, self.weights = (places + 1) / 2, weights / 2

    def points(self, alphas: NDArray[np.float64]) -> Tensor:
        """(points, 3, H, W)."""
        return self.baseline + torch.from_numpy(alphas).to(self.difference)[:, None, None, None] * self.difference

    @torch.no_grad()
    def responses(self, alphas: NDArray[np.float64]) -> NDArray[np.float64]:
        """(points, n), by forward passes."""
        parts = np.array_split(alphas, -(-len(alphas) // self.batch))
        return np.concatenate([self.respond(self.points(part)).double().cpu().numpy() for part in parts])

    def halves(self, old: Sequence[_Stretch]) -> list[_Stretch]:
        """Two stretches for each."""
        starts, stops = (np.array([getattr(stretch, end) for stretch in old]) for end in ("start", "stop"))
        middles = (starts + stops) / 2
        first, last = np.stack([stretch.responses for stretch in old], 1)
        between = self.responses(middles)
        return self.stretches(
            np.concatenate([starts, middles]),
            np.concatenate([middles, stops]),
            np.concatenate([np.stack([first, between], 1), np.stack([between, last], 1)]),
        )

    def stretches(
        self, starts: NDArray[np.float64], stops: NDArray[np.float64], responses: NDArray[np.float64]
    ) -> list[_Stretch]:
        """Integrate over stretches, with the responses (stretches, 2, n) at their ends."""
        lengths = (stops - starts)[:, None]
        alphas = (starts[:, None] + lengths * self.places).ravel()
        weights = (lengths * self.weights).ravel()
        owner = np.repeat(np.arange(len(starts)), len(self.places))
        sums = self.difference.new_zeros(len(starts), responses.shape[2], *self.difference.shape)
        for some in np.array_split(np.arange(len(alphas)), -(-len(alphas) // self.batch)):
            points = self.points(alphas[some]).requires_grad_()
            found = self.respond(points)
            weighted = (found * torch.from_numpy(weights[some]).to(found)[:, None]).sum(0)
            for number, value in enumerate(weighted):
                (gradient,) = torch.autograd.grad(value, points, retain_graph=number + 1 < len(weighted))
                sums[:, number].index_add_(0, torch.from_numpy(owner[some]).to(sums.device), gradient.to(sums))
        self.used += len(starts)
        found_sums = (sums.double() * self.difference).sum((2, 3, 4)).cpu().numpy()
        misses = np.abs(found_sums - (responses[:, 1] - responses[:, 0]))
        return [
            _Stretch(float(a), float(b), ends, gradient, miss)
            for a, b, ends, gradient, miss in zip(starts, stops, responses, sums, misses, strict=True)
        ]


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
