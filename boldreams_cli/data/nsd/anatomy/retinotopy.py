"""NSD's population receptive fields, as its prf experiment gave them (NSD manual, "prf experiment").

The model is compressive spatial summation, fitted by analyzePRF. Eccentricity and size are in degrees of visual angle,
the size being sigma / sqrt(exponent). Angles are in degrees, 0 to 360, where 0 is the right horizontal meridian and 90
the upper vertical one (analyzePRF.m, "<ang>"; NSD's own example 10, "Building encoding models", turns them into places
by cos(angle) * eccentricity to the right and sin(angle) * eccentricity up). An angle is NaN where the eccentricity is
exactly 0. R2 is in percent and may be negative. On surfaces they are NSD's own averages over three depths.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, logger
from boldreams_cli.data.nsd.anatomy.surface import at_vertices, read_both, sources
from boldreams_cli.data.nsd.anatomy.volume import Space
from boldreams_cli.data.nsd.betas.hemispheres import read_values
from boldreams_cli.data.nsd.layout import Files, Layout
from boldreams_cli.data.retinotopy import Retinotopy
from boldreams_cli.data.volumes import read_float_volume

MAPS = {"eccentricity": "prf_eccentricity", "angle": "prf_angle", "size": "prf_size", "r2": "prf_R2"}


def read_retinotopy(
    layout: Layout, subject: int, voxels: NDArray[np.int32], shape: tuple[int, ...], affine: NDArray[np.float64]
) -> Retinotopy | None:
    """Measured fields of some voxels; None without a volume of eccentricities, or one of angles and sizes beside it.

    Parameters
    ----------
    voxels : (V, 3) indices, or vertices as they are filed.
    shape : (X, Y, Z) of the subject's volumes.
    affine : (4, 4) of the same, that those of the maps are compared with.

    Raises
    ------
    BoldreamsError
        If a volume is damaged or has another shape.
    """
    files = _files(layout, subject)
    there = {name: paths for name, paths in files.items() if all(path.is_file() for path in paths)}
    if "eccentricity" not in there:
        return None
    space = Space(subject, shape, affine, layout.choice.space)
    found = {}
    for name, paths in there.items():
        if layout.choice.on_surface:
            found[name] = _at_vertices(paths, voxels)
            continue
        data, own = read_float_volume(paths[0])
        space.check(paths[0], data, own)
        found[name] = data[tuple(voxels.T)]
    if missing := sorted(str(paths[0]) for name, paths in files.items() if name not in there):
        logger.warning("no %s: it is not compared with", ", ".join(missing))
    # A voxel that was not mapped is NaN, or 0 in every map.
    unmapped = np.logical_and.reduce([~np.isfinite(values) | (values == 0) for values in found.values()])
    return Retinotopy(**{name: np.where(unmapped, np.float32(np.nan), values) for name, values in found.items()})


def _files(layout: Layout, subject: int) -> dict[str, Files]:
    """Quantity -> its files: ``prf_angle.nii.gz`` of a volume, ``lh.prfangle.mgz`` and the like of a surface."""
    if layout.choice.on_surface:
        return {name: sources(layout, subject, file.replace("_", "")) for name, file in MAPS.items()}
    return {name: (layout.functional(subject, file),) for name, file in MAPS.items()}


def _at_vertices(files: Files, places: NDArray[np.int32]) -> NDArray[np.float32]:
    left, right = read_both(files, read_values)
    for side, part in enumerate((left, right)):
        used = places[places[:, 1] == side, 0]
        if len(used) and used.max() >= len(part):
            raise BoldreamsError(
                f"{files[side]} has {len(part)} vertices, vertex {used.max()} is used; download it again"
            )
    return at_vertices(places, left, right).astype(np.float32)
