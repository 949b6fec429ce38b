"""Dreams: contact sheet, trace, what became of a photograph, gallery of areas (paper, figures 5 to 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from boldreams_cli.plots.style import COLOUR, LINE, Pictures, figure, printed, titled, wrapped

MOVED = "#8aa9bd"  # pale, and still seen on white


def dream_sheet(
    path: Path, dreams: Sequence[tuple[Pictures, str]], natural: Sequence[tuple[Pictures, str]], title: str
) -> None:
    """Draw a contact sheet: the dreams, and the best natural images in a column beside them (paper, figure 7).

    Parameters
    ----------
    path : to write, and as .pdf beside.
    dreams, natural : (H, W, 3) in [0, 1] and a caption.
    title : of the sheet.
    """
    rows = 1 if len(dreams) == 1 else 2
    columns, beside = -(-len(dreams) // rows), -(-len(natural) // rows)
    width = max(2.2 * (columns + beside) + 0.2, 3.4)
    with printed(path, width, 2.45 * rows + 0.7) as drawn:
        titled(drawn, title)
        grid = drawn.subplots(rows, columns + beside, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        # Dreams go along their rows, natural images down their columns.
        places = [*grid[:, :columns].flat][: len(dreams)] + [*grid[:, columns:].T.flat][: len(natural)]
        for axes, (pixels, caption) in zip(places, [*dreams, *natural], strict=True):
            axes.imshow(pixels)
            axes.set_title(wrapped(caption, 2.2, 8), fontsize=8)


def over_paper(pixels: Pictures, opacity: NDArray[np.floating], paper: float = 1.0) -> Pictures:
    """Lay a picture with transparency on paper.

    Parameters
    ----------
    pixels : (H, W, 3) in [0, 1].
    opacity : (H, W) in [0, 1].
    paper : its grey, white by default.
    """
    return pixels * opacity[..., None] + paper * (1 - opacity[..., None])


def dream_difference(
    path: Path,
    photograph: tuple[Pictures, str],
    dreams: Sequence[tuple[Pictures, str, float]],
    title: str,
) -> None:
    """Draw a photograph, what a dream made of it, and the difference; grey is none.

    Parameters
    ----------
    path : to write, and as .pdf beside.
    photograph : (H, W, 3) in [0, 1] and a caption.
    dreams : pixels, caption and distance in features of each.
    title : of the figure.
    """
    with printed(path, 7.2, 2.5 * len(dreams) + 0.7) as drawn:
        titled(drawn, title)
        grid = drawn.subplots(len(dreams), 3, squeeze=False)
        for axes, (pixels, caption, far) in zip(grid, dreams, strict=True):
            difference = pixels - photograph[0]
            factor = amplification(difference)
            panels = (
                photograph,
                (pixels, f"{caption}\n{far:.2f} away in features"),
                (np.clip(0.5 + factor * difference / 2, 0, 1), f"difference x {factor:g}"),
            )
            for place, (shown, said) in zip(axes, panels, strict=True):
                place.imshow(shown)
                place.set_title(wrapped(said, 2.3, 8), fontsize=8)
                place.set_axis_off()


def amplification(difference: NDArray[np.floating]) -> float:
    """The power of two by which a difference of pictures is shown, so that 99 of 100 values stay in range."""
    largest = float(np.quantile(np.abs(difference), 0.99))
    return 1.0 if largest <= 0 else float(2 ** np.clip(np.floor(np.log2(1 / largest)), 0, 5))


def gallery(path: Path, columns: Sequence[tuple[str, Sequence[tuple[Pictures, str]], str]]) -> None:
    """Draw one column an area: its pictures below each other.

    Parameters
    ----------
    path : to write.
    columns : of each area: its name, (H, W, 3) pictures with captions, as many as the others', and a last line.
    """
    rows = len(columns[0][1])
    with figure(path, 1.35 * len(columns), 1.42 * rows + 0.52) as drawn:
        drawn.set_layout_engine("constrained", h_pad=0.01, hspace=0)
        grid = drawn.subplots(rows, len(columns), squeeze=False)
        for (name, pictures, words), axes in zip(columns, grid.T, strict=True):
            for place, (pixels, caption) in zip(axes, pictures, strict=True):
                place.imshow(pixels)
                place.set_title(caption, fontsize=6.5, pad=2)
                _framed(place)
            axes[0].set_title(f"{name}\n{pictures[0][1]}", fontsize=6.5, pad=2)
            axes[-1].set_xlabel(words, fontsize=6.5, labelpad=2)


def _framed(axes: Axes) -> None:
    """No ticks and no frame, but room for a label."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def dream_trace(
    path: Path,
    trace: NDArray[np.floating],
    levels: Mapping[str, float],
    unit: str,
    title: str,
    penalty: str | None = None,
) -> None:
    """Draw how the score rose, where it passed the natural images, and what the loss holds besides.

    Parameters
    ----------
    path : to write, and as .pdf beside.
    trace : (rows, 5) step, loss, response of the transformed images, score of the untransformed and of the transformed
        ones; NaN is left out.
    levels : name -> score of a natural image, as a line.
    unit : of the score.
    title : of the figure.
    penalty : what the loss is made of besides minus the score, which a panel below shows; None where it is nothing.
    """
    two = penalty is not None
    with printed(path, 5.6, 5.0 if two else 3.7) as drawn:
        panels = drawn.subplots(2 if two else 1, 1, sharex=True, squeeze=False,
                                height_ratios=[2, 1] if two else [1])[:, 0]  # fmt: skip
        above = panels[0]
        step, loss, _, still, score = trace.T  # score's last is of the untransformed images
        above.plot(step[:-1], score[:-1], color=MOVED, linewidth=1, label="transformed, each step")
        known = np.isfinite(still)
        above.plot(step[known], still[known], "o-", color=COLOUR, linewidth=1.4, markersize=3, label="untransformed")
        for (name, level), style in zip(levels.items(), ("--", ":", "-."), strict=False):
            above.axhline(level, color=LINE, linewidth=1, linestyle=style, label=_passed(name, level, step, score))
        above.set_ylabel(wrapped(f"{unit}, mean of images", 2.6, 10))
        titled(drawn, title, 9)
        if two:
            panels[1].plot(step, loss + score, color=COLOUR, linewidth=1)
            panels[1].set_ylabel(penalty)
        panels[-1].set_xlabel("step")
        panels[-1].xaxis.get_major_locator().set_params(integer=True)
        for axes in panels:
            axes.spines[["top", "right"]].set_visible(False)
        drawn.legend(*above.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=2)


def _passed(name: str, level: float, step: NDArray[np.floating], score: NDArray[np.floating]) -> str:
    """A level's name, with the step at which it was passed."""
    above = np.flatnonzero(score > level)
    return f"{name} (passed at step {int(step[above[0]])})" if len(above) else f"{name} (not reached)"
