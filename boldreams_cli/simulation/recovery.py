"""How well a model found the receptive fields that a made-up brain was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.encoding.numerics.field_shapes import joint_shapes
from boldreams_cli.simulation.brain import field_distance
from boldreams_cli.simulation.experiment import SubjectTruth


def compare(
    known: SubjectTruth,
    fields: Sequence[NDArray[np.floating]],
    strength: Sequence[NDArray[np.floating]],
    rois: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Add the median distance of recovered from true fields to the scores of each area.

    Parameters
    ----------
    known : the truth.
    fields : of each group of layers, (V, height, width).
    strength : of each group, (V,), how much of a voxel's response it explains.
    rois : area -> at least ``voxels``, ``r_mean``, ``ceiling_mean``, as `score` has them.

    Returns
    -------
    Area -> these, and ``field_distance`` in image widths, beside that of always guessing the middle of the image.
    """
    distance = field_distance(known.centre, joint_shapes(fields, strength).centre)
    guess = field_distance(known.centre, np.full(known.centre.shape, 0.5))
    found = {}
    for name, row in rois.items():
        band = int(name[4:]) if name.startswith("ecc_") else 0
        inside = known.band == band if band else known.area == name
        found[name] = {key: row[key] for key in ("voxels", "r_mean", "ceiling_mean")} | {
            "field_distance": float(np.nanmedian(distance[inside])),
            "field_distance_of_image_centre": float(np.median(guess[inside])),
        }
    return found
