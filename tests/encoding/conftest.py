"""One subject prepared and AlexNet's maps extracted, in the library, once for this wing."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from boldreams_cli.data.opening import open_dataset
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.finetuning.run import FinetuneResult
from boldreams_cli.features import backbones
from boldreams_cli.features.backbones import Backbone
from boldreams_cli.features.store.feature_store import FeatureStore
from tests.encoding.finetuned import Small, extracted, run, seeing_63_pixels


class Ready(NamedTuple):
    """What a fit needs."""

    cache: Path
    backbone: Backbone
    store: FeatureStore
    responses: Responses


@pytest.fixture(scope="module", autouse=True)
def alexnet_of_63_pixels() -> Iterator[None]:
    """Let AlexNet be small in each module: what is looked at here has no size."""
    with seeing_63_pixels():
        yield


@pytest.fixture(scope="package")
def ready(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    """Subject 1 and the maps of an AlexNet with random weights."""
    cache = tmp_path_factory.mktemp("encoding")
    responses = open_dataset(experiment).prepare(1, cache)
    with seeing_63_pixels():
        backbone, store = backbones.load("alexnet", "random"), extracted(experiment, responses, cache)
    return Ready(cache, backbone, store, responses)


@pytest.fixture
def images_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every image whose maps are read from a store during the test."""
    asked: list[int] = []
    real = FeatureStore.read_layers

    def watched(self: FeatureStore, wanted: list[tuple[str, np.ndarray, np.ndarray]], rows: np.ndarray) -> None:
        asked.extend(self.images[rows].tolist())
        real(self, wanted, rows)

    monkeypatch.setattr(FeatureStore, "read_layers", watched)
    return asked


@pytest.fixture(scope="package")
def small(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The first session of subject 1, and the maps of the small AlexNet."""
    cache = tmp_path_factory.mktemp("finetuning")
    responses = open_dataset(experiment).prepare(1, cache, "1")
    with seeing_63_pixels():
        return Small(experiment, responses, extracted(experiment, responses, cache), cache)


@pytest.fixture(scope="package")
def whole(small: Small, tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    """An uninterrupted finetuning, without a store."""
    with seeing_63_pixels():
        return run(small, tmp_path_factory.mktemp("whole"))
