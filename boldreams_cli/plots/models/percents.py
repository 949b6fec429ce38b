"""Accuracy by percent of filters (paper, figure 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from boldreams_cli.plots.style import MARKERS, SERIES, canvas

DODGE = 1.03  # from one line's points to the next one's, about the percent itself


@dataclass(frozen=True)
class Point:
    """One model.

    Parameters
    ----------
    row, column : of its panel.
    series : its line.
    percent : of the filters.
    mean : over voxels.
    error : its standard error over images; NaN where it is not known.
    spread : the standard error over voxels, the paper's error bar.
    """

    row: str
    column: str
    series: str
    percent: float
    mean: float
    error: float
    spread: float


def percents(points: Sequence[Point], ylabel: str = "mean r over voxels") -> Figure:
    """Draw a panel for each row and column, a line for each series."""
    rows, columns = (list(dict.fromkeys(getattr(point, name) for point in points)) for name in ("row", "column"))
    series = sorted({point.series for point in points})
    drawn = canvas(max(5.6, 3.1 * len(columns) + 0.8), 2.4 * len(rows) + 0.9)
    grid = drawn.subplots(len(rows), len(columns), squeeze=False, sharex=True, sharey=True)
    for row, line in zip(rows, grid, strict=True):
        for column, axes in zip(columns, line, strict=True):
            there = [point for point in points if (point.row, point.column) == (row, column)]
            axes.set_title(f"{row}, {column}")
            if not there:
                axes.text(0.5, 0.5, "no model", ha="center", transform=axes.transAxes, alpha=0.6)
            for number, name in enumerate(series):
                beside = DODGE ** (number - (len(series) - 1) / 2)
                _line(axes, [point for point in there if point.series == name], number, name, beside)
        line[0].set_ylabel(ylabel)
    _percent_axis(grid[-1], sorted({point.percent for point in points}))
    found: dict[str, Any] = {}
    for axes in grid.flat:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    drawn.legend(found.values(), found.keys(), frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    return drawn


def _line(axes: Any, points: Sequence[Point], number: int, name: str, beside: float) -> None:
    colour, marker = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
    points = sorted(points, key=lambda point: point.percent)
    if not points:
        return
    x = [point.percent * beside for point in points]  # of others, not on top
    y = [point.mean for point in points]
    spread = [0.0 if math.isnan(point.spread) else point.spread for point in points]
    if any(spread):
        wide = {"elinewidth": 5, "alpha": 0.28, "label": "spread over voxels (the paper's)"}
        axes.errorbar(x, y, yerr=spread, fmt="none", ecolor=colour, **wide)
    error = [0.0 if math.isnan(point.error) else point.error for point in points]
    axes.plot(x, y, color=colour, linewidth=1, alpha=0.8)
    if any(error):
        axes.errorbar(
            x, y, yerr=error, fmt="none", ecolor=colour, elinewidth=1.2, capsize=3, label="standard error over images"
        )
    axes.plot(x, y, color=colour, marker=marker, markersize=4.5, linestyle="none", label=name)


def _percent_axis(bottom: Sequence[Any], percents: Sequence[float]) -> None:
    for axes in bottom:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(percents))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.tick_params(axis="x", labelsize=7 if len(percents) > 6 else 8)
        axes.set_xlabel("percent of filters")
