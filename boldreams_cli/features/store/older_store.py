"""Feature stores of format 1: their ledgers lie beside them, their chunks carry no checksum. Only ever read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.files import Ledger

FORMAT = 1


def older_done(path: Path, spec: dict[str, Any], rows: int, kind: str) -> NDArray[np.bool_]:
    """(rows,) whether each row is finished: its line is in a ledger, and of maps every layer's shard is there."""
    finished = np.zeros(rows, dtype=bool)
    for file in sorted(path.with_suffix(".ledger").glob("*.jsonl")):
        for line in Ledger(file).entries():
            if not isinstance(line, dict) or line.get("kind") not in (kind, "maps"):
                continue
            start, stop = line.get("start"), line.get("stop")
            if isinstance(start, int) and isinstance(stop, int) and 0 <= start <= stop <= rows:
                finished[start:stop] = True
    if kind == "maps":
        size = int(spec["shard_rows"])
        for number in np.unique(np.flatnonzero(finished) // size):
            if not all((path / "layers" / name / f"maps/c/{number}/0/0/0").is_file() for name in spec["layers"]):
                finished[number * size : (number + 1) * size] = False
    return finished
