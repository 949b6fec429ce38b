"""Resumable stores: made whole, units locked and written beside, a ledger that tells damage."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from boldreams_cli import stores, zarr_files
from boldreams_cli.console import BoldreamsError, MismatchError
from boldreams_cli.stores import ResumableStore


def build(path: Path) -> None:
    group = zarr.open_group(path, mode="a")
    group.create_array("table", data=np.arange(6), chunks=(6,))
    group.create_array(
        "maps",
        shape=(10, 3, 2),
        chunks=(4, 1, 2),
        shards=(4, 3, 2),
        dtype="f2",
        compressors=[BloscCodec(cname="lz4", shuffle="noshuffle"), Crc32cCodec()],
        fill_value=0,
    )
    group.create_array("means", shape=(10,), chunks=(4,), dtype="f4", fill_value=np.nan, compressors=Crc32cCodec())


def made(path: Path) -> ResumableStore:
    return ResumableStore.create(path, build, {"made": "up"})


def write_unit(store: ResumableStore, unit: int, value: float) -> None:
    with store.unit_lock("maps", unit):
        names = [
            store.write_array("maps", (unit, 0, 0), np.full((4, 3, 2), value, "f2")),
            store.write_array("means", (unit,), np.full(4, value, "f4")),
        ]
        store.add("maps", unit, names, value=value)


@pytest.fixture
def store(tmp_path: Path) -> ResumableStore:
    return made(tmp_path / "x.zarr")


def test_units_are_what_was_written_and_zeros_are_files_too(store: ResumableStore) -> None:
    for unit, value in enumerate((1.5, 0.0, 3.0)):
        write_unit(store, unit, value)
    maps = zarr_files.open_array(store.path / "maps")[:]
    np.testing.assert_array_equal(maps[:, 0, 0], [1.5] * 4 + [0] * 4 + [3] * 2)
    assert (store.path / "maps/c/1/0/0").is_file()
    assert {unit: line["value"] for unit, line in store.done("maps").items()} == {0: 1.5, 1: 0, 2: 3}
    assert not list(store.path.glob(".partial*"))
    assert list(store.verify()) == []


def test_a_shard_that_ends_early_is_padded_with_the_fill_value(store: ResumableStore) -> None:
    store.write_array("means", (0,), np.ones(2, "f4"))
    np.testing.assert_array_equal(zarr_files.open_array(store.path / "means")[:4], [1, 1, np.nan, np.nan])


def test_every_file_of_a_store_that_was_never_finished_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    (path / "old").mkdir(parents=True)
    (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    (tmp_path / ".partial-x.zarr-abc").mkdir()
    store = made(path)
    assert not (path / "old").exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["x.zarr", "x.zarr.lock"]
    assert made(path).id == store.id


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        build(path)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(BoldreamsError, match=r"No space left on device; make room"):
        ResumableStore.create(tmp_path / "x.zarr", fail, {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.zarr.lock"]


def _create(path: Path, barrier: object, ids: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    ids.put(made(path).id)  # type: ignore[attr-defined]


def test_eight_processes_make_one_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, ids = context.Barrier(8), context.Queue()
    processes = [context.Process(target=_create, args=(tmp_path / "x.zarr", barrier, ids)) for _ in range(8)]
    for process in processes:
        process.start()
    found = {ids.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(found) == 1


@pytest.mark.parametrize(
    ("part", "edited"), [('"up"', '"down"'), ('"store_id": "', '"store_id": "0'), ('"seal"', '"s"')]
)
def test_edited_attributes_are_refused(store: ResumableStore, part: str, edited: str) -> None:
    path = store.path / "zarr.json"
    text = path.read_text()
    assert part in text
    path.write_text(text.replace(part, edited))
    with pytest.raises(MismatchError, match=r"seal.*delete"):
        ResumableStore(store.path)


def test_torn_edited_foreign_and_malformed_lines_are_ignored(store: ResumableStore, tmp_path: Path) -> None:
    write_unit(store, 0, 1)
    ledger = store.path / "ledger.jsonl"
    (line,) = ledger.read_text().splitlines()
    other = made(tmp_path / "y.zarr")
    write_unit(other, 1, 2)
    foreign = (other.path / "ledger.jsonl").read_text().strip()
    edited = line.replace('"unit": 0', '"unit": 1')
    assert edited != line
    for bad in ("[]", "5", "null", '{"kind": "maps"}', foreign, edited, "\x00\xff", line[: len(line) // 2]):
        ledger.write_text(f"{bad}\n{line}\n{bad}")
        assert list(store.done("maps")) == [0]
        write_unit(store, 2, 3)  # behind a torn line as well
        assert sorted(store.done("maps")) == [0, 2]
    ledger.unlink()
    assert store.done("maps") == {}


def test_what_is_done_must_be_there(store: ResumableStore) -> None:
    for unit in range(3):
        write_unit(store, unit, unit + 1)
    (store.path / "maps/c/0/0/0").unlink()
    whole = (store.path / "means/c/1").read_bytes()
    (store.path / "means/c/1").write_bytes(whole[:-1])
    assert list(store.done("maps")) == [2]
    write_unit(store, 0, 1)
    assert sorted(store.done("maps")) == [0, 2]


def test_files_of_equal_size_that_changed_places_are_not_done(store: ResumableStore, tmp_path: Path) -> None:
    """Each has checksums of its own that fit it: what tells them apart is the ledger."""
    for unit in range(3):
        write_unit(store, unit, unit + 1)
    one, other = (store.path / f"means/c/{unit}" for unit in (0, 1))
    first, second = one.read_bytes(), other.read_bytes()
    assert len(first) == len(second)
    one.write_bytes(second)
    other.write_bytes(first)
    assert list(store.done("maps")) == [2]
    assert store.done_unit("maps", 0) is None
    one.write_bytes(first)
    other.write_bytes(second)
    assert list(ResumableStore(store.path).done("maps")) == [0, 1, 2]
    foreign = made(tmp_path / "y.zarr")
    write_unit(foreign, 0, 9)
    (store.path / "maps/c/0/0/0").write_bytes((foreign.path / "maps/c/0/0/0").read_bytes())
    assert store.damaged("maps", 0)


def test_a_unit_is_read_whole_once_in_a_process(store: ResumableStore) -> None:
    write_unit(store, 0, 1)
    path = store.path / "maps/c/0/0/0"
    whole = path.read_bytes()
    assert store.damaged("maps", 0) == []
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert store.damaged("maps", 0) == [], "it was compared before in this process"
    again = ResumableStore(store.path)
    assert again.done("maps"), "of another size or end it is not"
    for _ in range(2):
        ((name, why),) = again.damaged("maps", 0)
        assert (name, "checksum" in why) == ("maps/c/0/0/0", True)
    assert again.done("maps"), "reading writes nothing"
    assert len(list(again.verify())) == 1
    assert not store.done("maps"), "whoever looks at the ledger sees it at once"
    assert again.damaged("maps", 0) == [("maps 0", "is not done")]
    write_unit(store, 0, 1)
    assert again.damaged("maps", 0) == []


def test_whoever_writes_a_unit_is_waited_for_before_it_is_called_damaged(
    store: ResumableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are renamed before the line that knows them is written."""
    write_unit(store, 0, 1)
    lock = store.unit_lock("maps", 0)
    with lock:
        files = [store.write_array("maps", (0, 0, 0), np.full((4, 3, 2), 5, "f2")), "means/c/0"]

        def go_on(seconds: float) -> None:
            store.add("maps", 0, files, value=5)
            lock.release()

        monkeypatch.setattr(stores.time, "sleep", go_on)
        assert ResumableStore(store.path).damaged("maps", 0) == []
    assert store.done("maps")[0]["value"] == 5


