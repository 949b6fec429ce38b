"""What all figures share: how one is made and written, its colours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

from boldreams_cli.files import written_whole

Pictures = NDArray[np.floating]  # (H, W, 3) in [0, 1]
COLOUR, CEILING, LINE = "#2c6e9b", "#c8d6df", "#b8442f"
# Told apart by colour-blind readers too (Okabe and Ito), and on light and dark paper.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6fd1", "#808080")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK, DARK_INK, DARK_PAPER = "#1d2329", "#dfe5ea", "#171c21"


@contextmanager
def figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield a figure (inches), saved to `path` whole when the block ends; no global state, no display."""
    drawn = canvas(width, height)
    yield drawn
    with written_whole(path) as temporary:
        drawn.savefig(temporary, dpi=150)


def canvas(width: float, height: float) -> Figure:
    """An empty figure (inches) without global state or display."""
    drawn = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn


def save(drawn: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure whole, in the format of the suffix; the same figure gives the same bytes."""
    timeless = {".pdf": {"CreationDate": None}, ".png": {"Software": None}}
    with written_whole(path) as temporary:
        drawn.savefig(temporary, dpi=dpi, metadata=timeless.get(path.suffix))
    drawn.set_layout_engine("none")  # it is laid out now; doing so again for another format takes as long as drawing


@contextmanager
def theme(dark: bool) -> Iterator[None]:
    """Draw figures that are made in the block for light or dark paper."""
    ink, paper = (DARK_INK, DARK_PAPER) if dark else (INK, "white")
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    papered = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
    plain = {
        "pdf.fonttype": 42,
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(dict.fromkeys(inked, ink) | dict.fromkeys(papered, paper) | plain):
        yield


def ink() -> str:
    """The colour of text in the theme that is on."""
    return str(matplotlib.rcParams["text.color"])


@contextmanager
def printed(path: Path, width: float, height: float) -> Iterator[Figure]:
    """As `figure`, and as a PDF beside it, for print; its text stays text."""
    with figure(path, width, height) as drawn, matplotlib.rc_context({"pdf.fonttype": 42}):
        yield drawn
        with written_whole(path.with_suffix(".pdf")) as temporary:
            drawn.savefig(temporary, dpi=150, metadata={"CreationDate": None})
        drawn.set_layout_engine("none")  # it is laid out now; doing so again takes as long as drawing


def wrapped(text: str, width: float, size: float) -> str:
    """Break lines that are wider than `width` inches in letters of `size` points; breaks that are there stay.

    Lines are measured, not counted: in a name of an area are mostly capitals.
    """
    font = FontProperties(size=size)

    def fits(line: str) -> bool:
        return bool(text_to_path.get_text_width_height_descent(line.rstrip(), font, False)[0] <= 0.96 * width * 72)

    lines = []
    for line in text.splitlines():
        lines.append("")
        for part in re.findall(r"[^ ,/-]*[ ,/-]*", line):
            if lines[-1] and not fits(lines[-1] + part):
                lines.append("")
            lines[-1] += part
            while len(lines[-1]) > 1 and not fits(lines[-1]):  # one long word
                cut = next(n for n in range(len(lines[-1]) - 1, 0, -1) if n == 1 or fits(lines[-1][:n]))
                lines[-1:] = [lines[-1][:cut], lines[-1][cut:]]
    return "\n".join(line.rstrip() for line in lines)


def titled(drawn: Figure, text: str, size: float = 10) -> None:
    """Give a figure a title that is never cut off."""
    drawn.suptitle(wrapped(text, float(drawn.get_figwidth()), size), fontsize=size)
