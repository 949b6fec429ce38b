"""Word clouds: every word horizontal, in one font, its size exactly the one asked for (paper, figures 6 and 7)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray
from wordcloud.wordcloud import IntegralOccupancyMap

from boldreams_cli.plots.style import COLOUR, printed, wrapped

FONT = "DejaVu Sans"  # comes with matplotlib, so that a cloud is the same everywhere
FAINT, GREY, FRAME = "#76818a", "#444444", "#e2e6e9"
WIDTH, HEIGHT = 5.6, 3.4  # of a cloud, inches
MARGIN = 0.2  # beside clouds, inches
LARGEST = 64.0  # font to try first, points
SHRINK = 0.96  # from one try to the next
GAP = 4.0  # between words, points
TRIES = 12  # arrangements at a font
SIDES = 0.6  # share of a row or column of pixels that a frame's side takes, at least


@dataclass(frozen=True)
class Panel:
    """One cloud.

    Parameters
    ----------
    title : above it.
    words : the largest first.
    sizes : of each, in those of the largest.
    faint : whether each is drawn paler.
    below : what the sizes mean.
    """

    title: str
    words: Sequence[str]
    sizes: Sequence[float]
    faint: Sequence[bool]
    below: str


def clouds(path: Path, panels: Sequence[Panel], title: str, foot: str) -> None:
    """Draw clouds side by side, at most three in a row.

    Parameters
    ----------
    path : to write, and as .pdf beside.
    panels : one or more.
    title : of the figure.
    foot : what was compared with what.
    """
    columns = 1 if len(panels) == 1 else 2 if len(panels) in (2, 4) else 3
    rows = -(-len(panels) // columns)
    width = (WIDTH + MARGIN) * columns + MARGIN
    title, foot = wrapped(title, width, 10), wrapped(foot, width, 7)
    head, tail = 0.18 * (title.count("\n") + 1) + 0.1, 0.13 * (foot.count("\n") + 1) + 0.1
    row = HEIGHT + 0.52  # a cloud, its title and what its sizes mean
    height = head + row * rows + tail
    # Hinting would round the letters to whole pixels.
    with matplotlib.rc_context({"text.hinting": "none"}), printed(path, width, height) as drawn:
        drawn.set_layout_engine("none")  # which would give the clouds another size than the words were placed in
        drawn.text(0.5, 1 - 0.05 / height, title, ha="center", va="top", fontsize=10, fontweight="bold")
        drawn.text(0.5, 0.05 / height, foot, ha="center", va="bottom", fontsize=7, color=GREY)
        for index, panel in enumerate(panels):
            left = MARGIN + (WIDTH + MARGIN) * (index % columns)
            bottom = tail + row * (rows - 1 - index // columns) + 0.26
            _draw(drawn.add_axes((left / width, bottom / height, WIDTH / width, HEIGHT / height)), panel)


def _draw(axes: Axes, panel: Panel) -> None:
    """In axes that count points, as fonts do."""
    font, places = place(panel.words, panel.sizes, WIDTH * 72, HEIGHT * 72)
    axes.set(xlim=(0, WIDTH * 72), ylim=(0, HEIGHT * 72), xticks=[], yticks=[])
    axes.spines[:].set_color(FRAME)
    axes.set_title(wrapped(panel.title, WIDTH, 9), fontsize=9, pad=3)
    axes.set_xlabel(wrapped(panel.below, WIDTH, 7), fontsize=7, color=GREY, labelpad=3)
    for word, size, faint, (left, base) in zip(panel.words, panel.sizes, panel.faint, places, strict=True):
        ink = FAINT if faint else COLOUR
        axes.text(left, base, word, fontsize=font * size, family=FONT, color=ink, parse_math=False, va="baseline")


def cloud_alone(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut a figure of one cloud to what its frame holds: at the size of a grid's cell its titles cannot be read.

    Parameters
    ----------
    pixels : (H, W, 3) as `clouds` drew them.

    Returns
    -------
    (h, w, 3); all of it where no frame is found.
    """
    faint = np.array(matplotlib.colors.to_rgb(FRAME)) * 255 - 2
    sides = (pixels >= faint).all(-1) & (pixels < 255).any(-1)  # mixed with the white beside it
    spans = []
    for axis, length in ((1, len(pixels)), (0, pixels.shape[1])):
        lines = np.flatnonzero(sides.mean(axis) > SIDES)
        before, after = lines[lines < length // 2], lines[lines >= length // 2]
        if not len(before) or not len(after):
            return pixels
        spans.append(slice(int(before[-1]) + 1, int(after[0])))
    return pixels[spans[0], spans[1]]


def place(
    words: Sequence[str], sizes: Sequence[float], width: float, height: float
) -> tuple[float, list[tuple[float, float]]]:
    """Find the largest font at which all words fit at their sizes, and where; the same for the same words.

    Parameters
    ----------
    words : the largest first.
    sizes : of each, in those of the largest.
    width, height : of the cloud, points.

    Returns
    -------
    The largest word's font in points, and of each word the left end of its base line, in points from the lower left.

    Raises
    ------
    ValueError
        If there are no words.
    """
    if not words:
        raise ValueError("a cloud of no words")
    boxes = np.array([_box(word, size) for word, size in zip(words, sizes, strict=True)])
    font = min(LARGEST, (width - 2 * GAP) / boxes[:, 2].max(), (height - 2 * GAP) / boxes[:, 3].max())
    while (found := _fitted(boxes * font, width, height)) is None:
        font *= SHRINK
    left, base = (found - boxes[:, :2] * font).T
    return font, list(zip(left.tolist(), base.tolist(), strict=True))


def _box(word: str, size: float) -> tuple[float, float, float, float]:
    """Left, bottom, width and height of a word from the start of its base line, at a font of 1 point."""
    font = FontProperties(family=FONT, size=100)
    width = text_to_path.get_text_width_height_descent(word, font, False)[0]
    # A line's height, as matplotlib lays it out: that of a word with letters above and below, whatever its own are.
    _, height, descent = text_to_path.get_text_width_height_descent(f"lp{word}", font, False)
    return 0.0, -descent * size / 100, width * size / 100, height * size / 100


def _fitted(boxes: NDArray[np.floating], width: float, height: float) -> NDArray[np.floating] | None:
    """Lower left corners, at places that word_cloud finds free; None if a word finds none in any of a few tries."""
    if ((boxes[:, 2] + GAP) * (boxes[:, 3] + GAP)).sum() > width * height:
        return None
    # word_cloud's own sizes are whole pixels, and shrink until a word fits: here all shrink together (`place`).
    for seed in range(TRIES):
        if (found := _tried(boxes, int(width - GAP), int(height - GAP), random.Random(seed))) is not None:
            return found
    return None


def _tried(boxes: NDArray[np.floating], width: int, height: int, draws: random.Random) -> NDArray[np.floating] | None:
    """One arrangement, on a grid of points; None if a word finds no place."""
    taken, places = np.zeros((height, width), np.uint32), []
    free = IntegralOccupancyMap(height, width, None)
    for _, _, wide, high in boxes:
        size = int(np.ceil(high + GAP)), int(np.ceil(wide + GAP))
        found = free.sample_position(*size, draws)
        if found is None:
            return None
        row, column = found[0] + 1, found[1] + 1  # sums before the first cell are zero, so that it is the next one
        taken[row : row + size[0], column : column + size[1]] = 1
        free.update(taken, row, column)
        places.append((column + GAP, height - row - high))  # rows count from the top
    return np.array(places)
