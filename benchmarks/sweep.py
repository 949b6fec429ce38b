"""A sweep against as many `fit` + `score`, all as commands: time, the same weights, and a rerun of what is finished."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.brain import Brain

PERCENTS = (1, 5, 10, 15, 20, 25, 50, 75, 100)
SEEDS = range(8)


def sweeps(brain: Brain) -> list[dict[str, object]]:
    """Nine percents by each recipe, and the rerun of 72 cells."""
    rows = [_nine(brain, "fast", 2.5), _nine(brain, "paper", 1.3)]
    seeds = ",".join(map(str, SEEDS))
    cache = fresh_cache(brain, "many")
    many = ("sweep", "--percent", ",".join(map(str, PERCENTS)), "--seed", seeds, "--recipe", "fast", "--epochs", 1)
    seconds(brain, cache, *many)
    again = min(seconds(brain, cache, *many) for _ in range(3))
    return [*rows, row(f"rerun of a finished sweep of {len(PERCENTS) * len(SEEDS)} cells, limit 3 s", again, 3.0, 1)]


def _nine(brain: Brain, recipe: str, target: float) -> dict[str, object]:
    """One sweep against nine fits and nine scores."""
    alone, together = fresh_cache(brain, f"alone-{recipe}"), fresh_cache(brain, f"together-{recipe}")
    common = ("--backbone", "alexnet", "--subject", 1, "--recipe", recipe)
    separate = 0.0
    for percent in PERCENTS:
        separate += seconds(brain, alone, "fit", *common, "--percent", percent)
        separate += seconds(brain, alone, "score", *common, "--percent", percent)
    swept = seconds(brain, together, "sweep", *common, "--percent", ",".join(map(str, PERCENTS)))
    assert _digests(alone) == _digests(together), "a sweep's weights are those of separate fits, bit for bit"
    return row(f"nine percents by sweep, {recipe}, against fit + score each", swept, separate, target)


def fresh_cache(brain: Brain, name: str) -> Path:
    """A cache of the same stores, without models."""
    cache = brain.folder / name
    cache.mkdir()
    for part in ("features", "responses"):
        (cache / part).symlink_to(brain.cache / part)
    return cache


def seconds(brain: Brain, cache: Path, *arguments: object) -> float:
    """Time of a command, its start included."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BOLDREAMS_")}
    environment |= {"BOLDREAMS_CACHE": str(cache), "BOLDREAMS_NSD_ROOT": str(brain.folder / "nsd")}
    command = [sys.executable, "-m", "boldreams_cli.cli", *map(str, arguments), "--device", "cpu", "-q"]
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _digests(cache: Path) -> dict[str, str]:
    found = (cache / "models").rglob("spec.json")
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8"))["weights_digest"] for path in found}


def row(what: str, seconds: float, baseline: float, target: float) -> dict[str, object]:
    """Of the table."""
    return {
        "what": what,
        "measured": f"{seconds:.3g} s",
        "baseline": f"{baseline:.3g} s",
        "ratio": baseline / seconds,
        "target": f"{target:g}",
    }
