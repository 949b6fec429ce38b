"""Speed and memory, each as a ratio to a baseline of the same run: `make bench`, or one part by name.

    python -m benchmarks [--weights FILE] [--images N] [--json FILE] [PART ...]

Parts: fit, extract, store, rank, score, statistics, memory, sweep, report. The brain is made up
(boldreams_cli.simulation) of AlexNet's own maps; give real weights with --weights, random ones have no structure to
learn.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch

from benchmarks import fitting, pages, scoring, storing, sweep
from benchmarks.brain import Brain, make_brain
from boldreams_cli.machine import keep_freed, same_products

Row = dict[str, object]
PARTS: dict[str, Callable[[Brain], list[Row]]] = {
    "fit": fitting.fits,
    "extract": storing.extract,
    "store": storing.reading,
    "rank": storing.ranking,
    "score": fitting.scoring,
    "statistics": scoring.score_statistics,
    "memory": fitting.memory,
    "sweep": sweep.sweeps,
    "report": pages.pages,
}


def main() -> None:
    """Print a table, and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--weights", default="random", help="of AlexNet: a file, pretrained or random")
    parser.add_argument("--images", type=int, default=1500, help="of the made-up experiment")
    parser.add_argument("--json", type=Path, help="file to write the figures to as well")
    chosen = parser.parse_args()
    keep_freed()  # as every command does, the baselines too
    same_products()
    rows: list[Row] = []
    print(f"{'what':64} {'measured':>12} {'baseline':>12} {'ratio':>7} {'target':>9}")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        brain = make_brain(Path(folder), chosen.weights, chosen.images)
        for name in chosen.parts or PARTS:
            for row in PARTS[name](brain):
                rows.append({"part": name} | row)
                print(
                    f"{row['what']:64} {row['measured']:>12} {row['baseline']:>12} {row['ratio']:7.2f} "
                    f"{row['target']:>9}",
                    flush=True,
                )
    machine = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "weights": Path(chosen.weights).name,
        "images": chosen.images,
    }
    text = json.dumps(machine | {"rows": rows})
    print(text)
    if chosen.json:
        chosen.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
