"""Extraction: right values, nothing computed twice, shards of a job array, two passes, overflow."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from boldreams_cli.commands.extract import _described, _lines
from boldreams_cli.console import BoldreamsError, StopFlag, StoppedError
from boldreams_cli.features import backbones, extraction, extraction_pass
from boldreams_cli.features.backbones import Backbone
from boldreams_cli.features.extraction import extract, make_plan
from boldreams_cli.features.extraction_pass import cast
from boldreams_cli.features.ranking import filter_order, filter_std
from boldreams_cli.features.source import Source
from boldreams_cli.machine import threads
from boldreams_cli.stores import ResumableStore
from tests.stopping import StopAt

IMAGES = np.arange(40)


@pytest.fixture
def backbone(small_alexnet: Backbone) -> Backbone:
    return small_alexnet


@pytest.fixture
def source() -> Source:
    pictures = np.random.default_rng(0).integers(0, 256, (90, 60, 60, 3), dtype=np.uint8)
    return Source(IMAGES, [IMAGES[:30]], lambda ids: pictures[np.asarray(ids)], {"made": "up"})


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "shard_rows", lambda image_bytes: 16)


def run(
    backbone: Backbone,
    source: Source,
    cache: Path,
    keep: float | None = None,
    shard: tuple[int, int] = (0, 1),
    stop: StopFlag | None = None,
) -> extraction.Result:
    plan = make_plan(backbone, source, cache, "float16", keep)
    return extract(backbone, source, plan, cache, StopFlag() if stop is None else stop, 8, shard)


def everything(result: extraction.Result) -> dict[str, np.ndarray]:
    names = [f"layers/{layer}/{kind}" for layer in result.store.layers for kind in ("maps", "mean")]
    return {name: result.store.array(name)[:] for name in names}


def test_maps_and_means_are_the_backbones(source: Source, tmp_path: Path) -> None:
    backbone = backbones.load("alexnet", "random")
    store = run(backbone, source, tmp_path).store
    with torch.inference_mode():
        maps = backbone.maps_of(torch.from_numpy(source.read(store.images)))
    for name, expected in maps.items():
        found = store.read_maps(name, np.arange(40), np.arange(expected.shape[1]))
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(store.means(name, np.arange(40)), expected.mean((2, 3)), rtol=1e-4, atol=1e-5)

    few = Source(np.array([33, 5, 12]), source.training, source.read, source.identity)
    alone = run(backbone, few, tmp_path / "few").store
    for name, expected in maps.items():  # bit for bit, though three images are less than a batch
        every = np.arange(expected.shape[1])
        of_some = store.read_maps(name, store.rows(alone.images[:]), every)
        np.testing.assert_array_equal(alone.read_maps(name, np.arange(3), every), of_some)


def test_a_second_run_computes_nothing(backbone: Backbone, source: Source, tmp_path: Path) -> None:
    assert run(backbone, source, tmp_path).computed == 40
    again = run(backbone, source, tmp_path).summary()
    assert (again["computed"], again["skipped"], again["images_per_second"]) == (0, 40, 0)


def test_stopped_and_resumed_equals_uninterrupted(backbone: Backbone, source: Source, tmp_path: Path) -> None:
    whole = run(backbone, source, tmp_path / "whole")
    with pytest.raises(StoppedError, match="16 images are done; run the same command"):
        run(backbone, source, tmp_path / "parts", stop=StopAt(4))
    with pytest.raises(StoppedError, match="16 images are done"):  # in the middle of a unit, after a batch
        run(backbone, source, tmp_path / "parts", stop=StopAt(2))
    rest = run(backbone, source, tmp_path / "parts")
    assert rest.computed == 24
    found = everything(rest)
    for name, values in everything(whole).items():
        np.testing.assert_array_equal(values, found[name])


def test_new_images_leave_old_rows_as_they_are(backbone: Backbone, source: Source, tmp_path: Path) -> None:
    before = everything(run(backbone, source, tmp_path))
    more = Source(np.array([3, 60, 61, 62]), source.training, source.read, source.identity)
    result = run(backbone, more, tmp_path)
    assert (result.computed, result.skipped) == (3, 1)
    assert result.store.images[40:].tolist() == [60, 61, 62]
    assert result.store.done().all()
    for name, values in everything(result).items():
        np.testing.assert_array_equal(values[:40], before[name])
    with torch.inference_mode():
        expected = backbone.maps_of(torch.from_numpy(source.read(np.array([62]))))["features.12"]
    np.testing.assert_allclose(
        result.store.read_maps("features.12", np.array([42]), np.arange(256)), expected, rtol=1e-3, atol=1e-3
    )


def test_rows_that_a_stopped_run_left_count_as_computed_and_none_as_skipped_before(
    backbone: Backbone, source: Source, tmp_path: Path
) -> None:
    """A unit is computed whole, with the images of another subject that lie in it."""
    with pytest.raises(StoppedError, match="0 images are done"):
        run(backbone, source, tmp_path, stop=StopAt(1))
    other = replace(source, images=np.array([60, 61, 62, 63]))
    assert make_plan(backbone, other, tmp_path, "float16", None).rows == 12
    found = run(backbone, other, tmp_path).summary()
    assert (found["rows"], found["computed"], found["skipped"]) == (44, 12, 0)
    more = replace(source, images=np.array([61, 33, 2, 62]))
    found = run(backbone, more, tmp_path).summary()
    assert (found["rows"], found["computed"], found["skipped"]) == (44, 16, 3)


def test_skipped_is_what_was_done_before(backbone: Backbone, source: Source, tmp_path: Path) -> None:
    first = run(backbone, source, tmp_path, shard=(0, 2))  # the rest is left to another task
    assert (first.computed, first.skipped) == (24, 0)
    with pytest.raises(StoppedError):
        run(backbone, source, tmp_path, keep=10, stop=StopAt(4))
    kept = run(backbone, source, tmp_path, keep=10)  # images that were ranked and not stored are not done
    assert (kept.computed, kept.skipped) == (40, 0)


def test_tasks_of_an_array_share_the_work(backbone: Backbone, source: Source, tmp_path: Path) -> None:
    whole = everything(run(backbone, source, tmp_path / "whole"))
    counts = [run(backbone, source, tmp_path / "parts", shard=(index, 2)).computed for index in (1, 0)]
    assert counts == [16, 24]
    joined = run(backbone, source, tmp_path / "parts")
    assert joined.computed == 0
    for name, values in everything(joined).items():
        np.testing.assert_array_equal(values, whole[name])


def test_keep_percent_stores_the_best_filters_in_ranked_order(
    backbone: Backbone, source: Source, tmp_path: Path
) -> None:
    whole = run(backbone, source, tmp_path).store
    kept = run(backbone, source, tmp_path, keep=10).store
    assert kept.path != whole.path
    for name, (filters, _, _) in whole.layers.items():
        order = filter_order(filter_std(whole.means(name, np.arange(30))))  # training images alone
        best = order[: max(1, filters // 10)]
        assert kept.filters(name).tolist() == best.tolist()
        np.testing.assert_array_equal(kept.array(f"layers/{name}/maps")[:], whole.read_maps(name, np.arange(40), best))
        np.testing.assert_array_equal(kept.means(name, np.arange(40)), whole.means(name, np.arange(40)))


def test_ranking_pass_of_an_array_waits_for_the_others(backbone: Backbone, source: Source, tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match="share of the ranking pass"):
        run(backbone, source, tmp_path, keep=10, shard=(0, 2))
    run(backbone, source, tmp_path, keep=10, shard=(1, 2))
    run(backbone, source, tmp_path, keep=10, shard=(0, 2))
    joined = run(backbone, source, tmp_path, keep=10)
    assert joined.computed == 0
    alone = everything(run(backbone, source, tmp_path / "alone", keep=10))
    for name, values in everything(joined).items():
        np.testing.assert_array_equal(values, alone[name])


def test_several_subjects_keep_the_best_filters_of_each(backbone: Backbone, source: Source, tmp_path: Path) -> None:
    both = [IMAGES[:15], IMAGES[15:30]]
    whole = run(backbone, source, tmp_path).store
    kept = run(backbone, replace(source, training=both), tmp_path, keep=10).store
    for name, (filters, _, _) in whole.layers.items():
        best = [filter_order(filter_std(whole.means(name, ids)))[: max(1, filters // 10)] for ids in both]
        assert set(kept.filters(name).tolist()) == set(np.concatenate(best).tolist())
    turned = make_plan(backbone, replace(source, training=[*both[::-1], both[0]]), tmp_path, "float16", 10)
    assert turned.path == kept.path  # the order in which subjects were asked for decides nothing
    assert turned.stored == {name: (len(kept.filters(name)),) * 2 for name in kept.layers}  # chosen already


def test_several_subjects_may_keep_more_filters_than_one(
    backbone: Backbone, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = replace(source, training=[IMAGES[:15], IMAGES[15:30]])
    one, two = (make_plan(backbone, each, tmp_path, "float16", 10) for each in (source, both))
    assert one.stored == {name: (fewest, fewest) for name, (fewest, _) in two.stored.items()}
    assert two.stored["features.12"] == (25, 50)
    assert two.raw_bytes == 2 * one.raw_bytes
    assert two.spec["shard_rows"] == one.spec["shard_rows"]
    assert make_plan(backbone, both, tmp_path, "float16", 70).stored["features.12"] == (179, 256)
    lines, described = _lines(two), _described(two)
    assert any("features.12: 25 to 50 of 256 filters" in line for line in lines)
    assert (described["stored_filters"]["features.12"], described["fewest_filters"]["features.12"]) == (50, 25)
    assert any("features.12: 25 of 256 filters" in line for line in _lines(one))
    kept = run(backbone, both, tmp_path, keep=10).store
    more = replace(both, images=np.arange(50))
    there = make_plan(backbone, more, tmp_path, "float16", 10)
    assert there.path == kept.path
    assert there.stored["features.12"] == (len(kept.filters("features.12")),) * 2
    monkeypatch.setattr(extraction, "free_bytes", lambda path: int(one.raw_bytes * 1.1 / one.ratio) + 1)
    make_plan(backbone, both, tmp_path / "new", "float16", 10).check_disk()  # they may fit, if subjects agree


def test_the_second_pass_leaves_the_means_that_filters_were_chosen_by(
    backbone: Backbone, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoppedError):
        run(backbone, source, tmp_path, keep=10, shard=(0, 2))
    with pytest.raises(StoppedError):
        run(backbone, source, tmp_path, keep=10, shard=(1, 2), stop=StopAt(4))
    store = make_plan(backbone, source, tmp_path, "float16", 10).path
    before = {path: path.read_bytes() for path in store.glob("layers/*/mean/c/*/0")}
    loud = replace(source, read=lambda ids: 255 - source.read(ids))  # as if on another device
    run(backbone, loud, tmp_path, keep=10)
    assert before
    assert {path: path.read_bytes() for path in before} == before


def test_rows_keep_the_order_given(backbone: Backbone, source: Source, tmp_path: Path) -> None:
    order = np.array([30, 31, 5, 4, 9, 2])
    store = run(backbone, replace(source, images=order), tmp_path).store
    assert store.images.tolist() == order.tolist()
    assert store.add_images([4, 7, 30, 1]) == 2
    assert store.images.tolist() == [*order.tolist(), 7, 1]


def test_an_image_of_one_colour_is_computed_like_any_other(backbone: Backbone, source: Source, tmp_path: Path) -> None:
    """People show grey screens; whether pixels were never written, whoever reads them knows."""

    def read(ids: np.ndarray) -> np.ndarray:
        pictures = source.read(ids).copy()
        pictures[np.asarray(ids) == 21] = 128
        return pictures

    store = run(backbone, replace(source, read=read), tmp_path).store
    assert store.done().all()
    layer = next(iter(store.layers))
    assert np.isfinite(store.means(layer, store.rows([21]))).all()


def test_stimuli_that_were_changed_are_computed_anew(backbone: Backbone, source: Source, tmp_path: Path) -> None:
    def read(ids: np.ndarray) -> np.ndarray:
        pictures = source.read(ids).copy()
        pictures[np.asarray(ids) == 21] = 255 - pictures[np.asarray(ids) == 21]
        return pictures

    run(backbone, replace(source, read=read, stamp={"size": 1, "mtime": 1}), tmp_path)
    assert run(backbone, replace(source, read=read, stamp={"size": 1, "mtime": 2}), tmp_path).computed == 0  # touched
    repaired = run(backbone, replace(source, stamp={"size": 1, "mtime": 3}), tmp_path)
    assert repaired.computed == 16  # the unit that image 21 lies in
    whole = everything(run(backbone, source, tmp_path / "whole"))
    for name, values in everything(repaired).items():
        np.testing.assert_array_equal(values, whole[name])


def test_stimuli_are_compared_where_it_was_forgotten_which_they_were(
    backbone: Backbone, source: Source, tmp_path: Path
) -> None:
    store = run(backbone, replace(source, stamp={"size": 1, "mtime": 1}), tmp_path).store
    ledger = store.path / "ledger.jsonl"
    lines = [line for line in ledger.read_bytes().splitlines(keepends=True) if b'"kind": "stimuli"' not in line]
    ledger.write_bytes(b"".join(lines))
    other = replace(source, read=lambda ids: 255 - source.read(ids), stamp={"size": 1, "mtime": 2})
    assert run(backbone, other, tmp_path).computed == 40


def test_a_store_says_that_it_was_made_anew_of_other_stimuli(
    backbone: Backbone, source: Source, tmp_path: Path
) -> None:
    def edition(number: int, **changes: Any) -> str:
        return run(backbone, replace(source, stamp={"size": 1, "mtime": number}, **changes), tmp_path).store.edition

    def read(ids: np.ndarray) -> np.ndarray:
        return np.where((np.asarray(ids) == 21)[:, None, None, None], 255 - source.read(ids), source.read(ids))

    assert (edition(1), edition(2)) == ("", "")
    changed = edition(3, read=read)
    assert changed
    assert edition(4, read=read) == changed, "touched, and the same"
    more = edition(5, read=read, images=np.arange(46))
    assert more == changed, "rows that are added change nothing"
    assert edition(6) not in ("", changed)


def test_a_line_is_written_after_the_files_that_it_speaks_of(
    backbone: Backbone, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ResumableStore._append
    looked = []

    def append(self: ResumableStore, facts: dict) -> None:
        for name, (size, *_) in facts["files"].items():
            looked.append((self.path / name).stat().st_size == size)
        real(self, facts)

    monkeypatch.setattr(ResumableStore, "_append", append)
    run(backbone, source, tmp_path)
    assert looked
    assert all(looked)


@pytest.mark.parametrize("limit", [65_000.0, 66_000.0])
def test_the_limit_of_float16_is_its_own(limit: float) -> None:
    maps = torch.full((1, 1, 2, 2), limit)
    if limit < 65_504:
        assert cast(maps, "float16", "a").dtype == torch.float16
    else:
        with pytest.raises(BoldreamsError, match="cannot hold"):
            cast(maps, "float16", "a")


def test_what_float16_cannot_hold_is_refused(source: Source, tmp_path: Path) -> None:
    loud = backbones.load("alexnet", "random")
    with torch.no_grad():
        loud.network.features[0].weight.mul_(1e8)
    with pytest.raises(BoldreamsError, match=r"features.* float16 cannot hold; use --dtype float32"):
        make_plan(loud, source, tmp_path, "float16", None)
    assert make_plan(loud, source, tmp_path, "float32", None).raw_bytes > 0
    with torch.no_grad():
        loud.network.features[0].weight.fill_(float("nan"))
    with pytest.raises(BoldreamsError, match="nan"):
        make_plan(loud, source, tmp_path, "float16", None)


def test_a_run_that_does_not_fit_the_disk_is_refused(
    backbone: Backbone, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "free_bytes", lambda path: 10**5)
    with pytest.raises(BoldreamsError, match=r"maps need about .* has 100 kB free; use --keep-percent"):
        run(backbone, source, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [None, 10.0])
def test_maps_are_the_same_bits_whatever_the_number_of_cores(
    source: Source, tmp_path: Path, keep: float | None
) -> None:
    """Each core has batches of its own; eight images of this network in several threads round differently."""
    backbone = backbones.load("efficientnet_lite0", "random")
    found = []
    for count in (1, 2, 5):
        with threads(count):
            found.append(everything(run(backbone, source, tmp_path / str(count), keep)))
            assert torch.get_num_threads() == count  # as it was
    for name, values in found[0].items():
        for other in found[1:]:
            np.testing.assert_array_equal(values, other[name])


def test_large_machines_compute_as_many_batches_as_are_small(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 cores: all of them with AlexNet's maps, with those of large networks as many as take 8 GB."""
    store = run(backbones.load("alexnet", "random"), source, tmp_path).store
    vgg11 = SimpleNamespace(layers={"features.2": (64, 112, 112), "others": (2634752, 1, 1)})
    for count in (2, 64):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        assert extraction_pass._workers(store, 32) == count
        assert extraction_pass._workers(vgg11, 8) == min(count, 16)


