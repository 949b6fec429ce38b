"""Values on the vertices of a hemisphere's mesh, as GIFTI files."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from nibabel.gifti import GiftiDataArray, GiftiImage, GiftiMetaData
from numpy.typing import NDArray

from boldreams_cli.data.units import HEMISPHERES, VertexUnits, mesh_of
from boldreams_cli.files import written_whole

STRUCTURES = {"L": "CortexLeft", "R": "CortexRight"}


def mesh_sizes(units: VertexUnits) -> dict[str, int]:
    """Hemisphere -> vertices of its mesh: as the data say, or as the space has them, or up to the last one used."""
    known = units.vertices or (mesh_of(units.space),) * 2
    used = {side: units.vertex[units.hemisphere == side] for side in HEMISPHERES}
    return {
        side: max(count, int(used[side].max()) + 1 if len(used[side]) else 0)
        for side, count in zip(HEMISPHERES, known, strict=True)
    }


def gifti_names(units: VertexUnits, stem: str) -> dict[str, str]:
    """Hemisphere -> name of its file, of those that have units."""
    return {side: f"{stem}.{side}.func.gii" for side in HEMISPHERES if (units.hemisphere == side).any()}


def write_gifti(folder: Path, stem: str, units: VertexUnits, values: NDArray[np.floating]) -> list[Path]:
    """Write a map, a file a hemisphere, NaN at the vertices that have no value.

    Parameters
    ----------
    folder, stem : ``STEM.L.func.gii`` and ``STEM.R.func.gii`` are written there, whole or not at all.
    units : where the values lie.
    values : (V,), written as float32.
    """
    sizes, paths = mesh_sizes(units), []
    for side, name in gifti_names(units, stem).items():
        there = units.hemisphere == side
        mesh = np.full(sizes[side], np.nan, np.float32)
        mesh[units.vertex[there]] = values[there]
        array = GiftiDataArray(mesh, intent="NIFTI_INTENT_NONE", meta=GiftiMetaData({"Name": stem}))
        meta = GiftiMetaData({"AnatomicalStructurePrimary": STRUCTURES[side], "Space": units.space})
        with written_whole(folder / name) as temporary:
            nibabel.save(GiftiImage(darrays=[array], meta=meta), temporary)
        paths.append(folder / name)
    return paths
