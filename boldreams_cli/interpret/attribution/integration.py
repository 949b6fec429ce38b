"""Integrated gradients (paper, section 2.4, equation 2) of several responses at once; numerics only.

Captum's IntegratedGradients computes such a sum for one response, with places on the line that are the same for all
networks. Here the gradients seen so far tell where more of them are needed, and every pass counts in the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from boldreams_cli.console import ChoiceError
from boldreams_cli.interpret.attribution.method import Attribution, Respond
from boldreams_cli.interpret.attribution.places import (
    Floats,
    expected_errors,
    first_places,
    in_gaps,
    lengths_nearest,
    misses,
    spread,
)

BASELINES = ("black", "mean", "blur")
FIRST, KEPT = 16, 128  # places to begin with at most; gradients held in memory for each response at most
TOLERANCE = 0.003  # of the expected error, as a share of the attribution's size (Euclidean)
CPU_PASS = 4  # points at most: for more, libraries sum in another order, and rectifiers at their kinks flip
SMOOTHING = 2.0  # pixels, the paper's
BLUR = 0.1  # standard deviation of the blurred baseline, as a fraction of the size


def integrated_gradients(respond: Respond, image: Tensor, baseline: Tensor, steps: int, batch: int) -> Attribution:
    """Integrate the gradients along the line from baseline to image, with most places where they change most.

    A few places are looked at first; then, in rounds that double their number, the gaps between them get more, each so
    many that the expected error of the whole becomes least (see `places`), until that is TOLERANCE of the
    attribution's size. Each response has its own places, so that others beside it do not change its result.

    Parameters
    ----------
    respond : (images, 3, H, W) -> (images, n), differentiable.
    image, baseline : (3, H, W), on the device to compute on.
    steps : places on the line for each response at most.
    batch : points in one forward pass; it does not change the result but in rounding.

    Returns
    -------
    Attributions (I - I') ∫ dF/dI, one for each response.
    """
    line = _Line(respond, image, baseline, batch)
    ends = line.responses(np.array([0.0, 1.0]))
    integrals = {number: _Integral(line.difference, *own) for number, own in enumerate(ends.T)}
    for count in rounds(steps):
        wanted = {number: new for number, each in integrals.items() if len(new := each.refine(count))}
        for number, places, responses, shares in line.walk(wanted):
            integrals[number].take(places, responses, shares, keep=count < steps)
    values = torch.stack([each.value() for each in integrals.values()])
    return Attribution(values.cpu().numpy(), prediction=ends[1], baseline_prediction=ends[0])


def rounds(steps: int) -> list[int]:
    """How many places there are after each round."""
    counts = [steps]
    while counts[0] > FIRST:
        counts.insert(0, min(counts[0] // 2, KEPT))
    return counts


class _Integral:
    """One response's integral: the shares of pixels, gradient times difference, at places on the line.

    Parameters
    ----------
    like : (3, H, W) of the attribution's shape, on its device.
    start, stop : responses to the baseline and to the image.
    """

    def __init__(self, like: Tensor, start: float, stop: float) -> None:
        self.ends = start, stop
        self.places: Floats = np.empty(0)
        self.responses: Floats = np.empty(0)  # at each place
        self.shares: list[Tensor] = []  # (3, H, W) at each place
        self.lengths: dict[float, float] = {}  # of the line that is nearest to a place
        self.rest = torch.zeros_like(like, dtype=torch.float64)  # sum over places whose shares are not kept

    def refine(self, count: int) -> Floats:
        """Choose new places, until there are `count`; none if the integral is good enough."""
        new = first_places(count)
        if len(self.places):
            enough = TOLERANCE * float(self.value().norm())
            new = in_gaps(self.places, spread(self.errors(), count - len(self.places), enough))
        every = np.sort(np.concatenate([self.places, new]))
        self.lengths = dict(zip(every.tolist(), lengths_nearest(every).tolist(), strict=True))
        return new

    def errors(self) -> Floats:
        """What each gap between places is expected to miss; at least what the responses tell that it does.

        Of P shares that together lack x, the root of the sum of squares lacks x / sqrt(P) or more.
        """
        changes = _numbers([(later - sooner).norm() for sooner, later in pairwise(self.shares)])
        slopes = _numbers([share.double().sum() for share in self.shares])
        responses = np.array([self.ends[0], *self.responses, self.ends[1]])
        hidden = np.abs(misses(self.places, responses, np.array(slopes))) / math.sqrt(self.rest.numel())
        return np.maximum(expected_errors(self.places, np.array(changes)), hidden)

    def take(self, places: Floats, responses: Floats, shares: Tensor, keep: bool) -> None:
        """Look at some of the new places: (places,), (places,) and (places, 3, H, W)."""
        if keep:
            order = np.argsort(np.concatenate([self.places, places]))
            self.places = np.concatenate([self.places, places])[order]
            self.responses = np.concatenate([self.responses, responses])[order]
            every = [*self.shares, *shares]
            self.shares = [every[number] for number in order]
        else:
            self.rest += self._weighed(places, shares)

    def value(self) -> Tensor:
        """(3, H, W) float64."""
        return self.rest + self._weighed(self.places, self.shares)

    def _weighed(self, places: Floats, shares: Iterable[Tensor]) -> Tensor:
        total = torch.zeros_like(self.rest)
        for place, share in zip(places.tolist(), shares, strict=True):
            total += self.lengths[place] * share
        return total


class _Line:
    """The way from baseline to image."""

    def __init__(self, respond: Respond, image: Tensor, baseline: Tensor, batch: int) -> None:
        self.respond, self.baseline, self.difference = respond, baseline, image - baseline
        self.batch = batch if image.device.type == "cuda" else min(batch, CPU_PASS)

    def points(self, places: Floats) -> Tensor:
        """(points, 3, H, W)."""
        return self.baseline + torch.from_numpy(places).to(self.difference)[:, None, None, None] * self.difference

    @torch.no_grad()
    def responses(self, places: Floats) -> Floats:
        """(places, n) by forward passes."""
        parts = [self.respond(self.points(part)) for part in _parts(places, self.batch)]
        return torch.cat(parts).double().cpu().numpy()

    def walk(self, wanted: Mapping[int, Floats]) -> Iterator[tuple[int, Floats, Floats, Tensor]]:
        """A response's number, some of the places that it wants, its values and shares there; passes are shared."""
        if not wanted:
            return
        for some in _parts(np.unique(np.concatenate([*wanted.values()])), self.batch):
            points = self.points(some).requires_grad_()
            found = self.respond(points)
            here = {number: rows for number, own in wanted.items() if len(rows := np.flatnonzero(np.isin(some, own)))}
            for number, rows in here.items():
                last = number == [*here][-1]
                (gradient,) = torch.autograd.grad(found[rows, number].sum(), points, retain_graph=not last)
                values = found[rows, number].detach().double().cpu().numpy()
                yield number, some[rows], values, gradient[rows] * self.difference


def _numbers(values: list[Tensor]) -> list[float]:
    """Take them from the device, all at once."""
    return torch.stack(values).tolist() if values else []


def _parts(places: Floats, batch: int) -> list[Floats]:
    return np.array_split(places, -(-len(places) // batch))


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
