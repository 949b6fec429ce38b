"""How well a model predicts: histogram, areas, against the ceiling (paper, figures 2 to 4)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.plots.style import CEILING, COLOUR, LINE, figure


def accuracy(
    folder: Path,
    r: NDArray[np.floating],
    ceiling: NDArray[np.floating],
    areas: Mapping[str, Mapping[str, Any]],
    title: str,
) -> list[Path]:
    """Draw the figures of a score (paper, figures 2 to 4).

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
    _histogram(paths[0], r, title)
    _bars(paths[1], areas, title)
    _against_ceiling(paths[2], r, ceiling, title)
    return paths


def _histogram(path: Path, r: NDArray[np.floating], title: str) -> None:
    known = r[np.isfinite(r)]
    with figure(path, 5, 3.5) as drawn:
        axes = drawn.add_subplot()
        axes.hist(known, bins=np.linspace(-0.5, 1, 61).tolist(), color=COLOUR)
        if len(known):
            axes.axvline(known.mean(), color=LINE, label=f"mean {known.mean():.3f}")
            axes.legend(frameon=False)
        axes.set(xlabel="r with test betas", ylabel="voxels", title=title)
        axes.title.set_fontsize(9)
        axes.spines[["top", "right"]].set_visible(False)


def _bars(path: Path, areas: Mapping[str, Mapping[str, Any]], title: str) -> None:
    names = list(areas)
    with figure(path, max(4.0, 0.36 * len(names) + 1.2), 3.8) as drawn:
        axes = drawn.add_subplot()
        places = np.arange(len(names))
        values = np.array([areas[name]["r_mean"] for name in names])
        ends = np.array([areas[name]["r_ci"] for name in names], dtype=float).reshape(-1, 2).T
        errors = np.nan_to_num(np.abs(ends - values))  # one image: no error bar
        axes.bar(places, [areas[name]["ceiling_mean"] for name in names], color=CEILING, label="noise ceiling")
        axes.bar(
            places, values, yerr=errors, width=0.55, color=COLOUR, label="r, 95 % interval over images", ecolor="black"
        )
        labels = [f"{name} ({areas[name]['voxels']})" for name in names]
        axes.set_xticks(places, labels, rotation=60, ha="right", fontsize=8)
        axes.set(ylabel="mean r over voxels", title=title)
        axes.title.set_fontsize(9)
        axes.axhline(0, color="black", linewidth=0.6)
        drawn.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)
        axes.spines[["top", "right"]].set_visible(False)


def _against_ceiling(path: Path, r: NDArray[np.floating], ceiling: NDArray[np.floating], title: str) -> None:
    known = np.isfinite(r) & np.isfinite(ceiling)
    with figure(path, 4.2, 4.2) as drawn:
        axes = drawn.add_subplot()
        axes.scatter(ceiling[known], r[known], s=5, alpha=0.4, color=COLOUR, linewidths=0)
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1, label="r = ceiling")
        axes.set(
            xlim=(0, 1),
            ylim=(min([-0.05, *(r[known] - 0.05)]), 1),
            xlabel="noise ceiling (as r)",
            ylabel="r with test betas",
            title=title,
        )
        axes.title.set_fontsize(9)
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
