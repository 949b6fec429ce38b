"""Fits that share what they read: the same weights bit for bit as fits by themselves, from one reading of the maps."""

from pathlib import Path

import pytest
import torch

from boldreams_cli.console import StopFlag
from boldreams_cli.encoding.fit import fit
from boldreams_cli.encoding.inputs import nested
from boldreams_cli.encoding.inputs.shared import Inputs, KeptResponses
from boldreams_cli.encoding.readouts.base import Readout
from boldreams_cli.encoding.readouts.gaussian import Gaussian, GaussianSettings
from boldreams_cli.encoding.readouts.ridge import RidgeReadout
from boldreams_cli.encoding.readouts.separable import AdamSettings, Separable
from boldreams_cli.encoding.readouts.settings import FitSettings
from boldreams_cli.encoding.readouts.smooth import Smooth, SmoothSettings
from boldreams_cli.machine import threads

from .conftest import Ready

CPU = torch.device("cpu")
GB = 2**30
PERCENTS = (100, 37, 10, 1)
READOUTS = {
    "paper": lambda: Separable(AdamSettings(epochs=1, rate=1e-3)),
    "fast": lambda: Smooth(SmoothSettings(epochs=2)),
    "ridge": lambda: RidgeReadout(),
    "gaussian": lambda: Gaussian(GaussianSettings(centres=2, sizes=(0.1, 0.3))),
}


def weights(ready: Ready, cache: Path, percent: float, readout: Readout, inputs: Inputs | None, rf: str) -> str:
    settings = FitSettings(percent, rf)
    where = (ready.store, ready.responses, settings, readout, cache, CPU, 4 * GB, StopFlag())
    return fit(*where, inputs=inputs).model.spec.weights_digest


@pytest.mark.parametrize(("name", "rf"), [*((name, "shared") for name in READOUTS), ("fast", "layer")])
def test_the_same_bits_as_fits_by_themselves_from_one_reading(
    ready: Ready, tmp_path: Path, images_read: list[int], name: str, rf: str
) -> None:
    percents = PERCENTS if name != "gaussian" else PERCENTS[1:]
    alone = [weights(ready, tmp_path / "alone", percent, READOUTS[name](), None, rf) for percent in percents]
    once = len(images_read) // len(percents)
    images_read.clear()
    inputs = Inputs(ready.store, ready.responses, CPU, tmp_path / "scratch", keep=4 * GB)
    together = [weights(ready, tmp_path / "together", percent, READOUTS[name](), inputs, rf) for percent in percents]
    assert together == alone
    assert len(images_read) == once > 0, "the maps are read once for all percents"
    assert set(images_read) <= set(ready.responses.train_images.tolist())


def test_pooled_maps_in_a_file_and_percents_in_any_order(
    ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [weights(ready, tmp_path / "alone", percent, READOUTS["fast"](), None, "shared") for percent in (10, 37, 1)]
    inputs = Inputs(ready.store, ready.responses, CPU, tmp_path / "scratch", keep=4 * GB)
    inputs.room = 1000
    monkeypatch.setattr(nested, "IMAGES", 7)
    together = [
        weights(ready, tmp_path / "together", percent, READOUTS["fast"](), inputs, "shared") for percent in (10, 37, 1)
    ]
    assert together == alone
    assert not list((tmp_path / "scratch").iterdir()), "the file has no name"
    monkeypatch.setattr(nested, "free_bytes", lambda path: 0)  # no room for it: each percent reads for itself
    inputs = Inputs(ready.store, ready.responses, CPU, tmp_path / "scratch", keep=4 * GB)
    inputs.room = 1000
    assert weights(ready, tmp_path / "third", 10, READOUTS["fast"](), inputs, "shared") == alone[0]


def test_who_reads_for_all_has_all_threads(ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = nested.KeptPool.__init__

    def made(self: nested.KeptPool, *given: object) -> None:
        seen.append(torch.get_num_threads())
        real(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(nested.KeptPool, "__init__", made)
    with threads(3):
        inputs = Inputs(ready.store, ready.responses, CPU, tmp_path / "scratch", keep=4 * GB)
    with threads(1):
        weights(ready, tmp_path / "model", 10, READOUTS["fast"](), inputs, "shared")
        assert torch.get_num_threads() == 1
    assert set(seen) == {3}


def test_maps_that_do_not_fit_beside_the_larger_ones_are_read(
    ready: Ready, tmp_path: Path, images_read: list[int]
) -> None:
    inputs = Inputs(ready.store, ready.responses, CPU, tmp_path / "scratch", keep=4 * GB)
    spec = {name: list(order) for name, (order, _) in inputs.ranked.items()}
    from boldreams_cli.encoding.inputs.layout import MapLayout, make_groups
    from boldreams_cli.encoding.inputs.maps import ResidentMaps, ScratchMaps, map_bytes

    groups = make_groups({name: shape[1:] for name, shape in ready.store.layers.items()}, "shared")
    larger, smaller = ([MapLayout(g, {n: k[: len(k) // d] for n, k in spec.items()}) for g in groups] for d in (2, 4))
    source = nested.NestedMaps(ready.store, inputs.rows, CPU, tmp_path, 0, 1)
    limit = map_bytes(ready.store, len(inputs.rows), larger)
    assert isinstance(source.open(larger, limit), ResidentMaps)
    read = len(images_read)
    assert isinstance(source.open(smaller, limit), ResidentMaps)
    assert len(images_read) == 2 * read, "both at once would be more than the limit"
    again = source.open(smaller, limit)
    assert again is source.open(smaller, limit)
    assert isinstance(source.open(larger, 10), ScratchMaps)


def test_responses_that_keep_what_scoring_reads(ready: Ready) -> None:
    kept, images = KeptResponses(ready.responses), ready.responses.test_images
    for _ in range(2):
        assert (kept.mean_betas(images) == ready.responses.mean_betas(images)).all()
        some = ready.responses.trial_test
        assert (kept.read_betas(some) == ready.responses.read_betas(some)).all()
    assert kept.mean_betas(images) is kept.mean_betas(images)
    assert (kept.mean_betas(images[::-1]) == ready.responses.mean_betas(images[::-1])).all()
    assert (kept.mean_betas(images, slice(3, 7)) == ready.responses.mean_betas(images, slice(3, 7))).all()
    assert (kept.read_betas(~some) == ready.responses.read_betas(~some)).all()
