"""Numeric arrays of a MATLAB v5 file, every length checked first: damaged files can crash scipy's reader."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, size
from boldreams_cli.files import reading

HEADER, TAG = 128, 8
MAGIC = b"\x00\x01IM"  # version and byte order, at the end of the header
MATRIX, COMPRESSED = 14, 15  # types of elements
NUMERIC_CLASSES = range(6, 16)
COMPLEX = 0x0800
DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
LARGEST = 1 << 28  # bytes of one array; NSD's largest has 640 kB
PREFIX = 4096  # of a compressed array: enough for its name


def is_v5(path: Path) -> bool:
    """Whether a file begins as one of MATLAB v5 does, not as one of v7.3, which is HDF5; False where there is none."""
    try:
        with path.open("rb") as stream:
            return stream.read(HEADER)[124:128] == MAGIC
    except OSError:
        return False


def read_arrays(path: Path, names: tuple[str, ...], missing: str) -> dict[str, NDArray[Any]]:
    """Read those of `names` that the file has.

    Parameters
    ----------
    missing : what to do when the file is not there, for the error.

    Returns
    -------
    name -> array, as MATLAB shapes it.

    Raises
    ------
    BoldreamsError
        If the file is missing, no MATLAB v5 file, or damaged, or one of the arrays is too large or not of real numbers.
    """
    found = {}
    with reading(path, "it must be a readable MATLAB v5 file; download it again", missing):
        for element in _elements(path.read_bytes()):
            name = _name(element(PREFIX))
            if name in names:
                if element.size > LARGEST:
                    raise BoldreamsError(
                        f"{path}: {name} takes {size(element.size)} in memory, too much of a MATLAB v5 file, which is "
                        f"read whole; save it with -v7.3"
                    )
                found[name] = _array(element(LARGEST))
    return found


class _Element:
    """One top-level element; called with a limit, it gives so many bytes of its content at most."""

    def __init__(self, kind: int, content: bytes) -> None:
        self.kind, self.content = kind, content

    @property
    def size(self) -> int:
        """Bytes of all of its content, as it declares."""
        if self.kind == MATRIX:
            return len(self.content)
        return int(struct.unpack_from("<II", zlib.decompressobj().decompress(self.content, TAG))[1])

    def __call__(self, limit: int) -> bytes:
        if self.kind == MATRIX:
            return self.content
        inflate = zlib.decompressobj()
        data = inflate.decompress(self.content, limit + TAG)
        if limit == LARGEST and not inflate.eof:  # where zlib compares its checksum
            raise ValueError("an array is too large or ends too early")
        kind, size = struct.unpack_from("<II", data)
        if kind != MATRIX or (limit == LARGEST and size != len(data) - TAG):
            raise ValueError("a compressed element holds no array")
        return data[TAG:]


def _elements(data: bytes) -> Iterator[_Element]:
    if len(data) < HEADER + TAG or data[124:128] != MAGIC:
        raise ValueError("it has no header of MATLAB v5, little-endian")
    place = HEADER
    while place < len(data):
        kind, size = struct.unpack_from("<II", data, place)
        place += TAG
        if kind not in (MATRIX, COMPRESSED) or place + size > len(data):
            raise ValueError("an element goes beyond its end")
        yield _Element(kind, data[place : place + size])
        place += size


def _part(data: bytes, place: int) -> tuple[int, bytes, int]:
    """Type and content of the sub-element at `place`, and where the next one begins."""
    kind, size = struct.unpack_from("<II", data, place)
    if kind >> 16:  # up to four bytes lie in the tag itself
        kind, size = kind & 0xFFFF, kind >> 16
        start, end = place + 4, place + TAG
        if size > 4:
            raise ValueError("a small element is too long")
    else:
        start, end = place + TAG, place + TAG + -(-size // 8) * 8
    if start + size > len(data):
        raise ValueError("an array ends too early")
    return kind, data[start : start + size], end


def _name(data: bytes) -> str:
    """Of an array, from the beginning of its content."""
    place = _part(data, 0)[2]
    place = _part(data, place)[2]
    return _part(data, place)[1].decode("ascii")


def _array(data: bytes) -> NDArray[Any]:
    _, flags, place = _part(data, 0)
    _, shape, place = _part(data, place)
    _, _, place = _part(data, place)
    kind, values, _ = _part(data, place)
    flag = struct.unpack_from("<I", flags)[0]
    lengths = [int(length) for length in np.frombuffer(shape, "<i4")]
    if flag & 0xFF not in NUMERIC_CLASSES or flag & COMPLEX or kind not in DTYPES:
        raise ValueError("an array does not hold real numbers")
    array = np.frombuffer(values, f"<{DTYPES[kind]}")
    if len(lengths) < 2 or min(lengths) < 0 or math.prod(lengths) != len(array):
        raise ValueError("the shape of an array does not fit its content")
    return array.reshape(lengths, order="F")