def test_a_batch_that_fails_leaves_its_unit_to_do(
    backbone: Backbone, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last batch of a unit is computed while the next is begun: what it raises ends the run, nothing is noted."""
    maps_of, last = backbone.maps_of, torch.from_numpy(source.read(np.array([31])))

    def failing(images: torch.Tensor) -> dict[str, torch.Tensor]:
        if torch.equal(images[-1:], last):
            raise RuntimeError("no memory for it")
        return maps_of(images)

    with threads(2):
        monkeypatch.setattr(backbone, "maps_of", failing)
        with pytest.raises(RuntimeError, match="no memory for it"):
            run(backbone, source, tmp_path)
        monkeypatch.undo()
        monkeypatch.setattr(extraction, "shard_rows", lambda image_bytes: 16)
        again = run(backbone, source, tmp_path)
    assert again.computed >= 16  # that unit; those beside it may have been written
    assert again.store.done().all()
    for name, values in everything(run(backbone, source, tmp_path / "whole")).items():
        np.testing.assert_array_equal(values, everything(again)[name])


def test_threads_have_maps_of_their_own(small_alexnet: Backbone) -> None:
    """Hooks keep what a network's layers give: of each thread apart, however their passes interleave."""
    images = torch.randint(0, 256, (2, 1, 60, 60, 3), dtype=torch.uint8)
    together = Barrier(2)
    first = small_alexnet.network.get_submodule(small_alexnet.entry.layers[small_alexnet.layers[-1]])
    handle = first.register_forward_hook(lambda *_: together.wait(30) and None)
    try:
        with ThreadPoolExecutor(2) as pool, torch.inference_mode():
            found = list(pool.map(small_alexnet.maps_of, images))
    finally:
        handle.remove()
    for image, maps in zip(images, found, strict=True):
        for name, values in small_alexnet.maps_of(image).items():
            torch.testing.assert_close(maps[name], values, rtol=0, atol=0)


def test_threads_have_their_own_maps_of_a_module_that_was_named() -> None:
    backbone = backbones.load("timm:test_resnet", "random", layers=["layer1.0.conv1"])
    images, together = torch.randint(0, 256, (2, 1, 160, 160, 3), dtype=torch.uint8), Barrier(2)

    def wait(*_: object) -> None:
        together.wait(30)

    modules = dict(backbone.network.named_children())
    handles = [  # both are inside before either reaches the module, and both have passed it before either ends
        modules["conv1"].register_forward_pre_hook(wait),
        modules["layer4"].register_forward_hook(wait),
    ]
    try:
        with ThreadPoolExecutor(2) as pool, torch.inference_mode():
            found = list(pool.map(backbone.maps_of, images))
    finally:
        for handle in handles:
            handle.remove()
    for image, maps in zip(images, found, strict=True):
        alone = backbone.maps_of(image)
        torch.testing.assert_close(maps["layer1.0.conv1"], alone["layer1.0.conv1"], rtol=0, atol=0)
