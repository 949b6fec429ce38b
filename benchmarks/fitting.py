"""Fits against the published recipe with the backbone in the loop; scoring against a matrix product; memory."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.brain import Brain
from boldreams_cli.console import StopFlag
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.evaluation.statistics import pearson_r
from boldreams_cli.encoding.fit import fit
from boldreams_cli.encoding.inputs.betas import TrainingBetas, hold_out
from boldreams_cli.encoding.inputs.layout import Group, MapLayout, make_groups
from boldreams_cli.encoding.inputs.maps import ResidentMaps, StoredMaps
from boldreams_cli.encoding.inputs.ranking import rank_filters
from boldreams_cli.encoding.model.full import Predictor, predict_stored
from boldreams_cli.encoding.model.spec import FittedModel, ModelSpec
from boldreams_cli.encoding.model.weights import ReadoutWeights
from boldreams_cli.encoding.numerics.contraction import published_start
from boldreams_cli.encoding.readouts.base import Problem
from boldreams_cli.encoding.readouts.separable import AdamSettings, Separable
from boldreams_cli.encoding.readouts.settings import FitSettings
from boldreams_cli.encoding.readouts.smooth import Smooth, SmoothSettings
from boldreams_cli.features.ranking import filter_count
from boldreams_cli.features.store.feature_store import FeatureStore
from boldreams_cli.features.store.store_arrays import ids_hash
from boldreams_cli.machine import keep_freed

CPU = torch.device("cpu")
GB = 2**30
LIVE_STEPS = 12


class Live(nn.Module):
    """The published model, plainly: AlexNet as torchvision builds it, fields, weights, autograd.

    Its weights are random: they do not change its speed.
    """

    def __init__(self, brain: Brain, layouts: list[MapLayout], voxels: int) -> None:
        super().__init__()
        self.preprocessing = brain.backbone.entry.preprocessing
        self.features = torchvision.models.get_model("alexnet", weights=None).features.requires_grad_(False)
        self.layouts = layouts
        for number, layout in enumerate(layouts):
            for place, name in enumerate(layout.group.layers):
                self.register_buffer(f"filters_{number}_{place}", torch.tensor(layout.filters[name]))
        sizes = [(layout.count, layout.group.pixels) for layout in layouts]
        fields, weights, bias = published_start(sizes, voxels, np.arange(voxels), 0)
        self.fields, self.weights = nn.ParameterList(fields), nn.ParameterList(weights)
        self.bias = nn.Parameter(bias)

    def forward(self, images: Tensor) -> Tensor:
        """(images, height, width, 3) uint8 -> (images, voxels)."""
        maps = {}
        with torch.no_grad():
            value = self.preprocessing.normalise(self.preprocessing.resize(images).float() / 255).contiguous()
            for name, layer in self.features.named_children():
                value = maps[f"features.{name}"] = layer(value)
        out = self.bias
        for number, (layout, field, weight) in enumerate(zip(self.layouts, self.fields, self.weights, strict=True)):
            chosen = [
                maps[name][:, self.get_buffer(f"filters_{number}_{place}")].flatten(2)
                for place, name in enumerate(layout.group.layers)
            ]
            out = out + ((torch.cat(chosen, 1) @ field) * weight).sum(1)
        return out


def layouts_of(brain: Brain, percent: float) -> list[MapLayout]:
    """Filters of that percentage, grouped by resolution."""
    ranked = rank_filters(brain.store, brain.responses.train_images)
    filters = {
        name: [int(k) for k in ranked[name][0][: filter_count(shape[0], percent)]]
        for name, shape in brain.store.layers.items()
    }
    shapes = {name: (shape[1], shape[2]) for name, shape in brain.store.layers.items()}
    return [MapLayout(group, filters) for group in make_groups(shapes, "shared")]


def live_seconds(brain: Brain, layouts: list[MapLayout], copies: int = 1, device: torch.device = CPU) -> float:
    """Seconds of the published training with the backbone in the loop, from the median of some steps.

    `copies` repeats the voxels, for the time that more of them take. On a GPU all images are there, resized, before.
    """
    responses = brain.responses
    trials = np.flatnonzero(~responses.trial_test)
    betas = torch.from_numpy(responses.read_betas(~responses.trial_test, slice(None))).repeat(1, copies)
    model, betas = Live(brain, layouts, betas.shape[1]).to(device), betas.to(device)
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    read = [brain.stimuli.read(responses.trial_images[trials[i * 16 : i * 16 + 16]]) for i in range(LIVE_STEPS)]
    images = [torch.from_numpy(block) for block in read]
    if device.type == "cuda":
        images = [model.preprocessing.resize(block).permute(0, 2, 3, 1).to(device) for block in images]
    times = []
    for step, block in enumerate(images):
        synchronize(device)
        start = time.perf_counter()
        adam.zero_grad()
        (model(block) - betas[step * 16 : step * 16 + 16]).square().mean().backward()
        adam.step()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 10 * len(trials) / 16


def synchronize(device: torch.device) -> None:
    """Wait for what a GPU has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fits(brain: Brain) -> list[dict[str, object]]:
    """The first rows of the table: time to the published recipe's r, final r, the cache alone."""
    rows = []
    images = brain.responses.test_images
    target = torch.from_numpy(brain.responses.mean_betas(images))
    for percent in (10, 100):
        layouts = layouts_of(brain, percent)
        live = live_seconds(brain, layouts)
        settings, paper = FitSettings(percent), Separable()
        cached = fit(
            brain.store, brain.responses, settings, paper, brain.cache, CPU, 8 * GB, StopFlag(), overwrite=True
        )
        paper_r = float(pearson_r(torch.from_numpy(_predicted(brain, cached.model)), target).nanmean())
        epochs, reached, reached_r, final, final_r = fast_times(brain, layouts, paper_r, target)
        label = f"AlexNet {percent} %"
        with_extraction = reached + brain.extraction_seconds
        if reached_r >= paper_r:
            rows.append(
                _row(f"{label}: fast to the published r {paper_r:.3f}", reached, live, 100 if percent == 10 else 60)
            )
            rows.append(_row(f"{label}: the same, extraction counted", with_extraction, live, 30))
            if percent == 10:
                rows += _paper_size(brain, layouts, epochs, target)
        rows.append(_row(f"{label}: fast to its end", final, live, "-"))
        rows.append(
            _ratio(f"{label}: its test r against the published", final_r, paper_r, 1.3 if percent == 10 else 1.1)
        )
        rows.append(
            _row(f"{label}: published recipe from the cache", cached.seconds, live, 3.5 if percent == 10 else 2.5)
        )
    return rows


