"""Meshes of the cortex that maps are drawn on: found by name in a folder, FreeSurfer's own files or GIFTI."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.freesurfer import read_geometry, read_morph_data
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, ChoiceError, listing
from boldreams_cli.files import reading

KINDS = ("inflated", "infl", "flat")  # the first there is taken
SIDES = {"L": ("lh", "l", "left", "hemi-l"), "R": ("rh", "r", "right", "hemi-r")}
GIFTI = (".gii", ".gii.gz")
# Of FreeSurfer's folder: curvatures of the inflated mesh, and patches, which hold some of the vertices alone.
OTHERS = (".func.gii", ".shape.gii", ".label.gii", ".nii", ".nii.gz", ".png", ".txt", ".json", ".csv", ".h", ".k")
PATCH = "patch"


@dataclass(frozen=True)
class Mesh:
    """A hemisphere's mesh.

    Parameters
    ----------
    path : it was read from.
    points : (N, 3) float64, mm.
    faces : (F, 3) integer indices of points.
    depth : (N,) of the folds, where the folder has them (``sulc``), for shading.
    """

    path: Path
    points: NDArray[np.float64]
    faces: NDArray[np.int64]
    depth: NDArray[np.float64] | None = None

    @property
    def flat(self) -> bool:
        """Whether it is a flat map, which is seen from above."""
        spans = np.ptp(self.points, axis=0)
        return bool(spans.min() < 1e-3 * spans.max())


def find_meshes(folder: Path, sizes: dict[str, int]) -> dict[str, Mesh]:
    """Inflated meshes of a folder, else flat ones, of as many vertices as the data's.

    Found are ``lh.inflated``, ``hemi-L_inflated.surf.gii``, ``S1200.L.inflated_MSMAll.32k_fs_LR.surf.gii``,
    ``infl_left.gii.gz`` and the like.

    Parameters
    ----------
    folder : as ``--mesh``.
    sizes : hemisphere -> vertices, of those that are drawn.

    Raises
    ------
    ChoiceError
        If it is no folder, or has no such mesh of a hemisphere; the message says which there are.
    BoldreamsError
        If a mesh cannot be read.
    """
    if not folder.is_dir():
        raise ChoiceError(f"--mesh {folder} is not a folder")
    return {side: _mesh(folder, side, size) for side, size in sizes.items()}


def _mesh(folder: Path, side: str, size: int) -> Mesh:
    seen = []
    for kind in KINDS:
        for path in _named(folder, side, kind):
            points, faces = read_mesh(path)
            if len(points) == size:
                return Mesh(path, points, faces, _depth(folder, side, size))
            seen.append(f"{path.name} ({len(points)})")
    there = f"there are {listing(dict.fromkeys(seen))}" if seen else "there is none"
    raise ChoiceError(
        f"no inflated or flat mesh of hemisphere {side} with {size} vertices in {folder}: {there} "
        f"(named as lh.inflated or hemi-L_inflated.surf.gii; --mesh)"
    )


def _named(folder: Path, side: str, kind: str) -> Iterator[Path]:
    """Files of a hemisphere whose names have a word."""
    for path in sorted(folder.iterdir()):
        words = [word for word in re.split(r"[._]", path.name.lower()) if word]
        named = any(word.startswith(kind) for word in words) and bool(set(words) & set(SIDES[side]))
        mesh = not path.name.lower().endswith(OTHERS) and PATCH not in words
        if named and path.is_file() and (kind == "sulc" or mesh):
            yield path


def read_mesh(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Points and faces of FreeSurfer's own file or a GIFTI.

    Raises
    ------
    BoldreamsError
        If it is neither or damaged.
    """
    with reading(path, "it must be a mesh of FreeSurfer or a .surf.gii"):
        if path.name.endswith(GIFTI):
            image: Any = nibabel.load(path)
            points, faces = image.agg_data("pointset"), image.agg_data("triangle")
        else:
            points, faces = read_geometry(path)
        points, faces = np.asarray(points, np.float64), np.asarray(faces, np.int64)
        if points.ndim != 2 or points.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
            raise ValueError("it holds no points and triangles")
        if not len(faces) or faces.min() < 0 or faces.max() >= len(points):
            raise ValueError("a triangle points nowhere")
    return points, faces


def _depth(folder: Path, side: str, size: int) -> NDArray[np.float64] | None:
    """Depth of the folds, if a file of that name has as many values; it only shades."""
    for path in _named(folder, side, "sulc"):
        try:
            with reading(path):
                loaded: Any = nibabel.load(path).agg_data() if path.name.endswith(GIFTI) else read_morph_data(path)
                values = np.asarray(loaded, np.float64)
        except BoldreamsError:
            continue
        if values.shape == (size,) and np.isfinite(values).all():
            return values
    return None
