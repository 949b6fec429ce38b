"""Infidelity and sensitivity (Yeh et al. 2019), by captum."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from captum.metrics import infidelity, sensitivity_max
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.interpret.attribution.method import Respond

SQUARES = 64  # that are covered, one at a time
SIDE = 4  # of a square: at most the image's by this
COPIES = 4  # of the image with noise: the largest change of these is a lower bound
RADIUS = 0.02  # of that noise, captum's


def infidelities(
    respond: Respond, image: Tensor, baseline: Tensor, values: NDArray[np.floating], of_difference: bool, batch: int
) -> dict[str, float]:
    """How badly a map tells what the response loses when squares of the image are covered by the baseline.

    Parameters
    ----------
    respond : (images, 3, H, W) -> (images,).
    image, baseline : (3, H, W).
    values : (3, H, W) attribution; its scale is fitted, so that methods of other units can be compared.
    of_difference : whether values are of image less baseline already.
    batch : images in a pass.

    Returns
    -------
    ``infidelity``, captum's, in squared units of the response; ``relative_infidelity``, its share of the mean squared
    loss: 0 for a map that tells all losses, 1 for one that tells nothing.
    """

    heard: list[Tensor] = []

    def remembered(images: Tensor) -> Tensor:
        heard.append(respond(images))
        return heard[-1]

    def measured(of: Respond, attribution: Tensor, normalize: bool) -> float:
        chance = np.random.default_rng(0)

        def cover(images: Tensor) -> tuple[Tensor, Tensor]:
            mask = torch.stack([_square(chance, images.shape[-1]) for _ in images]).to(images)[:, None]
            lost = mask * (images - baseline)
            return (mask.expand_as(images) if of_difference else lost), images - lost

        found = infidelity(
            of,
            cover,
            image[None],
            attribution[None],
            n_perturb_samples=SQUARES,
            max_examples_per_batch=batch,
            normalize=normalize,
        )
        return float(found)

    attribution = torch.from_numpy(np.ascontiguousarray(values)).to(image)
    found = measured(remembered, attribution, True)
    answers = iter(heard)  # the same squares are covered again
    largest = measured(lambda images: next(answers), torch.zeros_like(attribution), False)
    return {"infidelity": found, "relative_infidelity": found / largest if largest > 0 else float("nan")}


def sensitivity(explain: Callable[[Tensor], NDArray[np.float64]], image: Tensor) -> float:
    """Largest relative change of the attribution as noise of RADIUS is added to the image.

    Parameters
    ----------
    explain : (3, H, W) image -> (3, H, W) attribution.
    image : (3, H, W).
    """
    chance = np.random.default_rng(0)

    def explained(images: Tensor | tuple[Tensor, ...]) -> tuple[Tensor]:
        (one,) = images if isinstance(images, tuple) else (images,)
        with torch.enable_grad():  # captum turns it off
            # A tuple: of a tensor, captum 0.9 takes the norm of its first channel only.
            return (torch.stack([torch.from_numpy(explain(each)) for each in one]),)

    def perturbed(images: Tensor | tuple[Tensor, ...], radius: float = RADIUS) -> Tensor:
        (one,) = images if isinstance(images, tuple) else (images,)
        noise = chance.uniform(-radius, radius, one.shape)
        return one + torch.from_numpy(noise).to(one)

    return float(sensitivity_max(explained, image[None], perturbed, RADIUS, COPIES, max_examples_per_batch=1))


def _square(chance: np.random.Generator, size: int) -> Tensor:
    """(size, size) bool: a square of any size and place."""
    side = int(chance.integers(size // (4 * SIDE), size // SIDE + 1))
    top, left = chance.integers(0, size - side + 1, 2)
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask
