"""Pictures of areas by models (paper, figures 5 to 8)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from boldreams_cli.plots.pictures.attribution import COLOURS, PERCENTILE
from boldreams_cli.plots.style import Pictures, printed, titled, wrapped

NOTES = {
    "dreams": "images that excite an area most, and the mean beta predicted for them; * beyond all that was measured",
    "words": "words that fit the dreams best",
    "attributions": "pixels that raise (red) and lower (blue) the mean beta, and its prediction",
}


class Cell(NamedTuple):
    """A picture, (H, W, 3) in [0, 1], and what is said below it."""

    pixels: Pictures
    caption: str


def areas_by_models(
    path: Path, cells: Sequence[Sequence[Cell | None]], areas: Sequence[str], models: Sequence[str], kind: str
) -> None:
    """Draw a grid, areas down and models across; a cell that is missing says so.

    Parameters
    ----------
    path : to write, and as .pdf beside.
    cells : of each area and model.
    areas, models : their names.
    kind : of NOTES.
    """
    wide = 1.75
    tall = wide * (0.66 if kind == "words" else 1) + 0.22
    scale = 0.55 if kind == "attributions" else 0.0
    with printed(path, max(wide * len(models) + 0.4, 3.6), tall * len(areas) + 0.85 + scale) as drawn:
        drawn.set_layout_engine("constrained", h_pad=0.02, w_pad=0.03, hspace=0, wspace=0)
        titled(drawn, NOTES[kind], 8)
        grid = drawn.subplots(len(areas), len(models), squeeze=False)
        for name, row, places in zip(areas, cells, grid, strict=True):
            for cell, axes in zip(row, places, strict=True):
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
                if cell is None:
                    axes.set(xlim=(0, 1), ylim=(0, 1), facecolor="#e8ebee")
                    axes.text(0.5, 0.5, "not made yet", ha="center", va="center", fontsize=7, color="#5c6770")
                    axes.set_box_aspect(0.6 if kind == "words" else 1)
                else:
                    axes.imshow(cell.pixels)
                    axes.set_xlabel(wrapped(cell.caption, wide, 7), fontsize=7, labelpad=2)
            places[0].set_ylabel(name, fontsize=9)
        for title, axes in zip(models, grid[0], strict=True):
            axes.set_title(wrapped(title, wide, 7.5), fontsize=7.5)
        if kind == "attributions":
            _bar(drawn, [axes for places in grid for axes in places])


def _bar(drawn: Figure, places: Sequence[Axes]) -> None:
    """What the colours of overlays say; rows have limits of their own, so that the ends have no numbers."""
    colours = ScalarMappable(Normalize(-1, 1), COLOURS)
    bar = drawn.colorbar(colours, ax=places, location="bottom", shrink=0.5, aspect=25, pad=0.02, ticks=[-1, 0, 1])
    bar.ax.set_xticklabels(["lowers", "0", "raises"], fontsize=7)
    bar.set_label(f"attribution; ends: {PERCENTILE:g}th percentile of the row", fontsize=7)
