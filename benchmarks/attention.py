"""The attention readout's test r against other readouts', on the responses and maps that a cache holds, and on a brain
made of the same maps that attends: where it should win and where it should not.

    python -m benchmarks.attention --cache DIR [--subject N] [--backbone NAME] [--percent P] [--seed N]
                                   [--brain NAME ...] [--fit NAME ...]

The made-up brain answers the same images with as many repeats: each voxel reads, with random weights, what lies where
one of the filters is strong (a query of 3 standard deviations), or (`fixed`) through a Gaussian field, with noise
of the subject's own ncsnr. Models go to a temporary folder; nothing is written to the cache.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boldreams_cli.console import StopFlag
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.evaluation.statistics import pearson_r
from boldreams_cli.encoding.fit import fit
from boldreams_cli.encoding.inputs.layout import MapLayout, make_groups
from boldreams_cli.encoding.inputs.ranking import rank_filters
from boldreams_cli.encoding.model.full import predict_stored
from boldreams_cli.encoding.readouts.settings import FitSettings, choose_readout
from boldreams_cli.features.choosing import the_store
from boldreams_cli.features.store.feature_store import FeatureStore
from boldreams_cli.machine import keep_freed, same_products

CPU = torch.device("cpu")
MEMORY = 4 * 2**30
GRID = 9
STRENGTH = 3.0  # standard deviations of a filter
WAYS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "fast": ("separable", "fast", {}),
    "gaussian": ("gaussian", None, {}),
    "ridge": ("ridge", None, {}),
    "local": ("local", None, {}),
    "attention": ("attention", None, {}),
    "attention, by area": ("attention", None, {"share": "area"}),
}


def pooled_maps(store: FeatureStore, layout: MapLayout, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """(images, nodes, K) of a group, each filter of mean 0 and standard deviation 1 over images and nodes."""
    group = layout.group
    parts = [store.read_maps(name, rows, np.asarray(layout.filters[name])) for name in group.layers]
    maps = np.concatenate(parts, 1).astype(np.float32)
    down, across = (_means(pixels) for pixels in (group.height, group.width))
    pooled = np.einsum("bkhw,hi,wj->bijk", maps, down, across, optimize=True).reshape(len(maps), -1, maps.shape[1])
    spread = pooled.std((0, 1))
    return (pooled - pooled.mean((0, 1))) / np.where(spread > 0, spread, np.inf)


def _means(pixels: int) -> NDArray[np.float32]:
    """(pixels, nodes) that average neighbouring pixels."""
    nodes = min(GRID, pixels)
    node = np.arange(pixels) * nodes // pixels
    return (node[:, None] == np.arange(nodes)) / np.bincount(node, minlength=nodes).astype(np.float32)


def fields(pooled: NDArray[np.float32], side: int, fixed: bool, rng: np.random.Generator) -> NDArray[np.float32]:
    """(images, nodes) of one voxel, each image's of sum 1: of what it looks for, or the same in all."""
    if fixed:
        place = (np.arange(side) + 0.5) / side
        x, y, size = *rng.uniform(0.2, 0.8, 2), rng.uniform(0.08, 0.25)
        scores = -((place[None] - x) ** 2 + (place[:, None] - y) ** 2).reshape(1, -1) / (2 * size**2)
        scores = np.repeat(scores, len(pooled), 0)
    else:
        scores = STRENGTH * pooled[:, :, rng.integers(pooled.shape[2])]
    found = np.exp(scores - scores.max(1, keepdims=True))
    return found / found.sum(1, keepdims=True)


