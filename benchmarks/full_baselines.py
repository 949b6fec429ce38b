"""What the steps of the rehearsal at full size (full_size.py) are measured against, and the ratios."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.full_subject import FITTED, HDF5
from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.data.prepared.choosing import responses_for
from boldreams_cli.encoding.evaluation.statistics import pearson_r
from boldreams_cli.encoding.inputs.betas import TrainingBetas
from boldreams_cli.encoding.inputs.layout import MapLayout, make_groups, read_groups
from boldreams_cli.encoding.inputs.maps import IMAGE_BLOCK, StoredMaps
from boldreams_cli.encoding.inputs.pooled import PooledMaps
from boldreams_cli.encoding.inputs.ranking import rank_filters
from boldreams_cli.encoding.model.folder import find_models, the_model
from boldreams_cli.encoding.model.full import Predictor, store_of
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.encoding.numerics.compression import compressed
from boldreams_cli.encoding.numerics.ridge import weighted
from boldreams_cli.encoding.readouts.ridge import RidgeSettings
from boldreams_cli.features import backbones
from boldreams_cli.features.ranking import filter_count
from boldreams_cli.features.store.feature_store import FeatureStore, stores
from boldreams_cli.machine import keep_freed, same_products

BACKBONE = "alexnet"
IMAGES = 512  # of a bare forward pass
ROUNDS = 3  # of products and predictions in turn
BLOCK = 1 << 20  # bytes read at a time
CPU = torch.device("cpu")
Row = tuple[str, float, str]


def ratios(done: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """What was measured, its ratio to its baseline, and what it must reach."""

    def seconds(name: str, key: str = "seconds") -> float:
        return float((done[name]["said"] or {}).get(key, 0)) if key != "seconds" else float(done[name]["seconds"])

    rows: list[Row] = []
    if {"prepare-hdf5", "baseline-bytes"} <= done.keys():
        took = seconds("prepare-hdf5") / seconds("baseline-bytes", "read_seconds")
        rows.append(("prepare from HDF5: its time to that of reading the files' bytes", took, "at most 2"))
        rows.append(("prepare from HDF5: GB", done["prepare-hdf5"]["peak"] / 1e9, "under 1"))
    if {"extract", "baseline-forward"} <= done.keys():
        rate = seconds("extract", "images_per_second") / seconds("baseline-forward", "images_per_second")
        rows.append(("extract: images/s to those of a bare forward pass", rate, "0.85"))
    if {"fit-paper-10", "fit-fast-10"} <= done.keys():
        times = seconds("fit-paper-10") / seconds("fit-fast-10")
        rows.append(("fit --recipe fast, 10 %: times faster than the published recipe", times, "10"))
        rows.append(("fit --recipe fast, 10 %: GB", done["fit-fast-10"]["peak"] / 1e9, "under 4"))
    if {"score-paper-10", "score-fast-10"} <= done.keys():
        more = seconds("score-fast-10", "r_mean") - seconds("score-paper-10", "r_mean")
        rows.append(("fit --recipe fast, 10 %: r above that of the published recipe", more, "above 0"))
    if {"fit-ridge-10", "baseline-himalaya"} <= done.keys():
        times = seconds("baseline-himalaya", "fit_seconds") / seconds("fit-ridge-10")
        rows.append(("fit --readout ridge, 10 %: himalaya's time to its", times, "1"))
        if "score-ridge-10" in done:
            less = seconds("score-ridge-10", "r_mean") - seconds("baseline-himalaya", "r")
            rows.append(("fit --readout ridge, 10 %: r above himalaya's", less, "-0.001 to 0.001"))
    if {"score-fast-10", "baseline-product"} <= done.keys():
        product, predicted = (seconds("baseline-product", f"{what}_seconds") for what in ("product", "predict"))
        rows.append(("score, 10 %: rate of its predictions to that of one matrix product", product / predicted, "0.5"))
        rate = product / seconds("score-fast-10")
        rows.append(("score, 10 %: the same, of the whole command (start, reading, statistics, figures)", rate, "-"))
    if "fit-local-100" in done:
        rows.append(("fit --readout local, 100 %: minutes", seconds("fit-local-100") / 60, "at most 40"))
        rows.append(("fit --readout local, 100 %: GB", done["fit-local-100"]["peak"] / 1e9, "under 6"))
    return rows


def read_bytes(root: Path) -> dict[str, Any]:
    """Read every session's file once, from the page cache as far as it holds them."""
    layout, buffer, total = Layout(root), bytearray(BLOCK), 0
    paths = list(layout.sessions(HDF5).values())
    for path in sorted({path.stat().st_ino: path for path in paths}.values()):
        path.read_bytes()
    start = time.perf_counter()
    for path in paths:
        with path.open("rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                total += count
    return {"read_seconds": time.perf_counter() - start, "bytes": total}


def bare_forward() -> dict[str, Any]:
    """Images/s of the network as its library builds it, in inference mode, with the batch of `extract`."""
    keep_freed()
    network = backbones.load(BACKBONE, "random", trainable=True)
    plain = network.network.to(memory_format=torch.contiguous_format)
    batch, side = network.entry.batch_size, network.entry.preprocessing.size
    pixels = torch.rand(batch, 3, side, side)
    with torch.inference_mode():
        plain(pixels)
        start = time.perf_counter()
        for _ in range(IMAGES // batch):
            plain(pixels)
    return {"images_per_second": IMAGES // batch * batch / (time.perf_counter() - start)}


def _layouts(store: FeatureStore, training: NDArray[np.int32], percent: float) -> list[MapLayout]:
    ranked = rank_filters(store, training)
    filters = {
        name: ranked[name][0][: filter_count(shape[0], percent)].tolist() for name, shape in store.layers.items()
    }
    groups = make_groups({name: shape[1:] for name, shape in store.layers.items()}, "shared")
    return [MapLayout(group, filters) for group in groups]


def matrix_product(cache: Path) -> dict[str, Any]:
    """Seconds of one matrix product of as many multiplications as predictions of all test images at 10 %, and theirs.

    Predictions are those of a fast fit, whose weights are of the same shapes as the published recipe's; all in memory.
    """
    keep_freed()
    same_products()
    found = find_models(cache, backbone=BACKBONE, percent=10.0, readout="separable", recipe="fast")
    model = FittedModel.load(the_model(found, cache))
    responses, store = responses_for(cache, FITTED, None, None, None), store_of(model, cache)
    predictor = Predictor(model, CPU)
    groups = read_groups(store, store.rows(responses.test_images), predictor.layouts)
    maps = [group.float() for group in groups]
    voxels, images, inner = len(responses.voxels), len(responses.test_images), 256
    rows = sum(images * a * c for a, c in (layout.shape for layout in predictor.layouts)) // inner
    left, right = torch.rand(min(rows, 4096), inner), torch.rand(inner, voxels)
    out, times = torch.empty(len(left), voxels), {"product": [], "predict": []}
    with torch.inference_mode():
        for _ in range(ROUNDS):
            start = time.perf_counter()
            for first in range(0, rows, len(left)):
                part = min(len(left), rows - first)
                torch.mm(left[:part], right, out=out[:part])
            times["product"].append(time.perf_counter() - start)
            start = time.perf_counter()
            for first in range(0, images, IMAGE_BLOCK):
                predictor([group[first : first + IMAGE_BLOCK] for group in maps])
            times["predict"].append(time.perf_counter() - start)
    return {f"{what}_seconds": min(seconds) for what, seconds in times.items()}


def himalaya_ridge(cache: Path) -> dict[str, Any]:
    """RidgeCV on the features and penalties of `fit --readout ridge`; its time, and its mean r of test images.

    Images are weighted by their repeats as in `ridge`; it chooses among penalties by five folds.
    """
    from himalaya.backend import set_backend
    from himalaya.kernel_ridge import KernelRidgeCV
    from himalaya.ridge import RidgeCV

    set_backend("torch")
    store, responses = stores(cache)[0], responses_for(cache, FITTED, None, None, None)
    settings, betas = RidgeSettings(), TrainingBetas(responses)
    layouts = _layouts(store, responses.train_images, 10)
    rows = store.rows(betas.image_ids)
    start = time.perf_counter()
    maps = StoredMaps(store, rows, layouts, CPU, cache / "scratch")
    pooled = maps.pooled(settings.grid, 1 << 40, settings.compress)
    features = torch.cat([group.columns(slice(0, group.values)) for group in pooled], 1)
    repeats = torch.from_numpy(betas.repeats)
    root, share = repeats.double().sqrt(), repeats.double() / repeats.sum()
    x, centre = weighted(features, root, share).float(), (share @ features.double()).float()
    means = betas.means(betas.columns).double()
    y, offset = weighted(means, root, share).float(), (share @ means).float()
    mean = float(x.double().square().sum()) / min(len(x) - 1, x.shape[1])
    alphas = np.array(settings.penalties) * mean
    primal = x.shape[1] <= x.shape[0]
    some = {"n_targets_batch": 2000, "n_targets_batch_refit": 2000}
    if primal:
        model = RidgeCV(alphas, fit_intercept=False, cv=5, solver_params=some)
    else:
        model = KernelRidgeCV(alphas, kernel="linear", cv=5, solver_params=some)
    model.fit(x, y)
    seconds = time.perf_counter() - start
    found = model.predict(_tested(store, responses.test_images, layouts, pooled, settings.compress) - centre) + offset
    truth = torch.from_numpy(responses.mean_betas(responses.test_images))[:, betas.columns]
    return {"fit_seconds": seconds, "r": float(pearson_r(found, truth).nanmean()), "primal": primal}


def _tested(
    store: FeatureStore, images: NDArray[np.int32], layouts: list[MapLayout], pooled: list[PooledMaps], compress: str
) -> Tensor:
    """Features of test images, pooled, scaled and centred as those of the training images."""
    parts = []
    for maps, layout, group in zip(read_groups(store, store.rows(images), layouts), layouts, pooled, strict=True):
        read = compressed(maps.float(), compress)
        first = read.transpose(1, 2) if layout.pixels_first else read  # (images, K, P)
        found = (first @ group.pool) / group.scale[:, None]
        found = found.transpose(1, 2) if group.layout.pixels_first else found
        parts.append((found - group.centre).flatten(1))
    return torch.cat(parts, 1)
