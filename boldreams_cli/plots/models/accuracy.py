"""How well a model predicts: histogram, areas, against the ceiling (paper, figures 2 to 4)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.plots.style import CEILING, COLOUR, LINE, printed, titled

BIN = 0.025  # of the histogram


def accuracy(
    folder: Path,
    r: NDArray[np.floating],
    ceiling: NDArray[np.floating],
    areas: Mapping[str, Mapping[str, Any]],
    title: str,
) -> list[Path]:
    """Draw the figures of a score (paper, figures 2 to 4), each as .pdf beside too.

    Parameters
    ----------
    folder : to write into.
    r, ceiling : (voxels,); NaN is left out.
    areas : name -> r_mean, r_ci (over images), ceiling_mean, voxels.
    title : of all of them.

    Returns
    -------
    The files: histogram, bars by area, accuracy against ceiling.
    """
    paths = [folder / name for name in ("histogram.png", "rois.png", "ceiling.png")]
    _histogram(paths[0], r, ceiling, title)
    _bars(paths[1], areas, title)
    _against_ceiling(paths[2], r, ceiling, title)
    return [file for path in paths for file in (path, path.with_suffix(".pdf"))]


def _histogram(path: Path, r: NDArray[np.floating], ceiling: NDArray[np.floating], title: str) -> None:
    """All voxels, whatever their r; the ceiling's outline behind them."""
    known, highest = r[np.isfinite(r)], ceiling[np.isfinite(ceiling)]
    with printed(path, 5, 3.5) as drawn:
        axes = drawn.add_subplot()
        edges = bins_of(np.concatenate([known, highest]))
        if len(highest):
            axes.hist(highest, bins=edges, color=CEILING, label=f"noise ceiling, mean {highest.mean():.3f}")
        axes.hist(known, bins=edges, color=COLOUR, alpha=0.85)
        if len(known):
            axes.axvline(known.mean(), color=LINE, label=f"r, mean {known.mean():.3f}")
        if len(known) or len(highest):
            drawn.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)
        axes.set(xlabel="r with test betas", ylabel="voxels", xlim=(edges[0], edges[-1]))
        titled(drawn, title, 9)
        axes.spines[["top", "right"]].set_visible(False)


def bins_of(values: NDArray[np.floating]) -> list[float]:
    """Edges of bins of width BIN that hold all of some values, 0 among the edges; of none, from 0 to 1."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    first, last = int(np.floor(min(low, 0) / BIN - 1e-6)), int(np.floor(max(high, 0) / BIN + 1e-6)) + 1
    return [number * BIN for number in range(first, last + 1)]


def _bars(path: Path, areas: Mapping[str, Mapping[str, Any]], title: str) -> None:
    names = list(areas)
    width = max(4.0, 0.36 * len(names) + 1.2)
    with printed(path, width, 3.8) as drawn:
        axes = drawn.add_subplot()
        places = np.arange(len(names))
        values = np.array([areas[name]["r_mean"] for name in names])
        ends = np.array([areas[name]["r_ci"] for name in names], dtype=float).reshape(-1, 2).T
        errors = np.nan_to_num(np.abs(ends - values))  # one image: no error bar
        ceilings = np.array([areas[name]["ceiling_mean"] for name in names], dtype=float)
        if np.isfinite(ceilings).any():
            axes.bar(places, ceilings, color=CEILING, label="noise ceiling")
        axes.bar(
            places, values, yerr=errors, width=0.55, color=COLOUR, label="r, 95 % interval over images", ecolor="black"
        )
        labels = [f"{name} ({areas[name]['voxels']})" for name in names]
        axes.set_xticks(places, labels, rotation=60, ha="right", fontsize=8)
        axes.set(ylabel="mean r over voxels")
        titled(drawn, title, 9)
        axes.axhline(0, color="black", linewidth=0.6)
        drawn.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)
        axes.spines[["top", "right"]].set_visible(False)


def _against_ceiling(path: Path, r: NDArray[np.floating], ceiling: NDArray[np.floating], title: str) -> None:
    known = np.isfinite(r) & np.isfinite(ceiling)
    with printed(path, 4.2, 4.2) as drawn:
        axes = drawn.add_subplot()
        # Thousands of dots as a picture within the PDF: as shapes they make it megabytes.
        axes.scatter(ceiling[known], r[known], s=5, alpha=0.4, color=COLOUR, linewidths=0, rasterized=True)
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1, label="r = ceiling")
        if not known.any():
            axes.text(0.5, 0.25, "no voxel has both", ha="center", fontsize=8, color="#5c6770")
        axes.set(
            xlim=(0, 1),
            ylim=(min([-0.05, *(r[known] - 0.05)]), 1),
            xlabel="noise ceiling (as r)",
            ylabel="r with test betas",
        )
        titled(drawn, title, 9)
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
