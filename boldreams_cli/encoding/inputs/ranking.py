"""The order of a backbone's filters straight from images, where no feature store has it (paper, section 2.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from boldreams_cli.console import StopFlag, progress
from boldreams_cli.encoding.inputs.pixels import ResizedImages
from boldreams_cli.features.backbones import Backbone
from boldreams_cli.features.ranking import filter_order, filter_std
from boldreams_cli.features.store.feature_store import FeatureStore
from boldreams_cli.files import fingerprint, written_whole
from boldreams_cli.machine import float32_products


def rank_images(
    backbone: Backbone, images: ResizedImages, training: NDArray[Any], stop: StopFlag
) -> dict[str, NDArray[np.int64]]:
    """Order the filters of each layer in one pass that keeps no maps, in IEEE's float32 whatever the training's.

    The standard deviations are kept beside the images, so that other percents need no pass of their own.

    Parameters
    ----------
    backbone : with weights, on its device, in evaluation mode.
    images : resized, that hold the training images.
    training : sorted image ids of the training images: never test images.
    stop : looked at after each batch.

    Returns
    -------
    Layer -> (filters,) indices, best first.

    Raises
    ------
    StoppedError
        If a signal came.
    """
    network = [backbone.digest, backbone.layers, backbone.reading()]  # --map and normalisation decide maps as well
    key = fingerprint([images.fingerprint, images.content, training, *network])
    path = images.path.with_name(f"ranking-{key}.safetensors")
    if not path.exists():
        with float32_products("fp32", backbone.device):
            found = _standard_deviations(backbone, images, training, stop)
        with written_whole(path) as temporary:
            save_file(found, temporary)
    stored = load_file(path)
    return {name: filter_order(stored[name]) for name in backbone.layers}


def _standard_deviations(
    backbone: Backbone, images: ResizedImages, training: NDArray[Any], stop: StopFlag
) -> dict[str, NDArray[np.float64]]:
    device = backbone.device
    step = backbone.entry.batch_size if device.type == "cpu" else 64
    means: dict[str, list[NDArray[np.float32]]] = {name: [] for name in backbone.layers}
    with torch.inference_mode(), progress(f"rank {backbone.entry.name}", len(training), "images") as shown:
        for start in range(0, len(training), step):
            pixels = torch.from_numpy(images.read(training[start : start + step])).to(device)
            for name, maps in backbone(pixels.float() / 255).items():
                means[name].append(maps.mean((2, 3)).numpy(force=True))
            shown.advance(len(pixels))
            stop.check("nothing was trained yet")
    return {name: filter_std(np.concatenate(parts)) for name, parts in means.items()}


def rank_filters(store: FeatureStore, images: NDArray[Any]) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Order of the filters of each layer, by the images given (training images: never test images).

    Parameters
    ----------
    store : with spatial means of those images.
    images : image ids.

    Returns
    -------
    Layer -> (order, standard deviation in that order), each (filters,).
    """
    rows = store.rows(images, "mean")
    found = {}
    for name in store.layers:
        std = filter_std(store.means(name, rows))
        order = filter_order(std)
        found[name] = (order, std[order])
    return found
