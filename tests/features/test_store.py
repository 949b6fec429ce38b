"""The feature store: what is written is read, only what is asked for is read, and nothing foreign is trusted."""

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec

from boldreams_cli.console import BoldreamsError, MismatchError
from boldreams_cli.features.store import shards
from boldreams_cli.features.store.feature_store import FeatureStore, stores
from boldreams_cli.features.store.store_arrays import ids_hash, shard_rows

SPEC = {
    "backbone": "alexnet",
    "weights_digest": "w",
    "layers": {"a": [40, 9, 9], "b": [12, 3, 3]},
    "preprocessing": {},
    "dtype": "float16",
    "stimuli": {},
    "keep": None,
    "shard_rows": 16,
}


def filled(cache: Path, ids: list[int]) -> tuple[FeatureStore, dict[str, np.ndarray]]:
    """A store with random maps of those images, a fifth of them zero."""
    store = FeatureStore.create(cache, SPEC, "random:0")
    store.add_images(ids)
    rng = np.random.default_rng(0)
    maps = {}
    for name, (filters, height, width) in store.layers.items():
        values = rng.normal(size=(len(store.images), filters, height, width)).astype(np.float16)
        values[values < -0.8] = 0
        maps[name] = values
    for number in range(-(-len(store.images) // 16)):
        write(store, "mean", number, {name: values.astype(np.float32).mean((2, 3)) for name, values in maps.items()})
        write(store, "maps", number, maps)
    return store, maps


def write(store: FeatureStore, kind: str, number: int, values: dict[str, np.ndarray]) -> None:
    """One unit of all the rows' values."""
    rows = slice(number * 16, (number + 1) * 16)
    read = [[0, len(store.images[rows]), ids_hash(store.images[rows]), "none"]]
    store.write(kind, number, {name: value[rows] for name, value in values.items()}, read)


def test_any_rows_and_filters_come_back_in_the_order_asked(tmp_path: Path) -> None:
    store, maps = filled(tmp_path, list(range(100, 170)))
    rng = np.random.default_rng(1)
    for rows in (np.arange(70), rng.permutation(70)[:33], np.array([69]), np.array([3, 40, 5])):
        for filters in (np.arange(40), rng.permutation(40)[:7], np.array([39])):
            found = store.read_maps("a", rows, filters)
            np.testing.assert_array_equal(found, maps["a"][np.ix_(rows, filters)])


def test_a_transposed_target_is_filled_as_well(tmp_path: Path) -> None:
    store, maps = filled(tmp_path, list(range(20)))
    target = np.empty((20, 9, 9, 5), dtype=np.float16)
    store.read_maps("a", np.arange(20), np.array([4, 3, 2, 20, 21]), out=target.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(target.transpose(0, 3, 1, 2), maps["a"][:, [4, 3, 2, 20, 21]])


def bytes_read() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs Linux's count of bytes read")
def test_a_tenth_of_the_filters_is_a_tenth_of_the_bytes(tmp_path: Path) -> None:
    store, _ = filled(tmp_path, list(range(160)))
    rows, scattered = np.arange(160), np.array([1, 17, 26, 39])
    before = bytes_read()
    store.read_maps("a", rows, scattered)
    some = bytes_read() - before
    before = bytes_read()
    store.read_maps("a", rows, np.arange(40))
    everything = bytes_read() - before
    assert some < 0.2 * everything


def test_images_added_later_keep_the_rows_of_the_first(tmp_path: Path) -> None:
    store, maps = filled(tmp_path, [5, 9, 12])
    assert store.add_images([9, 1, 30]) == 2
    assert store.images.tolist() == [5, 9, 12, 1, 30]
    assert store.done().tolist() == [True, True, True, False, False]
    np.testing.assert_array_equal(store.read_maps("b", store.rows([12, 5]), np.arange(12)), maps["b"][[2, 0]])
    with pytest.raises(MismatchError, match=r"lacks 2 of 3 images .*30.*boldreams extract"):
        store.rows([5, 30, 77])


def test_rows_count_by_the_ledger_and_not_by_their_chunks(tmp_path: Path) -> None:
    store, maps = filled(tmp_path / "whole", list(range(40)))
    store = FeatureStore.create(tmp_path, SPEC, "random:0")
    store.add_images(list(range(40)))
    assert not store.done().any()
    write(store, "mean", 0, {name: values.astype(np.float32).mean((2, 3)) for name, values in maps.items()})
    write(store, "maps", 1, maps)
    with (store.path / "ledger.jsonl").open("a") as stream:
        stream.write('{"kind": "maps", "sta')  # a kill in the middle of a line
    assert store.done("maps").sum() == 16
    assert store.done("mean").sum() == 16
    write(store, "maps", 2, maps)
    assert store.done("maps").sum() == 24


def test_a_changed_spec_is_refused(tmp_path: Path) -> None:
    store, _ = filled(tmp_path, [1])
    zarr.open_group(store.path, mode="r+").attrs["spec"] = SPEC | {"weights_digest": "other"}
    with pytest.raises(MismatchError, match="fingerprint"):
        FeatureStore(store.path)


def test_a_renamed_store_is_refused(tmp_path: Path) -> None:
    store, _ = filled(tmp_path, [1])
    store.path.rename(store.path.with_name("alexnet-0123456789ab.zarr"))
    with pytest.raises(MismatchError, match="fingerprint"):
        stores(tmp_path)


def test_what_is_no_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(BoldreamsError, match="not a feature store"):
        FeatureStore(tmp_path / "nothing.zarr")


def test_filters_that_were_not_kept_are_refused(tmp_path: Path) -> None:
    spec = SPEC | {"keep": {"percent": 10, "training_images": "x"}}
    store = FeatureStore.create(tmp_path, spec, "random:0")
    assert not store.has_maps
    store.keep_filters({"a": np.array([7, 3]), "b": np.array([0])})
    assert store.has_maps
    assert store.positions("a", np.array([3, 7])).tolist() == [1, 0]
    with pytest.raises(MismatchError, match=r"keeps 2 filters of a and not 9.*--keep-percent"):
        store.positions("a", np.array([3, 9]))


def test_layout_on_disk_is_as_documented(tmp_path: Path) -> None:
    store, _ = filled(tmp_path, list(range(20)))
    maps = zarr.open_array(store.path / "layers/a/maps", mode="r")
    assert maps.metadata.zarr_format == 3
    assert (maps.shape, maps.shards, maps.chunks, maps.dtype) == ((20, 40, 9, 9), (16, 40, 9, 9), (16, 1, 9, 9), "f2")
    assert zarr.open_array(store.path / "images", mode="r").dtype == "i4"
    assert zarr.open_array(store.path / "layers/a/mean", mode="r").dtype == "f4"
    assert store.path.name == f"alexnet-{store.fingerprint}.zarr"


def test_zarr_itself_reads_what_was_written(tmp_path: Path) -> None:
    store, maps = filled(tmp_path, list(range(20)))
    np.testing.assert_array_equal(zarr.open_array(store.path / "layers/a/maps", mode="r")[:], maps["a"])


@pytest.mark.parametrize(("threads", "chunks"), [(1, 40), (1, 2), (3, 2), (3, 0)])
def test_any_rows_and_filters_in_any_order_are_zarrs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, chunks: int
) -> None:
    # As for large maps: several threads, and blocks of a few chunks of one filter each.
    monkeypatch.setattr(shards, "THREADS", threads)
    monkeypatch.setattr(shards, "ONE_THREAD_BYTES", 0)
    monkeypatch.setattr(shards, "BLOCK_BYTES", chunks * 16 * 9 * 9 * 2)
    store, maps = filled(tmp_path, list(range(40)))
    maps["a"][16:32, 3] = 0  # a chunk that zarr would not store
    maps["a"][32:] = 0  # a shard that it would not store
    for number in (1, 2):
        write(store, "maps", number, maps)
    whole = zarr.open_array(store.path / "layers/a/maps", mode="r")[:]
    np.testing.assert_array_equal(whole, maps["a"])
    random = np.random.default_rng(0)
    for _ in range(20):
        rows, filters = random.permutation(40)[:17], random.permutation(40)[:9]
        filters[0] = 3
        np.testing.assert_array_equal(
            store.read_maps("a", rows, filters), whole[rows][:, store.positions("a", filters)], strict=True
        )


def test_whole_shards_are_decoded_together_where_threads_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "THREADS", 8)
    monkeypatch.setattr(shards, "ONE_THREAD_BYTES", 0)
    together = []
    decode = shards._decode_together
    monkeypatch.setattr(shards, "_decode_together", lambda part: (together.append(part.path.parts[-4]), decode(part)))
    store, maps = filled(tmp_path, list(range(72)))
    maps["a"][16:32, 3] = 0
    maps["a"][32:48] = 0
    for number in (1, 2):
        write(store, "maps", number, maps)
    random = np.random.default_rng(0)
    for rows in (np.arange(72), random.permutation(72)[:50], np.arange(20, 30)):
        for out in (None, np.empty((9, 9, 40, len(rows)), np.float16).T.swapaxes(2, 3)):
            found = store.read_maps("a", rows, np.arange(40), out)
            np.testing.assert_array_equal(found, maps["a"][rows], strict=True)
    assert set(together) == {"0", "1", "2", "3"}  # the last has fewer rows, of which zarrs would look at no checksum
    together.clear()
    for filters in (random.permutation(40), np.arange(0, 40, 2), np.arange(39), np.arange(1, 40)):
        np.testing.assert_array_equal(store.read_maps("a", np.arange(72), filters), maps["a"][:, filters])
    monkeypatch.setattr(shards, "TOGETHER_BYTES", 40 * 16 * 9 * 9 * 2 - 1)
    np.testing.assert_array_equal(store.read_maps("a", np.arange(72), np.arange(40)), maps["a"])
    assert not together  # of a part zarrs would look at no checksum


@pytest.mark.parametrize("threads", [1, 8])
def test_of_an_earlier_version_a_shard_of_zeros_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(shards, "THREADS", threads)
    monkeypatch.setattr(shards, "ONE_THREAD_BYTES", 0)
    shape = {"shape": (32, 40, 9, 9), "shards": (16, 40, 9, 9), "chunks": (16, 1, 9, 9)}
    array = zarr.create_array(tmp_path, dtype="f2", compressors=BloscCodec(cname="lz4"), fill_value=0, **shape)
    maps = np.random.default_rng(0).random((32, 40, 9, 9)).astype(np.float16)
    maps[16:] = 0
    array[:] = maps
    assert not (tmp_path / "c/1/0/0/0").exists()
    found = np.full_like(maps, 7)
    shards.read([shards.Wanted(tmp_path, 40, (16, 9, 9), range(40), found, checked=False)], np.arange(32))
    np.testing.assert_array_equal(found, maps)


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_damaged_shard_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(shards, "THREADS", threads)
    monkeypatch.setattr(shards, "ONE_THREAD_BYTES", 0)
    store, _ = filled(tmp_path, list(range(20)))
    path = store.path / "layers/a/maps/c/0/0/0/0"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1
    swapped = whole[:-660] + whole[-644:-628] + whole[-660:-644] + whole[-628:]  # two chunks in the index
    for damaged in (whole[:100], b"", bytes(len(whole) // 2) + whole[len(whole) // 2 :], bytes(flipped), swapped, None):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        for filters in (np.arange(40), np.arange(5, 39)):
            with pytest.raises(MismatchError, match=r"c/0/0/0/0 (is|has|holds).*info --verify"):
                store.read_maps("a", np.arange(20), filters)


def test_a_shard_says_itself_that_its_index_is_damaged(tmp_path: Path) -> None:
    """Lines of the ledger were shorter once: without the end's checksum there is the index's own."""
    store, _ = filled(tmp_path, list(range(20)))
    ledger = store.path / "ledger.jsonl"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    for line in lines:
        line["files"] = {name: facts[:3] for name, facts in line.get("files", {}).items()}
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = store.path / "layers/a/maps/c/0/0/0/0"
    whole = path.read_bytes()
    path.write_bytes(whole[:-660] + whole[-644:-628] + whole[-660:-644] + whole[-628:])  # two chunks in the index
    with pytest.raises(MismatchError, match=r"c/0/0/0/0 has a damaged index"):
        FeatureStore(store.path).read_maps("a", np.arange(20), np.arange(40))


def test_a_unit_stays_small() -> None:
    assert shard_rows(393_000) == 256
    assert shard_rows(6_900_000) == 32
    assert shard_rows(10**9) == 16
