"""NSD's population receptive fields, as its prf experiment gave them (NSD manual, "prf experiment").

The model is compressive spatial summation, fitted by analyzePRF. Eccentricity and size are in degrees of visual angle,
the size being sigma / sqrt(exponent). Angles are in degrees, 0 to 360, where 0 is the right horizontal meridian and 90
the upper vertical one (analyzePRF.m, "<ang>"; NSD's own example 10, "Building encoding models", turns them into places
by cos(angle) * eccentricity to the right and sin(angle) * eccentricity up). An angle is NaN where the eccentricity is
exactly 0. R2 is in percent and may be negative.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import logger
from boldreams_cli.data.nsd.anatomy import Space
from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.data.retinotopy import Retinotopy
from boldreams_cli.data.volumes import read_float_volume

MAPS = {"eccentricity": "prf_eccentricity", "angle": "prf_angle", "size": "prf_size", "r2": "prf_R2"}


def read_retinotopy(
    layout: Layout, subject: int, voxels: NDArray[np.int32], shape: tuple[int, ...], affine: NDArray[np.float64]
) -> Retinotopy | None:
    """Measured fields of some voxels; None without a volume of eccentricities, or one of angles and sizes beside it.

    Parameters
    ----------
    voxels : (V, 3) indices.
    shape : (X, Y, Z) of the subject's volumes.
    affine : (4, 4) of the same, that those of the maps are compared with.

    Raises
    ------
    BoldreamsError
        If a volume is damaged or has another shape.
    """
    paths = {name: layout.functional(subject, file) for name, file in MAPS.items()}
    there = {name: path for name, path in paths.items() if path.is_file()}
    if "eccentricity" not in there:
        return None
    space = Space(subject, shape, affine, layout.choice.space)
    found = {}
    for name, path in there.items():
        data, own = read_float_volume(path)
        space.check(path, data, own)
        found[name] = data[tuple(voxels.T)]
    if missing := sorted(str(path) for name, path in paths.items() if name not in there):
        logger.warning("no %s: it is not compared with", ", ".join(missing))
    # A voxel that was not mapped is NaN, or 0 in every map.
    unmapped = np.logical_and.reduce([~np.isfinite(values) | (values == 0) for values in found.values()])
    return Retinotopy(**{name: np.where(unmapped, np.float32(np.nan), values) for name, values in found.items()})
