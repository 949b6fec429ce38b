"""Figures of scores that another process draws: the same files, and drawn here where that process is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from boldreams_cli import plots
from boldreams_cli.study.cells.drawing import Elsewhere

R = np.array([0.2, 0.5, np.nan, -0.1], np.float32)
CEILING = np.array([0.6, 0.7, 0.5, np.nan])
AREAS = {"V1": {"r_mean": 0.3, "r_ci": [0.1, 0.5], "ceiling_mean": float("nan"), "voxels": 3}}
Calls = list[Path]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Folders that this process draws into."""
    seen: Calls = []
    real = plots.accuracy

    def accuracy(folder: Path, *more: object) -> list[Path]:
        seen.append(folder)
        return real(folder, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(plots, "accuracy", accuracy)
    return seen


def test_the_files_are_those_that_are_drawn_here(here: Calls, tmp_path: Path) -> None:
    with closing(Elsewhere()) as drawing:
        for name in ("one", "two"):
            found = drawing.accuracy(tmp_path / name, R, CEILING, AREAS, "a title, ±")
            assert here == []
            expected = plots.accuracy(tmp_path / "here", R, CEILING, AREAS, "a title, ±")
            here.clear()
            assert [path.name for path in found] == [path.name for path in expected]
            for path, other in zip(found, expected, strict=True):
                assert path.parent == tmp_path / name
                assert path.read_bytes() == other.read_bytes()


def test_several_threads_get_each_its_own(here: Calls, tmp_path: Path) -> None:
    found: dict[int, list[Path]] = {}
    with closing(Elsewhere()) as drawing:

        def ask(number: int) -> None:
            found[number] = drawing.accuracy(tmp_path / str(number), R, CEILING, AREAS, str(number))

        threads = [Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert here == []
    assert {number: {path.parent.name for path in paths} for number, paths in found.items()} == {
        number: {str(number)} for number in range(4)
    }


def test_what_kills_it_is_not_missed(here: Calls, tmp_path: Path) -> None:
    with closing(Elsewhere()) as drawing:
        assert drawing._process is not None
        drawing._process.kill()
        for name in ("one", "two"):
            assert all(path.is_file() for path in drawing.accuracy(tmp_path / name, R, CEILING, AREAS, "title"))
    assert here == [tmp_path / "one", tmp_path / "two"]


def test_no_process_more_is_allowed(here: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: object, **more: object) -> None:
        raise BlockingIOError("no more")

    monkeypatch.setattr(subprocess, "Popen", refused)
    with closing(Elsewhere()) as drawing:
        assert all(path.is_file() for path in drawing.accuracy(tmp_path / "one", R, CEILING, AREAS, "title"))
    assert here == [tmp_path / "one"]


def test_files_in_the_users_folder_are_no_modules(here: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "numpy", "matplotlib"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(f'{__name__} of the folder')")
    monkeypatch.chdir(tmp_path)
    with closing(Elsewhere()) as drawing:
        assert all(path.is_file() for path in drawing.accuracy(tmp_path / "one", R, CEILING, AREAS, "title"))
    assert here == []


def test_what_is_wrong_is_said_here(here: Calls, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with closing(Elsewhere()) as drawing, pytest.raises(OSError, match="file"):
        drawing.accuracy(tmp_path / "file", R, CEILING, AREAS, "title")


def test_it_does_not_outlive_the_one_that_asks() -> None:
    code = "from boldreams_cli.study.cells.drawing import Elsewhere\nit = Elsewhere()\n"
    code += "print(it._process.pid, flush=True)\n"
    asker = subprocess.Popen([sys.executable, "-c", code + "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert asker.stdout is not None
    number = int(asker.stdout.readline())
    asker.send_signal(signal.SIGKILL)
    asker.communicate()
    end = time.monotonic() + 60
    while _runs(number):
        assert time.monotonic() < end
        time.sleep(0.05)


def _runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{number}/stat")  # whoever takes it over may not have asked for its exit code yet
    try:
        return not state.parent.parent.is_dir() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
