"""Integrated gradients (paper, section 2.4, equation 2) of several responses at once; numerics only.

Captum's IntegratedGradients computes such a sum for one response, with points spread evenly. But along the line
from black the gradients of real networks jump wildly in the first few percent and hardly at all later. Forward
passes tell how much each stretch of the line must add up to, so points are spent on the stretches that miss it most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from boldreams_cli.console import ChoiceError
from boldreams_cli.interpret.attribution.method import Attribution, Respond

Span = tuple[float, float]  # a stretch of the line
BASELINES = ("black", "mean", "blur")
ORDER = 8  # points on a stretch
TOLERANCE = 0.003  # of the sum of all stretches' misses, as a share of the attribution's size
AT_A_TIME = 512  # steps for each stretch that is halved in a round
CPU_PASS = 4  # points at most: for more, libraries sum in another order, and rectifiers at their kinks flip
SMOOTHING = 2.0  # pixels, the paper's
BLUR = 0.1  # standard deviation of the blurred baseline, as a fraction of the size


def integrated_gradients(
    respond: Respond, image: Tensor, baseline: Tensor, steps: int, batch: int, order: int = ORDER
) -> Attribution:
    """Integrate the gradients along the line from baseline to image, by the rule of Gauss and Legendre on stretches.

    Half of the steps are spread evenly; the others go, two halves for one, to the stretches whose gradients miss the
    difference of their ends' responses most, until these misses come to less than TOLERANCE of the attribution's size.
    A miss is a sum over all pixels: if errors of pixels are of either sign by chance, it is about as large as the root
    of the sum of their squares, which is how sizes are measured here. Each response has its own steps and chooses its
    own stretches, so that others beside it do not change its result.

    Parameters
    ----------
    respond : (images, 3, H, W) -> (images, n), differentiable.
    image, baseline : (3, H, W), on the device to compute on.
    steps : points on the line for each response at most, or `order` if that is more.
    batch : points in one forward pass; it does not change the result but in rounding.
    order : points on a stretch; equal to `steps`, it gives captum's sum.

    Returns
    -------
    Attributions (I - I') ∫ dF/dI, one for each response.
    """
    line = _Line(respond, image, baseline, batch, order)
    edges = np.linspace(0, 1, max(1, steps // 2 // order) + 1).tolist()
    spans = list(pairwise(edges))
    line.measure(edges)
    shares = [_Share(line, number) for number in range(len(line.responses[0.0]))]
    wanted: dict[int, list[Span]] = dict.fromkeys(range(len(shares)), spans)
    while wanted:
        found = line.integrate(wanted)
        for number, parts in found.items():
            shares[number].take(parts)
        wanted = {share.number: halves for share in shares if (halves := share.refine(steps))}
        line.measure([edge for halves in wanted.values() for span in halves for edge in span])
    values = torch.stack([share.total * line.difference for share in shares])
    ends = line.responses[0.0], line.responses[1.0]
    return Attribution(values.double().cpu().numpy(), prediction=ends[1], baseline_prediction=ends[0])


class _Share:
    """One response's integral: its stretches, their sum, and the steps that it took."""

    def __init__(self, line: _Line, number: int) -> None:
        self.line, self.number = line, number
        self.total = torch.zeros_like(line.difference, dtype=torch.float64)
        self.stretches: dict[Span, tuple[Tensor, float]] = {}
        self.used = 0

    def take(self, parts: Mapping[Span, Tensor]) -> None:
        """Add the gradient's integral (3, H, W) over stretches."""
        for (start, stop), gradient in parts.items():
            said = self.line.responses[stop][self.number] - self.line.responses[start][self.number]
            miss = float((gradient.double() * self.line.difference).sum()) - float(said)
            self.stretches[start, stop] = gradient, miss
            self.total += gradient
        self.used += len(parts) * self.line.order

    def refine(self, steps: int) -> list[Span]:
        """Take out the worst stretches; give their halves, or nothing if it is good enough or steps have run out.

        How many at a time depends on the steps alone, and few, so that rounding hardly ever decides which.
        """
        several = min((steps - self.used) // (2 * self.line.order), max(1, steps // AT_A_TIME))
        size = float((self.total * self.line.difference).norm())
        missed = {span: abs(miss) for span, (_, miss) in self.stretches.items()}
        if several < 1 or float(np.linalg.norm(list(missed.values()))) <= TOLERANCE * size:
            return []
        halves: list[Span] = []
        for start, stop in sorted(missed, key=lambda span: (-missed[span], span))[:several]:
            gradient, _ = self.stretches.pop((start, stop))
            self.total -= gradient
            middle = (start + stop) / 2
            halves += [(start, middle), (middle, stop)]
        return halves


class _Line:
    """The way from baseline to image, and the responses that were measured on it."""

    def __init__(self, respond: Respond, image: Tensor, baseline: Tensor, batch: int, order: int) -> None:
        self.respond, self.baseline, self.difference = respond, baseline, image - baseline
        self.batch, self.order = batch if image.is_cuda else min(batch, CPU_PASS), order
        places, weights = np.polynomial.legendre.leggauss(order)
        self.places, self.weights = (places + 1) / 2, weights / 2
        self.responses: dict[float, NDArray[np.float64]] = {}

    def points(self, alphas: NDArray[np.float64]) -> Tensor:
        """(points, 3, H, W)."""
        return self.baseline + torch.from_numpy(alphas).to(self.difference)[:, None, None, None] * self.difference

    @torch.no_grad()
    def measure(self, alphas: Sequence[float]) -> None:
        """Keep the responses (n,) at places that are not known yet, by forward passes."""
        new = np.array(sorted({*alphas} - self.responses.keys()))
        for part in np.array_split(new, -(-len(new) // self.batch)) if len(new) else []:
            found = self.respond(self.points(part)).double().cpu().numpy()
            self.responses |= dict(zip(part.tolist(), found, strict=True))

    def integrate(self, wanted: Mapping[int, Sequence[Span]]) -> dict[int, dict[Span, Tensor]]:
        """Integrate the gradient over stretches: by response, by stretch, (3, H, W); forward passes are shared."""
        spans = sorted({span for some in wanted.values() for span in some})
        starts, stops = np.array(spans).T
        lengths = (stops - starts)[:, None]
        alphas = (starts[:, None] + lengths * self.places).ravel()
        weights = (lengths * self.weights).ravel()
        owner = np.repeat(np.arange(len(spans)), len(self.places))
        numbers = {number: [spans.index(span) for span in some] for number, some in wanted.items()}
        sums = {number: self.difference.new_zeros(len(spans), *self.difference.shape) for number in wanted}
        for some in np.array_split(np.arange(len(alphas)), -(-len(alphas) // self.batch)):
            here = [number for number, own in numbers.items() if np.isin(owner[some], own).any()]
            points = self.points(alphas[some]).requires_grad_()
            found = self.respond(points)
            weight = torch.from_numpy(weights[some]).to(found)
            for number in here:
                value = (found[:, number] * weight).sum()
                (gradient,) = torch.autograd.grad(value, points, retain_graph=number != here[-1])
                sums[number].index_add_(0, torch.from_numpy(owner[some]).to(points.device), gradient.to(points))
        return {number: {spans[place]: sums[number][place].clone() for place in own} for number, own in numbers.items()}


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
