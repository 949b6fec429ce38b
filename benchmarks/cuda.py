"""What a GPU is asked for, in one short run on a machine that has one: fits, extraction, a dream.

    python -m benchmarks.cuda [--weights FILE] [--images N] [--json FILE] [PART ...]

Parts: fit, extract, dream, full. Baselines run on the same GPU, in IEEE's float32 as everything here: the published
training with the backbone in the loop, its images resized and on the GPU beforehand; the bare forward pass of the
network as its library builds it. A dream is of V1 by AlexNet, four images, until their mean response is above that of
the best natural image; it is timed anew for as many steps as that took. `full` is a subject of NSD's size, of random
numbers (benchmarks/random_subject.py). Starting a process and loading weights are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import torch

from benchmarks import random_subject
from benchmarks.brain import Brain, make_brain
from benchmarks.fitting import GB, fast_times, layouts_of, live_seconds, synchronize
from benchmarks.storing import extraction_rates
from boldreams_cli.console import StopFlag
from boldreams_cli.encoding.evaluation.statistics import pearson_r
from boldreams_cli.encoding.fit import fit
from boldreams_cli.encoding.model.full import FullModel, predict_stored
from boldreams_cli.encoding.readouts.base import Readout
from boldreams_cli.encoding.readouts.local import Local
from boldreams_cli.encoding.readouts.ridge import RidgeReadout
from boldreams_cli.encoding.readouts.separable import AdamSettings, Separable
from boldreams_cli.encoding.readouts.settings import FitSettings
from boldreams_cli.encoding.readouts.smooth import Smooth
from boldreams_cli.interpret import targets
from boldreams_cli.interpret.dreams.ascent import parameterization
from boldreams_cli.interpret.dreams.ascent.loop import Dreamer, Settings, steps_to_beat
from boldreams_cli.interpret.dreams.ascent.objectives import Objective
from boldreams_cli.interpret.dreams.natural import Sources, best_natural
from boldreams_cli.machine import ieee_products, keep_freed, same_products

Row = dict[str, object]
EXTRACTED = {"alexnet": 8192, "vgg11": 1024, "rn50x4": 1024}  # some 32 units each
BATCH = 64  # as `extract` takes on a GPU


def fits(brain: Brain, device: torch.device, percents: tuple[int, ...] = (10, 100)) -> Iterator[Row]:
    """Time to the published recipe's r against that of the published training."""
    images = brain.responses.test_images
    measured = torch.from_numpy(brain.responses.mean_betas(images))
    for percent in percents:
        layouts = layouts_of(brain, percent)
        live = live_seconds(brain, layouts, device=device)
        where = (brain.cache, device, 8 * GB, StopFlag())
        paper = fit(brain.store, brain.responses, FitSettings(percent), Separable(), *where, overwrite=True)
        predicted = torch.from_numpy(predict_stored(paper.model, brain.store, images, device, GB))
        paper_r = float(pearson_r(predicted, measured).nanmean())
        _, reached, reached_r, _, final_r = fast_times(brain, layouts, paper_r, measured, device)
        said = f"AlexNet {percent} %"
        if reached_r >= paper_r:
            yield _row(f"{said}: fast to the published r {paper_r:.3f}", reached, live, " s", live / reached, 20)
        yield _row(f"{said}: published recipe from the cache", paper.seconds, live, " s", live / paper.seconds, None)
        yield _row(f"{said}: test r of fast against the published", final_r, paper_r, "", final_r / paper_r, None)


def extractions(brain: Brain, device: torch.device, counts: dict[str, int] = EXTRACTED) -> Iterator[Row]:
    """Images/s against those of a bare forward pass."""
    for name, images in counts.items():
        stored, network, bare = extraction_rates(brain, name, images, min(BATCH, images), device)
        yield _row(f"{name}: our network against a bare forward pass", network, bare, "/s", network / bare, None)
        yield _row(f"extract {name}: the same, read, resized and stored", stored, bare, "/s", stored / bare, 0.8)


