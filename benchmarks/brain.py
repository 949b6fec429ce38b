"""The data of the benchmarks: one made-up subject, AlexNet's maps of its images, and its responses."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from boldreams_cli.console import StopFlag
from boldreams_cli.data.nsd.maker import NSD
from boldreams_cli.data.nsd.stimuli import Stimuli
from boldreams_cli.data.responses import Responses
from boldreams_cli.features import backbones, extraction
from boldreams_cli.features.backbones import Backbone
from boldreams_cli.features.store.feature_store import FeatureStore
from boldreams_cli.simulation.experiment import Experiment, write


@dataclass
class Brain:
    """What the parts measure on; seconds are those of the extraction of the training images, which a fit needs."""

    folder: Path
    backbone: Backbone
    store: FeatureStore
    responses: Responses
    stimuli: Stimuli
    extraction_seconds: float

    @property
    def cache(self) -> Path:
        """Of stores and models."""
        return self.folder / "cache"


def make_brain(folder: Path, weights: str, images: int) -> Brain:
    """Write the experiment, prepare its subject and extract AlexNet's maps."""
    shared = images // 10
    settings = Experiment(
        subjects=1,
        images=images,
        shared=shared,
        voxels=18,
        grids=((24, 20, 18),),
        forms=("hdf5",),
        backbone="alexnet",
        weights=weights,
    )
    write(settings, folder / "nsd")
    dataset = NSD(folder / "nsd")
    responses = dataset.prepare(1, folder / "cache")
    backbone = backbones.load("alexnet", weights)
    stimuli = dataset.stimuli()
    ids = np.union1d(responses.train_images, responses.test_images)
    source = extraction.Source(ids, [responses.train_images], stimuli.read, stimuli.identity())
    plan = extraction.make_plan(backbone, source, folder / "cache", "float16", None)
    start = time.perf_counter()
    result = extraction.extract(backbone, source, plan, folder / "cache", StopFlag(), backbone.entry.batch_size)
    seconds = (time.perf_counter() - start) * len(responses.train_images) / len(ids)
    return Brain(folder, backbone, result.store, responses, stimuli, seconds)