def fast_times(
    brain: Brain, layouts: list[MapLayout], paper_r: float, target: Tensor, device: torch.device = CPU
) -> tuple[int, float, float, float, float]:
    """Epochs, seconds and r of the shortest fast fit that reaches the published r; seconds and r of the whole one."""
    found, epochs = (0.0, -1.0), 0
    for epochs in (1, 2, 4, 8, 16):
        found = _fast(brain, layouts, SmoothSettings(epochs=epochs), target, device=device)
        if found[1] >= paper_r:
            break
    return epochs, *found, *_fast(brain, layouts, SmoothSettings(), target, device=device)


def _paper_size(brain: Brain, layouts: list[MapLayout], epochs: int, target: Tensor) -> list[dict[str, object]]:
    """The first two rows again with as many voxels as in the paper: the brain's own, repeated."""
    copies = round(5000 / len(brain.responses.voxels))
    voxels = copies * len(brain.responses.voxels)
    live = live_seconds(brain, layouts, copies)
    fast = _fast(brain, layouts, SmoothSettings(epochs=epochs), target, copies)[0]
    return [
        _row(f"AlexNet 10 %, {voxels} voxels: to the published r", fast, live, 100),
        _row(f"AlexNet 10 %, {voxels} voxels: extraction counted", fast + brain.extraction_seconds, live, 30),
    ]