def dreams(brain: Brain, device: torch.device, steps: int | None = None) -> Iterator[Row]:
    """Seconds until a dream of V1 beats the best natural image."""
    where = (brain.cache, device, 8 * GB, StopFlag())
    model = fit(brain.store, brain.responses, FitSettings(10), Smooth(), *where).model
    full, objective = FullModel.rebuild(model, device), Objective("mean")
    target = targets.choose(full, brain.responses.areas, "V1")
    natural = best_natural(target, objective, Sources(brain.responses, brain.cache, None, GB), StopFlag())
    assert natural is not None, "the store is there"
    best = max(one.score for one in natural.values())
    settings = Settings.default(full.backbone.entry, "V1", steps)

    def dreamed(count: int) -> tuple[float, Dreamer]:
        synchronize(device)
        start = time.perf_counter()
        size = full.backbone.entry.preprocessing.size
        random = torch.Generator().manual_seed(0)
        picture = parameterization.fourier(settings.count, size, random, device)
        dreamer = Dreamer(target, objective, picture, settings)
        for _ in range(count):
            dreamer.step()
        dreamer.look()
        synchronize(device)
        return time.perf_counter() - start, dreamer

    taken, dreamer = dreamed(settings.steps)
    needed = steps_to_beat(dreamer.trace.array(), best)
    yield _row(f"dream of V1: {settings.steps} steps", taken, None, " s", None, None)
    if needed is None:
        yield _row("dream of V1: never above the best natural image", best, None, "", None, "under 1 s")
    else:
        seconds, _ = dreamed(needed)
        yield _row(f"dream of V1: above the best natural image, {needed} steps", seconds, None, " s", None, "under 1 s")


def full(brain: Brain, device: torch.device, part: float = 1.0) -> Iterator[Row]:
    """Readouts of a full-size subject; `part` of it is for trying out."""
    sizes = (int(count * part) for count in (random_subject.IMAGES, random_subject.TRIALS, random_subject.VOXELS))
    betas = random_subject.RandomBetas(*sizes)
    tried: list[tuple[str, Readout, float, int | None, str | None]] = [
        ("fast", Smooth(), 10, 9, None),
        ("ridge", RidgeReadout(), 10, 5, None),
        ("paper, one epoch of ten", Separable(AdamSettings(epochs=1)), 10, None, None),
        ("fast", Smooth(), 100, 9, None),
        ("local", Local(), 100, 5, "2 min"),
    ]
    for name, readout, percent, grid, target in tried:
        found = random_subject.solved(readout, percent, grid, betas, device)
        what = f"{len(betas.image_ids)} images, {len(betas.columns)} voxels: {name} {percent:g} %"
        yield _row(what, found.seconds, None, " s", None, target)
        yield _row(f"{what}, GB of the GPU at most", found.peak / GB, None, "", None, None)


PARTS: dict[str, Callable[[Brain, torch.device], Iterator[Row]]] = {
    "fit": fits,
    "extract": extractions,
    "dream": dreams,
    "full": full,
}


def _row(
    what: str, measured: float, baseline: float | None, unit: str, ratio: float | None, target: object | None
) -> Row:
    return {
        "what": what,
        "measured": f"{measured:.3g}{unit}",
        "baseline": "-" if baseline is None else f"{baseline:.3g}{unit}",
        "ratio": ratio,
        "target": "-" if target is None else str(target),
    }


def main() -> None:
    """Print a table, and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--weights", default="random", help="of AlexNet: a file, pretrained or random")
    parser.add_argument("--images", type=int, default=1500, help="of the made-up experiment")
    parser.add_argument("--device", default="cuda", help="cpu tries the code out; its figures say nothing")
    parser.add_argument("--small", action="store_true", help="next to nothing of everything, to try the code out")
    parser.add_argument("--json", type=Path, help="file to write the figures to as well")
    asked = parser.parse_args()
    keep_freed()  # as every command does, the baselines too
    same_products()
    device = torch.device(asked.device)
    ieee_products(device)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    command = shlex.join(["python", "-m", "benchmarks.cuda", *sys.argv[1:]])
    print(f"{card}, {date.today().isoformat()}, torch {torch.__version__}: {command}", flush=True)
    less: dict[str, dict[str, object]] = {
        "fit": {"percents": (10,)},
        "extract": {"counts": {"alexnet": 32}},
        "dream": {"steps": 4},
        "full": {"part": 0.01},
    }
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        brain = make_brain(Path(folder), asked.weights, asked.images)
        for name in asked.parts or PARTS:
            for row in PARTS[name](brain, device, **(less[name] if asked.small else {})):  # type: ignore[arg-type]
                rows.append({"part": name} | row)
                ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
                print(f"{row['what']:64} {row['measured']:>12} {row['baseline']:>12} {ratio:>7} {row['target']:>9}")
                sys.stdout.flush()
    known: dict[str, object] = {"date": date.today().isoformat(), "card": card, "torch": torch.__version__}
    known |= {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "command": command}
    text = json.dumps(known | {"rows": rows})
    print(text)
    if asked.json:
        asked.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
