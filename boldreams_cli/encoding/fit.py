"""Fit a readout from the feature store (paper, sections 2.2 and 3.1). No image and no backbone is opened here.

This is the one driver: it poses the problem, cuts the voxels into spans that fit the memory, lets the readout solve
each, keeps what is solved, and saves. What a readout does with a span is in its own file (readouts/).
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, StopFlag, size, timed
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.inputs.betas import hold_out
from boldreams_cli.encoding.inputs.layout import MapLayout, make_groups
from boldreams_cli.encoding.inputs.maps import StoredMaps, usable
from boldreams_cli.encoding.inputs.shared import Inputs
from boldreams_cli.encoding.model.folder import held, model_folder
from boldreams_cli.encoding.model.spec import WEIGHTS, FittedModel, ModelSpec, with_key
from boldreams_cli.encoding.readouts.base import Problem, Readout
from boldreams_cli.encoding.readouts.settings import FitSettings
from boldreams_cli.encoding.result import (
    AGAIN,
    LOG,
    Curve,
    FitResult,
    begin,
    chosen_text,
    join_curves,
    log_text,
    write_weights,
)
from boldreams_cli.encoding.spans import Spans
from boldreams_cli.features.backbones import entry
from boldreams_cli.features.ranking import filter_count
from boldreams_cli.features.store.feature_store import FeatureStore
from boldreams_cli.files import write_text
from boldreams_cli.machine import MAPS, VOXELS, give_back, room

LEAST = 256 * 2**20  # bytes that data may take whatever --memory; Python and torch take more themselves


def fit(
    store: FeatureStore,
    responses: Responses,
    settings: FitSettings,
    readout: Readout,
    cache: Path,
    device: torch.device,
    memory: int,
    stop: StopFlag,
    resume: bool = True,
    overwrite: bool = False,
    inputs: Inputs | None = None,
) -> FitResult:
    """Fit a model to one subject's training trials and save it; one that is there already is left as it is.

    Parameters
    ----------
    store : of the backbone's maps.
    responses : of the subject.
    settings, readout : what decides the weights.
    cache : folder that will hold the model.
    device : to compute on.
    memory : bytes to use at most, about; they decide the way and not the result.
    stop : looked at while solving.
    resume : go on from what an earlier run of the same fit has left.
    overwrite : fit a finished model again.
    inputs : of that store and those responses, shared with other fits; None reads for this one alone.

    Raises
    ------
    MismatchError
        If the store lacks images or filters.
    BoldreamsError
        If no way fits `memory`.
    StoppedError
        If a signal came; the same call goes on from there.
    """
    started = time.monotonic()
    settings = settled(store, settings)
    settings.check()
    readout.settings.check()
    inputs = inputs or Inputs(store, responses, device, cache / "scratch")
    spec = model_spec(inputs, settings, readout)
    folder = model_folder(cache, spec)
    with held(folder, stop):
        if (there := begin(folder, spec, overwrite)) is not None:
            return there
        problem, maps = _pose(inputs, spec, settings, readout, memory)
        spans = Spans(folder, spec.key, resume, device.type)
        solve_spans(problem, maps, readout, spans, stop)
        del problem, maps  # a large model takes that memory while it is saved
        curve = _save(folder, spec, spans, responses.voxels)
    return FitResult(FittedModel(folder, spec), curve, time.monotonic() - started)


def settled(store: FeatureStore, settings: FitSettings) -> FitSettings:
    """What the settings are for the backbone of a store: a text model reads its whole embedding (section 2.3)."""
    return replace(settings, percent=100.0) if entry(store.spec["backbone"]).reads == "captions" else settings


def model_spec(inputs: Inputs, settings: FitSettings, readout: Readout) -> ModelSpec:
    """Spec of the model that a fit will make, the chosen filters and its key included."""
    store, responses = inputs.store, inputs.responses
    layers = {
        name: [int(k) for k in inputs.ranked[name][0][: filter_count(shape[0], settings.percent)]]
        for name, shape in store.layers.items()
    }
    for name, indices in layers.items():
        store.positions(name, np.array(indices))  # refused now rather than after the betas are read
    shapes = {name: (shape[1], shape[2]) for name, shape in store.layers.items()}
    spec = ModelSpec(
        subject=responses.subject,
        backbone=store.spec["backbone"],
        backbone_weights={
            "digest": store.spec["weights_digest"],
            "source": store.weights,
        },
        preprocessing=store.spec["preprocessing"],
        layers=layers,
        shapes=shapes,
        groups=make_groups(shapes, settings.rf),
        percent=float(settings.percent),
        finetuned=False,
        readout=readout.readout,
        store=store.fingerprint,
        responses=responses.fingerprint,
        voxels=len(responses.voxels),
        training=asdict(settings)
        | readout.settings.recorded()
        | {"solver": readout.name, "device": inputs.device.type},
        recipe=readout.recipe,
        sessions=list(responses.sessions),
        mask=responses.request.get("mask"),
        edition=store.edition,
    )
    return with_key(spec)


def _pose(
    inputs: Inputs, spec: ModelSpec, settings: FitSettings, readout: Readout, memory: int
) -> tuple[Problem, StoredMaps]:
    """The problem, without test images, and its maps, of which nothing is read yet."""
    betas, maps = inputs.betas, inputs.maps([MapLayout(group, spec.layers) for group in spec.groups])
    held_out = hold_out(betas.image_ids, settings.held_out, settings.seed)
    title = f"fit {spec.backbone} {spec.percent:g} %, {spec.recipe or spec.readout}"
    left = usable(memory) - inputs.kept_bytes(readout.pooled)
    left = min(left, room(inputs.device, left, VOXELS))  # what is solved at a time is in both memories
    return Problem(maps, betas, held_out, settings.seed, inputs.device, left, title), maps


def solve_spans(problem: Problem, maps: StoredMaps, readout: Readout, spans: Spans, stop: StopFlag) -> None:
    """Solve all voxels that are not solved yet, span by span."""
    columns, sets = problem.betas.columns, readout.sets(problem)
    least = max(map(len, sets), default=1)
    most, needed = _at_once(problem, maps, readout, least)
    if most < least and problem.memory < LEAST:
        problem = replace(problem, memory=LEAST)
        most, needed = _at_once(problem, maps, readout, least)
    if most < least:
        raise BoldreamsError(
            f"this fit takes {size(needed)} and --memory leaves {size(problem.memory)} for it; use more --memory or a "
            "smaller --percent"
        )
    width = whole_blocks(most, readout.voxels_together(problem))
    todo = spans.left(columns, width, max(most, width)) if not sets else []
    todo += [part for some in sets for part in spans.left(some, len(some), len(some))]
    if todo:
        readout.prepare(problem, spans.prepared(columns), stop)
        give_back()
    for number, voxels in enumerate(todo):
        title = problem.title + (f", part {number + 1} of {len(todo)}" if len(todo) > 1 else "")
        checkpoint = spans.checkpoint(voxels)
        with timed(f"{readout.name}: span {number + 1} of {len(todo)}, {len(voxels)} voxels"):
            spans.keep(voxels, readout.solve(replace(problem, title=title), voxels, checkpoint, stop))
        give_back()


def _at_once(problem: Problem, maps: StoredMaps, readout: Readout, least: int) -> tuple[int, int]:
    """Voxels that memory holds at once, and bytes that `least` voxels take."""
    each, memory = readout.bytes_per_voxel(problem), problem.memory
    # Maps may take what all voxels leave, and half of the memory at least; of a GPU's what is for them.
    maps.limit = room(problem.device, memory - min(len(problem.betas.columns) * each, memory // 2), MAPS)
    resident = readout.bytes_resident(problem)
    return (memory - resident) // each, resident + least * each


def whole_blocks(most: int, together: int) -> int:
    """Voxels of a span: as many as fit, in whole blocks, and one block at least.

    A matrix product rounds differently in another shape, so a span that ended within a block would make memory
    decide the last bits of what is behind it. One block more than `most` is a matter of some MB.

    Parameters
    ----------
    most : voxels that fit the memory.
    together : voxels of a block.
    """
    return max(1, most // together) * together


def _save(folder: Path, spec: ModelSpec, spans: Spans, voxels: NDArray[np.int32]) -> Curve:
    """Join the spans into the model's files, the spec last; returns the curve."""
    write_weights(folder / WEIGHTS, spec, spans.solved, voxels)
    curves: list[tuple[int, Curve]] = []
    chosen: list[tuple[NDArray[np.int64], dict[str, NDArray[Any]]]] = []
    for columns, solution in spans.solved():
        curves.append((len(columns), solution.curve))
        chosen.append((columns, {name: value.numpy() for name, value in solution.chosen.items()}))
    curve = join_curves(curves)
    if "epochs" in spec.training and spec.training["epochs"] is None:
        spec.training["epochs"] = len(curve["train_loss"])
    write_text(folder / LOG, log_text(curve))
    if chosen[0][1]:
        write_text(folder / "chosen.csv", chosen_text(chosen))
    (folder / AGAIN).unlink(missing_ok=True)
    FittedModel(folder, spec).save_spec()
    spans.discard()
    return curve