def _fast(
    brain: Brain,
    layouts: list[MapLayout],
    settings: SmoothSettings,
    target: Tensor,
    copies: int = 1,
    device: torch.device = CPU,
) -> tuple[float, float]:
    responses, target = brain.responses, target.repeat(1, copies)
    start = time.perf_counter()
    betas = _Copies(responses, copies)
    rows = brain.store.rows(betas.image_ids)
    maps_of = StoredMaps(brain.store, rows, layouts, device, brain.cache / "scratch")
    held_out = hold_out(betas.image_ids, FitSettings(10).held_out, 0)
    problem = Problem(maps_of, betas, held_out, 0, device, 8 * GB)
    result = Smooth(settings).solve(problem, betas.columns, _NotKept(), StopFlag())
    seconds = time.perf_counter() - start
    test = ResidentMaps.read(brain.store, brain.store.rows(responses.test_images), layouts, CPU)
    maps = next(iter(test.batches([np.arange(len(responses.test_images))])))
    prediction = result.bias.repeat(len(target), 1)
    for group, layout, field, weight in zip(maps, layouts, result.fields, result.weights, strict=True):
        pixels, filters = ("a", "c") if layout.pixels_first else ("c", "a")
        prediction += torch.einsum(f"bac,v{pixels},v{filters}->bv", group, field, weight)
    return seconds, float(pearson_r(prediction, target).nanmean())


class _Copies(TrainingBetas):
    """The betas of a brain whose voxels come several times."""

    def __init__(self, responses: Responses, copies: int) -> None:
        super().__init__(responses)
        self.own, self.copies = self.columns, copies
        self.columns = np.arange(copies * len(self.own))

    def means(self, voxels: NDArray[np.int64]) -> Tensor:
        """Of all voxels, whichever are asked for."""
        assert len(voxels) == len(self.columns)
        return super().means(self.own).repeat(1, self.copies)


class _NotKept:
    """A checkpoint that keeps nothing."""

    due = False

    def load(self) -> None:
        """Nothing."""

    def save(self, note: object, tensors: object) -> None:
        """Nothing."""


def _predicted(brain: Brain, model: FittedModel) -> np.ndarray:
    return predict_stored(model, brain.store, brain.responses.test_images, CPU, GB)


