"""Pooled maps: exact, of all training images alike, and the same wherever they lie and whatever lies beside them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from boldreams_cli.encoding.inputs import pooled as module
from boldreams_cli.encoding.inputs.layout import Group, MapLayout
from boldreams_cli.encoding.inputs.pooled import PooledMaps, pool_maps, pooled_bytes
from boldreams_cli.encoding.numerics.fields import interpolation, summed_along, summed_side_by_side

CPU = torch.device("cpu")
LAYERS = {"a": (5, 12, 10), "b": (30, 4, 4)}  # more pixels than filters, and the reverse
IMAGES = 70


class Maps:
    """Stands for a store: maps in rows of any order, with other images' rows between them."""

    def __init__(self, order: np.ndarray, others: int = 0, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        maps = {name: np.maximum(random.normal(size=(IMAGES, *shape)), 0) for name, shape in LAYERS.items()}
        maps["a"][:, 1] = 0.25  # never varies
        maps["a"][:-2, 3] = 0  # silent but for two images
        self.rows_per_shard, self.spec = 8, {"dtype": "float16"}
        self.rows = np.empty(IMAGES, dtype=np.int64)
        self.rows[order] = np.sort(random.permutation(IMAGES + others)[:IMAGES])
        self.maps = {name: np.full((IMAGES + others, *shape), 9, np.float16) for name, shape in LAYERS.items()}
        for name, values in maps.items():
            self.maps[name][self.rows] = values

    def read_layers(self, wanted: list[tuple[str, np.ndarray, np.ndarray]], rows: np.ndarray) -> None:
        for name, filters, out in wanted:
            out[:] = self.maps[name][rows][:, filters]


def layouts() -> list[MapLayout]:
    return [MapLayout(Group(name, *s[1:], (name,)), {name: range(s[0])}) for name, s in LAYERS.items()]


def pool(maps: Maps, tmp_path: Path, memory: int = 10**9, grid: int = 3) -> list[PooledMaps]:
    return pool_maps(maps, maps.rows, layouts(), grid, memory, tmp_path, CPU)  # type: ignore[arg-type]


def test_equals_the_definition(tmp_path: Path) -> None:
    maps = Maps(np.arange(IMAGES))
    for group, (name, shape) in zip(pool(maps, tmp_path), LAYERS.items(), strict=True):
        raw = maps.maps[name][maps.rows].astype(float).reshape(IMAGES, shape[0], -1)
        weights = interpolation(*shape[1:], 3).double().numpy()
        expected = raw @ (weights / weights.sum(0))
        scale = raw.std((0, 2), ddof=1)
        scale[raw.max((0, 2)) == raw.min((0, 2))] = np.inf
        expected = (expected - expected.mean(0)) / scale[:, None]
        read = group.read(np.arange(IMAGES))
        found = read.transpose(1, 2) if group.layout.pixels_first else read
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(group.scale, scale, rtol=1e-6)


def test_a_filter_that_never_varies_has_no_weight(tmp_path: Path) -> None:
    group = pool(Maps(np.arange(IMAGES)), tmp_path)[0]
    assert not group.read(np.arange(IMAGES))[:, 1].any()
    _, weights, _ = group.fold(torch.ones(2, 9), torch.ones(2, 5))
    assert not weights[:, 1].any()
    assert (weights[:, [0, 2, 3, 4]] > 0).all()


@pytest.mark.parametrize("reader", [8, 10**8])
def test_neither_rows_nor_blocks_nor_place_change_a_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: int
) -> None:
    usual = pool(Maps(np.arange(IMAGES)), tmp_path)
    monkeypatch.setattr(module, "READ_BYTES", reader)
    shuffled = np.random.default_rng(1).permutation(IMAGES)
    for memory in (10**9, 0):
        others = pool(Maps(shuffled, others=50), tmp_path, memory)
        for one, other in zip(usual, others, strict=True):
            assert torch.equal(one.scale, other.scale)
            assert torch.equal(one.centre, other.centre)
            some = np.array([3, 69, 0])
            assert torch.equal(one.read(some), other.read(some))
            assert torch.equal(one.columns(slice(2, 9)), other.columns(slice(2, 9)))
            assert torch.equal(one.columns(slice(2, 9)), one.read(np.arange(IMAGES)).flatten(1)[:, 2:9])
    assert sum(group.resident_bytes for group in usual) == pooled_bytes(layouts(), IMAGES, 3)
    assert sum(group.resident_bytes for group in others) == 0
    assert not list(tmp_path.iterdir()), "the file has no name"


def test_the_scale_is_of_all_images(tmp_path: Path) -> None:
    """The filter that is silent in the first rows is not blown up."""
    group = pool(Maps(np.arange(IMAGES)), tmp_path)[0]
    assert group.read(np.arange(IMAGES))[:, 3].abs().max() < 100


@pytest.mark.parametrize("threads", [1, 2])
def test_sums_depend_on_nothing_beside_them(threads: int) -> None:
    before = torch.get_num_threads()
    values, weights = torch.randn(40, 3, 27, 27), interpolation(27, 1, 9)
    try:
        torch.set_num_threads(threads)
        whole = summed_along(values, weights, 2)
        torch.testing.assert_close(whole, torch.einsum("bkhw,hj->bkjw", values, weights), rtol=1e-5, atol=1e-5)
        assert torch.equal(summed_along(values[7:8], weights, 2)[0], whole[7])
        for dim in (2, 3):  # as a GPU does it
            assert torch.equal(summed_side_by_side(values, weights, dim), summed_along(values, weights, dim))
    finally:
        torch.set_num_threads(before)
