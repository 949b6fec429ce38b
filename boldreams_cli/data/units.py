"""What betas are of, and where each lies: voxels of a volume, or vertices of the two hemispheres' meshes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import ChoiceError

HEMISPHERES = ("L", "R")
LARGEST_SIDE = 4096  # of a volume; what is larger is a mistake in the file
MESHES = {  # space -> vertices of each hemisphere's mesh
    "fsaverage": 163842,
    "fsaverage6": 40962,
    "fsaverage5": 10242,
    "fsaverage4": 2562,
    "fsaverage3": 642,
    "fslr164k": 163842,
    "fslr32k": 32492,
}


def mesh_of(space: str) -> int:
    """How many vertices each hemisphere's mesh of a space has; 0 where that is not known."""
    return MESHES.get(plain(space), 0)


def plain(space: str) -> str:
    """The name of a space however people spell it: ``fslr32k`` for ``fs_LR_32k``, ``fsLR-32k`` and ``fsLR32k``."""
    return "".join(letter for letter in space.lower() if letter.isalnum())


@dataclass(frozen=True)
class VoxelUnits:
    """Voxels of a volume.

    Parameters
    ----------
    ijk : (V, 3) int32, 0-based indices x, y, z.
    affine : (4, 4) float64, voxel indices to mm.
    shape : (X, Y, Z) of the volume.

    Raises
    ------
    ChoiceError
        If an array has another shape or holds what it cannot; the message names it.
    """

    ijk: NDArray[np.int32]
    affine: NDArray[np.float64]
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        ijk = _whole("ijk", self.ijk, 2)
        if ijk.shape[1] != 3:
            raise ChoiceError(f"ijk has shape {ijk.shape}; it must be (voxels, 3)")
        shape = tuple(int(length) for length in np.ravel(self.shape))
        if len(shape) != 3 or not all(0 < length <= LARGEST_SIDE for length in shape):
            raise ChoiceError(f"shape is {shape}; it must be the three sides of the volume, 1 to {LARGEST_SIDE} each")
        outside = ((ijk < 0) | (ijk >= shape)).any(1)
        if outside.any():
            raise ChoiceError(
                f"ijk: {int(outside.sum())} voxels lie outside a volume of shape {shape}; indices are counted from 0"
            )
        repeated = len(ijk) - len(np.unique(np.ravel_multi_index(tuple(ijk.T), shape)))
        if repeated:
            raise ChoiceError(f"ijk: {repeated} voxels are there more than once")
        affine = np.asarray(self.affine, np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.linalg.det(affine):
            raise ChoiceError("affine must be (4, 4), finite and invertible: voxel indices to mm")
        if not np.allclose(affine[3], (0, 0, 0, 1)):
            raise ChoiceError("affine must be (4, 4) with 0 0 0 1 as its last row, not column: voxel indices to mm")
        for name, value in (("ijk", ijk), ("affine", affine), ("shape", shape)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.ijk)

    @property
    def plural(self) -> str:
        """What they are called."""
        return "voxels"

    def columns(self) -> Mapping[str, NDArray[Any]]:
        """The columns of a table that say where each lies."""
        return dict(zip("xyz", self.ijk.T, strict=True))


@dataclass(frozen=True)
class VertexUnits:
    """Vertices of the meshes of the left and the right hemisphere.

    Parameters
    ----------
    space : the meshes, e.g. ``fsaverage``, ``fsLR32k``.
    hemisphere : (V,) ``L`` or ``R``.
    vertex : (V,) int32, 0-based index in the hemisphere's mesh.
    vertices : of the two meshes, left and right; None where that is not known.

    Raises
    ------
    ChoiceError
        If an array has another shape or holds what it cannot; the message names it.
    """

    space: str
    hemisphere: NDArray[np.str_]
    vertex: NDArray[np.int32]
    vertices: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        vertex, side = _whole("vertex", self.vertex, 1), np.asarray(self.hemisphere, str)
        if not self.space.strip():
            raise ChoiceError("space is empty; it names the meshes, e.g. fsaverage or fsLR32k")
        if side.shape != vertex.shape:
            raise ChoiceError(f"hemisphere has shape {side.shape}, vertex {vertex.shape}; both must be (vertices,)")
        if wrong := sorted(set(np.unique(side).tolist()) - set(HEMISPHERES)):
            raise ChoiceError(f"hemisphere holds {wrong[0]!r}; it must be L or R")
        places = np.stack([side == "R", vertex], axis=1).astype(np.int64)
        if (vertex < 0).any():
            raise ChoiceError(f"vertex: {int((vertex < 0).sum())} numbers are below 0")
        if repeated := len(places) - len(np.unique(places, axis=0)):
            raise ChoiceError(f"vertex: {repeated} vertices are there more than once")
        object.__setattr__(self, "vertex", vertex)
        object.__setattr__(self, "hemisphere", side)
        if self.vertices is not None:
            object.__setattr__(self, "vertices", self._meshes(self.vertices))
        elif known := mesh_of(self.space):
            self._meshes((known, known))

    def _meshes(self, given: Any) -> tuple[int, int]:
        """Numbers of vertices of both meshes, which those in use must fit."""
        counts: tuple[int, ...] = tuple(int(count) for count in np.ravel(given))
        if len(counts) != 2:
            raise ChoiceError(f"vertices holds {len(counts)} numbers; it must be two: of the left and the right mesh")
        for name, count in zip(HEMISPHERES, counts, strict=True):
            used = self.vertex[self.hemisphere == name]
            if len(used) and used.max() >= count:
                raise ChoiceError(
                    f"vertex goes to {used.max()} in hemisphere {name}, whose mesh has {count} vertices, "
                    f"counted from 0 in each hemisphere"
                )
        return counts[0], counts[1]

    def __len__(self) -> int:
        return len(self.vertex)

    @property
    def plural(self) -> str:
        """What they are called."""
        return "vertices"

    @property
    def ijk(self) -> NDArray[np.int32]:
        """(V, 3) how stores and models file them, as if they lay in a volume: vertex, 0 or 1 for L or R, 0."""
        side = (self.hemisphere == "R").astype(np.int32)
        return np.stack([self.vertex, side, np.zeros_like(side)], axis=1)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the volume that they are filed in."""
        return max(self.vertices or (int(self.vertex.max()) + 1,)), 2, 1

    @property
    def affine(self) -> NDArray[np.float64]:
        """Of that volume: none that means anything."""
        return np.eye(4)

    @classmethod
    def filed(cls, ijk: NDArray[np.integer], space: str, vertices: tuple[int, int] | None) -> VertexUnits:
        """Vertices from how stores and models file them."""
        return cls(space, np.where(ijk[:, 1] == 1, "R", "L"), ijk[:, 0].astype(np.int32), vertices)

    def columns(self) -> Mapping[str, NDArray[Any]]:
        """The columns of a table that say where each lies."""
        space = np.full(len(self), self.space)
        return {"space": space, "hemisphere": self.hemisphere, "vertex": self.vertex}


Units = VoxelUnits | VertexUnits


def _whole(name: str, values: NDArray[Any], dimensions: int) -> NDArray[np.int32]:
    """Whole numbers as int32."""
    array = np.asarray(values)
    if array.ndim != dimensions or not len(array):
        raise ChoiceError(f"{name} has shape {array.shape}; it needs {dimensions} axes and at least one unit")
    if array.dtype.kind not in "iuf" or not (np.abs(array) < 2**31).all() or (array != np.rint(array)).any():
        raise ChoiceError(f"{name} must hold whole numbers, not {array.dtype}")
    return array.astype(np.int32)
