"""Accuracy of every readout on a brain that none of them can know: `python -m benchmarks.mixed_brain`.

    python -m benchmarks.mixed_brain [--weights FILE] [--photographs FOLDER] [--percent P ...] [--fit NAME ...]

Half of the voxels read AlexNet, which the models read too, and half another network. Each voxel reads some filters of
one or two layers through a Gaussian, a field of two lobes, or one whose surround inhibits; the sum goes through a
nonlinearity, and noise is added such that the mean noise ceiling is 0.71. Stimuli are patchworks of photographs: of
those in installed packages, or of a folder's. Test images are for the last columns alone: what a fit chooses, and what
its defaults are, is by training images (column "left out", a mean squared error).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from boldreams_cli.console import StopFlag
from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.data.nsd.maker import NSD
from boldreams_cli.data.nsd.stimuli import DATASET
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.evaluation.statistics import pearson_r
from boldreams_cli.encoding.fit import fit
from boldreams_cli.encoding.inputs.shared import Inputs
from boldreams_cli.encoding.model.full import predict_stored
from boldreams_cli.encoding.numerics.fields import gaussian_fields
from boldreams_cli.encoding.numerics.ridge import PENALTIES
from boldreams_cli.encoding.readouts.base import Readout
from boldreams_cli.encoding.readouts.gaussian import Gaussian
from boldreams_cli.encoding.readouts.local import Local, LocalSettings
from boldreams_cli.encoding.readouts.ridge import RidgeReadout, RidgeSettings
from boldreams_cli.encoding.readouts.separable import Separable
from boldreams_cli.encoding.readouts.settings import FitSettings
from boldreams_cli.encoding.readouts.smooth import Smooth, SmoothSettings
from boldreams_cli.encoding.readouts.stacked import Stacked, StackedSettings
from boldreams_cli.features import backbones, extraction
from boldreams_cli.features.backbones import Backbone
from boldreams_cli.features.store.feature_store import FeatureStore
from boldreams_cli.machine import keep_freed, same_products
from boldreams_cli.simulation.brain import Voxels, draw_voxels
from boldreams_cli.simulation.files import place_voxels, write_anatomy, write_betas, write_design
from boldreams_cli.simulation.photographs import SIDE, Crops, Photograph

CPU = torch.device("cpu")
GB = 2**30
FILTERS = 24  # that a voxel reads of a layer
NCSNR = (0.3, 0.75)
FIRST = "ridge g9"  # what percents are of: ridge as it was before there were others

FITS: dict[str, Callable[[], Readout]] = {
    "paper": Separable,
    "fast": Smooth,
    "fast 64": lambda: Smooth(SmoothSettings(rate=3e-3, batch_size=64)),  # as it was
    "gaussian": Gaussian,
    FIRST: lambda: RidgeReadout(RidgeSettings(9, PENALTIES, "none")),
    "ridge none": lambda: RidgeReadout(RidgeSettings(compress="none")),
    "ridge": RidgeReadout,
    "local none": lambda: Local(LocalSettings(compress="none")),
    "local": Local,
    "stacked none": lambda: Stacked(StackedSettings(compress="none")),
    "stacked local": lambda: Stacked(StackedSettings(members=("local",))),
    "stacked layers": lambda: Stacked(StackedSettings(members=("layers",))),
    "stacked": Stacked,
}


@dataclass(frozen=True)
class Brain:
    """What is fitted."""

    store: FeatureStore
    responses: Responses
    cache: Path


class Photographs(Crops):
    """Patchworks of the photographs of a folder."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed = seed
        paths = sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".jpeg", ".png", ".JPEG"))
        self.photographs = [Photograph("", path.name, "", path.stem, "") for path in paths]
        self._pixels = [Image.open(path).convert("RGB") for path in paths]


def make_brain(folder: Path, weights: str, photographs: Path | None, images: int, voxels: int, seed: int = 0) -> Brain:
    """Write the experiment in NSD's layout, prepare it and extract AlexNet's maps; one that is there is kept."""
    cache, root = folder / "cache", folder / "nsd"
    alexnet = backbones.load("alexnet", weights)
    if not (root / "whole").exists():
        _write(Layout(root), alexnet, photographs, images, voxels, seed)
        (root / "whole").touch()
    dataset = NSD(root)
    responses, stimuli = dataset.prepare(1, cache), dataset.stimuli()
    ids = np.union1d(responses.train_images, responses.test_images)
    source = extraction.Source(ids, [responses.train_images], stimuli.read, stimuli.identity())
    plan = extraction.make_plan(alexnet, source, cache, "float16", None)
    store = extraction.extract(alexnet, source, plan, cache, StopFlag(), alexnet.entry.batch_size).store
    return Brain(store, responses, cache)


