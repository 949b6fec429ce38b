"""Whole fits, from stores on disk to the file of weights: the same model from any store, order of rows and memory."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from boldreams_cli.console import BoldreamsError, StopFlag
from boldreams_cli.data.opening import open_dataset
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding import fit as fitting
from boldreams_cli.encoding.fit import fit
from boldreams_cli.encoding.readouts.attention import Attention, AttentionSettings
from boldreams_cli.encoding.readouts.settings import FitSettings
from boldreams_cli.features import backbones, extraction
from boldreams_cli.features.store.feature_store import FeatureStore

from .finetuned import CPU
from .made_up import strict_products
from .test_invariance import READOUTS, make

MB = 2**20


class Two(NamedTuple):
    """A subject, and stores that hold it: alone, and among two whose rows are in another order."""

    responses: Responses
    alone: FeatureStore
    among: FeatureStore


@pytest.fixture(scope="module")
def two(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Two:
    folder = tmp_path_factory.mktemp("stores")
    dataset = open_dataset(experiment)
    owned = [dataset.prepare(subject, folder) for subject in (1, 2)]
    training = [responses.train_images for responses in owned]
    everyone = np.unique(np.concatenate([responses.trial_images for responses in owned]))
    backbone = backbones.load("alexnet", "random")

    def extracted(name: str, images: np.ndarray, training: list[np.ndarray], batch: int) -> FeatureStore:
        with dataset.stimuli() as stimuli:
            source = extraction.Source(images, training, stimuli.read, dataset.stimuli_identity())
            plan = extraction.make_plan(backbone, source, folder / name, "float16", None)
            return extraction.extract(backbone, source, plan, folder / name, StopFlag(), batch).store

    alone = extracted("alone", np.unique(owned[0].trial_images), training[:1], 16)
    among = extracted("among", np.random.default_rng(0).permutation(everyone), training, 7)
    return Two(owned[0], alone, among)


def test_an_images_maps_are_the_same_in_any_store(two: Two) -> None:
    """In a batch with others, of another size: what follows stands on that."""
    ids = two.responses.train_images
    assert not np.array_equal(np.argsort(two.alone.rows(ids)), np.argsort(two.among.rows(ids)))
    for name in two.alone.layers:
        maps = [store.read_maps(name, store.rows(ids), np.arange(64)) for store in (two.alone, two.among)]
        np.testing.assert_array_equal(*maps)


@pytest.mark.parametrize("name", [*READOUTS, "attention by area"])
def test_memory_threads_rows_and_other_subjects_change_no_bit(name: str, two: Two, tmp_path: Path) -> None:
    of_area = AttentionSettings(grid=3, epochs=2, batch_size=16, keys=4, share="area")
    ways = [(two.alone, 4096 * MB, 1), (two.among, 300 * MB, 2), (two.among, MB, 1), (two.alone, 300 * MB, 2)]
    found, before = [], torch.get_num_threads()
    try:
        for number, (store, memory, threads) in enumerate(ways[:2] if name == "attention by area" else ways):
            torch.set_num_threads(threads if strict_products() else 1)
            readout = Attention(of_area) if name == "attention by area" else make(name)
            cache = tmp_path / str(number)
            result = fit(store, two.responses, FitSettings(25), readout, cache, CPU, memory, StopFlag())
            found.append((load_file(result.model.folder / "weights.safetensors"), result.curve))
    finally:
        torch.set_num_threads(before)
    (first, curve), *others = found
    for other, of_other in others:
        assert first.keys() == other.keys()
        for key, value in first.items():
            assert torch.equal(torch.nan_to_num(value, -7.0), torch.nan_to_num(other[key], -7.0)), key
        assert of_other == curve


def test_what_is_no_small_fit_is_refused(two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "LEAST", 2**14)
    with pytest.raises(BoldreamsError, match=r"this fit takes .* and --memory leaves 16.4 kB for it"):
        fit(two.alone, two.responses, FitSettings(25), make("ridge"), tmp_path, CPU, MB // 128, StopFlag())
