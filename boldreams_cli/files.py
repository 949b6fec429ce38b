"""Files that are whole or absent: write beside and rename, ledgers, hashes, locks."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import google_crc32c

from boldreams_cli.console import BoldreamsError, logger, size
from boldreams_cli.locks import Lock

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PARTIAL = ".partial-"  # how names of what is not whole yet begin
LEFT = 86400.0  # seconds after which nobody writes to such a file any more
LARGEST_RATIO = 1100  # by which deflate can make anything smaller: 1032, and headers


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed onto it when the block succeeds.

    The temporary name keeps the suffix, because writers (nibabel, matplotlib) choose the format by it. What a killed
    process left of the same file is deleted when it is a day old.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of a long name its beginning, and ends that are suffixes and not what is behind any dot.
    start, ends = f"{PARTIAL}{path.name[:32]}-", "".join(end for end in path.suffixes[-2:] if len(end) <= 16)
    _clear(path.parent, start)
    descriptor, name = tempfile.mkstemp(prefix=start, suffix=ends, dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except Exception as error:  # safetensors and others raise exceptions of their own where the disk is full
        if (full := _full(error)) is not None:
            raise OSError(full, os.strerror(full), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def saving_work(path: Path) -> Iterator[None]:
    """Go on where `path` cannot be written, which only spares the next command work: in a cache that may only be read.

    Not for what was asked for, nor for what it is read back from.
    """
    try:
        yield
    except OSError as error:
        logger.debug("%s is not kept: %s", path, error.strerror or error)


def _clear(folder: Path, start: str) -> None:
    """Delete what begins so and was left: by age, as a lock would keep HDF5 from its file."""
    for left in folder.glob(f"{glob.escape(start)}*"):
        with suppress(OSError):  # another process may do the same
            if time.time() - left.stat().st_mtime > LEFT:
                left.unlink()


def _full(error: Exception) -> int | None:
    """The system's number where there was no room to write; some libraries have it in their text alone."""
    found = re.search(r"(?:os error|code:|errno =) (\d+)", str(error))
    number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
    return number if number in NO_ROOM else None


def sync(path: Path) -> None:
    """Make sure that a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems have no fsync of folders; they need none.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.EBADF, errno.ENOTSUP)):
            raise
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at a place of a file; the system may take a part of it, and raises at the next."""
    left = data.cast("B") if data.nbytes else data
    while left.nbytes:
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written


def read_all(descriptor: int, buffer: memoryview, offset: int) -> None:
    """Fill a buffer from a place of a file.

    Raises
    ------
    EOFError
        If the file ends before.
    """
    left = buffer.cast("B") if buffer.nbytes else buffer
    while left.nbytes:
        read = os.preadv(descriptor, [left], offset)
        if read == 0:
            raise EOFError(f"it ends {size(left.nbytes)} too early")
        left, offset = left[read:], offset + read


def checksums(path: Path) -> tuple[int, int]:
    """CRC-32C and CRC-32 of a file's bytes.

    Both, because the former of bytes with their own CRC-32C behind them, as chunks are stored, is one and the same
    whatever they are: it tells a flipped bit, and not one chunk from another.
    """
    first = second = 0
    with path.open("rb", buffering=0) as stream:
        while part := stream.read(2**22):
            first, second = google_crc32c.extend(first, part), zlib.crc32(part, second)
    return first, second


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_npz(path: Path, *, compressed: bool = False, **arrays: Any) -> None:
    """Write arrays to the very `path` given, whole or not at all; numpy by itself appends .npz to other names."""
    import numpy as np

    with written_whole(path) as temporary, temporary.open("wb") as stream:
        (np.savez_compressed if compressed else np.savez)(stream, **arrays)


