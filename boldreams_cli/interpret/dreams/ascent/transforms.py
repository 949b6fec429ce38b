"""Random transforms under which a dream must hold (paper, section 2.5; the published code's RandomAffine).

One affine map of all images of a step, sampled once, in place of lucent's chain of translation, scaling and rotation:
that chain resamples three times, shifts right and down only, puts its tensors on the device it chose at import and
draws from numpy's global random numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from boldreams_cli.transfers import sent

GREY = 0.5  # of what comes in from outside the image


@dataclass(frozen=True)
class Transforms:
    """Ranges of the random affine map.

    Parameters
    ----------
    rotate : largest angle, degrees, either way.
    translate : largest shift as a fraction of the size, either way.
    scale : smallest and largest factor; below 1 the image shrinks into its frame.
    """

    rotate: float = 1.0
    translate: float = 0.1
    scale: tuple[float, float] = (1.0, 1.0)

    def draw(self, seed: int, step: int) -> Tensor:
        """The map of one step, a function of seed and step alone, so that a resumed dream goes on as it would have.

        Returns
        -------
        (2, 3) float32: a place in the output, in [-1, 1], to the place in the image that is shown there.
        """
        rng = np.random.default_rng([seed, step])
        angle = math.radians(rng.uniform(-self.rotate, self.rotate))
        shift = rng.uniform(-2 * self.translate, 2 * self.translate, 2)
        factor = rng.uniform(*self.scale)
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]) / factor
        return torch.from_numpy(np.column_stack([turn, -turn @ shift])).float()


def apply(images: Tensor, matrix: Tensor) -> Tensor:
    """Sample images bilinearly under an affine map; grey outside.

    Parameters
    ----------
    images : (n, 3, H, W) in [0, 1].
    matrix : (2, 3) from `Transforms.draw`.

    Returns
    -------
    (n, 3, H, W).
    """
    count, _, height, width = images.shape
    # All images share the map, so two batches of many channels: the weights are worked out twice rather than
    # n times, and both of two threads have work.
    parts = 2 if count % 2 == 0 else 1
    stacked = (images - GREY).reshape(parts, -1, height, width)
    grid = functional.affine_grid(sent(matrix[None], images.device), [1, 3, height, width], align_corners=False)
    sample = gather if images.device.type == "cuda" else _grid_sample
    return sample(stacked, grid).view_as(images) + GREY


def _grid_sample(images: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(images, grid.expand(len(images), -1, -1, -1), align_corners=False)


def gather(images: Tensor, grid: Tensor) -> Tensor:
    """As grid_sample, bilinear with zeros outside, whose gradient on CUDA adds up in no fixed order; this one's does.

    Parameters
    ----------
    images : (n, C, H, W).
    grid : (1, H, W, 2) places x, y in [-1, 1].
    """
    height, width = images.shape[-2:]
    x = (grid[0, ..., 0] + 1) * (width / 2) - 0.5
    y = (grid[0, ..., 1] + 1) * (height / 2) - 0.5
    left, top = x.floor(), y.floor()
    flat = images.flatten(2)
    total = torch.zeros_like(flat)
    for dx in (0, 1):
        for dy in (0, 1):
            column, row = left + dx, top + dy
            weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            total = total + flat[:, :, place.long().flatten()] * (weight * inside).flatten()
    return total.view_as(images)
