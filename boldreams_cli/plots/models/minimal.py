"""Accuracy by percent of filters, the margin, and the smallest percents that will do (paper, figure 2, section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from boldreams_cli.files import written_whole
from boldreams_cli.plots.style import CEILING, COLOUR, LINE, figure, titled

COLUMNS = 5


@dataclass(frozen=True)
class Panel:
    """One area.

    Parameters
    ----------
    percents : ascending.
    accuracy : of each percent.
    reach : of each, half of the 95 % interval of its difference from the reference.
    reference : accuracy of the reference.
    margin : relative to it.
    percent, percent_low : p_min, None where there is none, and p_lo.
    note : to add to the area's name.
    """

    percents: Sequence[float]
    accuracy: Sequence[float]
    reach: Sequence[float]
    reference: float
    margin: float
    percent: float | None
    percent_low: float
    note: str = ""


def curves(stem: Path, panels: Mapping[str, Panel], title: str, label: str) -> list[Path]:
    """Draw one small panel an area.

    Parameters
    ----------
    stem : of the files, without a suffix.
    panels : area -> what to draw.
    title : of the figure.
    label : of the accuracy.

    Returns
    -------
    The files, PNG and PDF.
    """
    files = [stem.with_suffix(suffix) for suffix in (".png", ".pdf")]
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    with figure(files[0], max(4.5, 2.3 * columns), 2.1 * rows + 1.1) as drawn:
        grid = drawn.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        handles: dict[str, Artist] = {}
        for axes, (name, panel) in zip(grid, panels.items(), strict=False):
            _draw(axes, name, panel)
            found, labels = axes.get_legend_handles_labels()
            handles |= dict(zip(labels, found, strict=True))
        titled(drawn, title, 9)
        for axes in grid[: len(panels)][-columns:]:  # the last of each column
            axes.set_xlabel("% of the filters", fontsize=8)
        drawn.supylabel(label, fontsize=9)
        drawn.legend(handles.values(), handles, frameon=False, fontsize=8, loc="outside lower center", ncols=2)
        with written_whole(files[1]) as temporary:
            drawn.savefig(temporary)
    return files


def _draw(axes: Axes, name: str, panel: Panel) -> None:
    base = (1 - panel.margin) * panel.reference
    axes.axhspan(base, panel.reference, color=CEILING, label="margin below the reference")
    axes.errorbar(
        panel.percents,
        panel.accuracy,
        panel.reach,
        color=COLOUR,
        marker="o",
        markersize=3,
        linewidth=1,
        capsize=2,
        label="95 % interval of its difference from the reference",
    )
    if panel.percent is not None:
        place = axes.get_xaxis_transform()
        ends = sorted([panel.percent_low, panel.percent])
        axes.plot(ends, [0.05, 0.05], transform=place, color=LINE, linewidth=3, alpha=0.4, label="p_lo to p_min")
        axes.plot([panel.percent], [0.05], "^", transform=place, color=LINE, label="p_min, the smallest not inferior")
    axes.set_xscale("log")
    axes.set_xticks(panel.percents, [f"{percent:g}" for percent in panel.percents], fontsize=7)
    axes.set_xticks([], minor=True)
    axes.tick_params(axis="y", labelsize=7)
    low = min(base, float(np.min(np.subtract(panel.accuracy, panel.reach))))
    high = float(np.max(np.add(panel.accuracy, panel.reach)))
    axes.set_ylim(low - 0.2 * (high - low), high + 0.05 * (high - low))
    axes.set_title(name + panel.note, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
