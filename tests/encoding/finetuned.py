"""What the tests of finetuning share: a subject, and a real AlexNet that sees 63 x 63 pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from boldreams_cli.console import StopFlag
from boldreams_cli.data.opening import open_dataset
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.finetuning.processes import Process
from boldreams_cli.encoding.finetuning.run import FinetuneResult, finetune
from boldreams_cli.encoding.finetuning.settings import FinetuneSettings
from boldreams_cli.encoding.finetuning.start import Source
from boldreams_cli.features import backbones, extraction
from boldreams_cli.features.preprocessing import IMAGENET, Preprocessing
from boldreams_cli.features.store.feature_store import FeatureStore

CPU, GB = torch.device("cpu"), 2**30
SETTINGS = FinetuneSettings(5.0, epochs=2, rate=1e-3, batch_size=8)


class Small(NamedTuple):
    """One subject, its stimuli, and a store to rank by."""

    root: Path
    responses: Responses
    store: FeatureStore
    cache: Path


@contextmanager
def seeing_63_pixels() -> Iterator[None]:
    """Let AlexNet be small, in one thread."""
    with pytest.MonkeyPatch.context() as patch:
        seen = replace(backbones.BACKBONES["alexnet"], preprocessing=Preprocessing(63, *IMAGENET))
        patch.setitem(backbones.BACKBONES, "alexnet", seen)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the networks are small; threads that wait for each other take longer
        yield
        torch.set_num_threads(threads)


def extracted(root: Path, responses: Responses, cache: Path) -> FeatureStore:
    backbone = backbones.load("alexnet", "random")
    dataset = open_dataset(root)
    with dataset.stimuli() as stimuli:
        shown = np.unique(responses.trial_images)
        source = extraction.Source(shown, [responses.train_images], stimuli.read, dataset.stimuli_identity())
        plan = extraction.make_plan(backbone, source, cache, "float16", None)
        return extraction.extract(backbone, source, plan, cache, StopFlag(), 16).store


def source_of(small: Small, cache: Path, weights: str | None = "random") -> Source:
    return Source(cache, open_dataset(small.root), "alexnet", None, weights, lambda: small.responses)


def run(small: Small, cache: Path, settings: FinetuneSettings = SETTINGS, **more: Any) -> FinetuneResult:
    stop = more.pop("stop", StopFlag())
    return finetune(source_of(small, cache), settings, Process(CPU), GB, stop, **more)


def tensors_of(result: FinetuneResult) -> dict[str, torch.Tensor]:
    folder = result.model.folder
    return load_file(folder / "weights.safetensors") | load_file(folder / "backbone.safetensors")


def assert_same(first: FinetuneResult, second: FinetuneResult) -> None:
    one, other = tensors_of(first), tensors_of(second)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert first.losses == second.losses
