"""Fit a readout from the feature store (paper, sections 2.2 and 3.1). No image and no backbone is opened here."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import BoldreamsError, Progress, StopFlag, logger, progress
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.inputs.betas import TrainingBetas
from boldreams_cli.encoding.inputs.layout import MapLayout, make_groups
from boldreams_cli.encoding.inputs.maps import MapSource, open_maps, usable
from boldreams_cli.encoding.inputs.ranking import rank_filters
from boldreams_cli.encoding.model.checkpoint import read_note, read_tensors, write_checkpoint
from boldreams_cli.encoding.model.folder import model_folder
from boldreams_cli.encoding.model.saving import Part, assemble, keep_previous
from boldreams_cli.encoding.model.spec import FittedModel, ModelSpec
from boldreams_cli.encoding.numerics.contraction import learning_rate
from boldreams_cli.encoding.readouts.captions import LinearTraining
from boldreams_cli.encoding.readouts.separable import ReadoutTraining, batch_order
from boldreams_cli.encoding.readouts.settings import FitSettings
from boldreams_cli.features.backbones.registry import entry
from boldreams_cli.features.feature_store import FeatureStore
from boldreams_cli.features.ranking import filter_count
from boldreams_cli.files import fingerprint, write_text

CHECKPOINT = "checkpoint.safetensors"
SECONDS_BETWEEN_CHECKPOINTS = 60.0
TRAININGS = {"separable": ReadoutTraining, "linear": LinearTraining}


@dataclass
class FitResult:
    """A model and how its training went."""

    model: FittedModel
    losses: list[float]
    seconds: float

    def summary(self) -> dict[str, Any]:
        """The JSON object of ``fit``."""
        return {
            "model": str(self.model.folder),
            "filters": {name: len(indices) for name, indices in self.model.spec.layers.items()},
            "epochs": len(self.losses),
            "train_loss": self.losses,
            "seconds": self.seconds,
        }


def fit(
    store: FeatureStore,
    responses: Responses,
    settings: FitSettings,
    cache: Path,
    device: torch.device,
    memory: int,
    stop: StopFlag,
    resume: bool = True,
) -> FitResult:
    """Fit a model to one subject's training trials and save it.

    Parameters
    ----------
    store : of the backbone's maps.
    responses : of the subject.
    settings : of the training.
    cache : folder that will hold the model.
    device : to train on.
    memory : bytes to use at most, about.
    stop : looked at after each batch.
    resume : go on from a checkpoint of the same settings.

    Raises
    ------
    MismatchError
        If the store lacks images or filters.
    StoppedError
        If a signal came; a checkpoint is kept.
    """
    started = time.monotonic()
    settings.check()
    if entry(store.spec["backbone"]).reads == "captions":
        settings = replace(settings, percent=100.0)  # one linear layer from the whole embedding (section 2.3)
    spec = model_spec(store, responses, settings, device)
    folder = model_folder(cache, responses.subject, spec.backbone, settings.percent, finetuned=False)
    layouts = [MapLayout(group, spec.layers) for group in spec.groups]
    train = TrainingBetas(responses)
    count = int(train.voxels.sum())
    rows = store.rows(responses.train_images)
    budget = _budget(memory, layouts, rows, train, store)
    maps = open_maps(store, rows, layouts, device, budget[0], cache / "scratch")
    partial = _Partial(folder, settings, spec, resume)
    losses = np.array(partial.losses) if partial.losses else np.zeros(settings.epochs)
    spans = [slice(start, min(start + budget[1], count)) for start in range(0, count, budget[1])]
    passes = len(spans) * settings.epochs
    trials = len(train.images)
    parts: list[Part] = []
    with progress(f"fit {spec.backbone} {settings.percent:g} %", passes * trials, "trials") as shown:
        for number, span in enumerate(spans):
            make = TRAININGS[spec.readout]
            training = make(
                *(layouts, span, count, settings.batch_size, settings.rate, settings.seed, device, settings.precision)
            )
            betas = train.read(span).to(device)
            finished = _train(training, maps, betas, train.images, settings, partial, number, losses, shown, stop)
            parts.append(training.weights())
            if len(spans) > 1 and finished:
                partial.save(number, settings.epochs, 0, training, losses)
    mean_losses = [float(value) / (trials * count) for value in losses]
    keep_previous(folder, spec)
    model = FittedModel(folder, spec, assemble(spec, parts, train.voxels, responses.voxels))
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "log.csv", _log(mean_losses, settings))
    model.save()
    partial.discard()
    return FitResult(model, mean_losses, time.monotonic() - started)


def model_spec(store: FeatureStore, responses: Responses, settings: FitSettings, device: torch.device) -> ModelSpec:
    """Spec of the model that a fit will make, the chosen filters included."""
    ranked = rank_filters(store, responses.train_images)
    layers = {
        name: [int(k) for k in ranked[name][0][: filter_count(shape[0], settings.percent)]]
        for name, shape in store.layers.items()
    }
    for name, indices in layers.items():
        store.positions(name, np.array(indices))  # refused now rather than after the betas are read
    shapes = {name: (shape[1], shape[2]) for name, shape in store.layers.items()}
    return ModelSpec(
        subject=responses.subject,
        backbone=store.spec["backbone"],
        backbone_weights={
            "digest": store.spec["weights_digest"],
            "source": str(store.group.attrs["weights"]),
        },
        preprocessing=store.spec["preprocessing"],
        layers=layers,
        shapes=shapes,
        groups=make_groups(shapes, settings.rf),
        percent=settings.percent,
        finetuned=False,
        readout="linear" if entry(store.spec["backbone"]).reads == "captions" else settings.readout,
        store=store.fingerprint,
        responses=responses.fingerprint,
        voxels=len(responses.voxels),
        training=asdict(settings) | {"device": device.type},
    )


def _budget(
    memory: int, layouts: list[MapLayout], rows: NDArray[Any], train: TrainingBetas, store: FeatureStore
) -> tuple[int, int]:
    """Share `memory` out: bytes for the maps, and voxels trained at a time.

    A voxel needs its betas, and its parameters four times (value, gradient, two moments).
    """
    item = np.dtype(store.spec["dtype"]).itemsize
    maps = len(rows) * sum(layout.count * layout.group.pixels for layout in layouts) * item
    voxel = 4 * int(train.trials.sum()) + 16 * (1 + sum(layout.count + layout.group.pixels for layout in layouts))
    count = int(train.voxels.sum())
    room = usable(memory)
    for_maps = room - min(count * voxel, room // 2)
    if maps > for_maps:
        return 0, max(1, min(count, room // (2 * voxel)))
    return maps, max(1, min(count, (room - maps) // voxel))


def _train(
    training: ReadoutTraining,
    maps: MapSource,
    betas: Tensor,
    images: NDArray[Any],
    settings: FitSettings,
    partial: _Partial,
    number: int,
    losses: NDArray[np.float64],
    shown: Progress,
    stop: StopFlag,
) -> bool:
    """Train one span of voxels from its checkpoint on, adding to `losses`; False if nothing was left to do."""
    trials = len(images)
    first = partial.restore(number, training)
    shown.done += min(first[0], settings.epochs) * trials
    for epoch in range(first[0], settings.epochs):
        order = batch_order(trials, settings.batch_size, settings.seed, epoch)
        at = first[1] if epoch == first[0] else 0
        for batch, loss in _epoch(training, maps, betas, images, order[at:], learning_rate(settings.rate, epoch)):
            losses[epoch] += loss
            shown.advance(batch)
            at += 1
            if stop:
                partial.save(number, epoch, at, training, losses)
                stop.check(f"checkpoint at epoch {epoch + 1}, batch {at}")
        if not np.isfinite(losses[epoch]):
            raise BoldreamsError(f"the loss is not finite in epoch {epoch + 1}; use a smaller --lr")
        partial.save_now_and_then(number, epoch + 1, training, losses)
    return first[0] < settings.epochs


def _epoch(
    training: ReadoutTraining,
    maps: MapSource,
    betas: Tensor,
    images: NDArray[Any],
    order: list[NDArray[Any]],
    rate: float,
) -> Iterator[tuple[int, float]]:
    """Train on each batch of trials: yields its size and summed loss."""
    for trials, batch in zip(order, maps.batches([images[trials] for trials in order]), strict=True):
        yield len(trials), training.step(batch, betas[torch.from_numpy(trials).to(betas.device)], rate)


class _Partial:
    """The checkpoint of an unfinished fit: parameters, moments, and where in which pass it was."""

    def __init__(self, folder: Path, settings: FitSettings, spec: ModelSpec, resume: bool) -> None:
        self.path = folder / CHECKPOINT
        self.key = fingerprint([asdict(settings), spec.to_dict()])
        self.saved = time.monotonic()
        self.at = (-1, 0, 0)
        self.losses: list[float] = []
        note = read_note(self.path, self.key) if resume else None
        if note is not None:
            self.at, self.losses = (note["span"], note["epoch"], note["batch"]), note["losses"]
            logger.info("going on from %s, epoch %d, batch %d", self.path, self.at[1] + 1, self.at[2])

    def restore(self, span: int, training: ReadoutTraining) -> tuple[int, int]:
        """Load a span's state if there is one: (epoch, batch) to start at."""
        if span > self.at[0]:
            return 0, 0
        name = self.path if span == self.at[0] else self._finished(span)
        training.load_state(read_tensors(name))
        return self.at[1:] if span == self.at[0] else (10**9, 0)

    def _finished(self, span: int) -> Path:
        return self.path.with_name(f"checkpoint-{span}.safetensors")

    def save(self, span: int, epoch: int, batch: int, training: ReadoutTraining, losses: NDArray[Any]) -> None:
        """Write a checkpoint, whole or not at all."""
        if span > self.at[0] >= 0 and self.path.exists():
            self.path.replace(self._finished(self.at[0]))
        note = {"span": span, "epoch": epoch, "batch": batch, "losses": losses.tolist()}
        write_checkpoint(self.path, self.key, note, training.state())
        self.saved, self.at = time.monotonic(), (span, epoch, batch)

    def save_now_and_then(self, span: int, epoch: int, training: ReadoutTraining, losses: NDArray[Any]) -> None:
        """Write one at the end of an epoch if the last is old."""
        if time.monotonic() - self.saved > SECONDS_BETWEEN_CHECKPOINTS:
            self.save(span, epoch, 0, training, losses)

    def discard(self) -> None:
        """Remove checkpoints: the model is saved."""
        for path in self.path.parent.glob("checkpoint*.safetensors"):
            path.unlink()


def _log(losses: list[float], settings: FitSettings) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", "lr", "train_loss"])
    for epoch, loss in enumerate(losses):
        writer.writerow([epoch + 1, learning_rate(settings.rate, epoch), loss])
    return text.getvalue()