def made_up(responses: Responses, store: FeatureStore, percent: float, fixed: bool, seed: int) -> Responses:
    """The subject's responses with betas of a brain of known making."""
    rng = np.random.default_rng([seed, fixed])
    images = np.unique(responses.trial_images)
    ranked = rank_filters(store, responses.train_images)
    chosen = {name: order[: max(1, int(len(order) * percent / 100))].tolist() for name, (order, _) in ranked.items()}
    groups = make_groups({name: (shape[1], shape[2]) for name, shape in store.layers.items()}, "shared")
    count = len(responses.voxels)
    which, signal = rng.integers(len(groups), size=count), np.empty((len(images), count), np.float32)
    for number, group in enumerate(groups):
        pooled = pooled_maps(store, MapLayout(group, chosen), store.rows(images))
        for voxel in np.flatnonzero(which == number):
            field = fields(pooled, min(GRID, group.height), fixed, rng)
            weights = rng.normal(size=pooled.shape[2]).astype(np.float32)
            signal[:, voxel] = np.einsum("bn,bnk,k->b", field, pooled, weights, optimize=True)
    signal = (signal - signal.mean(0)) / signal.std(0)
    ncsnr = np.nan_to_num(responses.ncsnr, nan=0.8)
    ncsnr = np.maximum(ncsnr, 0.3)
    betas = signal[np.searchsorted(images, responses.trial_images)] * ncsnr
    betas += rng.normal(size=betas.shape).astype(np.float32)
    return _answering(responses, (betas / betas.std(0)).astype(np.float32), f"{seed} {fixed}")


def _answering(responses: Responses, betas: NDArray[np.float32], name: str) -> Responses:
    other = Responses(responses.store)
    other.fingerprint = f"{responses.fingerprint} {name}"

    def read(trials: Any = slice(None), voxels: slice = slice(None)) -> NDArray[np.float32]:
        return betas[trials][:, voxels]

    def means(images: Any, voxels: slice = slice(None)) -> NDArray[np.float32]:
        return np.stack([betas[other.trial_images == image][:, voxels].mean(0) for image in np.asarray(images)])

    other.read_betas, other.mean_betas = read, means  # type: ignore[method-assign]
    return other


def measure(
    responses: Responses,
    store: FeatureStore,
    percent: float,
    seed: int,
    ways: list[str],
    show: Callable[[str], None],
) -> None:
    """Print each readout's mean test r, over all voxels and by area."""
    areas = {name: responses.areas.select(name) for name in responses.areas.counts()}
    images = responses.test_images
    target = torch.from_numpy(responses.mean_betas(images))
    show(f"{'':20} {'all':>6} " + " ".join(f"{name[:6]:>6}" for name in areas))
    for title in ways:
        kind, recipe, settings = WAYS[title]
        readout = choose_readout(kind, recipe, "images", settings)
        with tempfile.TemporaryDirectory() as folder:
            chosen = FitSettings(percent, seed=seed)
            fitted = fit(store, responses, chosen, readout, Path(folder), CPU, MEMORY, StopFlag())
            predicted = predict_stored(fitted.model, store, images, CPU, MEMORY)
        r = pearson_r(torch.from_numpy(predicted), target).numpy()
        of_areas = " ".join(f"{np.nanmean(r[area]):6.3f}" for area in areas.values())
        show(f"{title:20} {np.nanmean(r):6.3f} {of_areas}")


def main() -> None:
    """Print a table for the cache's brain, and for two of known making."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--subject", type=int, default=1)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--percent", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--brain", choices=["cache", "attends", "fixed"], nargs="*", default=["cache", "attends", "fixed"]
    )
    parser.add_argument("--fit", choices=[*WAYS], nargs="*", default=[*WAYS])
    asked = parser.parse_args()
    keep_freed()
    same_products()
    store = the_store(asked.cache, asked.backbone, None)
    (path,) = (asked.cache / "responses").glob(f"subj{asked.subject:02d}-*.zarr")
    responses = Responses.open(path)
    for brain in asked.brain:
        print(f"\n{brain}: subject {asked.subject}, {asked.backbone} at {asked.percent:g} %, seed {asked.seed}")
        shown = responses
        if brain != "cache":
            shown = made_up(responses, store, asked.percent, brain == "fixed", asked.seed)
        measure(shown, store, asked.percent, asked.seed, asked.fit, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
