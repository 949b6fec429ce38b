"""The images of a data file: its own pixels, or picture files of any size beside it."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, ChoiceError, listing
from boldreams_cli.data import identity
from boldreams_cli.data.neutral.reading import REMEDY, DataFile, ImageList
from boldreams_cli.data.pictures import read_picture
from boldreams_cli.files import reading

SAMPLES = 64  # images whose content is hashed for the identity; whoever computes from images hashes all that it reads
PATCH = (
    16  # pixels along the side of what is hashed of each where they lie in the data file: chunks may be of any shape
)
PIXELS = "images/pixels"


def names_identity(images: ImageList) -> dict[str, Any]:
    """How many images there are, and a hash of their names in order: what number means which image."""
    return {"count": len(images.names), "names": _hash(json.dumps(images.names).encode())}


class FileStimuli:
    """Images of a data file, read by their place in ``images/name``; a context manager.

    Parameters
    ----------
    data : the file.

    Raises
    ------
    BoldreamsError
        If the file cannot be read, or a picture's file is missing.
    """

    def __init__(self, data: DataFile) -> None:
        self.data, self.count = data, len(data.images.names)
        self._file: Any = None
        if data.images.paths is None:
            with reading(data.path, REMEDY, "give the path of a data file"):
                self._file = h5py.File(data.path, "r")
        elif gone := missing(data):
            raise BoldreamsError(gone)

    def __enter__(self) -> FileStimuli:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
        """Images in the order asked: (n, height, width, 3) uint8 of pixels, of files a list of (height, width, 3).

        Raises
        ------
        ChoiceError
            If there is no such image.
        BoldreamsError
            If a picture or the file is damaged, or pixels were never written: what HDF5 gives for them throughout.
        """
        numbers = [int(number) for number in ids]
        if wrong := [number for number in numbers if not 0 <= number < self.count]:
            raise ChoiceError(f"no image {listing(wrong)}; those of {self.data.path} go from 0 to {self.count - 1}")
        # Whether it is a list must not depend on which images are read together: what was read is hashed.
        if self.data.images.paths is not None:
            return [read_picture(self.data.images.paths[number]) for number in numbers]
        with reading(self.data.path, REMEDY):
            found = _pixels(self._file[PIXELS], np.array(numbers, np.int64))
            never = self._file[PIXELS].fillvalue
        some = (found[:, ::16, ::16] != never).any((1, 2, 3))
        if holes := [numbers[row] for row in np.flatnonzero(~some) if (found[row] == never).all()]:
            names = listing(dict.fromkeys(self.data.images.names[number] for number in holes), 3)
            raise BoldreamsError(
                f"{self.data.path}: {PIXELS}: {names} is {never} throughout: was its part of the file never written? "
                "Write it again, or if it is meant so, give pictures as files (images/path)"
            )
        return found

    def identity(self) -> dict[str, Any]:
        """What identifies the images wherever they lie: names, sizes, and the content of a sample."""
        chosen = np.unique(np.linspace(0, self.count - 1, SAMPLES).astype(int)).tolist()
        sample = hashlib.sha256()
        paths = self.data.images.paths
        for number in chosen:
            with reading(self.data.path if paths is None else paths[number], REMEDY):
                sample.update(_middle(self._file[PIXELS], number) if paths is None else paths[number].read_bytes())
        sizes = list(self._file[PIXELS].shape) if paths is None else [path.stat().st_size for path in paths]
        said = {"sizes": _hash(json.dumps(sizes).encode()), "sample": sample.hexdigest()[: identity.DIGITS]}
        return names_identity(self.data.images) | said


def _pixels(dataset: Any, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(n, height, width, 3) of n images; those that follow one another are read at once: a chunk may hold several."""
    order = np.argsort(numbers, kind="stable")
    images = np.empty((len(numbers), *dataset.shape[1:]), np.uint8)
    for run in np.split(order, np.flatnonzero(np.diff(numbers[order]) > 1) + 1):
        if len(run):
            first, last = int(numbers[run[0]]), int(numbers[run[-1]])
            images[run] = dataset[first : last + 1][numbers[run] - first]
    return images


def _middle(dataset: Any, number: int) -> bytes:
    """The pixels in the middle of an image."""
    top, left = (max(0, side - PATCH) // 2 for side in dataset.shape[1:3])
    return bytes(np.ascontiguousarray(dataset[number, top : top + PATCH, left : left + PATCH]).data)


def stamp(data: DataFile) -> dict[str, int]:
    """Sizes and times of change of all that holds the images, as three numbers."""
    paths = [data.path] if data.images.paths is None else data.images.paths
    found = [path.stat() for path in paths]
    every = zlib.crc32(json.dumps([[item.st_size, item.st_mtime_ns] for item in found]).encode())
    return {
        "size": sum(item.st_size for item in found),
        "mtime_ns": max(item.st_mtime_ns for item in found),
        "every": every,
    }


def missing(data: DataFile) -> str:
    """Say which pictures' files are not there; empty if all are."""
    paths: list[Path] = data.images.paths or []
    gone = [place for place, path in enumerate(paths) if not path.is_file()]
    if not gone:
        return ""
    more = f" (and {len(gone) - 1} more)" if len(gone) > 1 else ""
    return f"{data.path}: images/path: there is no {paths[gone[0]]}{more}; correct the paths, or bring the files back"


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[: identity.DIGITS]
