"""How many voxels have which accuracy (paper, figure 4b)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from boldreams_cli.plots.style import SERIES, canvas

STYLES = ("-", "--", "-.", ":")


def distributions(counts: Mapping[str, NDArray[np.integer]], edges: NDArray[np.floating], xlabel: str) -> Figure:
    """Draw the outlines of histograms.

    Parameters
    ----------
    counts : model -> (bins,) voxels.
    edges : (bins + 1,).
    xlabel : of the axis.
    """
    drawn = canvas(5.6, 3.7)
    axes = drawn.add_subplot()
    for number, (model, count) in enumerate(counts.items()):
        colour, style = SERIES[number % len(SERIES)], STYLES[number // len(SERIES) % len(STYLES)]
        axes.stairs(count, edges, color=colour, linewidth=1.6, linestyle=style, label=model)
    there = np.flatnonzero(sum(counts.values()))
    if len(there):
        axes.set_xlim(edges[there[0]], edges[there[-1] + 1])
    axes.set(xlabel=xlabel, ylabel="voxels")
    drawn.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    return drawn
