"""Where voxels lie, from what a file says of them: indices and millimetres, millimetres alone, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, ChoiceError, logger
from boldreams_cli.data.units import VoxelUnits
from boldreams_cli.data.volumes import read_float_volume

TOLERANCE = 0.1  # of a voxel, by which a place may miss the middle of one


def lattice(xyz: NDArray[np.float64], ijk: NDArray[np.float64] | None, template: Path | None, path: Path) -> VoxelUnits:
    """Voxels of a volume whose middles lie at these places.

    Parameters
    ----------
    xyz : (V, 3) mm.
    ijk : (V, 3) indices, where the file has them.
    template : a NIfTI file of the volume; without one the grid is that of the indices, or the one along the axes that
        the places themselves make.
    path : of the file that says the places, for errors.

    Raises
    ------
    BoldreamsError
        If the places make no grid.
    """
    if not np.isfinite(xyz).all():
        raise BoldreamsError(f"{path}: {int((~np.isfinite(xyz)).any(1).sum())} voxels have no place")
    if template is not None:
        volume, affine = read_float_volume(template)
        return _on(xyz, affine, volume.shape, f"{template} and {path}")
    grid = _affine_of(xyz, ijk) if ijk is not None else _affine_along_axes(xyz)
    if grid is None or (ijk is None and not _touching(_indices(xyz, grid))):
        raise BoldreamsError(
            f"the places of the voxels in {path} make no grid along the axes; "
            "give a volume of their space with --template"
        )
    shape = tuple(int(side) + 1 for side in np.rint(_indices(xyz, grid)).max(0))
    return _on(xyz, grid, shape, str(path))


def table(columns: Sequence[int], template: Path | None, files: str, subject: str) -> VoxelUnits:
    """Voxels of files that do not say where they lie, filed as a table: x is the column, y the file; said in the log.

    So maps of them are tables, while areas, models, dreams and words are what they are for others.

    Parameters
    ----------
    columns : of each file.
    template : a volume, which is of no use here.
    files, subject : for people.

    Raises
    ------
    ChoiceError
        If there is a template.
    """
    if template is not None:
        raise ChoiceError(f"{files} do not say where their voxels lie; leave out --template")
    logger.warning("%s do not say where voxels lie: maps of %s will be tables, a row for each file", files, subject)
    column, row = np.concatenate([np.arange(size) for size in columns]), np.repeat(np.arange(len(columns)), columns)
    return VoxelUnits(np.stack([column, row, 0 * row], axis=1), np.eye(4), (max(columns), len(columns), 1))


def _indices(xyz: NDArray[np.float64], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return (xyz - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T


def _touching(index: NDArray[np.float64]) -> bool:
    """Whether a third of the voxels have a neighbour along each axis; on a grid finer than their own few have."""
    whole = np.rint(index).astype(np.int64)
    side = whole.max() + 2
    flat = whole @ [side**2, side, 1]
    return all((np.isin(flat + step, flat) | np.isin(flat - step, flat)).mean() > 1 / 3 for step in (side**2, side, 1))


def _on(xyz: NDArray[np.float64], affine: NDArray[np.float64], shape: tuple[int, ...], what: str) -> VoxelUnits:
    index = _indices(xyz, affine)
    whole = np.rint(index).astype(np.int64)
    off = (np.abs(index - whole) > TOLERANCE).any(1) | (whole < 0).any(1) | (whole >= shape).any(1)
    if off.any():
        raise BoldreamsError(f"{what}: {int(off.sum())} of {len(xyz)} voxels do not lie on the grid of the volume")
    return VoxelUnits(whole.astype(np.int32), affine, (shape[0], shape[1], shape[2]))


def _affine_of(xyz: NDArray[np.float64], ijk: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The affine (4, 4) that takes indices to places; None where voxels in a plane do not fix it."""
    design = np.column_stack([ijk, np.ones(len(ijk))])
    solution, _, rank, _ = np.linalg.lstsq(design, xyz, rcond=None)
    return np.vstack([solution.T, [0, 0, 0, 1]]) if rank == 4 else _affine_along_axes(xyz)


def _affine_along_axes(xyz: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The affine of the smallest grid along the axes; None where steps differ or there is one plane only."""
    affine = np.eye(4)
    for axis in range(3):
        values = np.unique(np.round(xyz[:, axis], 3))
        steps = np.diff(values)
        if not len(steps):
            return None
        step = steps.min()
        if (np.abs(steps / step - np.rint(steps / step)) > TOLERANCE).any():
            return None
        affine[axis, axis], affine[axis, 3] = step, values[0]
    return affine
