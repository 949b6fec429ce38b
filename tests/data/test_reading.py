"""What is said of files that cannot be read: damage is told apart from what another download would not mend."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from boldreams_cli.console import BoldreamsError, ChoiceError
from boldreams_cli.files import reading

AGAIN = "download it again"


@pytest.mark.parametrize(
    ("error", "said", "damaged"),
    [
        (OSError(errno.ENOENT, "x"), "there is no .*; correct --nsd-root", False),
        (OSError(errno.EACCES, "x"), "may not read .*permissions", False),
        (OSError(errno.EAGAIN, "x"), "locked by a process", False),
        (OSError("unable to lock file, errno = 13, error message = 'Permission denied'"), "locked by", False),
        (OSError(errno.EIO, "x"), "Input/output error.*the disk or the network failed", False),
        (OSError("file read failed: file descriptor = 3, errno = 5, error message"), "Input/output error", False),
        (OSError(errno.ESTALE, "x"), "Stale file handle", False),
        (OSError(errno.EISDIR, "x"), "is a folder", False),
        (OSError("truncated file: eof = 100"), "truncated or damaged .truncated file", True),
        (KeyError("a"), "truncated or damaged .'a'", True),
        (OverflowError("too large"), "truncated or damaged .too large", True),
        (AssertionError(), "truncated or damaged .AssertionError", True),
    ],
)
def test_only_damage_says_download_again(error: Exception, said: str, damaged: bool) -> None:
    with pytest.raises(BoldreamsError) as caught, reading(Path("f.hdf5"), AGAIN, "correct --nsd-root"):
        raise error
    text = str(caught.value)
    assert "f.hdf5" in text
    assert (AGAIN in text) == damaged
    assert re.search(said, text), text


def test_our_own_errors_and_memory_pass() -> None:
    for error in (ChoiceError("mine"), MemoryError()):
        with pytest.raises(type(error)), reading(Path("f")):
            raise error


def test_a_file_that_is_being_written_is_not_damaged(tmp_path: Path) -> None:
    path = tmp_path / "s.hdf5"
    with h5py.File(path, "w") as file:
        file["imgBrick"] = np.zeros((2, 4, 4, 3), np.uint8)
    with path.open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BoldreamsError, match="locked by a process") as caught, reading(path, AGAIN):
            h5py.File(path, "r")
        assert AGAIN not in str(caught.value)
    if os.environ.get("HDF5_USE_FILE_LOCKING", "TRUE").upper() != "FALSE":
        with reading(path, AGAIN), h5py.File(path, "r") as file:
            assert "imgBrick" in file
