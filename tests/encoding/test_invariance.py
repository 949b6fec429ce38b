"""The weights depend on settings and data alone: not on memory, threads, rows of the store, or an interruption."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from boldreams_cli.console import StoppedError
from boldreams_cli.encoding.fit import whole_blocks
from boldreams_cli.encoding.inputs.layout import Group, MapLayout
from boldreams_cli.encoding.numerics import tiles
from boldreams_cli.encoding.readouts import gaussian, separable
from boldreams_cli.encoding.readouts.attention import Attention, AttentionSettings
from boldreams_cli.encoding.readouts.base import Readout
from boldreams_cli.encoding.readouts.gaussian import Gaussian, GaussianSettings
from boldreams_cli.encoding.readouts.local import Local, LocalSettings
from boldreams_cli.encoding.readouts.ridge import RidgeReadout, RidgeSettings
from boldreams_cli.encoding.readouts.separable import AdamSettings, Separable
from boldreams_cli.encoding.readouts.smooth import Smooth, SmoothSettings
from boldreams_cli.encoding.readouts.stacked import Stacked, StackedSettings
from tests.stopping import StopAfter

from .made_up import problem, solve, strict_products

VOXELS = 400  # several blocks of each solver
READOUTS = ("separable", "smooth", "ridge", "primal", "gaussian", "local", "stacked", "attention")
# Bytes with which each has to go through files and by several spans.
LITTLE = {
    "separable": 280_000,
    "smooth": 175_000,
    "ridge": 1_000_000,
    "primal": 395_000,
    "gaussian": 300_000,
    "local": 2_915_000,
    "attention": 440_000,
    "stacked": 3_800_000,
}


def make(name: str) -> Readout:
    """A readout of few epochs, candidates and nodes."""
    made: dict[str, Readout] = {
        "separable": Separable(AdamSettings(epochs=2, rate=1e-3)),
        "smooth": Smooth(SmoothSettings(grid=3, epochs=3, batch_size=16)),
        "ridge": RidgeReadout(RidgeSettings(grid=3)),
        "primal": RidgeReadout(RidgeSettings(grid=1)),
        "gaussian": Gaussian(GaussianSettings(centres=3, sizes=(0.1, 0.2))),
        "attention": Attention(AttentionSettings(grid=3, epochs=3, batch_size=16, keys=4)),
        "local": Local(LocalSettings(grid=3, centres=2, penalties=(0.1, 1.0, 10.0), images=50, compress="sqrt")),
        "stacked": Stacked(
            StackedSettings(grid=3, centres=2, sizes=(0.3,), penalties=(0.1, 1.0, 10.0), images=50, compress="none")
        ),
    }
    return made[name]


def differences(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    """Largest difference of each tensor, relative to its largest number."""
    assert one.keys() == other.keys()
    return {"": 0.0} | {
        name: float((one[name] - other[name]).abs().max() / one[name].abs().max().clamp_min(1e-30))
        for name in one
        if name != "spans" and not torch.equal(one[name], other[name])  # sizes may be infinite
    }


@pytest.fixture(scope="module", autouse=True)
def small_blocks() -> Iterator[None]:
    """Blocks of 64 voxels, so that few voxels take several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(separable, "INNER_BYTES", 2**15)
        patch.setattr(gaussian, "VOXELS", 64)
        patch.setattr(tiles, "TILE", 32)
        yield


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """Solved with plenty of memory, at once."""
    folder = tmp_path_factory.mktemp("usual")
    return {name: solve(make(name), problem(folder, voxels=VOXELS), folder / name) for name in READOUTS}


@pytest.mark.parametrize("name", READOUTS)
def test_memory_changes_no_bit(name: str, usual: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    posed = problem(tmp_path, voxels=VOXELS, memory=LITTLE[name])
    found = solve(make(name), posed, tmp_path / "model")
    assert usual[name]["spans"] == 1
    assert found["spans"] > 1
    assert (tmp_path / "scratch").is_dir(), "through a file"
    assert not any(differences(usual[name], found).values())


@pytest.mark.parametrize("name", READOUTS)
def test_rows_of_the_store_and_other_subjects_change_no_bit(
    name: str, usual: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    posed = problem(tmp_path, voxels=VOXELS, shuffled=True, others=90)
    assert not any(differences(usual[name], solve(make(name), posed, tmp_path / "model")).values())


@pytest.mark.parametrize("name", READOUTS)
def test_threads_change_no_bit(name: str, usual: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        found = solve(make(name), problem(tmp_path, voxels=VOXELS), tmp_path / "model")
    finally:
        torch.set_num_threads(before)
    assert max(differences(usual[name], found).values()) <= (0 if strict_products() else 1e-5)


@pytest.mark.parametrize("name", READOUTS)
def test_stopped_anywhere_and_resumed_with_other_memory_changes_no_bit(
    name: str, usual: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    stops = 0
    for looks in (1, 4, 2, 9, 3, 30, 5, 100, 100_000):
        memory = LITTLE[name] if stops % 2 else 10**9
        try:
            found = solve(
                make(name), problem(tmp_path, voxels=VOXELS, memory=memory), tmp_path / "model", StopAfter(looks)
            )
            break
        except StoppedError:
            stops += 1
    assert stops > 1
    assert not any(differences(usual[name], found).values())


@pytest.mark.parametrize(("most", "span"), [(1, 64), (63, 64), (64, 64), (100, 64), (200, 192)])
def test_spans_are_of_whole_blocks_however_little_the_memory(most: int, span: int) -> None:
    """One that ended within a block gave what is behind it other last bits."""
    assert whole_blocks(most, 64) == span


def test_a_block_of_a_network_with_large_maps_fits_a_small_memory() -> None:
    large = MapLayout(Group("224x224", 224, 224, ("a",)), {"a": list(range(6))})
    width = separable.block_width([large], 16, torch.device("cpu"), 1)
    assert width == 64
    assert width * 20 * (6 + 224**2) < 2**27
