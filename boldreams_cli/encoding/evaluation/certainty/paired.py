"""Two models of the same voxels, compared image by image (paper, section 3.1); pure functions over arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.encoding.evaluation.statistics import (
    benjamini_hochberg,
    image_error,
    interval,
    p_of_r,
    r_and_influence,
)

VOXELS_IN_A_BLOCK = 1024  # whose influences are held at once


@dataclass(frozen=True)
class Paired:
    """Correlations of two models A and B, and how certain their differences are.

    Parameters
    ----------
    r_a, r_b : (voxels,), NaN where there is none.
    error : (voxels,) standard error over images of ``r_a - r_b``; NaN where either has no correlation.
    influences : area -> (images,) influence of each image on the area's mean difference.
    members : area -> (voxels,) those that have a correlation in both.
    images : number of them.
    """

    r_a: NDArray[np.float64]
    r_b: NDArray[np.float64]
    error: NDArray[np.float64]
    influences: dict[str, NDArray[np.float64]]
    members: dict[str, NDArray[np.bool_]]
    images: int

    @property
    def difference(self) -> NDArray[np.float64]:
        """(voxels,) A - B; NaN where either has no correlation."""
        return self.r_a - self.r_b

    @property
    def p(self) -> NDArray[np.float64]:
        """(voxels,) two-sided probability of such a difference, were there none; NaN where the models agree exactly."""
        return p_of_r(self.difference, self.error, self.images)

    @property
    def q(self) -> NDArray[np.float64]:
        """(voxels,) false discovery rates over all voxels."""
        return benjamini_hochberg(self.p)

    def area(self, name: str) -> dict[str, Any]:
        """Difference of an area's mean correlations: voxels, r_a, r_b, difference, se, ci, p."""
        inside = self.members[name]
        difference, error = float(self.difference[inside].mean()), float(image_error(self.influences[name]))
        return {
            "voxels": int(inside.sum()),
            "r_a": float(self.r_a[inside].mean()),
            "r_b": float(self.r_b[inside].mean()),
            "difference": difference,
            "se": error,
            "ci": list(interval(difference, error, self.images)),
            "p": float(p_of_r(difference, error, self.images)),
        }


def paired(prediction_a: Tensor, prediction_b: Tensor, beta: Tensor, areas: Mapping[str, NDArray[np.bool_]]) -> Paired:
    """Compare two models of the same voxels on the same images.

    Parameters
    ----------
    prediction_a, prediction_b, beta : (images, voxels), betas averaged over repeats.
    areas : name -> (voxels,); those without a voxel that has both correlations are left out.
    """
    count = beta.shape[1]
    inside = np.stack(list(areas.values())).astype(np.float64)
    r, error = np.empty((2, count)), np.empty(count)
    sums = np.zeros((len(areas), len(beta)))
    for start in range(0, count, VOXELS_IN_A_BLOCK):
        block = slice(start, start + VOXELS_IN_A_BLOCK)
        y = beta[:, block]
        r_a, of_a = r_and_influence(prediction_a[:, block], y)
        r_b, of_b = r_and_influence(prediction_b[:, block], y)
        r[0, block], r[1, block] = r_a.numpy(), r_b.numpy()
        influences = (of_a - of_b).numpy()
        error[block] = image_error(influences)
        known = torch.isfinite(r_a - r_b).numpy()
        sums += inside[:, block][:, known] @ influences[:, known].T
    both = np.isfinite(r).all(axis=0)
    members = {name: mask & both for name, mask in areas.items() if (mask & both).any()}
    means = {name: sums[row] / members[name].sum() for row, name in enumerate(areas) if name in members}
    return Paired(r[0], r[1], error, means, members, len(beta))
