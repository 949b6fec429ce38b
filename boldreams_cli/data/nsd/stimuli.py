"""The images shown (NSD manual, "Experiments": nsd_stimuli.hdf5)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, ChoiceError, listing
from boldreams_cli.files import reading

DATASET = "imgBrick"
SAMPLED_ROWS = 8
LARGEST_SIDE = 4096


class Stimuli:
    """Open ``imgBrick``, (N, H, W, 3) uint8 of which row i is nsdId i; a context manager.

    Raises
    ------
    BoldreamsError
        If the file is missing, truncated or damaged, or the dataset has another shape or type.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._reading():
            self._file = h5py.File(path, "r")
        with ExitStack() as stack:
            stack.callback(self._file.close)
            with self._reading():
                self._images = self._checked(self._file.get(DATASET))
            stack.pop_all()  # it stays open unless that failed

    def _checked(self, dataset: Any) -> Any:
        if not isinstance(dataset, h5py.Dataset):
            there = listing(self._file)
            raise BoldreamsError(f"{self.path} has no dataset {DATASET}; it holds {there}; download it again")
        shape, dtype = dataset.shape, dataset.dtype
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or not all(shape):
            raise BoldreamsError(
                f"{self.path}: {DATASET} is {shape} {dtype}, but must be (images, height, width, 3) uint8, "
                f"as NSD's (73000, 425, 425, 3)"
            )
        if max(shape[1:3]) > LARGEST_SIDE:
            raise ValueError(f"images of {shape[1]} x {shape[2]} pixels")
        return dataset  # of any number of images: they are read one by one, and a subset's file has few of 73,000

    def _reading(self) -> AbstractContextManager[None]:
        return reading(self.path, "delete it and download it again", f"download {self.path.name} or correct --nsd-root")

    def __enter__(self) -> Stimuli:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        self._file.close()

    def __len__(self) -> int:
        return int(self._images.shape[0])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and 3 channels of an image."""
        height, width, channels = (int(length) for length in self._images.shape[1:])
        return height, width, channels

    def read(self, nsd_ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
        """Images in the order asked; ids may repeat.

        Parameters
        ----------
        nsd_ids : n 0-based image numbers.

        Returns
        -------
        (n, H, W, 3) uint8, RGB.

        Raises
        ------
        ChoiceError
            If there is no such image.
        BoldreamsError
            If the file is damaged, or an image is missing in it: black throughout, as holes of a download are.
        """
        ids = [int(number) for number in nsd_ids]
        if wrong := [number for number in ids if not 0 <= number < len(self)]:
            raise ChoiceError(f"no image {listing(wrong)}; nsdIds go from 0 to {len(self) - 1}")
        images = self._read(ids)
        some = images[:, ::16, ::16].any((1, 2, 3))  # of the pixels: all of them take a tenth of the time of reading
        if holes := [ids[index] for index in np.flatnonzero(~some) if not images[index].any()]:
            raise BoldreamsError(
                f"{self.path}: image {listing(holes)} is black throughout, so a part of the file was never written; "
                f"delete it and download it again"
            )
        return images

    def _read(self, ids: list[int]) -> NDArray[np.uint8]:
        images = np.empty((len(ids), *self.image_shape), np.uint8)
        with self._reading():
            for row, number in zip(images, ids, strict=True):
                self._images.read_direct(row, np.s_[number])
        return images

    def identity(self) -> dict[str, Any]:
        """What identifies these images wherever the file lies: shape, type, a sample's hash.

        A sample only: the file has 40 GB. Whoever computes from images keeps a hash of those that were read, and
        compares it when the file's size or time of change is another.
        """
        rows = np.unique(np.linspace(0, len(self) - 1, SAMPLED_ROWS).astype(int)).tolist()
        sample = hashlib.sha256(self._read(rows).tobytes()).hexdigest()
        return {"shape": list(self._images.shape), "dtype": str(self._images.dtype), "sample": sample}
