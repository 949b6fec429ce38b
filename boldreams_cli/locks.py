"""Exclusive locks between processes, on file systems with flock and without."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from boldreams_cli.console import BoldreamsError, StopFlag, logger

NO_FLOCK = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)
FORSAKEN = 600.0  # seconds after which a lock of another machine counts as left behind
TOUCHED = 60.0  # seconds between its holder's signs of life
LONGEST_NAP = 0.5  # seconds between two looks while waiting
_said: set[Path] = set()  # folders whose file system was said to have no flock


class Lock:
    """An exclusive lock, held while a ``with`` block runs; a holder that died does not hold it.

    The lock is flock's where the file system has it; the file says who holds it, for the message. Elsewhere it is a
    hard link, which only one process can make: one whose process is gone from this machine is taken over at once, one
    of another machine when it has not been touched for ten minutes (its holder touches it every minute).

    Parameters
    ----------
    path : of the lock's file, which stays.
    what : is worked on, to name in the error.
    wait : for another process to let go, instead of raising.
    stop : looked at while waiting.

    Raises
    ------
    BoldreamsError
        If another process holds it, or the folder cannot be written.
    StoppedError
        If a signal came while waiting.
    """

    def __init__(self, path: Path, what: str, wait: bool = False, stop: StopFlag | None = None) -> None:
        self.path, self.what, self.wait, self.stop = path, what, wait, stop
        self._link = path.with_name(f"{path.name}.held")
        self._stream: IO[str] | None = None
        self._me = ""
        self._released = threading.Event()

    def __enter__(self) -> Lock:
        nap = 0.01
        while not self.take():
            if not self.wait:
                raise BoldreamsError(
                    f"another process{self._holder()} is working on {self.what} (lock {self.path}); wait for it"
                )
            if self.stop is not None:
                self.stop.check(f"it was waiting for another process{self._holder()} that works on {self.what}")
            time.sleep(nap)
            nap = min(2 * nap, LONGEST_NAP)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def take(self) -> bool:
        """Try once; true if this object holds the lock now."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            stream = self.path.open("a+", encoding="utf-8")
        except OSError as error:
            raise BoldreamsError(f"cannot lock {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            return False
        except OSError as error:
            stream.close()
            if error.errno not in NO_FLOCK:
                raise BoldreamsError(f"cannot lock {self.path}: {error.strerror}") from error
            return self._take_link()
        if not _is_at(stream, self.path):  # it was deleted with its folder in between: that lock is nobody's
            stream.close()
            return False
        self._stream = stream
        stream.truncate(0)
        stream.write(json.dumps(_myself()))
        stream.flush()
        return True

    def is_held(self) -> bool:
        """Whether some process holds it now; nothing is written, so a cache that may only be read can be asked."""
        try:
            with self.path.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in NO_FLOCK:  # it was never made, or may not be read
                return False
            return self._link.exists() and not _forsaken(self._link, time.time())
        return False

    def release(self) -> None:
        """Let go; harmless where it is not held."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._me:
            self._released.set()
            if _text(self._link) == self._me:
                self._link.unlink(missing_ok=True)
            self._me = ""

    def _holder(self) -> str:
        held = _holder_of(self._link) or _holder_of(self.path)
        return f" ({held['pid']} on {held['host']})" if {"pid", "host"} <= held.keys() else ""

    def _take_link(self) -> bool:
        folder = self.path.parent
        if folder not in _said:
            _said.add(folder)
            logger.info("%s lies on a file system without flock; locks are files there", folder)
        me = json.dumps(_myself() | {"token": os.urandom(8).hex()})
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".lock-", suffix=".tmp") as mine:
            mine.write(me)
            mine.flush()
            if not _linked(mine.name, self._link) and not self._take_over(mine.name):
                return False
        self._me = me
        self._released.clear()
        threading.Thread(target=self._touch, args=(self._released,), daemon=True).start()
        return True

    def _take_over(self, mine: str) -> bool:
        """Replace the link of a holder that is gone; only one process at a time may look."""
        now = Path(mine).stat().st_mtime  # by the clock of the file system
        if not _forsaken(self._link, now):
            return False
        gate = self._link.with_name(f"{self._link.name}.over")
        if not _linked(mine, gate):
            if _forsaken(gate, now):
                gate.unlink(missing_ok=True)
            return False
        try:
            if _forsaken(self._link, now):
                self._link.unlink(missing_ok=True)
            return _linked(mine, self._link)
        finally:
            gate.unlink(missing_ok=True)

    def _touch(self, released: threading.Event) -> None:
        while not released.wait(TOUCHED):
            try:
                os.utime(self._link)
            except OSError:
                logger.warning("cannot touch the lock %s; another machine may take it over", self._link)


@contextmanager
def vanishing(path: Path, what: str, stop: StopFlag) -> Iterator[None]:
    """Hold a lock whose file is gone afterwards; wait for another holder, but not beyond a signal.

    Parameters
    ----------
    path : of its file.
    what : is made meanwhile, for messages.
    stop : looked at while waiting.

    Raises
    ------
    StoppedError
        If a signal came.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    said = False
    while True:
        stream = path.open("a")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(stream.fileno()).st_ino == path.stat().st_ino:  # else its holder removed it when done
                break
        except FileNotFoundError:
            pass
        except BlockingIOError:
            stop.check(f"another process makes {what}")
            if not said:
                logger.info("another process makes %s: waiting for it", what)
            said = True
            time.sleep(0.2)
        except OSError as error:
            stream.close()
            if error.errno not in NO_FLOCK:
                raise
            with Lock(path, what, wait=True, stop=stop):  # this file system has no flock
                yield
            return
        stream.close()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        stream.close()


def _is_at(stream: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except OSError:
        return False


def _linked(source: str, target: Path) -> bool:
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        raise BoldreamsError(f"cannot make the lock {target}: {error.strerror}; use --cache DIR elsewhere") from error
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _holder_of(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _forsaken(path: Path, now: float) -> bool:
    """Whether the holder that a link names is gone: its process on this machine, its signs of life elsewhere."""
    held, me = _holder_of(path), _myself()
    if held and (held.get("host"), held.get("system")) == (me["host"], me["system"]):
        pid = held.get("pid")
        began = _started(pid) if isinstance(pid, int) else None
        return began is None or began != held.get("start")
    try:
        return now - path.stat().st_mtime > FORSAKEN
    except FileNotFoundError:
        return True


def _myself() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "start": _started(pid), "system": _system()}


def _system() -> str:
    """What tells machines and containers of one name apart: elsewhere process numbers mean nothing."""
    try:
        return f"{_text(Path('/proc/sys/kernel/random/boot_id')).strip()} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process of this machine began, as text; None where there is none of that number."""
    if Path("/proc/self/stat").exists():
        fields = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
        return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""
