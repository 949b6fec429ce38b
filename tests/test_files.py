"""Files that are whole or absent."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from boldreams_cli import files
from boldreams_cli.commands.options.errors import described


def test_no_room_is_said_whatever_the_library_raises(tmp_path: Path) -> None:
    class TheirError(Exception):
        pass

    for error in (
        TheirError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("Can't decrement id ref count (file write failed: errno = 28, error message = 'No space left')"),
        TheirError('IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })'),
        OSError(errno.ENOSPC, "No space left on device"),
    ):
        with pytest.raises(OSError, match="No space left") as raised, files.written_whole(tmp_path / "a.bin"):
            raise error
        assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "a.bin"))
        said = described(raised.value)
        assert said is not None
        assert said.startswith(f"{tmp_path / 'a.bin'}: No space left on device; make room")
    with pytest.raises(TheirError), files.written_whole(tmp_path / "a.bin"):
        raise TheirError("another error (os error 5)")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_of_a_file_is_deleted_a_day_later(tmp_path: Path) -> None:
    killed = "import os, sys; from boldreams_cli.files import written_whole\n"
    killed += "with written_whole(__import__('pathlib').Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    names = ("a[1].nii.gz", "b.nii.gz")
    for name in names:
        subprocess.run([sys.executable, "-c", killed, tmp_path / name], check=False)
    left = sorted(tmp_path.iterdir())
    assert [path.name.startswith(f".partial-{name}-") for path, name in zip(left, names, strict=True)] == [True, True]
    files.write_text(tmp_path / names[0], "whole")
    assert sorted(tmp_path.iterdir()) == [*left, tmp_path / names[0]]  # another process may be writing it
    for path in left:
        os.utime(path, (time.time() - 86500,) * 2)
    files.write_text(tmp_path / names[0], "whole")
    assert sorted(tmp_path.iterdir()) == [left[1], tmp_path / names[0]]


def test_a_written_file_is_whole(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a.json", "before")

    def fail() -> None:
        with files.written_whole(tmp_path / "a.json") as temporary:
            temporary.write_text("hal")
            assert (tmp_path / "a.json").read_text() == "before"
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        fail()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "before"
    longest = tmp_path / f"{'é' * 20}.{'x' * 200}.json"
    files.write_text(longest, "whole")
    assert longest.read_text() == "whole"
    (tmp_path / "check").write_bytes(b"123456789")
    assert files.checksums(tmp_path / "check") == (0xE3069283, 0xCBF43926)  # the polynomials' check values
