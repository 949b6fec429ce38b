"""Deletion and insertion: the response as pixels go or come, those of the highest attribution first (RISE, 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from boldreams_cli.interpret.attribution.integration import SMOOTHING, baseline_of
from boldreams_cli.interpret.attribution.method import Respond

POINTS = 20  # of a curve, besides its start
ORDERS = 3  # by chance, to compare with


@dataclass(frozen=True)
class Curves:
    """Responses as pixels go and come.

    Parameters
    ----------
    fractions : (POINTS + 1,) of the pixels, 0 to 1.
    deletion, insertion : (POINTS + 1,) as pixels are replaced by the baseline, and put into the blurred image.
    chance_deletion, chance_insertion : the same in an order of smooth noise, mean of ORDERS.
    """

    fractions: NDArray[np.float64]
    deletion: NDArray[np.float64]
    insertion: NDArray[np.float64]
    chance_deletion: NDArray[np.float64]
    chance_insertion: NDArray[np.float64]

    def areas(self) -> dict[str, float]:
        """The mean of each curve, in the unit of the response; a good map has a low deletion and a high insertion."""
        names = ("deletion", "insertion", "chance_deletion", "chance_insertion")
        return {name: float(np.trapezoid(getattr(self, name), self.fractions)) for name in names}


def curves(respond: Respond, image: Tensor, baseline: Tensor, signed: NDArray[np.floating], batch: int) -> Curves:
    """Delete and insert the pixels of an image in the order of its map.

    Parameters
    ----------
    respond : (images, 3, H, W) -> (images,).
    image, baseline : (3, H, W).
    signed : (H, W) map, the highest first.
    batch : images in a pass.
    """
    blurred = baseline_of("blur", image, (0.0, 0.0, 0.0))
    chance = np.random.default_rng(0)
    noises = [gaussian_filter(chance.normal(size=signed.shape), SMOOTHING) for _ in range(ORDERS)]
    by_order = [
        (replaced(respond, image, baseline, order, batch), replaced(respond, blurred, image, order, batch))
        for order in (signed, *noises)
    ]
    (deletion, insertion), *others = by_order
    mean = [np.mean([pair[place] for pair in others], axis=0) for place in (0, 1)]
    return Curves(np.linspace(0, 1, POINTS + 1), deletion, insertion, *mean)


def replaced(
    respond: Respond, start: Tensor, end: Tensor, order: NDArray[np.floating], batch: int
) -> NDArray[np.float64]:
    """Responses (POINTS + 1,) as pixels of `start` become those of `end`, the highest of `order` first."""
    rank = np.empty(order.size, int)
    rank[np.argsort(-order.ravel(), kind="stable")] = np.arange(order.size)
    places = torch.from_numpy(rank.reshape(order.shape)).to(start.device)
    counts = torch.linspace(0, order.size, POINTS + 1).round().long().to(start.device)
    with torch.no_grad():
        parts = [respond(torch.where(places < some[:, None, None, None], end, start)) for some in counts.split(batch)]
    return torch.cat(parts).double().cpu().numpy()
