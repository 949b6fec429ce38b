"""What finetuning starts from: images, weights, the order of filters, and the spec of the model to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boldreams_cli.console import ChoiceError, MismatchError, StopFlag, listing, logger
from boldreams_cli.data.dataset import Dataset
from boldreams_cli.data.prepared.choosing import names_of
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.finetuning.settings import FinetuneSettings
from boldreams_cli.encoding.inputs.layout import make_groups
from boldreams_cli.encoding.inputs.pixels import ResizedImages, resized_images
from boldreams_cli.encoding.inputs.ranking import rank_filters, rank_images
from boldreams_cli.encoding.model.spec import ModelSpec, with_key
from boldreams_cli.features import backbones
from boldreams_cli.features.backbones import Backbone
from boldreams_cli.features.choosing import with_images
from boldreams_cli.features.ranking import filter_count
from boldreams_cli.features.store.feature_store import FeatureStore, stores


@dataclass(frozen=True)
class Source:
    """Where a finetuned model comes from.

    Parameters
    ----------
    cache : folder that may hold stores and will hold the model.
    dataset : that has the images.
    backbone : its name.
    features : fingerprint of the store to rank by, None for any.
    weights : ``pretrained``, ``random`` or a file; None is what the stores were made with, else ``pretrained``.
    responses : of the subject, prepared when called.
    """

    cache: Path
    dataset: Dataset
    backbone: str
    features: str | None
    weights: str | None
    responses: Callable[[], Responses]


@dataclass(frozen=True)
class Start:
    """All that there is before the first step."""

    responses: Responses
    images: ResizedImages
    backbone: Backbone
    spec: ModelSpec


def prepare(source: Source, settings: FinetuneSettings, device: torch.device, stop: StopFlag) -> Start:
    """Prepare responses, images, backbone and spec, as far as the cache does not have them.

    Parameters
    ----------
    source, settings : of the model to be.
    device : to rank on, where there is no store to rank by.
    stop : looked at between images.

    Raises
    ------
    StoppedError
        If a signal came.
    """
    responses = source.responses()
    backbone, held = load_start(source.cache, source.backbone, source.features, source.weights, settings.seed)
    preprocessing = backbone.entry.preprocessing
    shown = np.unique(responses.trial_images)
    images = resized_images(source.cache, source.dataset, preprocessing, shown, stop)
    held = with_images(held, names_of(responses.request))  # a number may mean another picture in others
    order = rank_for(backbone, held, images, responses.train_images, device, stop)
    return Start(responses, images, backbone, make_spec(backbone, order, images, responses, settings, device))


def load_start(
    cache: Path, name: str, features: str | None, weights: str | None, seed: int
) -> tuple[Backbone, list[FeatureStore]]:
    """Load the backbone to start from, and find the stores that were made with it.

    Parameters
    ----------
    cache : that may hold stores of the backbone.
    name : of the backbone.
    features : fingerprint of the store to use.
    weights : ``pretrained``, ``random`` or a file; None is what the stores were made with, else ``pretrained``.
    seed : of random weights.

    Raises
    ------
    ChoiceError
        If the stores were made with different weights and nothing says which.
    MismatchError
        If there is no such store, or the weights are no longer those that it was made with.
    """
    held = [store for store in stores(cache, name) if features in (None, store.fingerprint)]
    if features is not None and not held:
        raise MismatchError(f"{cache} holds no store {features} of {name}; leave out --features, or run extract")
    required = features is not None or (weights is None and bool(held))
    if weights is None:
        sources = {store.spec["weights_digest"]: store.weights for store in held}
        if len(sources) > 1:
            raise ChoiceError(
                f"{cache} holds stores of {name} with weights {listing(sources.values())}; choose with --weights or "
                "--features"
            )
        weights = next(iter(sources.values()), "pretrained")
    # The layers of the only store, and its maps' form: it may have been made with --layers or --map.
    layers = list(held[0].spec["layers"]) if len(held) == 1 else None
    rectified = len(held) == 1 and held[0].spec["preprocessing"].get("map") == "rectified"
    backbone = backbones.load(name, weights, seed, layers, trainable=True, rectified=rectified)
    same = [
        store
        for store in held
        if store.spec["weights_digest"] == backbone.digest
        and set(store.spec["layers"]) == set(backbone.layers)
        and (store.spec["preprocessing"].get("map") == "rectified") == rectified
    ]
    if required and not same:
        raise MismatchError(
            f"the weights {weights} of {name} are not those that {held[0].path.name} was made with; give the right "
            "ones with --weights, or extract again"
        )
    return backbone, same


def rank_for(
    backbone: Backbone,
    held: list[FeatureStore],
    images: ResizedImages,
    training: NDArray[Any],
    device: torch.device,
    stop: StopFlag,
) -> dict[str, NDArray[np.int64]]:
    """Order the filters by a store that has all training images, or else in a pass of its own.

    Parameters
    ----------
    backbone : with weights; moved to `device` for the pass.
    held : stores made with these weights.
    images : resized stimuli.
    training : sorted image ids of the training images: never test images.
    device : to compute on.
    stop : looked at after each batch of that pass.

    Returns
    -------
    Layer -> (filters,) indices, best first.
    """
    for store in held:
        if np.isin(training, store.images[store.done("mean")]).all():
            logger.info("filters ranked by %s", store.path.name)
            return {name: order for name, (order, _) in rank_filters(store, training).items()}
    return rank_images(backbone.to(device), images, training, stop)


def make_spec(
    backbone: Backbone,
    order: dict[str, NDArray[np.int64]],
    images: ResizedImages,
    responses: Responses,
    settings: FinetuneSettings,
    device: torch.device,
) -> ModelSpec:
    """Spec of the model to be; its key is the hash of all that decides its weights.

    Parameters
    ----------
    backbone : with the weights to start from, on `device`.
    order : of the filters, from `rank_for`.
    images, responses : of the subject.
    settings : of the training.
    device : its type is noted: results are the same bit for bit on a CPU only.
    """
    size = backbone.entry.preprocessing.size
    with torch.inference_mode():
        maps = backbone.to(device)(torch.zeros((1, 3, size, size), device=device))
    shapes = {name: (value.shape[2], value.shape[3]) for name, value in maps.items()}
    counts = {name: filter_count(value.shape[1], settings.percent) for name, value in maps.items()}
    training = asdict(settings)
    del training["held_out"]  # of readouts that choose among epochs; here it is `validation_fraction`
    spec = ModelSpec(
        subject=responses.subject,
        backbone=backbone.entry.name,
        backbone_weights={"digest": backbone.digest, "source": backbone.weights},
        preprocessing=backbone.reading(),
        layers={name: [int(index) for index in order[name][:count]] for name, count in counts.items()},
        shapes=shapes,
        groups=make_groups(shapes, settings.rf),
        percent=float(settings.percent),
        finetuned=True,
        readout="separable",
        store="",
        responses=responses.fingerprint,
        voxels=len(responses.voxels),
        training=training | {"device": device.type, "stimuli": images.fingerprint, "pixels": images.content},
        recipe="paper",
        sessions=list(responses.sessions),
        mask=responses.request.get("mask"),
    )
    return with_key(spec)
