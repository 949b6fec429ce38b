"""Bits that flip and files that vanish: found, made again, or harmless, and never silently other maps."""

from pathlib import Path

import numpy as np
import pytest

from boldreams_cli.console import BoldreamsError, MismatchError
from boldreams_cli.features.store.feature_store import FeatureStore
from boldreams_cli.features.store.verifying import verify

from ..conftest import Run
from .test_store import filled, write

IDS = list(range(100, 140))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray], dict[str, np.ndarray]]:
    store, maps = filled(tmp_path_factory.mktemp("damage"), IDS)
    return store.path, maps, {name: store.means(name, np.arange(40)) for name in maps}


def outcome(path: Path, maps: dict[str, np.ndarray], means: dict[str, np.ndarray]) -> str:
    """What a fit that reads everything would meet."""
    try:
        store = FeatureStore(path)
        done = np.flatnonzero(store.done("maps") & store.done("mean"))
        known = [IDS.index(image) for image in store.images[done].tolist() if image in IDS]
        assert len(known) == len(done), "an image that was never extracted"
        for name in maps:
            found = store.read_maps(name, done, np.arange(maps[name].shape[1]))
            np.testing.assert_array_equal(found, maps[name][known])
            np.testing.assert_array_equal(store.means(name, done), means[name][known])
    except BoldreamsError:
        return "named"
    return "harmless" if len(done) == len(IDS) else "to be made again"


@pytest.mark.parametrize("seed", range(4))
def test_no_bit_is_silently_wrong(whole: tuple, seed: int) -> None:
    path, maps, means = whole
    rng = np.random.default_rng(seed)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.stat().st_size)
    met = {"named": 0, "harmless": 0, "to be made again": 0}
    for _ in range(100):
        file = files[rng.integers(len(files))]
        before = file.read_bytes()
        spoilt = bytearray(before)
        spoilt[rng.integers(len(before))] ^= 1 << rng.integers(8)
        file.write_bytes(spoilt)
        try:
            met[outcome(path, maps, means)] += 1
        finally:
            file.write_bytes(before)
    assert outcome(path, maps, means) == "harmless"
    assert met["named"] + met["to be made again"] > 50


def test_no_file_that_vanishes_is_silently_missed(whole: tuple) -> None:
    path, maps, means = whole
    for file in sorted(file for file in path.rglob("*") if file.is_file() and "locks" not in file.parts):
        before = file.read_bytes()
        file.unlink()
        assert outcome(path, maps, means) != "harmless", file
        file.write_bytes(before)


def test_files_that_changed_places_are_found(whole: tuple, tmp_path: Path) -> None:
    """Chunks of means are all of one size, and each one's checksum fits it wherever it lies."""
    path, maps, means = whole
    other, _ = filled(tmp_path, IDS)  # of the same spec, and the same images
    for number in range(3):
        write(other, "mean", number, {name: values + np.float32(1) for name, values in means.items()})
    for name in means:
        files = [path / f"layers/{name}/mean/c/{number}/0" for number in range(3)]
        before = [file.read_bytes() for file in files]
        for one, two in ((0, 1), (1, 2)):
            files[one].write_bytes(before[two])
            files[two].write_bytes(before[one])
            assert outcome(path, maps, means) != "harmless", name
            files[one].write_bytes(before[one])
            files[two].write_bytes(before[two])
        files[0].write_bytes((other.path / files[0].relative_to(path)).read_bytes())
        assert outcome(path, maps, means) != "harmless", name
        files[0].write_bytes(before[0])
    assert outcome(path, maps, means) == "harmless"


def test_shards_of_equal_size_that_changed_places_are_named(tmp_path: Path) -> None:
    """The small layer's numbers do not pack, so that its shards have one size and one index."""
    store, _ = filled(tmp_path, IDS)
    one, other = (store.path / f"layers/b/maps/c/{number}/0/0/0" for number in (0, 1))
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)
    assert {(entry["kind"], entry["unit"]) for entry in verify(store)} == {("maps", 0), ("maps", 1)}


@pytest.mark.parametrize("name", ["images", "layers/a/mean", "layers/a/maps"])
def test_no_bit_of_metadata_is_silently_wrong(whole: tuple, name: str) -> None:
    """Numbers of rows have no checksum, as they grow."""
    path, maps, means = whole
    file = path / name / "zarr.json"
    before = file.read_bytes()
    place = before.index(b'"shape"')
    for position in range(place, before.index(b"]", place)):
        for bit in range(8):
            spoilt = bytearray(before)
            spoilt[position] ^= 1 << bit
            file.write_bytes(spoilt)
            outcome(path, maps, means)
    file.write_bytes(before)
    assert outcome(path, maps, means) == "harmless"


