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


@contextmanager
def figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield a figure (inches), saved to `path` whole when the block ends; no global state, no display."""
    drawn = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawn)
    yield drawn
    with written_whole(path) as temporary:
        drawn.savefig(temporary, dpi=150)


@contextmanager
def printed(path: Path, width: float, height: float) -> Iterator[Figure]:
    """As `figure`, and as a PDF beside it, for print; its text stays text."""
    with figure(path, width, height) as drawn, matplotlib.rc_context({"pdf.fonttype": 42}):
        yield drawn
        with written_whole(path.with_suffix(".pdf")) as temporary:
            drawn.savefig(temporary, dpi=150, metadata={"CreationDate": None})


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