def scoring(brain: Brain) -> list[dict[str, object]]:
    """Predictions of 10,000 voxels for 1,000 images against one matrix product of as many multiplications."""
    voxels, images = 10_000, 1_000
    layouts = layouts_of(brain, 10)
    random = torch.Generator().manual_seed(0)
    groups = [layout.group for layout in layouts]
    filters = {name: list(layout.filters[name]) for layout in layouts for name in layout.group.layers}
    weights = ReadoutWeights(
        {g.name: torch.randn(voxels, g.height, g.width, generator=random) for g in groups},
        {name: torch.randn(voxels, len(indices), generator=random) for name, indices in filters.items()},
        torch.zeros(voxels),
        np.zeros((voxels, 3), np.int32),
    )
    predictor = Predictor(FittedModel(Path(), _spec(groups, filters, voxels), weights), CPU)
    maps = [torch.rand(images, *layout.shape, generator=random) for layout in layouts]
    multiplications = sum(images * a * c * voxels for a, c in (layout.shape for layout in layouts))
    inner = 256
    left, right = torch.rand(multiplications // (inner * voxels), inner), torch.rand(inner, voxels)
    times: dict[str, list[float]] = {"ours": [], "product": []}
    with torch.inference_mode():
        for _ in range(3):
            start = time.perf_counter()
            for block in range(0, images, 64):
                predictor([group[block : block + 64] for group in maps])
            times["ours"].append(time.perf_counter() - start)
            start = time.perf_counter()
            for block in range(0, len(left), 4096):
                left[block : block + 4096] @ right
            times["product"].append(time.perf_counter() - start)
    ours, product = min(times["ours"]), min(times["product"])
    return [_row("score: rate of 10,000 voxels x 1,000 images", ours, product, 0.5)]


def _spec(groups: list[Group], filters: dict[str, list[int]], voxels: int) -> ModelSpec:
    shapes = {name: (group.height, group.width) for group in groups for name in group.layers}
    return ModelSpec(1, "alexnet", {}, {}, filters, shapes, groups, 10, False, "separable", "", "", voxels, {})


def memory(brain: Brain) -> list[dict[str, object]]:
    """Peak memory of a fit whose maps (as large as VGG11's) do not fit what it may take."""
    program = f"import benchmarks.fitting as f; f.fit_in_little({str(brain.folder / 'large')!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    taken, allowed, maps = (float(value) for value in done.stdout.split())
    return [_ratio(f"memory: GB of a fit, maps {maps:.1f} GB, --memory {allowed:.1f}G", taken, allowed, "at most 1")]


def fit_in_little(folder: str) -> None:
    """Fit 100 % of VGG11-sized maps of few images in this process, and print peak and allowed GB."""
    allowed, images = 4.0, 704
    layers = {"a": [64, 112, 112], "b": [640, 56, 56], "c": [512, 28, 28], "d": [1536, 14, 14]}
    spec = {"backbone": "vgg11", "weights_digest": "", "layers": layers, "preprocessing": {}, "dtype": "float16"}
    store = FeatureStore.create(Path(folder), spec | {"stimuli": {}, "keep": None, "shard_rows": 32}, "none")
    store.add_images(range(images))
    rng = np.random.default_rng(0)
    for number in range(images // 32):
        read = [[0, 32, ids_hash(store.images[number * 32 : number * 32 + 32]), ""]]
        block = {
            name: np.maximum(rng.normal(size=(32, *shape)).astype(np.float16), 0) for name, shape in layers.items()
        }
        store.write("mean", number, {name: maps.astype(np.float32).mean((2, 3)) for name, maps in block.items()}, read)
        store.write("maps", number, block, read)
    total = sum(a * b * c for a, b, c in layers.values()) * 2 * images / GB
    program = f"import benchmarks.fitting as f; f.fit_made_up({folder!r}, {images}, {allowed})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    print(done.stdout.strip(), allowed, total)


def fit_made_up(folder: str, images: int, allowed: float) -> None:
    """Run the fit alone, so that the peak is its own."""
    from boldreams_cli.features.store.feature_store import stores

    class MadeUp:
        subject, fingerprint = 1, "none"
        trial_images = np.repeat(np.arange(images), 1)
        trial_test = np.zeros(images, dtype=bool)
        train_images, voxels = np.arange(images), np.zeros((400, 3), np.int32)
        sessions, request = (1,), {"mask": None}

        def read_betas(self, trials: np.ndarray, voxels: slice) -> np.ndarray:
            columns = len(range(400)[voxels])
            return np.random.default_rng(0).normal(size=(int(trials.sum()), columns)).astype(np.float32)

    keep_freed()
    store, readout = stores(Path(folder))[0], Separable(AdamSettings(epochs=1))
    fit(store, MadeUp(), FitSettings(100), readout, Path(folder), CPU, int(allowed * GB), StopFlag())  # type: ignore[arg-type]
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB)


def _row(what: str, seconds: float, baseline: float, target: object) -> dict[str, object]:
    """A time against the baseline's: how many times faster."""
    return {
        "what": what,
        "measured": f"{seconds:.3g} s",
        "baseline": f"{baseline:.3g} s",
        "ratio": baseline / seconds,
        "target": str(target),
    }


def _ratio(what: str, value: float, baseline: float, target: object) -> dict[str, object]:
    """A quantity against the baseline's."""
    return {
        "what": what,
        "measured": f"{value:.3f}",
        "baseline": f"{baseline:.3f}",
        "ratio": value / baseline,
        "target": str(target),
    }
