"""What every command says and how it stops: errors, logging, progress, signals."""

from __future__ import annotations

import logging
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar

logger = logging.getLogger("boldreams")
MEANT = 4  # choices that begin as was typed, that are all named
SHORTEST = 10  # columns of a bar, or of a note beside it
SECONDS_BETWEEN_LINES = 5.0


class BoldreamsError(Exception):
    """Something went wrong that the user can act on; the message says how. Exit code 1."""

    exit_code = 1


class ChoiceError(BoldreamsError):
    """What was asked for is not among the valid choices, which the message lists. Exit code 2."""

    exit_code = 2


class MismatchError(BoldreamsError):
    """The store or model does not match what was asked. Exit code 3."""

    exit_code = 3


class StoppedError(BoldreamsError):
    """Stopped by a signal, with all finished work kept; the same command resumes it. Exit code 75."""

    exit_code = 75


class SignalExit(SystemExit):
    """A signal ended the program: an exception, so that what is half written is cleared away on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)  # a shell's exit code for it
        self.signal = signal.Signals(number)

    def __str__(self) -> str:
        return f"ended by {self.signal.name}"


def listing(names: Iterable[object], limit: int = 12) -> str:
    """Join names for an error message, cut after `limit`."""
    shown = [str(name) for name in names]
    more = f", ... ({len(shown)} in all)" if len(shown) > limit else ""
    return (", ".join(shown[:limit]) or "none") + more


def quoted(value: object) -> str:
    """A path or a name as it is typed in a shell, for commands that a message names."""
    return shlex.quote(str(value))


def meant(typed: str, choices: Iterable[object]) -> str:
    """`` (did you mean X?)`` for an error message, or nothing where no choice is near; all of a few that begin so."""
    from difflib import get_close_matches

    known = {str(choice).lower(): str(choice) for choice in choices}
    begun = [choice for name, choice in known.items() if name.startswith(typed.lower())]
    if 1 < len(begun) <= MEANT:
        return f" (did you mean {' or '.join(begun)}?)"
    near = get_close_matches(typed.lower(), known, n=1)
    return f" (did you mean {known[near[0]]}?)" if near else ""


class LogHandler(logging.StreamHandler[Any]):
    """To stderr; above the progress bar while one is shown."""

    bars: ClassVar[list[Any]] = []  # rich consoles of those shown, the innermost last

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        if self.bars:
            self.bars[-1].print(self.format(record), markup=False, highlight=False, soft_wrap=True)
        else:
            super().emit(record)


def start_logging(verbosity: int) -> None:
    """Send the package's log to stderr: -1 warnings only, 0 info, 1 debug."""
    handler = LogHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel({-1: logging.WARNING, 0: logging.INFO}.get(verbosity, logging.DEBUG))
    logger.propagate = False


class Progress:
    """Counts finished units; a bar on a terminal, else a plain line every few seconds.

    Parameters
    ----------
    what : the activity, e.g. ``"extract alexnet"``.
    total : units to do.
    unit : plural noun, e.g. ``"images"``.
    """

    def __init__(self, what: str, total: int, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self.start = self._last = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def advance(self, count: int = 1, note: str = "") -> None:
        """Report `count` more units as done; `note` is shown beside them (a loss, say)."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._task, advance=count, note=note)
        elif self.done < self.total and time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            logger.info(self.line(note))

    def line(self, note: str = "") -> str:
        """Say how far it is, how fast, and how long it will still take."""
        seconds = max(time.monotonic() - self.start, 1e-9)
        rate = self.done / seconds
        left = f", {duration((self.total - self.done) / rate)} left" if rate and self.done < self.total else ""
        return f"{self.what}: {self.done}/{self.total} {self.unit}, {rate:.3g}/s{left}{', ' + note if note else ''}"


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Progress]:
    """Show progress on stderr while the block runs, of several threads in plain lines; silent under ``-q``."""
    state = Progress(what, total, unit)
    alone = threading.current_thread() is threading.main_thread()
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if not (alone and terminal and logger.isEnabledFor(logging.INFO)):
        yield state
        if state.done:
            logger.info(state.line())
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns, title = _bar(what, total, unit, console.width)
    with Bar(*columns, console=console) as bar:
        state._bar, state._task = bar, bar.add_task(title, total=total, note="")
        LogHandler.bars.append(console)
        try:
            yield state
        finally:
            LogHandler.bars.remove(console)
    logger.debug(state.line())


def _bar(what: str, total: int, unit: str, width: int) -> tuple[list[Any], str]:
    """Columns of a bar and its title: count and time are always whole, and the others share what they leave."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column

    counted = MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn()
    room = width - len(f"{total}/{total} {unit} 0:00:00") - 4
    title = what if len(what) <= room - SHORTEST else f"{what[: max(0, room - SHORTEST - 1)]}…"
    length = min(40, max(SHORTEST, (room - len(title)) // 2))
    note = room - len(title) - length - 1
    columns = [TextColumn("{task.description}"), BarColumn(length), *counted]
    if note >= SHORTEST:
        columns.append(TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, max_width=note)))
    return columns, title


def duration(seconds: float) -> str:
    """Write a time as ``42 s``, ``3 min 10 s`` or ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: float) -> str:
    """Write a number of bytes as ``3.9 GB`` (powers of 1000, as disks are sold)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Log, with ``-v``, how long the block took."""
    start = time.monotonic()
    yield
    logger.debug("%s: %.2f s", what, time.monotonic() - start)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise SignalExit in the block on signals that would end the process at once, and leave files behind.

    Signals that are ignored (nohup) or handled already stay so.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise SignalExit(number)

    names = [name for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
    taken = []
    if threading.current_thread() is threading.main_thread():  # others may not set handlers
        taken = [number for name in names if signal.getsignal(number := signal.Signals[name]) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


class StopFlag:
    """Set by a signal; long loops look at it between units of work."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def check(self, kept: str) -> None:
        """Raise StoppedError if a signal came; `kept` says what is safe on disk."""
        if self.signal is not None:
            raise StoppedError(f"stopped by {self.signal.name}: {kept}; run the same command to go on")


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Turn SIGINT, SIGTERM and SIGUSR1 into a flag while the block runs.

    A second signal of the same kind acts as usual, so that an impatient Ctrl-C Ctrl-C still ends it.
    """
    flag = StopFlag()
    previous: dict[signal.Signals, Any] = {}

    def remember(number: int, frame: FrameType | None) -> None:
        flag.signal = signal.Signals(number)
        logger.info("%s: finishing the unit of work in hand", flag.signal.name)
        signal.signal(number, previous[flag.signal])

    names = [name for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    for name in names:
        number = signal.Signals[name]
        previous[number] = signal.signal(number, remember)
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
