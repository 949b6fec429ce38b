"""Starts the installed command in processes of their own that need not import torch anew.

Each is forked from a server that has imported all that commands do: a process like any other, with signals, locks and
memory of its own, without the seconds of imports that would be half of the suite. Variables that libraries read when
they are imported have no effect there, but OMP_NUM_THREADS.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from multiprocessing.connection import Connection
from typing import IO

from boldreams_cli.machine import same_products

same_products()

import timm  # noqa: E402
import torch  # noqa: E402
from fontTools import subset  # noqa: E402

from boldreams_cli import cli  # noqa: E402
from boldreams_cli.encoding import fit, readouts  # noqa: E402
from boldreams_cli.encoding.evaluation import score  # noqa: E402
from boldreams_cli.encoding.evaluation.saved import files as score_files  # noqa: E402
from boldreams_cli.encoding.finetuning import run  # noqa: E402
from boldreams_cli.features import extraction  # noqa: E402
from boldreams_cli.interpret.attribution import record as attribution  # noqa: E402
from boldreams_cli.interpret.dreams import record as dreams  # noqa: E402
from boldreams_cli.interpret.words import record as words  # noqa: E402
from boldreams_cli.study.cells import running  # noqa: E402

IMPORTED = (cli, fit, readouts, score, score_files, run, extraction, attribution, dreams, words, running, timm, subset)
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.forked"])


def _command(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    first: Callable[[], None] | None,
    out: Connection,
    err: Connection,
) -> None:
    for number, pipe in ((1, out), (2, err)):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    if "OMP_NUM_THREADS" in environment:
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    (entry_point,) = entry_points(group="console_scripts", name="boldreams")
    sys.argv = ["boldreams", *arguments]
    if first is not None:
        first()
    entry_point.load()()


class Forked:
    """A command that was started; what it has of `subprocess.Popen` is as there, with pipes of text.

    Parameters
    ----------
    arguments : of the command.
    environment : all of it.
    first : called in the process before the command.
    """

    def __init__(
        self, arguments: Sequence[object], environment: Mapping[str, str], first: Callable[[], None] | None = None
    ) -> None:
        (out, its_out), (err, its_err) = CONTEXT.Pipe(duplex=False), CONTEXT.Pipe(duplex=False)
        given = ([str(argument) for argument in arguments], dict(environment), first, its_out, its_err)
        self._process = CONTEXT.Process(target=_command, args=given)
        self._process.start()
        for pipe in (its_out, its_err):
            pipe.close()
        self.stdout, self.stderr = (_text(pipe) for pipe in (out, err))
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; that of a signal is negative."""
        return self._process.exitcode

    poll = returncode.fget

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for its end."""
        self._process.join(timeout)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self._process.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def communicate(self) -> tuple[str, str]:
        """Wait for its end; what it wrote that was not read yet."""
        out: list[str] = []
        reading = threading.Thread(target=lambda: out.append(self.stdout.read()))
        reading.start()
        err = self.stderr.read()
        reading.join()
        self.wait()
        return out[0], err


def _text(pipe: Connection) -> IO[str]:
    stream = os.fdopen(os.dup(pipe.fileno()), encoding="utf-8")
    pipe.close()
    return stream
