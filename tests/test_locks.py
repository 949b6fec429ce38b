"""Locks between processes, with flock and without."""

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

import pytest

from boldreams_cli import locks
from boldreams_cli.console import BoldreamsError, StopFlag, StoppedError
from boldreams_cli.locks import Lock


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
