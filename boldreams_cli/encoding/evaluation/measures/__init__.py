"""What `score` measures of every voxel beside r, one file each; `measured` finds them, so that none is listed anywhere.

To add a measure, add a file to this room with a function of its name: ``NAME(prediction, beta)``, both float64
(images, voxels), betas averaged over repeats, to (voxels,), NaN where it is not defined. `score` makes of it the column
NAME of voxels.csv, the map NAME.nii.gz, and NAME_mean of each area: the mean over its voxels that have an r.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli import rooms

VOXELS_IN_A_BLOCK = 1024  # whose float64 copies are held at once


def names() -> list[str]:
    """All measures; none is imported."""
    return rooms.names(__name__)


def measured(prediction: Tensor, beta: Tensor) -> dict[str, NDArray[np.float64]]:
    """Measure all voxels, some at a time.

    Parameters
    ----------
    prediction, beta : (images, voxels), any float dtype.

    Returns
    -------
    measure -> (voxels,) float64.
    """
    starts = range(0, prediction.shape[1], VOXELS_IN_A_BLOCK)
    blocks = [slice(start, start + VOXELS_IN_A_BLOCK) for start in starts]
    found = {}
    for name, module in rooms.every(__name__).items():
        of = getattr(module, name)
        parts = [of(prediction[:, block].double(), beta[:, block].double()).numpy() for block in blocks]
        found[name] = np.concatenate(parts) if parts else np.empty(0)
    return found
