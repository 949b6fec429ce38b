"""Responses prepared in parts: stopped and gone on with, by several processes, sessions side by side."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boldreams_cli.console import StopFlag, StoppedError
from boldreams_cli.data.nsd.maker import NSD
from boldreams_cli.data.prepared import preparing
from boldreams_cli.data.prepared.preparing import complete_stores
from boldreams_cli.data.responses import SESSION
from boldreams_cli.stores import ResumableStore

from .conftest import Experiment
from .test_responses import expected_betas, prepare


def stopped_after(experiment: Experiment, sessions: int) -> tuple[NSD, StopFlag]:
    """A data set that gets a signal when so many sessions have been read."""
    dataset, stop, left = experiment.dataset, StopFlag(), [sessions]
    read = dataset.read_betas

    def counted(*arguments: Any) -> np.ndarray:
        if not left[0]:
            stop.signal = signal.SIGTERM
        left[0] -= 1
        return read(*arguments)

    dataset.read_betas = counted  # type: ignore[method-assign]
    return dataset, stop


@pytest.mark.parametrize("subject", [1, 2])
def test_stopping_and_resuming_gives_the_same_store(
    experiment: Experiment, cache: Path, tmp_path: Path, subject: int
) -> None:
    whole = prepare(experiment, subject, tmp_path / "other")
    for kept in (1, 2):  # a stop within a session, when one more is done
        dataset, stop = stopped_after(experiment, 1)
        with pytest.raises(StoppedError, match=f"{kept} of 3 sessions are kept"):
            dataset.prepare(subject, cache, stop=stop)
        assert complete_stores(cache, subject) == []
    responses = prepare(experiment, subject, cache)
    np.testing.assert_array_equal(responses.read_betas(), whole.read_betas())
    assert responses.path.name == whole.path.name
    assert complete_stores(cache, subject) == [responses.path]
    assert len(responses.store.lines(SESSION)) == 3, "no session was made twice"


def test_a_stop_between_sessions_says_how_many_are_kept(experiment: Experiment, cache: Path) -> None:
    dataset, stop = experiment.dataset, StopFlag()
    read = dataset.read_betas

    def last_read(*arguments: Any) -> np.ndarray:
        betas = read(*arguments)
        stop.signal = signal.SIGTERM
        return betas

    dataset.read_betas = last_read  # type: ignore[method-assign]
    with pytest.raises(StoppedError, match="1 of 3 sessions are kept"):
        dataset.prepare(2, cache, stop=stop)


def test_several_processes_share_the_work(experiment: Experiment, cache: Path) -> None:
    """Eight at once on a fresh cache: none fails, each session is made once."""
    script = (
        "import sys; from pathlib import Path; from boldreams_cli.data.prepared.choosing import responses_for\n"
        "print(responses_for(Path(sys.argv[1]), 2, Path(sys.argv[2])).path)"
    )
    command = [sys.executable, "-c", script, str(cache), str(experiment.root)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    said = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0] * 8, said
    made = prepare(experiment, 2, cache)
    assert {out.strip() for out, _ in said} == {str(made.path)}
    assert len(made.store.lines(SESSION)) == 3
    np.testing.assert_allclose(made.read_betas(), expected_betas(experiment, 2, [1, 2, 3]), atol=1e-5)


def test_two_sessions_at_once_make_the_same_store(
    experiment: Experiment, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = prepare(experiment, 2, cache)
    monkeypatch.setattr(preparing, "SMALL_SESSION", 0)
    one = prepare(experiment, 2, tmp_path / "one at a time")
    for path in (two.path / "betas" / "c").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (one.path / path.relative_to(two.path)).read_bytes()
    contents = [{line["unit"]: line["content"] for line in made.store.lines(SESSION)} for made in (one, two)]
    assert contents[0] == contents[1]


def test_a_session_in_another_process_hands_is_waited_for(experiment: Experiment, cache: Path) -> None:
    dataset, stop = stopped_after(experiment, 0)
    with pytest.raises(StoppedError):
        dataset.prepare(2, cache, stop=stop)
    store = ResumableStore(next((cache / "responses").glob("subj02-*.zarr")))
    order: list[int] = []
    waiting = experiment.dataset
    read = waiting.read_betas

    def noted(subject: int, session: int, *more: Any) -> np.ndarray:
        order.append(session)
        if session == 3:
            lock.release()
        return read(subject, session, *more)

    waiting.read_betas = noted  # type: ignore[method-assign]
    lock = store.unit_lock(SESSION, 1)
    assert lock.take()
    waiting.prepare(2, cache)
    assert set(order[:2]) == {2, 3}
    assert order[2:] == [1]
