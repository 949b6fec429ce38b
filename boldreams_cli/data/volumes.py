"""NIfTI volumes of one subject: labels, masks, floats, and whether they lie in the same space."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError
from boldreams_cli.files import check_declared, reading

AFFINE_TOLERANCE = 1e-3  # of a voxel's size


def _load(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Scaled data (X, Y, Z) and affine (4, 4); a fourth axis of length 1 is dropped."""
    with reading(path, "it must be a NIfTI file; download it again", "download it or correct the path"):
        image: Any = nibabel.load(path)
        check_declared(path, math.prod(int(length) for length in image.shape) * image.get_data_dtype().itemsize)
        data = np.asanyarray(image.dataobj)
        affine = np.asarray(image.affine, np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.linalg.det(affine):
            raise ValueError("its affine maps no voxel to a place")
    if data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    if data.ndim != 3:
        raise BoldreamsError(f"{path} has shape {data.shape}; a volume (X, Y, Z) is needed")
    return data, affine


def read_volume(path: Path) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Labels and affine of an ROI volume.

    Returns
    -------
    labels : (X, Y, Z) int16.
    affine : (4, 4) float64, voxel indices to mm.

    Raises
    ------
    BoldreamsError
        If the file is missing, damaged, not 3D, or holds other than whole numbers.
    """
    data, affine = _load(path)
    limits = np.iinfo(np.int16)
    if not np.all((data >= limits.min) & (data <= limits.max) & (data == np.rint(data))):
        raise BoldreamsError(f"{path} holds values that are no labels (whole numbers)")
    return data.astype(np.int16), affine


def read_mask(path: Path) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Voxels above 0 (X, Y, Z) and affine (4, 4); errors as `read_float_volume`."""
    data, affine = _load(path)
    return data > 0, affine


def read_float_volume(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Values (X, Y, Z) float32 and affine (4, 4).

    Raises
    ------
    BoldreamsError
        If the file is missing, damaged or not 3D.
    """
    data, affine = _load(path)
    return data.astype(np.float32), affine


def affine_difference(affine: NDArray[np.float64], other: NDArray[np.float64], shape: tuple[int, ...]) -> str:
    """Say how two affines of one shape differ; empty when they are the same to a thousandth of a voxel.

    Parameters
    ----------
    affine, other : (4, 4), voxel indices to mm.
    shape : (X, Y, Z) of the volumes.
    """
    voxel = np.linalg.norm(other[:3, :3], axis=0).min()
    if np.abs(affine - other).max() <= AFFINE_TOLERANCE * voxel:
        return ""
    corners = np.array([[x, y, z, 1] for x in (0, shape[0] - 1) for y in (0, shape[1] - 1) for z in (0, shape[2] - 1)])
    apart = np.linalg.norm((corners @ (affine - other).T)[:, :3], axis=1).max()
    return f"{_rows(affine)} and {_rows(other)}, up to {apart:.3g} mm apart"


def _rows(affine: NDArray[np.float64]) -> str:
    return "[" + "; ".join(" ".join(f"{value:.5g}" for value in row) for row in affine[:3]) + "]"
