"""Figures, as files; they know arrays and nothing of models or stores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from boldreams_cli.files import written_whole

Pictures = NDArray[np.floating]  # (H, W, 3) in [0, 1]
COLOUR, CEILING, LINE = "#2c6e9b", "#c8d6df", "#b8442f"


@contextmanager
def figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield a figure (inches), saved to `path` whole when the block ends; no global state, no display."""
    drawn = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawn)
    yield drawn
    with written_whole(path) as temporary:
        drawn.savefig(temporary, dpi=150)


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
    areas : name -> r_mean, r_se, ceiling_mean, voxels.
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
        errors = np.nan_to_num(np.array([areas[name]["r_se"] for name in names]))  # one voxel: no error bar
        axes.bar(places, [areas[name]["ceiling_mean"] for name in names], color=CEILING, label="noise ceiling")
        axes.bar(places, values, yerr=errors, width=0.55, color=COLOUR, label="r, standard error", ecolor="black")
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


def attribution(path: Path, rows: Sequence[tuple[Pictures, NDArray[np.floating], str]], title: str) -> None:
    """Draw images, their signed attribution, and the image under the attribution as an intensity mask (figure 8).

    Parameters
    ----------
    path : to write.
    rows : of each image: (H, W, 3) in [0, 1], signed map (H, W), and what to say of it.
    title : of the figure.
    """
    with figure(path, 7.2, 2.45 * len(rows) + 0.5) as drawn:
        drawn.suptitle(title, fontsize=10)
        grid = drawn.subplots(len(rows), 3, squeeze=False)
        for (pixels, signed, caption), axes in zip(rows, grid, strict=True):
            limit = float(np.abs(signed).max()) or 1.0
            axes[0].imshow(pixels)
            shown = axes[1].imshow(signed, cmap="RdBu_r", vmin=-limit, vmax=limit)
            axes[2].imshow(pixels * intensity_mask(signed)[..., None])
            for place, name in zip(axes, (caption, "attribution, signed", "intensity mask"), strict=True):
                place.set_title(name, fontsize=8)
                place.set_axis_off()
            bar = drawn.colorbar(shown, ax=axes[1], shrink=0.8, ticks=[-limit, 0, limit])
            bar.ax.set_yticklabels([f"{-limit:.1e}", "0", f"{limit:.1e}"], fontsize=6)


def intensity_mask(signed: NDArray[np.floating]) -> NDArray[np.floating]:
    """Scale the positive part of a signed map to [0, 1]; its brightest hundredth is cut, so that one spot is not all.

    Where less than a hundredth is positive, nothing is cut.

    Parameters
    ----------
    signed : (H, W).

    Returns
    -------
    (H, W) in [0, 1].
    """
    positive = np.clip(signed, 0, None)
    top = np.quantile(positive, 0.99) or positive.max()
    return np.clip(positive / top, 0, 1) if top > 0 else positive