def test_no_line_of_the_ledger_that_vanishes_is_missed(whole: tuple) -> None:
    path, maps, means = whole
    ledger = path / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines):
        ledger.write_bytes(b"".join(lines[:number] + lines[number + 1 :]))
        found = outcome(path, maps, means)
        assert found == "to be made again" or b'"kind": "rows"' in line
    ledger.write_bytes(b"".join(lines))


def test_damaged_units_are_named_and_only_they_are_made_again(tmp_path: Path) -> None:
    store, _ = filled(tmp_path, IDS)
    assert verify(store) == []
    shard = store.path / "layers/a/maps/c/1/0/0/0"
    spoilt = bytearray(shard.read_bytes())
    spoilt[100] ^= 4
    shard.write_bytes(spoilt)
    (entry,) = verify(store)
    assert (entry["kind"], entry["unit"], entry["file"]) == ("maps", 1, "layers/a/maps/c/1/0/0/0")
    assert "checksum" in entry["problem"]
    assert store.done("maps").nonzero()[0].tolist() == [*range(16), *range(32, 40)]
    assert store.done("mean").all()


def test_images_that_were_lost_come_back_in_their_order(tmp_path: Path) -> None:
    store, _ = filled(tmp_path, IDS)
    (store.path / "images/c/0").unlink()
    again = FeatureStore(store.path)
    assert not again.done().any()
    assert again.add_images([139, 200]) == 1
    assert again.images.tolist() == [*IDS, 200]
    assert again.done().tolist() == [True] * 40 + [False]


def test_a_store_deleted_by_hand_begins_anew(tmp_path: Path) -> None:
    import shutil

    store, _ = filled(tmp_path, IDS)
    ledger = (store.path / "ledger.jsonl").read_bytes()
    shutil.rmtree(store.path)
    again = FeatureStore.create(tmp_path, store.spec, "random:0")
    again.add_images(IDS)
    assert not again.done().any()
    (again.path / "ledger.jsonl").write_bytes(ledger)  # another store's: its lines are foreign
    assert not again.done().any()


def test_damaged_means_are_named_and_made_again(tmp_path: Path) -> None:
    store, maps = filled(tmp_path, IDS)
    expected = store.means("a", np.arange(40))
    file = store.path / "layers/a/mean/c/0/0"
    before = file.read_bytes()
    file.write_bytes(before[:8] + bytes([before[8] ^ 1]) + before[9:])  # its end is as it was
    again = FeatureStore(store.path)
    with pytest.raises(MismatchError, match=r"layers/a/mean/c/0/0 is damaged.*run boldreams info --verify"):
        again.means("a", np.arange(16))
    assert [(entry["kind"], entry["unit"]) for entry in verify(again)] == [("mean", 0)]
    assert not again.done("mean")[:16].any()
    assert again.done("mean")[16:].all()
    write(again, "mean", 0, {name: values.astype(np.float32).mean((2, 3)) for name, values in maps.items()})
    np.testing.assert_array_equal(again.means("a", np.arange(40)), expected)


def test_whoever_writes_a_shard_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit of one subject while another's images are added to the last shard, which both share."""
    from boldreams_cli import stores

    store, maps = filled(tmp_path, IDS)
    reader = FeatureStore(store.path)
    lock = store.writable.unit_lock("maps", 2)
    add = store.writable.add

    def go_on(seconds: float) -> None:
        if lock._stream is not None:
            add(*noted[0], **noted[1])
            lock.release()

    noted: list = []
    monkeypatch.setattr(store.writable, "add", lambda *some, **facts: noted.extend((some, facts)))
    with lock:
        write(store, "maps", 2, {name: values * 2 for name, values in maps.items()})
        monkeypatch.setattr(stores.time, "sleep", go_on)
        assert reader.rows(IDS).tolist() == list(range(40))


def test_what_the_command_line_says_of_damage_is_what_mends_it(run: Run, tmp_path: Path) -> None:
    """Metadata that grows has no checksum, and the numbers of filters are no unit's: both are named all the same."""
    path = filled(tmp_path / "cache", IDS)[0].path
    verify = ("info", "--verify", "--json", "--cache", tmp_path / "cache")
    for name in ("layers/a/mean/zarr.json", "images/zarr.json", "layers/a/filters/c/0", "layers/zarr.json"):
        file = next(iter(path.glob(name.replace("/a/", "/*/"))))
        before = file.read_bytes()
        file.write_bytes(bytes([before[0] ^ 1]) + before[1:])
        row = run(*verify, code=1).json["damaged"][0]
        assert row["run"] == f"rm -r {path} and boldreams extract", "no extract makes it again in this store"
        file.write_bytes(before)
        assert run(*verify).json["damaged"] == []
