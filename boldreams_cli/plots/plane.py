"""Difference of two models against the better of them, voxel by voxel (paper, figure 3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.colors import LogNorm
from numpy.typing import NDArray

from boldreams_cli.files import written_whole
from boldreams_cli.plots.style import LINE, figure

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
