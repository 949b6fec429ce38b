"""Where in the picture the dreams of eccentricity areas have their contrast (paper, figure 5)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from boldreams_cli.plots.style import MARKERS, canvas

COLUMNS = 4  # panels in a row


Line = tuple[NDArray[np.floating], NDArray[np.floating]]


def radial(profiles: Mapping[str, Mapping[str, Line]], unit: str = "degrees") -> Figure:
    """Draw a panel for each model, a line for each area.

    Parameters
    ----------
    profiles : model -> area -> (rings,) middles of the rings, and contrast in them.
    unit : of the middles: degrees of visual angle, or half widths of the picture where these are not known.
    """
    rows, columns = -(-len(profiles) // COLUMNS), min(COLUMNS, len(profiles))
    drawn = canvas(max(4.6, 2.5 * columns + 0.6), 2.3 * rows + 0.8)
    grid = drawn.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    names = list(dict.fromkeys(area for lines in profiles.values() for area in lines))
    colours = dict(zip(names, colormaps["plasma"](np.linspace(0.25, 0.9, max(2, len(names)))), strict=False))
    for axes in grid.flat[len(profiles) :]:
        axes.set_visible(False)
    for axes, (model, lines) in zip(grid.flat, profiles.items(), strict=False):
        axes.set_title(model, fontsize=8)
        axes.axhline(1, color="#808080", linewidth=0.7, linestyle="--")
        for area, (distance, contrast) in lines.items():
            marker = MARKERS[names.index(area) % len(MARKERS)]
            axes.plot(distance, contrast, color=colours[area], marker=marker, markersize=3.5, linewidth=1.3, label=area)
    for axes in grid[-1]:
        axes.set_xlabel(f"distance from the middle ({unit})")
    for line in grid:
        line[0].set_ylabel("contrast, relative")
    handles, labels = max((axes.get_legend_handles_labels() for axes in grid.flat), key=lambda pair: len(pair[1]))
    drawn.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=5)
    return drawn
