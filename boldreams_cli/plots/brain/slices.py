"""A map of voxels on slices of the brain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from boldreams_cli.plots.style import canvas, titled

COLUMNS = 6


def slices(
    background: NDArray[np.floating],
    values: NDArray[np.floating],
    chosen: Mapping[int, str],
    title: str,
    limits: tuple[float, float],
    cmap: str,
    label: str,
    aspect: float = 1,
) -> Figure:
    """Draw axial slices, the left of the brain on the left.

    Parameters
    ----------
    background, values : (X, Y, Z) volumes whose axes run to the right, front and top; NaN is no value.
    chosen : slices along the last axis, and what is written on each.
    title : of the figure.
    limits, cmap, label : of the colours.
    aspect : length of a voxel along the second axis over that along the first.
    """
    rows, columns = -(-len(chosen) // COLUMNS), min(COLUMNS, len(chosen))
    width, height, _ = background.shape
    grey, over = (np.full((rows * height, columns * width), np.nan) for _ in range(2))
    for number, z in enumerate(chosen):  # one picture: axes for each take ten times as long to draw
        row, column = divmod(number, columns)
        place = np.s_[row * height : (row + 1) * height, column * width : (column + 1) * width]
        grey[place], over[place] = background[:, ::-1, z].T, values[:, ::-1, z].T
    top = 1.0 if len(np.unique(background)) <= 2 else float(np.nanquantile(background, 0.995))
    drawn = canvas(1.25 * columns + 1.1, 1.25 * rows * height / width * aspect + 0.6)
    titled(drawn, title, 8)
    axes = drawn.add_subplot()
    axes.set_axis_off()
    axes.imshow(grey, cmap="gray", vmin=0, vmax=top or 1.0, aspect=aspect)
    shown = axes.imshow(
        np.ma.masked_invalid(over),
        cmap=cmap,
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
        aspect=aspect,
    )
    edged = [withStroke(linewidth=1.5, foreground="black")]  # read on a bright brain too
    style: dict[str, Any] = {"color": "white", "fontsize": 7, "va": "top", "path_effects": edged}
    for number, name in enumerate(chosen.values()):
        row, column = divmod(number, columns)
        axes.text((column + 0.5) * width - 0.5, row * height, name, ha="center", **style)
    axes.text(0, height / 2, "L", **style)
    axes.text(width - 1, height / 2, "R", ha="right", **style)
    drawn.colorbar(shown, ax=axes, label=label, shrink=0.9)
    return drawn
