"""What all figures share: how one is made and written, its colours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
