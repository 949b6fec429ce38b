"""Bits that flip and files that vanish: found, made again, or harmless, and never silently other maps."""

from pathlib import Path

import numpy as np
import pytest

from boldreams_cli.console import BoldreamsError
from boldreams_cli.features.feature_store import FeatureStore, verify

from ..conftest import Run
from .test_store import filled

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