def _write(layout: Layout, alexnet: Backbone, photographs: Path | None, images: int, voxels: int, seed: int) -> None:
    """Stimuli, design, anatomy and betas of one subject; each image is shown three times."""
    rng = np.random.default_rng([seed, 1])
    crops = Crops(seed) if photographs is None else Photographs(seed, photographs)
    layout.stimuli.parent.mkdir(parents=True)
    with h5py.File(layout.stimuli, "w") as file:
        shape = (SIDE, SIDE, 3)
        pixels = file.create_dataset(DATASET, (images, *shape), np.uint8, chunks=(1, *shape))
        for number in range(images):
            pixels[number] = crops.image(number)
    shared = np.sort(rng.permutation(images)[: images // 10])
    seen = np.concatenate([shared, np.setdiff1d(np.arange(images), shared)]).astype(np.int32)
    trials = rng.permutation(np.repeat(np.arange(images), 3))
    write_design(layout, trials, seen[None], shared)
    known = draw_voxels(-(-voxels // 18), NCSNR, rng)
    known = known.ordered(np.sort(rng.permutation(len(known.area))[:voxels]))
    anatomy = place_voxels(known, (30, 26, 22), rng)
    write_anatomy(layout, 1, anatomy)
    signal = _signal(layout.stimuli, alexnet, images, anatomy.voxels, rng)
    sessions = (signal[seen[some]] for some in np.array_split(trials, 3))
    write_betas(layout, 1, anatomy, sessions, "hdf5", rng)


def _signal(
    stimuli: Path, alexnet: Backbone, images: int, voxels: Voxels, rng: np.random.Generator
) -> NDArray[np.float32]:
    """(images, voxels) of mean 0 and variance 1: what the voxels of both networks say, through a nonlinearity."""
    other = backbones.load("efficientnet_lite0", "pretrained")
    whose = rng.permutation(len(voxels.area)) % 2
    found = np.zeros((images, len(voxels.area)))
    for number, backbone in enumerate((alexnet, other)):
        mine = np.flatnonzero(whose == number)
        found[:, mine] = _read(stimuli, backbone, images, voxels.ordered(mine), rng)
    found = (found - found.mean(0)) / found.std(0)
    # Saturating, and half of the voxels thresholded as well.
    bent = np.where(np.arange(found.shape[1]) % 2, np.tanh(found), np.log1p(np.exp(2 * found)) / 2)
    return ((bent - bent.mean(0)) / bent.std(0)).astype(np.float32)


def _read(
    stimuli: Path, backbone: Backbone, images: int, voxels: Voxels, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(images, voxels): filters of one or two neighbouring layers, each map summed against the voxel's field."""
    names, count = list(backbone.layers), len(voxels.area)
    first = rng.integers(0, len(names), count)
    reads = {
        name: (first == place) | (first + 1 == place) & (rng.random(count) < 0.5) for place, name in enumerate(names)
    }
    kinds = rng.integers(0, 3, count)
    other = voxels.centre + rng.uniform(0.15, 0.35, (count, 1)) * _directions(count, rng)
    weights: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    parts: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    for start in range(0, images, backbone.entry.batch_size):
        with h5py.File(stimuli) as file, torch.inference_mode():
            pixels = torch.from_numpy(file[DATASET][start : min(start + backbone.entry.batch_size, images)])
            for name, maps in backbone.maps_of(pixels).items():
                if name not in weights:
                    field = _fields(voxels, other, kinds, (maps.shape[2], maps.shape[3]))
                    sparse = _sparse(maps.shape[1], count, rng)
                    weights[name] = (torch.from_numpy(field.T.astype(np.float32)), torch.from_numpy(sparse))
                field_of, weight = weights[name]
                parts[name].append(((maps.flatten(2) @ field_of) * weight).sum(1).double().numpy())
    total = np.zeros((images, count))
    for name in names:
        part = np.concatenate(parts[name])
        total += reads[name] * part / part.std(0)
    return total


def _directions(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    angle = rng.uniform(0, 2 * np.pi, count)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _sparse(filters: int, voxels: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(filters, voxels) weights, most of them 0, two thirds of the others above it."""
    weights = np.zeros((filters, voxels), np.float32)
    for column in weights.T:
        some = rng.permutation(filters)[:FILTERS]
        column[some] = rng.exponential(size=len(some)) * np.where(rng.random(len(some)) < 1 / 3, -1, 1)
    return weights


def _fields(
    voxels: Voxels, other: NDArray[np.float64], kinds: NDArray[np.int64], shape: tuple[int, int]
) -> NDArray[np.float64]:
    """(voxels, pixels): one Gaussian, two apart, or one less a wider one."""

    def gaussians(centre: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.float64]:
        return gaussian_fields(*shape, np.column_stack([centre, size]))

    one, two = gaussians(voxels.centre, voxels.size), gaussians(np.clip(other, 0.05, 0.95), voxels.size)
    wide = gaussians(voxels.centre, 2.5 * voxels.size)
    return np.select([kinds[:, None] == 0, kinds[:, None] == 1], [one, one + 0.7 * two], one - 0.7 * wide)


def rows(brain: Brain, percents: list[float], names: list[str], memory: int) -> Iterator[dict[str, object]]:
    """Fit and score each; means over voxels."""
    responses = brain.responses
    beta = torch.from_numpy(responses.mean_betas(responses.test_images))
    inputs = Inputs(brain.store, responses, CPU, brain.cache / "scratch", keep=memory)
    for percent in percents:
        base = float("nan")
        for name in names:
            start = time.perf_counter()
            result = fit(
                *(brain.store, responses, FitSettings(percent), FITS[name](), brain.cache, CPU, memory, StopFlag()),
                inputs=inputs,
            )
            seconds = time.perf_counter() - start
            predicted = predict_stored(result.model, brain.store, responses.test_images, CPU, memory)
            r = float(pearson_r(torch.from_numpy(predicted), beta).nanmean())
            base = r if name == FIRST else base
            left_out = result.curve.get("left_out_loss", [float("nan")])[0]
            yield {
                "percent": percent,
                "fit": name,
                "left out": left_out,
                "r": r,
                "of ridge g9": r / base,
                "seconds": seconds,
            }


def main() -> None:
    """Print a table as in RESULTS.md, and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="random", help="of AlexNet: a file, pretrained or random")
    parser.add_argument("--photographs", type=Path, help="a folder of them (default: those of installed packages)")
    parser.add_argument("--images", type=int, default=1996, help="of which a tenth are test images")
    parser.add_argument("--voxels", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--percent", type=float, nargs="+", default=[100.0, 10.0])
    parser.add_argument("--fit", nargs="+", choices=[*FITS], default=[FIRST, *(name for name in FITS if name != FIRST)])
    parser.add_argument("--memory", type=float, default=4, help="GB")
    parser.add_argument("--folder", type=Path, help="to keep the brain and the models in")
    chosen = parser.parse_args()
    keep_freed()
    same_products()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as temporary:
        folder = chosen.folder or Path(temporary)
        brain = make_brain(folder, chosen.weights, chosen.photographs, chosen.images, chosen.voxels, chosen.seed)
        ncsnr = brain.responses.ncsnr.astype(float)
        ceiling = np.sqrt(ncsnr**2 / (ncsnr**2 + 1 / 3)).mean()
        print(f"{len(brain.responses.train_images)} training images, {len(ncsnr)} voxels, ceiling {ceiling:.3f}\n")
        print(
            "| filters | fit | left out | r | of ridge g9 | of the ceiling | seconds |\n|---|---|---|---|---|---|---|"
        )
        found = []
        for row in rows(brain, chosen.percent, chosen.fit, int(chosen.memory * GB)):
            found.append(row)
            values = (f"{row['left out']:.4f}", f"{row['r']:.3f}", f"{row['of ridge g9']:.3f}")
            print(
                f"| {row['percent']:g} % | {row['fit']} | {' | '.join(values)} | {row['r'] / ceiling:.2f} | "
                f"{row['seconds']:.0f} |",
                flush=True,
            )
        print(json.dumps({"ceiling": ceiling, "rows": found}))


if __name__ == "__main__":
    main()
