"""Resumable stores: made whole, units locked and written beside, a ledger that tells damage."""

from __future__ import annotations

import errno
import fcntl
import json
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

from boldreams_cli import files, locks, stores, zarr_files
from boldreams_cli.commands.options.errors import described
from boldreams_cli.console import BoldreamsError, MismatchError, StopFlag, StoppedError
from boldreams_cli.locks import Lock
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


def test_one_thread_at_a_time_and_the_lock_is_let_go(tmp_path: Path) -> None:
    path = tmp_path / "a" / "x.lock"
    with (
        Lock(path, "it"),
        pytest.raises(BoldreamsError, match=r"another process .* is working on it"),
        Lock(path, "it"),
    ):
        pass
    with Lock(path, "it"):
        pass


def test_whoever_waits_can_be_stopped(tmp_path: Path) -> None:
    flag = StopFlag()
    flag.signal = signal.SIGTERM
    with (
        Lock(tmp_path / "x", "it"),
        pytest.raises(StoppedError, match="waiting for another process"),
        Lock(tmp_path / "x", "it", wait=True, stop=flag),
    ):
        pass


@pytest.fixture
def without_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_without_flock_a_link_is_the_lock(
    tmp_path: Path, without_flock: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "boldreams")
    path = tmp_path / "x.lock"
    for _ in range(2):
        with Lock(path, "it"), pytest.raises(BoldreamsError, match=rf"\({os.getpid()} on "), Lock(path, "it"):
            pass
    assert not (tmp_path / "x.lock.held").exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["x.lock"]
    assert caplog.text.count("without flock") == 1


@pytest.mark.parametrize("flock", [True, False])
def test_whether_it_is_held_is_asked_without_writing(
    tmp_path: Path, request: pytest.FixtureRequest, flock: bool
) -> None:
    if not flock:
        request.getfixturevalue("without_flock")
    lock, path = Lock(tmp_path / "x.lock", "it"), tmp_path / "x.lock"
    assert not lock.is_held()
    assert not list(tmp_path.iterdir())
    with lock:
        written = path.read_bytes()
        assert Lock(path, "it").is_held()
        assert path.read_bytes() == written
    assert not Lock(path, "it").is_held()
    assert path.read_bytes() == written


def left_behind(path: Path, **changes: object) -> Path:
    held = path.with_name(path.name + ".held")
    held.write_text(json.dumps(locks._myself() | changes))
    return held


def test_without_flock_a_dead_holder_is_taken_over_and_a_living_one_is_not(tmp_path: Path, without_flock: None) -> None:
    path = tmp_path / "x.lock"
    left_behind(path)
    with pytest.raises(BoldreamsError, match="is working on it"), Lock(path, "it"):
        pass
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for changes in ({"pid": dead.pid}, {"start": "1"}):
        left_behind(path, **changes)
        with Lock(path, "it"):
            assert json.loads((tmp_path / "x.lock.held").read_text())["pid"] == os.getpid()


def test_without_flock_another_machine_counts_by_its_signs_of_life(tmp_path: Path, without_flock: None) -> None:
    path = tmp_path / "x.lock"
    held = left_behind(path, host="elsewhere", pid=1)
    with pytest.raises(BoldreamsError, match="1 on elsewhere"), Lock(path, "it"):
        pass
    long_ago = time.time() - locks.FORSAKEN - 5
    os.utime(held, (long_ago, long_ago))
    with Lock(path, "it"):
        pass


def test_without_flock_the_holder_gives_signs_of_life(
    tmp_path: Path, without_flock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "TOUCHED", 0.02)
    with Lock(tmp_path / "x", "it"):
        os.utime(tmp_path / "x.held", (1, 1))
        deadline = time.monotonic() + 10
        while (tmp_path / "x.held").stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / "x.held").stat().st_mtime > 1


def _count(folder: Path, times: int, refuse: bool) -> None:
    if refuse:

        def no_flock(*arguments: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        fcntl.flock = no_flock  # type: ignore[assignment]
    for _ in range(times):
        with Lock(folder / "lock", "the count", wait=True):
            number = int((folder / "count").read_text())
            time.sleep(0.001)
            (folder / "count").write_text(str(number + 1))


@pytest.mark.parametrize("refuse", [False, True])
def test_four_processes_count_together(tmp_path: Path, refuse: bool) -> None:
    (tmp_path / "count").write_text("0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_count, args=(tmp_path, 8, refuse)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "count").read_text() == "32"


def test_no_room_is_said_whatever_the_library_raises(tmp_path: Path) -> None:
    class TheirError(Exception):
        pass

    for error in (
        TheirError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("Can't decrement id ref count (file write failed: errno = 28, error message = 'No space left')"),
        TheirError('IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })'),
        OSError(errno.ENOSPC, "No space left on device"),
    ):
        with pytest.raises(OSError, match="No space left") as raised, files.written_whole(tmp_path / "a.bin"):
            raise error
        assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "a.bin"))
        said = described(raised.value)
        assert said is not None
        assert said.startswith(f"{tmp_path / 'a.bin'}: No space left on device; make room")
    with pytest.raises(TheirError), files.written_whole(tmp_path / "a.bin"):
        raise TheirError("another error (os error 5)")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_of_a_file_is_deleted_a_day_later(tmp_path: Path) -> None:
    killed = "import os, sys; from boldreams_cli.files import written_whole\n"
    killed += "with written_whole(__import__('pathlib').Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    names = ("a[1].nii.gz", "b.nii.gz")
    for name in names:
        subprocess.run([sys.executable, "-c", killed, tmp_path / name], check=False)
    left = sorted(tmp_path.iterdir())
    assert [path.name.startswith(f".partial-{name}-") for path, name in zip(left, names, strict=True)] == [True, True]
    files.write_text(tmp_path / names[0], "whole")
    assert sorted(tmp_path.iterdir()) == [*left, tmp_path / names[0]]  # another process may be writing it
    for path in left:
        os.utime(path, (time.time() - 86500,) * 2)
    files.write_text(tmp_path / names[0], "whole")
    assert sorted(tmp_path.iterdir()) == [left[1], tmp_path / names[0]]


def test_a_written_file_is_whole(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a.json", "before")

    def fail() -> None:
        with files.written_whole(tmp_path / "a.json") as temporary:
            temporary.write_text("hal")
            assert (tmp_path / "a.json").read_text() == "before"
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        fail()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "before"
    (tmp_path / "check").write_bytes(b"123456789")
    assert files.checksums(tmp_path / "check") == (0xE3069283, 0xCBF43926)  # the polynomials' check values
