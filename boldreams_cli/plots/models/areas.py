"""Accuracy of several models by area (paper, figure 4a)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from boldreams_cli.plots.style import MARKERS, SERIES, canvas, ink

Value = tuple[float, float]  # a mean and its error, NaN where it is not known


def areas(
    names: Sequence[str], models: Mapping[str, Mapping[str, Value]], ceilings: Mapping[str, float], ylabel: str
) -> Figure:
    """Draw a point for each area and model, with error bars, under the areas' ceilings.

    Parameters
    ----------
    names : of the areas, in their order.
    models : model -> area -> mean and error.
    ceilings : area -> mean noise ceiling, as r; NaN where it is not known.
    ylabel : of the axis.
    """
    drawn = canvas(max(5.0, 0.42 * len(names) + 1.2), 3.9)
    axes = drawn.add_subplot()
    places = np.arange(len(names))
    known = [(place, ceilings[name]) for place, name in enumerate(names) if math.isfinite(ceilings.get(name, math.nan))]
    for number, (place, ceiling) in enumerate(known):
        label = "_" if number else "noise ceiling"  # once in the legend
        axes.hlines(ceiling, place - 0.4, place + 0.4, color=ink(), alpha=0.45, linewidth=1.5, label=label)
    width = 0.66 / max(1, len(models))
    for number, (model, values) in enumerate(models.items()):
        there = [place for place, name in enumerate(names) if name in values]
        x = np.array(there) + (number - (len(models) - 1) / 2) * width
        mean, error = np.array([values[names[place]] for place in there]).reshape(-1, 2).T
        axes.errorbar(
            x,
            mean,
            yerr=np.nan_to_num(error),
            fmt=MARKERS[number % len(MARKERS)],
            color=SERIES[number % len(SERIES)],
            markersize=4.5,
            elinewidth=1.2,
            capsize=2,
            label=model,
        )
    axes.axhline(0, color=ink(), linewidth=0.6)
    axes.set_xticks(places, names, rotation=60, ha="right", fontsize=8)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylabel(ylabel)
    if known or models:
        drawn.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    return drawn
