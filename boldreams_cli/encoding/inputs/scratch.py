"""Files without a name for what does not fit the memory, on a disk that may be full: it is said, not read as zeros."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, size
from boldreams_cli.files import NO_ROOM, read_all, write_all


class Scratch:
    """A file that vanishes with the process, written once, then read.

    Read with pread rather than mapped, so that it does not count as this process's memory.

    Parameters
    ----------
    folder : that it lies in.
    needed : bytes that it will have.
    what : it holds, for messages, in the plural.
    less : what makes it smaller, to be typed instead of more memory.
    """

    def __init__(self, folder: Path, needed: int, what: str, less: str = "a smaller --percent") -> None:
        self.folder, self.needed, self.what = folder, needed, what
        self.remedies = ", ".join(filter(None, ["more --memory", less, "or a larger disk or quota"]))
        with self._room():
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (lives as long as the training)

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of `data` at a place.

        Raises
        ------
        BoldreamsError
            If the disk, a quota or the system's limit of a file has no room for it.
        """
        with self._room():
            write_all(self._file.fileno(), data, offset)

    def read(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer from a place."""
        read_all(self._file.fileno(), buffer, offset)

    def written(self) -> None:
        """All is written: hear from a network's file system, which may tell of a quota now and not before.

        Raises
        ------
        BoldreamsError
            As `write`.
        """
        # Such have no device; a disk's own file system has told already, and need not be waited for.
        if os.major(os.fstat(self._file.fileno()).st_dev) == 0:
            with self._room():
                os.fsync(self._file.fileno())

    def mapped(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """All of it as an array, to be filled and then `written`.

        Raises
        ------
        BoldreamsError
            As `write`.
        """
        # Room is taken first: to write to a map of a file without it ends the process with a bus error.
        if hasattr(os, "posix_fallocate"):  # not on macOS
            with self._room():
                try:
                    os.posix_fallocate(self._file.fileno(), 0, self.needed)
                except OSError as error:
                    if error.errno in NO_ROOM:
                        raise  # else a file system that cannot take it beforehand
        return np.memmap(self._file, np.float32, "w+", shape=shape)

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise BoldreamsError(
                f"{self.folder} has no room for {self.what}, {size(self.needed)} that do not fit --memory "
                f"({os.strerror(error.errno)}); use {self.remedies}"
            ) from error
