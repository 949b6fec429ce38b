"""Dreams of eccentricity bands, and where their contrast lies (paper, figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.plots.style import Pictures, printed, titled

Row = tuple[str, Pictures, NDArray[np.floating], NDArray[np.floating], float]


def bands(path: Path, rows: Sequence[Row], correlation: float, title: str) -> None:
    """Draw a dream of each band, and below where in it the contrast lies.

    Parameters
    ----------
    path : to write, and as .pdf beside.
    rows : of each band, the innermost first: name, (H, W, 3) in [0, 1], radius and contrast of its rings, mean radius.
    correlation : of mean radius with the band's rank.
    title : of the figure.
    """
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(rows)))
    with printed(path, max(1.5 * len(rows), 5.0), 4.6) as drawn:
        titled(drawn, f"{title}\ndoes contrast move outwards with the bands? Spearman's rho {correlation:.2f}", 9)
        grid = drawn.add_gridspec(2, len(rows), height_ratios=[1, 1.5])
        for column, (name, pixels, _, _, _) in enumerate(rows):
            axes = drawn.add_subplot(grid[0, column])
            axes.imshow(pixels)
            axes.set_title(name, fontsize=8)
            axes.set_axis_off()
        axes = drawn.add_subplot(grid[1, :])
        for (name, _, radius, contrast, mean), colour in zip(rows, colours, strict=True):
            share = contrast / contrast.max() if contrast.max() > 0 else contrast
            axes.plot(radius, share, color=colour, linewidth=1.6, label=f"{name}: {mean:.2f}")
            axes.plot(mean, np.interp(mean, radius, share), "o", color=colour, markersize=5)
        axes.set(xlabel="distance from the centre, in half widths", ylabel="contrast, of its largest", ylim=(0, 1.05))
        axes.legend(frameon=False, fontsize=8, title="mean radius", title_fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
