"""Dreams: contact sheet, trace, gallery of areas (paper, figures 5 to 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.plots.style import CEILING, COLOUR, LINE, Pictures, figure


def dream_sheet(
    path: Path, dreams: Sequence[tuple[Pictures, str]], natural: Sequence[tuple[Pictures, str]], title: str
) -> None:
    """Draw a contact sheet: the dreams, and the best natural images in a column beside them (paper, figure 7).

    Parameters
    ----------
    path : to write.
    dreams, natural : (H, W, 3) in [0, 1] and a caption.
    title : of the sheet.
    """
    rows = 1 if len(dreams) == 1 else 2
    columns, beside = -(-len(dreams) // rows), -(-len(natural) // rows)
    with figure(path, 2.2 * (columns + beside) + 0.2, 2.4 * rows + 0.6) as drawn:
        drawn.suptitle(title, fontsize=10)
        grid = drawn.subplots(rows, columns + beside, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        # Dreams go along their rows, natural images down their columns.
        places = [*grid[:, :columns].flat][: len(dreams)] + [*grid[:, columns:].T.flat][: len(natural)]
        for axes, (pixels, caption) in zip(places, [*dreams, *natural], strict=True):
            axes.imshow(pixels)
            axes.set_title(caption, fontsize=8)


def gallery(path: Path, columns: Sequence[tuple[str, Sequence[tuple[Pictures, str]], str]]) -> None:
    """Draw one column an area: its pictures below each other.

    Parameters
    ----------
    path : to write.
    columns : of each area: its name, (H, W, 3) pictures with captions, as many as the others', and a last line.
    """
    rows = len(columns[0][1])
    with figure(path, 1.35 * len(columns), 1.55 * rows + 0.75) as drawn:
        grid = drawn.subplots(rows, len(columns), squeeze=False)
        for (name, pictures, words), axes in zip(columns, grid.T, strict=True):
            for place, (pixels, caption) in zip(axes, pictures, strict=True):
                place.imshow(pixels)
                place.set_title(caption, fontsize=6.5)
                place.set(xticks=[], yticks=[])
                place.spines[:].set_visible(False)
            axes[0].set_title(f"{name}\n{pictures[0][1]}", fontsize=6.5)
            axes[-1].set_xlabel(words, fontsize=6.5)


def dream_trace(path: Path, trace: NDArray[np.floating], levels: Mapping[str, float], unit: str, title: str) -> None:
    """Draw how the response rose, and the loss.

    Parameters
    ----------
    path : to write.
    trace : (rows, 4) step, loss, response of the transformed and of the untransformed images; NaN is left out.
    levels : name -> response of a natural image, as a line.
    unit : of the response.
    title : of the figure.
    """
    with figure(path, 5.6, 4.8) as drawn:
        above, below = drawn.subplots(2, 1, sharex=True, height_ratios=[2, 1])
        step, loss, moved, still = trace.T
        above.plot(step, moved, color=CEILING, linewidth=1, label="transformed, each step")
        known = np.isfinite(still)
        above.plot(step[known], still[known], color=COLOUR, linewidth=1.6, label="untransformed")
        for (name, level), style in zip(levels.items(), ("--", ":"), strict=False):
            above.axhline(level, color=LINE, linewidth=1, linestyle=style, label=name)
        above.set_ylabel(f"{unit}, mean of images")
        above.set_title(title, fontsize=9)
        below.plot(step, loss, color=COLOUR, linewidth=1)
        below.set(xlabel="step", ylabel="loss")
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
        drawn.legend(*above.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=2)
