"""Maps of results, one value a unit: NIfTI for voxels, GIFTI for vertices, and the columns that say where each lies."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.data.maps.gifti import write_gifti
from boldreams_cli.data.units import Units, VertexUnits
from boldreams_cli.files import written_whole


def write_map(folder: Path, stem: str, units: Units, values: NDArray[np.floating]) -> list[Path]:
    """Write a map, whole or not at all; NaN where there is no unit.

    Parameters
    ----------
    folder, stem : where, and the names without what the kind of file adds.
    units : where the values lie.
    values : (V,), written as float32.
    """
    if isinstance(units, VertexUnits):
        return write_gifti(folder, stem, units, values)
    path = folder / f"{stem}.nii.gz"
    filled = np.full(units.shape, np.nan, dtype=np.float32)
    filled[tuple(units.ijk.T)] = values
    with written_whole(path) as temporary:
        nibabel.save(nibabel.Nifti1Image(filled, units.affine), temporary)
    return [path]


def place_columns(units: Units) -> dict[str, list[int | str]]:
    """Columns that say where each unit lies, for tables: ``x y z``, or ``space hemisphere vertex``."""
    return {name: values.tolist() for name, values in units.columns().items()}
