"""Difference of two models against the better of them, voxel by voxel (paper, figure 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from boldreams_cli.files import written_whole
from boldreams_cli.plots.style import LINE, canvas, figure

BINS = 40


def plane(stem: Path, r_a: NDArray[np.floating], r_b: NDArray[np.floating], a: str, b: str) -> list[Path]:
    """Draw the plane of voxels: r of A less that of B, against the larger of the two.

    Parameters
    ----------
    stem : of the files, without a suffix.
    r_a, r_b : (voxels,); NaN is left out.
    a, b : names of the models.

    Returns
    -------
    The files, PNG and PDF.
    """
    known = np.isfinite(r_a) & np.isfinite(r_b)
    difference, largest = (r_a - r_b)[known], np.maximum(r_a, r_b)[known]
    reach = max(0.01, 1.05 * float(np.abs(difference).max(initial=0)))
    low, high = (float(largest.min()), float(largest.max())) if len(largest) else (0.0, 0.0)
    high += max(0.01, 0.02 * (high - low))
    x, y = np.linspace(-reach, reach, BINS + 1), np.linspace(low, high, BINS + 1)
    counts, _, _ = np.histogram2d(difference, largest, bins=(x, y))
    files = [stem.with_suffix(suffix) for suffix in (".png", ".pdf")]
    with figure(files[0], 5, 4) as drawn:
        axes = drawn.add_subplot()
        norm = LogNorm(1, max(2.0, float(counts.max())))
        shown = axes.pcolormesh(x, y, np.ma.masked_equal(counts.T, 0), norm=norm, cmap="viridis", rasterized=True)
        axes.axvline(0, color=LINE, linewidth=1, linestyle="--")
        axes.set(xlabel="r of A - r of B (right of the line: A better)", ylabel="larger r of the two")
        axes.set_title(f"A: {a}\nB: {b}", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        bar = drawn.colorbar(shown, ax=axes, label="voxels")
        bar.ax.yaxis.set_major_formatter("{x:g}")
        bar.ax.yaxis.set_minor_formatter("{x:g}")
        with written_whole(files[1]) as temporary:
            drawn.savefig(temporary)
    return files


def planes(
    counts: Mapping[tuple[str, str], NDArray[np.integer]],
    x: Sequence[float] | NDArray[np.floating],
    y: Sequence[float] | NDArray[np.floating],
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Draw one small plane of counts for each row and column.

    Parameters
    ----------
    counts : (row, column) -> (len(x) - 1, len(y) - 1) voxels.
    x, y : edges of the bins, of difference and maximum.
    xlabel, ylabel : of the axes.
    """
    rows, columns = (list(dict.fromkeys(key[place] for key in counts)) for place in (0, 1))
    drawn = canvas(max(4.6, 1.75 * len(columns) + 1.6), 2.1 * len(rows) + 0.9)
    grid = drawn.subplots(len(rows), len(columns), squeeze=False, sharex=True, sharey=True)
    norm = LogNorm(1, max(2, *(int(count.max()) for count in counts.values())))
    shown = None
    for row, line in zip(rows, grid, strict=True):
        for column, axes in zip(columns, line, strict=True):
            if (row, column) not in counts:
                axes.set_axis_off()
                continue
            count = np.ma.masked_equal(counts[row, column].T, 0)
            shown = axes.pcolormesh(x, y, count, norm=norm, cmap="viridis", rasterized=True)
            axes.axvline(0, color=LINE, linewidth=1, linestyle="--")
            axes.set_title(column, fontsize=8)
            axes.tick_params(labelsize=7)
        line[0].set_ylabel(row, fontsize=8)
    drawn.supxlabel(xlabel, fontsize=9)
    drawn.supylabel(ylabel, fontsize=9)
    _zoom(grid.flat[0], np.sum(list(counts.values()), axis=0), np.asarray(x), np.asarray(y))
    if shown is not None:
        drawn.colorbar(shown, ax=grid, label="voxels", shrink=0.8)
    return drawn


def _zoom(axes: Axes, count: NDArray[np.integer], x: NDArray[np.floating], y: NDArray[np.floating]) -> None:
    """Show the part that has voxels, both sides alike."""
    across, up = np.flatnonzero(count.any(axis=1)), np.flatnonzero(count.any(axis=0))
    if len(across):
        reach = max(-x[across[0]], x[across[-1] + 1])
        axes.set(xlim=(-reach, reach), ylim=(y[up[0]], y[up[-1] + 1]))
