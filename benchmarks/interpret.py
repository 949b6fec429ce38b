"""What a dream step and an integrated-gradients step cost, against a bare forward and backward pass.

    python -m benchmarks.interpret [--backbone NAME] [--weights W] [--rounds N] [--give-back] [--json FILE]

Needs no data: the readout is random. The bare pass is that of the network as its library builds it; "our network" is
the same pass of the network as boldreams runs it (features/frozen.py). The contenders take turns step by step, and the
ratio is the median of the rounds' ratios, so that other work on the machine hits all of them alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from boldreams_cli.encoding.inputs.layout import make_groups
from boldreams_cli.encoding.model.full import FullModel, ResponseOfArea
from boldreams_cli.encoding.model.spec import FittedModel, ModelSpec
from boldreams_cli.encoding.model.weights import ReadoutWeights
from boldreams_cli.features import backbones
from boldreams_cli.interpret.attribution.integration import integrated_gradients
from boldreams_cli.interpret.dreams.ascent import parameterization
from boldreams_cli.interpret.dreams.ascent.loop import Dreamer, Settings
from boldreams_cli.interpret.dreams.ascent.objectives import Objective
from boldreams_cli.interpret.targets import AreaTarget
from boldreams_cli.machine import keep_freed

VOXELS, COUNT, POINTS = 200, 4, 4
TURNS = 8  # of each contender in a round
DEFAULTS = {"alexnet": "random", "efficientnet_lite0": "pretrained"}


def synthetic_model(
    name: str, weights: str, device: torch.device, percent: float = 10, trainable: bool = False
) -> FullModel:
    """A full model with a random readout of the first filters of each layer; `trainable` as its library builds it."""
    backbone = backbones.load(name, weights, trainable=trainable)
    size = backbone.entry.preprocessing.size
    with torch.inference_mode():
        maps = backbone(torch.zeros(1, 3, size, size))
    layers = {layer: list(range(max(1, int(value.shape[1] * percent / 100)))) for layer, value in maps.items()}
    shapes = {layer: (value.shape[2], value.shape[3]) for layer, value in maps.items()}
    groups = make_groups(shapes, "shared")
    random = torch.Generator().manual_seed(0)
    readout = ReadoutWeights(
        fields={g.name: torch.rand(VOXELS, g.height, g.width, generator=random) / g.pixels for g in groups},
        weights={layer: torch.randn(VOXELS, len(chosen), generator=random) for layer, chosen in layers.items()},
        bias=torch.zeros(VOXELS),
        voxels=np.stack([np.arange(VOXELS)] * 3, 1).astype(np.int32),
    )
    spec = ModelSpec(
        subject=1,
        backbone=name,
        backbone_weights={"digest": backbone.digest, "source": weights},
        preprocessing=backbone.entry.preprocessing.to_dict(),
        layers=layers,
        shapes=shapes,
        groups=groups,
        percent=percent,
        finetuned=False,
        readout="separable",
        store="",
        responses="",
        voxels=VOXELS,
        training={},
    )
    return FullModel(FittedModel(Path("none"), spec, readout), backbone).eval().to(device)


def contenders(
    full: FullModel, plain: FullModel, device: torch.device, counted: dict[str, int]
) -> dict[str, Callable[[], None]]:
    """Name -> one step of each, of equal batches; of the integral many, whose points are `counted`."""
    everything = np.ones(VOXELS, bool)
    target = AreaTarget("all", "all", full, everything, everything)
    mean = torch.full((VOXELS,), 1 / VOXELS)
    area, bare = full.weighted_sum(mean), plain.weighted_sum(mean)
    size = full.backbone.entry.preprocessing.size
    pixels = torch.rand(COUNT, 3, size, size, device=device)

    def one_pass(response: ResponseOfArea) -> None:
        response(pixels.requires_grad_()).sum().backward()
        pixels.grad = None

    random = torch.Generator().manual_seed(0)
    picture = parameterization.fourier(COUNT, size, random, device)
    settings = Settings.default(full.backbone.entry, None, count=COUNT)
    dreamer = Dreamer(target, Objective("mean"), picture, settings)

    def respond(points: Tensor) -> Tensor:
        counted["points"] += len(points) if points.requires_grad else 0
        return area(points)[:, None]

    image, black = torch.rand(3, size, size, device=device), torch.zeros(3, size, size, device=device)

    def integrate() -> None:
        # Many steps, so that the predictions between the stretches count as they do in use.
        counted["points"] = 0
        integrated_gradients(respond, image, black, 96, POINTS)

    return {
        "bare": lambda: one_pass(bare),
        "our network": lambda: one_pass(area),
        "dream": lambda: (dreamer.step(), None)[1],
        "integrated gradients": integrate,
    }


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(name: str, weights: str, rounds: int, device: torch.device) -> dict[str, object]:
    """Milliseconds of a step and ratios to the bare pass."""
    counted = {"points": 0}
    full, plain = (synthetic_model(name, weights, device, trainable=trainable) for trainable in (False, True))
    calls = contenders(full, plain, device, counted)
    for call in calls.values():  # the first time is slower
        seconds(call, device)
    steps = {"integrated gradients": counted["points"] / POINTS}
    times: dict[str, list[float]] = {key: [] for key in calls}
    for _ in range(rounds):
        taken: dict[str, list[float]] = {key: [] for key in calls}
        for turn in range(TURNS):
            for key, call in calls.items():
                if key not in steps or turn == TURNS // 2:
                    taken[key].append(seconds(call, device) / steps.get(key, 1))
        for key, values in taken.items():
            times[key].append(statistics.median(values))
    bare = times["bare"]
    ratios = {
        key: statistics.median(a / b for a, b in zip(values, bare, strict=True))
        for key, values in times.items()
        if key != "bare"
    }
    return {
        "backbone": name,
        "batch": COUNT,
        "milliseconds": {key: 1000 * min(values) for key, values in times.items()},
        "ratio_of_best": {key: min(values) / min(bare) for key, values in times.items() if key != "bare"},
        "ratio": ratios,
    }


def main() -> None:
    """Print a table, and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", action="append", choices=list(DEFAULTS))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--give-back", action="store_true", help="freed memory to the system, as without machine.py")
    parser.add_argument("--json", type=Path, help="file to write the figures to as well")
    chosen = parser.parse_args()
    if not chosen.give_back:
        keep_freed()  # as every command does
    device = torch.device(chosen.device)
    found = [measure(name, DEFAULTS[name], chosen.rounds, device) for name in chosen.backbone or DEFAULTS]
    print(f"{'backbone':20} {'step':22} {'ms':>8} {'ratio':>7} {'of best':>8}   (at most 1.15 of the bare pass)")
    for row in found:
        for key, value in row["milliseconds"].items():
            ratio, best = row["ratio"].get(key, 1.0), row["ratio_of_best"].get(key, 1.0)
            print(f"{row['backbone']:20} {key:22} {value:8.1f} {ratio:7.3f} {best:8.3f}")
    text = json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "results": found})
    print(text)
    if chosen.json:
        chosen.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