def test_verify_waits_for_whoever_writes_a_unit_of_that_name(
    store: ResumableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told that a store is damaged which is only being written, people delete it."""
    write_unit(store, 0, 1)
    store.add("mean", 0, ["means/c/0"])
    lock = store.unit_lock("maps", 0)  # whoever makes maps writes means as well
    with lock:
        files = [
            store.write_array("maps", (0, 0, 0), np.full((4, 3, 2), 5, "f2")),
            store.write_array("means", (0,), np.full(4, 5, "f4")),
        ]

        def go_on(seconds: float) -> None:
            store.add("mean", 0, files[1:])
            store.add("maps", 0, files, value=5)
            lock.release()

        monkeypatch.setattr(stores.time, "sleep", go_on)
        assert list(ResumableStore(store.path).verify()) == []
    assert (store.done("maps")[0]["value"], list(store.done("mean"))) == (5, [0])


def test_verify_names_damage_and_makes_only_that_anew(store: ResumableStore) -> None:
    for unit in range(3):
        write_unit(store, unit, unit + 1)
    path = store.path / "maps/c/1/0/0"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)
    assert [(kind, unit, file) for kind, unit, file, _ in store.verify()] == [("maps", 1, "maps/c/1/0/0")]
    assert sorted(store.done("maps")) == [0, 2]
    write_unit(store, 1, 2)
    assert sorted(store.done("maps")) == [0, 1, 2]
    assert list(store.verify()) == []
    table = store.path / "table/c/0"
    table.write_bytes(table.read_bytes()[:-2] + b"xy")
    assert [found[:3] for found in store.verify()] == [("static", "", "table/c/0")]
    with pytest.raises(MismatchError, match="table/c/0 is damaged"):
        store.check_static()


def test_files_are_on_the_disk_before_the_line_that_says_so(
    store: ResumableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        events.append("sync " + str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real_sync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        assert f"sync {self}" in events, "renamed before it was on the disk"
        events.append(f"rename {target}")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    name = store.write_array("maps", (0, 0, 0), np.ones((4, 3, 2), "f2"))
    assert events[-1] == f"rename {store.path / name}"
    store.add("maps", 0, [name])
    line = events.index(f"sync {store.path / 'ledger.jsonl'}")
    assert events.index(f"sync {(store.path / name).parent}") < line
    assert events.index(f"sync {store.path / name}") < line


KILLED = """
import sys, numpy as np
from pathlib import Path
from boldreams_cli.stores import ResumableStore
store = ResumableStore(Path(sys.argv[1]))
with store.unit_lock("maps", 1):
    print("ready", flush=True)
    while True:
        for value in (2, 9):
            store.add("maps", 1, [store.write_array("maps", (1, 0, 0), np.full((4, 3, 2), value, "f2"))], value=value)
"""


def test_killed_while_a_unit_is_written_it_is_whole_or_not_done(store: ResumableStore) -> None:
    write_unit(store, 0, 1)
    former = 0.0
    for pause in (0.01, 0.05, 0.13):
        process = subprocess.Popen([sys.executable, "-c", KILLED, store.path], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        with (
            pytest.raises(BoldreamsError, match=rf"another process \({process.pid} on .*\) is working on maps 1"),
            store.unit_lock("maps", 1),
        ):
            pass
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert 0 in store.done("maps")
        values = set(zarr_files.open_array(store.path / "maps")[4:8].ravel().tolist())
        assert values in ({former}, {2.0}, {9.0})
        write_unit(store, 1, 5)
        former = 5.0
        assert sorted(store.done("maps")) == [0, 1]
        assert not list(store.path.glob(".partial*"))
        assert list(store.verify()) == []


def test_a_full_disk_is_named_and_leaves_what_was_there(store: ResumableStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write_unit(store, 0, 1)
    write_one = stores._write_one
    for error in (OSError(errno.ENOSPC, "No space left on device"), RuntimeError("File too large (os error 27)")):

        def fail(folder: Path, *rest: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(stores, "_write_one", fail)
        with pytest.raises(BoldreamsError, match=r"cannot write .*maps/c/0/0/0: .*make room") as raised:
            write_unit(store, 0, 7)
        assert raised.value.exit_code == 1
        assert list(store.verify()) == []
    monkeypatch.setattr(stores, "_write_one", write_one)
    write_unit(store, 0, 7)
    assert store.done("maps")[0]["value"] == 7
