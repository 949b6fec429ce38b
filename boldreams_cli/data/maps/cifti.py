"""Maps on the fsLR meshes as one CIFTI-2 file, as the Human Connectome Project has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, ScalarAxis
from numpy.typing import NDArray

from boldreams_cli.data.maps.gifti import mesh_sizes
from boldreams_cli.data.units import HEMISPHERES, Units, VertexUnits, plain
from boldreams_cli.files import written_whole

STRUCTURES = {"L": "CIFTI_STRUCTURE_CORTEX_LEFT", "R": "CIFTI_STRUCTURE_CORTEX_RIGHT"}


def has_cifti(units: Units) -> bool:
    """Whether maps of these units have a CIFTI file: those on the fsLR meshes, and no others."""
    return isinstance(units, VertexUnits) and plain(units.space).startswith("fslr")


def write_cifti(path: Path, units: VertexUnits, maps: Mapping[str, NDArray[np.floating]]) -> Path:
    """Write maps as a ``.dscalar.nii``, whole or not at all.

    The file holds the vertices in use and no others: the left hemisphere's first, each in ascending order.

    Parameters
    ----------
    path : of the file.
    units : where the values lie.
    maps : name -> (V,), written as float32, a row each.
    """
    sizes, order, axes = mesh_sizes(units), [], []
    for side in HEMISPHERES:
        there = np.flatnonzero(units.hemisphere == side)
        if len(there):
            there = there[np.argsort(units.vertex[there], kind="stable")]
            order.append(there)
            axes.append(BrainModelAxis.from_surface(units.vertex[there], sizes[side], STRUCTURES[side]))
    brain = axes[0] if len(axes) == 1 else axes[0] + axes[1]
    rows = np.stack([np.asarray(values)[np.concatenate(order)] for values in maps.values()]).astype(np.float32)
    with written_whole(path) as temporary:
        nibabel.save(Cifti2Image(rows, header=(ScalarAxis(list(maps)), brain)), temporary)
    return path