DAMAGED_NPZ = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged .npz raises; a truncated one still begins with PK and is no ValueError."""


def to_json(value: Any) -> Any:
    """Turn numpy and torch scalars, arrays and paths into what JSON holds; NaN and infinities become null."""
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return to_json(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as JSON, whole or not at all."""
    write_text(path, json.dumps(to_json(value), indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    BoldreamsError
        If it is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BoldreamsError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise BoldreamsError(f"{path} is not valid JSON ({error}); delete it and make it again") from error


@contextmanager
def reading(path: Path, remedy: str = "download it again", missing: str = "correct the path") -> Iterator[None]:
    """Turn whatever a library raises while it reads a file into one error that says what is wrong with that file.

    Parameters
    ----------
    path : of the file.
    remedy : what to do when its content is damaged, and only then.
    missing : what to do when it is not there.

    Raises
    ------
    BoldreamsError
        In place of every other exception but MemoryError.
    """
    try:
        yield
    except (BoldreamsError, MemoryError):
        raise
    except Exception as error:  # on damaged bytes libraries raise anything at all
        raise BoldreamsError(_unreadable(path, error, remedy, missing)) from error


def check_declared(path: Path, declared: int) -> None:
    """Raise ValueError if a file says that it holds more than its size allows, before memory is taken for it.

    Parameters
    ----------
    declared : bytes of its arrays, uncompressed.
    """
    there = path.stat().st_size
    if declared > there * LARGEST_RATIO:
        raise ValueError(f"it declares {size(declared)}, more than a file of {size(there)} can hold")


def _unreadable(path: Path, error: Exception, remedy: str, missing: str) -> str:
    number = _errno(error)
    if number in (errno.ENOENT, errno.ENOTDIR):
        return f"there is no {path}; {missing}"
    if number == errno.EISDIR:
        return f"{path} is a folder, not a file; {missing}"
    if number in (errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOLCK) or "unable to lock file" in str(error):
        return f"{path} is locked by a process that writes it; wait for it, or set HDF5_USE_FILE_LOCKING=FALSE"
    if number in (errno.EACCES, errno.EPERM):
        return f"may not read {path}; check its permissions"
    if number is not None and number != errno.EINVAL:
        return f"cannot read {path} ({os.strerror(number)}): the disk or the network failed, not the file; try again"
    said = " ".join(str(error).split())[:200] or type(error).__name__
    return f"{path} is truncated or damaged ({said}); {remedy}"


def _errno(error: Exception) -> int | None:
    """The system's number, which HDF5 writes into its text alone when reading fails half-way."""
    if not isinstance(error, OSError):
        return None
    if error.errno is None and isinstance(error, FileNotFoundError):  # as nibabel raises it
        return errno.ENOENT
    if error.errno is None and (found := re.search(r"errno = (\d+)", str(error))):
        return int(found[1])
    return error.errno


def fingerprint(value: Any) -> str:
    """Hash of a JSON-like value, the same for equal values whatever the order of keys: 12 hex digits."""
    return hashlib.sha256(json.dumps(to_json(value), sort_keys=True).encode()).hexdigest()[:12]


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sizes_below(folder: Path) -> list[int]:
    """Sizes of the files below a folder, links left out; what comes and goes meanwhile may be in it or not."""
    found = []
    for base, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                facts = Path(base, name).lstat()
                found += [facts.st_size] if stat.S_ISREG(facts.st_mode) else []
    return found


class Ledger:
    """Finished units of work, one JSON object a line; a torn last line (a kill) is ignored."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[dict[str, Any]]:
        """All whole lines, oldest first."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def add(self, entry: dict[str, Any]) -> None:
        """Append one line and make sure that it is on the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.exists() and self.path.read_bytes()[-1:] not in (b"", b"\n")
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(("\n" if torn else "") + json.dumps(to_json(entry)) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def locked(path: Path, what: str, wait: bool = False) -> Lock:
    """Exclusive lock for a ``with`` block; see `Lock`."""
    return Lock(path, what, wait)


def free_bytes(path: Path) -> int:
    """Free space on the disk that holds `path`, which need not exist yet."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
