"""A picture of a model's scores on the cortex's surface, where its data are of vertices and a mesh is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from boldreams_cli.console import BoldreamsError, ChoiceError
from boldreams_cli.data.maps.gifti import mesh_sizes
from boldreams_cli.data.maps.meshes import find_meshes
from boldreams_cli.data.responses import Responses
from boldreams_cli.data.units import VertexUnits
from boldreams_cli.encoding.evaluation.saved.files import SCORES, named, title_of
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.files import read_json
from boldreams_cli.plots.brain.surfaces import INSTALL, can_draw_surfaces, surfaces

PICTURE = "surface.png"


def check_can_draw(responses: Responses, mesh: Path) -> VertexUnits:
    """Check, before anything is computed, that a picture can be drawn; gives where the values lie.

    Raises
    ------
    ChoiceError
        If the data are of voxels, or the folder has no such meshes.
    BoldreamsError
        If nilearn is not installed.
    """
    units = responses.units
    if not isinstance(units, VertexUnits):
        raise ChoiceError(f"--mesh is for data of vertices; those of subject {responses.subject} are voxels")
    if not can_draw_surfaces():
        raise BoldreamsError(f"pictures of surfaces are drawn by nilearn; run: {INSTALL}")
    find_meshes(mesh, _sizes(units))
    return units


def _sizes(units: VertexUnits) -> dict[str, int]:
    """Vertices of each hemisphere's mesh, of those that have data."""
    return {side: size for side, size in mesh_sizes(units).items() if (units.hemisphere == side).any()}


def draw_r(model: FittedModel, units: VertexUnits, mesh: Path, test: str = "") -> Path:
    """Draw the r of scores that are saved.

    Parameters
    ----------
    model : whose scores they are.
    units : where its values lie.
    mesh : folder of meshes.
    test : as in `score_files.named`.
    """
    r = np.array(read_json(model.folder / named(SCORES, test))["r"], dtype=np.float64)
    sizes, known = _sizes(units), r[np.isfinite(r)]
    found = find_meshes(mesh, sizes)
    hemispheres = {}
    for side, size in sizes.items():
        values, there = np.full(size, np.nan), units.hemisphere == side
        values[units.vertex[there]] = r[there]
        hemispheres[side] = (found[side].points, found[side].faces, found[side].depth, values)
    high = max(0.1, round(float(np.quantile(known, 0.99)), 2)) if len(known) else 1.0
    flat = all(one.flat for one in found.values())
    title = f"r with test betas: {title_of(model.spec, test)}"
    path = model.folder / named("figures", test) / PICTURE
    return surfaces(path, hemispheres, (0.0, high), "r (grey: no data)", title, flat)
