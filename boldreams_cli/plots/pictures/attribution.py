"""Attribution maps and their checks (paper, figure 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from boldreams_cli.plots.style import Pictures, printed, titled, wrapped

COLOURS = "RdBu_r"  # told apart by colour-blind readers
PERCENTILE = 99.5  # of absolute values, so that one spot is not all
FLOOR, TOP = 0.3, 0.9  # of the grey image: attribution shows on dark ground and on light
OPAQUE = 0.9  # of the strongest attribution
WIDTH = 7.6  # inches
PANEL = 2.2
CURVES = {"deletion": "#0072b2", "insertion": "#d55e00"}


@dataclass(frozen=True)
class Row:
    """One image of a sheet: (H, W, 3) in [0, 1], its signed map (H, W), and what to say of it."""

    pixels: Pictures
    signed: NDArray[np.floating]
    caption: str


def attribution(path: Path, rows: Sequence[Row], title: str, unit: str) -> None:
    """Draw images, their attribution over the image in grey, and the attribution alone; as a PDF beside the file too.

    The two maps of a row share their limits: a percentile of that row's absolute values.

    Parameters
    ----------
    path : to write, .png.
    rows : the images.
    title : of the figure.
    unit : of the maps.
    """
    with printed(path, WIDTH, (PANEL + 0.3) * len(rows) + 0.6) as drawn:
        titled(drawn, title, 9)
        grid = drawn.subplots(len(rows), 3, squeeze=False)
        for row, axes in zip(rows, grid, strict=True):
            limit = limit_of(row.signed)
            axes[0].imshow(row.pixels)
            axes[1].imshow(overlay(row.pixels, row.signed, limit))
            shown = axes[2].imshow(row.signed, cmap=COLOURS, vmin=-limit, vmax=limit)
            for place, name in zip(axes, (row.caption, "attribution over the image", "attribution"), strict=True):
                place.set_title(wrapped(name, PANEL, 7.5), fontsize=7.5)
                place.set_axis_off()
            _bar(shown, axes[2], limit, unit)


def attribution_checks(
    path: Path, maps: Sequence[tuple[str, NDArray[np.floating]]], curves: Mapping[str, Any], title: str, unit: str
) -> None:
    """Draw a map beside those of random weights, and the response as pixels are deleted and inserted; PDF too.

    Parameters
    ----------
    path : to write, .png.
    maps : names and maps (H, W), each with limits of its own.
    curves : ``fractions``, and of each point ``deletion``, ``insertion`` and both of ``chance_``.
    title : of the figure.
    unit : of the response.
    """
    with printed(path, WIDTH, 5.4) as drawn:
        titled(drawn, title, 9)
        halves = drawn.add_gridspec(2, 1, height_ratios=[1, 1.1])
        above, below = (drawn.add_subfigure(half) for half in (halves[0], halves[1]))
        for axes, (name, signed) in zip(above.subplots(1, len(maps), squeeze=False)[0], maps, strict=True):
            limit = limit_of(signed)
            axes.imshow(signed, cmap=COLOURS, vmin=-limit, vmax=limit)
            axes.set_title(wrapped(name, PANEL, 7.5), fontsize=7.5)
            axes.set_axis_off()
        both = below.subplots(1, 2, sharey=True)
        for axes, name in zip(both, CURVES, strict=True):
            _curve(axes, name, curves)
        both[0].set_ylabel(unit, fontsize=8)


def limit_of(signed: NDArray[np.floating]) -> float:
    """The value that takes the strongest colour: PERCENTILE of the absolute values, or the largest, or 1."""
    absolute = np.abs(signed)
    return float(np.percentile(absolute, PERCENTILE)) or float(absolute.max()) or 1.0


def limits_along(maps: Sequence[NDArray[np.floating]], kinds: Sequence[str]) -> list[float]:
    """Of maps in a row the value that takes the strongest colour: the same for all of a kind, so that they compare.

    Parameters
    ----------
    maps : signed, (H, W) each.
    kinds : of each, what makes two comparable: its method.

    Returns
    -------
    Of each map the largest `limit_of` its kind.
    """
    own = [limit_of(signed) for signed in maps]
    return [max(limit for limit, other in zip(own, kinds, strict=True) if other == kind) for kind in kinds]


def overlay(pixels: Pictures, signed: NDArray[np.floating], limit: float) -> Pictures:
    """Lay a signed map over the image in grey, the more opaque the stronger it is.

    Parameters
    ----------
    pixels : (H, W, 3) in [0, 1].
    signed : (H, W).
    limit : value of the strongest colour.

    Returns
    -------
    (H, W, 3) in [0, 1].
    """
    grey = FLOOR + (TOP - FLOOR) * (pixels @ np.array([0.299, 0.587, 0.114]))
    scaled = np.clip(signed / limit, -1, 1)
    colour = matplotlib.colormaps[COLOURS](0.5 + 0.4 * np.sign(scaled))[..., :3]
    opacity = OPAQUE * np.abs(scaled)[..., None]
    return np.clip(grey[..., None] * (1 - opacity) + colour * opacity, 0, 1)


def _bar(shown: Any, axes: Axes, limit: float, unit: str) -> None:
    bar = axes.figure.colorbar(shown, ax=axes, shrink=0.85, ticks=[-limit, 0, limit])
    bar.ax.set_yticklabels([f"{-limit:.1e}", "0", f"{limit:.1e}"], fontsize=6)
    bar.set_label(f"{wrapped(unit, PANEL, 6.5)}\nends: {PERCENTILE:g}th percentile of this row", fontsize=6.5)


def _curve(axes: Axes, name: str, curves: Mapping[str, Any]) -> None:
    percent = 100 * np.asarray(curves["fractions"])
    axes.plot(
        percent, curves[name], color=CURVES[name], marker="o", markersize=2.5, linewidth=1.4, label="highest first"
    )
    axes.plot(percent, curves[f"chance_{name}"], color="#808080", linestyle="--", linewidth=1.2, label="by chance")
    axes.set_title({"deletion": "pixels deleted", "insertion": "pixels put into the blurred image"}[name], fontsize=8)
    axes.set_xlabel("% of the pixels", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7)
