"""A subject's stimuli, decoded and resized once: uint8 on disk, read image by image (cache/README.md, "stimuli").

Finetuning reads every image about thirty times; decoding 425 x 425 pixels and resizing them each time would take
longer than AlexNet's own forward pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, StopFlag, logger, progress, size
from boldreams_cli.data.dataset import Dataset, Pictures, Stimuli
from boldreams_cli.features.preprocessing import Preprocessing
from boldreams_cli.files import fingerprint, free_bytes, locked, read_all, read_json, reading, write_json, written_whole

BLOCK = 32


class ResizedImages:
    """Images at a backbone's input size, in an ``.npy`` file with a ``.json`` beside it, written last.

    Read with pread rather than mapped, so that they do not count as this process's memory; any program may map
    the file (``numpy.load(..., mmap_mode="r")``).

    Parameters
    ----------
    path : of the ``.npy`` file, (images, 3, size, size) uint8.

    Attributes
    ----------
    stimuli : what identifies the images that have these ids.
    content : hash of the images that they were made of, as they were before they were resized.
    stamp : of the file of those, when they were last read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        known = read_json(path.with_suffix(".json"))
        self.fingerprint = path.stem
        self.stimuli: dict[str, Any] = known.get("stimuli", {})
        self.content: str = known.get("content", "")
        self.stamp: dict[str, int] = known.get("stamp", {})
        self.images: NDArray[np.int32] = np.array(known["images"], dtype=np.int32)
        self.sums: list[int] = known.get("sums", [])  # CRC-32C of each image; earlier versions noted none
        self._compared = np.zeros(len(self.images), dtype=bool)
        with path.open("rb") as stream:
            np.lib.format.read_magic(stream)
            self.shape, _, _ = np.lib.format.read_array_header_1_0(stream)
            self._first = stream.tell()
        self._bytes = int(np.prod(self.shape[1:]))
        if path.stat().st_size != self._first + len(self.images) * self._bytes:
            raise BoldreamsError(f"{path} is damaged; delete it and {path.stem}.json, and run the command again")
        self._file = path.open("rb")

    @classmethod
    def find(cls, cache: Path, name: str) -> ResizedImages | None:
        """Open the file of that fingerprint, if the cache has it."""
        path = _path(cache, name)
        return cls(path) if path.with_suffix(".json").is_file() and path.is_file() else None

    def holds(self, image_ids: NDArray[Any]) -> NDArray[np.bool_]:
        """(n,) whether each image is here."""
        return np.isin(image_ids, self.images)

    def read(self, image_ids: NDArray[Any]) -> NDArray[np.uint8]:
        """(n, 3, size, size) of n images, all of which must be here, in the order asked."""
        pixels = np.empty((len(image_ids), *self.shape[1:]), dtype=np.uint8)
        for row, place in zip(pixels, np.searchsorted(self.images, image_ids), strict=True):
            with reading(self.path, f"delete it and {self.path.stem}.json, and run the command again"):
                read_all(self._file.fileno(), row.data, self._first + int(place) * self._bytes)
            if self.sums and not self._compared[place]:
                if google_crc32c.extend(0, row) != self.sums[int(place)]:
                    raise BoldreamsError(
                        f"{self.path} is damaged; delete it and {self.path.stem}.json, and run the command again"
                    )
                self._compared[place] = True  # once in a process: an epoch of finetuning reads all of them
        return pixels


def resized_images(
    cache: Path, dataset: Dataset, preprocessing: Preprocessing, images: Sequence[int] | NDArray[Any], stop: StopFlag
) -> ResizedImages:
    """Open the resized stimuli of a subject, made first where they are not there or are of other images.

    The data set's identity of the images is of a sample. Where the file has changed since, all images asked for are
    read again and compared by their hash.

    Parameters
    ----------
    cache : folder that holds or will hold them.
    dataset : that has the images.
    preprocessing : of the backbone; only its size matters here.
    images : sorted image ids, all that the subject was shown.
    stop : looked at after each block of images.

    Raises
    ------
    BoldreamsError
        If the disk is too small or the stimulus file is missing or damaged.
    StoppedError
        If a signal came; nothing half made is kept.
    """
    ids = [int(number) for number in images]
    with dataset.stimuli() as stimuli:
        request = {
            "stimuli": dataset.stimuli_identity(),
            "size": preprocessing.size,
            "resize": preprocessing.to_dict()["resize"],
            "images": ids,
        }
        path, stamp = _path(cache, fingerprint(request)), dataset.stimuli_stamp()
        with locked(path.with_suffix(".lock"), str(path), wait=True):
            found = ResizedImages.find(cache, path.stem)
            if found is not None and found.stamp == stamp:
                return found
            if found is not None and found.content == _content(stimuli, ids, stop):
                logger.info("the stimuli are the same as before; %s is kept", path.name)
                content, sums = found.content, found.sums
            else:
                if found is not None:
                    logger.warning("the stimuli have changed; %s is made anew", path.name)
                    path.with_suffix(".json").unlink()
                content, sums = _write(path, stimuli, preprocessing, ids, stop)
            write_json(path.with_suffix(".json"), request | {"content": content, "stamp": stamp, "sums": sums})
        return ResizedImages(path)


def _path(cache: Path, name: str) -> Path:
    return cache / "stimuli" / f"{name}.npy"


def _content(stimuli: Stimuli, ids: Sequence[int], stop: StopFlag) -> str:
    """Hash of the images as they are now."""
    logger.info("the file of the stimuli has changed since they were resized; they are read again")
    hashed = hashlib.sha256()
    with progress("compare stimuli", len(ids), "images") as shown:
        for block in _blocks(stimuli, ids):
            _take_in(hashed, block)
            shown.advance(len(block))
            stop.check("nothing was trained yet")
    return hashed.hexdigest()


def _write(
    path: Path, stimuli: Stimuli, preprocessing: Preprocessing, ids: Sequence[int], stop: StopFlag
) -> tuple[str, list[int]]:
    """Write the resized images; returns the hash of those that they were made of, and a checksum of each."""
    hashed = hashlib.sha256()
    sums: list[int] = []
    shape = (len(ids), 3, preprocessing.size, preprocessing.size)
    needed = int(np.prod(shape))
    if needed > free_bytes(path.parent):
        raise BoldreamsError(
            f"the resized images need {size(needed)} and {path.parent} has {size(free_bytes(path.parent))} free; "
            "use --cache DIR on a larger disk"
        )
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        with progress("resize stimuli", len(ids), "images") as shown:
            for block in _blocks(stimuli, ids):
                _take_in(hashed, block)
                resized = preprocessing.resize_all(block).contiguous().numpy()
                stream.write(resized.data)
                sums += [google_crc32c.extend(0, image) for image in resized]
                shown.advance(len(block))
                stop.check("nothing was trained yet")
    return hashed.hexdigest(), sums


def _blocks(stimuli: Stimuli, ids: Sequence[int]) -> Iterator[Pictures]:
    """Images some at a time; files of any size one by one, of a camera's 32 would take a gigabyte."""
    step = 1 if isinstance(stimuli.read(ids[:1]), list) else BLOCK
    for start in range(0, len(ids), step):
        yield stimuli.read(ids[start : start + step])


def _take_in(hashed: Any, images: Pictures) -> None:
    """Add the bytes of images to a hash."""
    for image in images:
        hashed.update(np.ascontiguousarray(image).data)
