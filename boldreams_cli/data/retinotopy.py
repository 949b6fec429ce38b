"""Where in the visual field each voxel was found to look, in an experiment of its own (retinotopic mapping)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.data import identity

STIMULUS_DEGREES = {"nsd": 8.4}  # of visual angle that a data set's images span (NSD manual, "Stimuli")


@dataclass(frozen=True)
class Retinotopy:
    """Population receptive fields of a subject's voxels; NaN where there is none.

    Parameters
    ----------
    eccentricity : (V,) degrees from fixation.
    angle : (V,) degrees, 0 to 360: 0 is the right horizontal meridian, 90 the upper vertical one; None if not there.
    size : (V,) degrees; None if not there.
    r2 : (V,) percent of variance explained, may be negative; None if not there.
    """

    eccentricity: NDArray[np.float32]
    angle: NDArray[np.float32] | None = None
    size: NDArray[np.float32] | None = None
    r2: NDArray[np.float32] | None = None

    def digest(self) -> str:
        """Hash of all numbers."""
        parts = [identity.content(part) if part is not None else "" for part in vars(self).values()]
        return "-".join(part[:8] for part in parts)
