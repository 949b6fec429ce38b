"""A score's figures, drawn by a process of its own while cells run side by side.

matplotlib holds Python's lock nearly all the time: a fit in the thread beside it takes ten times as long meanwhile.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli import plots
from boldreams_cli.console import logger

# Nothing is imported before the path is this one's: a file of that name may lie in the folder that a user is in.
START = "import sys; sys.path[:] = sys.argv[1:]; from boldreams_cli.study.cells.drawing import serve; serve()"


class Elsewhere:
    """Draws as `plots.accuracy` does, one after another in another process, until `close`.

    That process ends with its input, so also when this one is killed. Where it is gone, figures are drawn here.
    """

    def __init__(self) -> None:
        self._lock = Lock()  # one is drawn at a time
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", START, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the study, which ends it
            )
        except OSError as error:  # no process more is allowed
            logger.debug("figures are drawn here: %s", error)

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # it has nothing in hand: whoever asked has waited
            process.communicate()

    def accuracy(
        self,
        folder: Path,
        r: NDArray[np.floating],
        ceiling: NDArray[np.floating],
        areas: Mapping[str, Mapping[str, Any]],
        title: str,
    ) -> list[Path]:
        """See `plots.accuracy`."""
        values = {name: [part.tolist(), str(part.dtype)] for name, part in (("r", r), ("ceiling", ceiling))}
        asked = json.dumps({"folder": str(folder), "areas": areas, "title": title, **values})
        with self._lock:
            try:
                return self._ask(asked)
            except (OSError, EOFError, ValueError) as error:
                logger.debug("figures are drawn here: %s", error)
                self.close()
            return plots.accuracy(folder, r, ceiling, areas, title)

    def _ask(self, asked: str) -> list[Path]:
        if self._process is None:
            raise EOFError("there is no other process")
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(asked.encode() + b"\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or "null")
        if not isinstance(answer, list):
            raise EOFError(answer or "the other process has ended")
        return [Path(file) for file in answer]


def serve() -> None:
    """Draw what standard input asks for, until it ends; each answer is a line: the files, or why there are none."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever a library prints is no answer
    for line in iter(source.readline, b""):
        asked = json.loads(line)
        r, ceiling = (np.array(*asked[name]) for name in ("r", "ceiling"))
        try:
            files = plots.accuracy(Path(asked["folder"]), r, ceiling, asked["areas"], asked["title"])
            answer: list[str] | str = [str(file) for file in files]
        except (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
            answer = f"{type(error).__name__}: {error}"  # whoever asked draws them, and says what is wrong
        sink.write(json.dumps(answer).encode() + b"\n")
        sink.flush()
