"""Pictures of areas by models (paper, figures 5 to 8)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.plots.style import Pictures, printed, titled, wrapped

FLOOR = 0.4  # how much of a grey picture shows where nothing matters
NOTES = {
    "dreams": "images that excite an area most, and the mean beta predicted for them; * beyond all that was measured",
    "words": "words that fit the dreams best",
    "attributions": "pixels that raise the mean beta, in colour, and its prediction",
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
    with printed(path, max(wide * len(models) + 0.4, 3.6), tall * len(areas) + 0.85) as drawn:
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


def lit(pixels: Pictures, mask: NDArray[np.floating]) -> Pictures:
    """A picture in colour where a mask is, and dim and grey elsewhere, so that what surrounds it can be told.

    Parameters
    ----------
    pixels : (H, W, 3) in [0, 1].
    mask : (H, W) in [0, 1].
    """
    grey = pixels.mean(-1, keepdims=True) * FLOOR + (1 - FLOOR) * 0.12
    shown = np.sqrt(mask)[..., None]
    return np.clip(shown * pixels + (1 - shown) * grey, 0, 1)
