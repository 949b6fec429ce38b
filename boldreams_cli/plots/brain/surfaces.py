"""A map on the cortex's surface, both hemispheres from both sides; nilearn draws it, which is an optional extra."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.plots.style import figure, titled

INSTALL = "pip install 'boldreams[surfaces]'"
NAMES = {"L": "left", "R": "right"}
VIEWS = {"L": ("lateral", "medial"), "R": ("medial", "lateral")}  # side by side, as one looks at a brain
# Points (N, 3), triangles (F, 3), depth of the folds (N,) or None, values (N,) with NaN where there are none.
Hemisphere = tuple[NDArray[np.floating], NDArray[np.integer], NDArray[np.floating] | None, NDArray[np.floating]]


def can_draw_surfaces() -> bool:
    """Whether nilearn is installed."""
    return find_spec("nilearn") is not None


def surfaces(
    path: Path,
    hemispheres: Mapping[str, Hemisphere],
    limits: tuple[float, float],
    label: str,
    title: str,
    flat: bool = False,
) -> Path:
    """Draw values on meshes.

    Parameters
    ----------
    path : of the picture.
    hemispheres : ``L``, ``R`` or both.
    limits, label : of the colours.
    title : of the figure.
    flat : whether the meshes are flat maps, which are seen from above alone.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from nilearn.plotting import plot_surf_stat_map

    panels = [(side, view) for side in NAMES if side in hemispheres for view in (("dorsal",) if flat else VIEWS[side])]
    with figure(path, 2.6 * len(panels) + 0.8, 2.9) as drawn:
        places = [drawn.add_subplot(1, len(panels), number, projection="3d") for number in range(1, len(panels) + 1)]
        for place, (side, view) in zip(places, panels, strict=True):
            points, faces, depth, values = hemispheres[side]
            shade: dict[str, Any] = {} if depth is None else {"bg_map": depth, "bg_on_data": False}
            plot_surf_stat_map(
                (points, faces),
                values,
                hemi=NAMES[side],
                view=view,
                engine="matplotlib",
                cmap="inferno",
                colorbar=False,
                vmin=limits[0],
                vmax=limits[1],
                symmetric_cbar=False,
                axes=place,
                figure=drawn,
                **shade,
            )
            place.set_title(f"{NAMES[side]}, {'flat' if flat else view}", fontsize=8)
        colours = ScalarMappable(Normalize(*limits), "inferno")
        drawn.colorbar(colours, ax=places, label=label, shrink=0.7, fraction=0.03)
        titled(drawn, title, 9)
    return path
