"""Which image was shown on which trial (NSD manual, "Experiments": nsd_expdesign.mat)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, ChoiceError, listing
from boldreams_cli.data.nsd.matlab import read_arrays

KEYS = ("masterordering", "subjectim", "sharedix")
DOWNLOAD = "download nsddata/experiments/nsd/nsd_expdesign.mat from NSD or correct --nsd-root"


@dataclass(frozen=True)
class Design:
    """The order of trials; NSD's 1-based numbers become 0-based nsdIds here and nowhere else.

    Parameters
    ----------
    path : the file it was read from, for messages.
    ordering : (trials,) int64, 1-based index into a row of `subject_images`.
    subject_images : (subjects, images) int64, 1-based 73k ids.
    shared : (shared,) int32, sorted 0-based nsdIds of the images that every subject saw: the test images.
    """

    path: Path
    ordering: NDArray[np.int64]
    subject_images: NDArray[np.int64]
    shared: NDArray[np.int32]

    @classmethod
    def read(cls, path: Path) -> Design:
        """Read ``nsd_expdesign.mat``, with any numbers of trials, subjects and images.

        Raises
        ------
        BoldreamsError
            If the file is missing or unreadable, lacks one of its arrays, or its indices point nowhere.
        """
        found = read_arrays(path, KEYS, DOWNLOAD)
        if missing := [key for key in KEYS if key not in found]:
            raise BoldreamsError(f"{path} lacks {listing(missing)}; download nsd_expdesign.mat again")
        ordering, subjects, shared = (_integers(found[key], key, path) for key in KEYS)
        ordering, subjects = ordering.ravel(), np.atleast_2d(subjects)
        if ordering.min() < 1 or ordering.max() > subjects.shape[1]:
            raise BoldreamsError(
                f"{path}: masterordering goes from {ordering.min()} to {ordering.max()}, "
                f"but subjectim has {subjects.shape[1]} images a subject (1-based)"
            )
        return cls(path, ordering, subjects, _zero_based(np.unique(shared), "sharedix", path))

    def trial_images(self, subject: int) -> NDArray[np.int32]:
        """Images of all trials of `subject` (1-based) in order, all sessions end to end.

        Returns
        -------
        (trials,) int32, 0-based nsdIds.

        Raises
        ------
        ChoiceError
            If the design has no such subject.
        BoldreamsError
            If an image number is below 1.
        """
        count = len(self.subject_images)
        if not 1 <= subject <= count:
            raise ChoiceError(f"{self.path} describes subjects 1 to {count}, not {subject} (--subject)")
        return _zero_based(self.subject_images[subject - 1, self.ordering - 1], "subjectim", self.path)


def _integers(values: Any, key: str, path: Path) -> NDArray[np.int64]:
    """MATLAB stores numbers as doubles unless told otherwise; accept those that are whole."""
    array = np.asarray(values)
    if not (array.size and array.dtype.kind in "iuf" and np.all(array == np.rint(array))):
        raise BoldreamsError(f"{path}: {key} must hold whole numbers; download nsd_expdesign.mat again")
    return array.astype(np.int64)


def _zero_based(ids: NDArray[np.int64], key: str, path: Path) -> NDArray[np.int32]:
    if ids.min() < 1:
        raise BoldreamsError(f"{path}: {key} holds {ids.min()}, but 73k ids count from 1")
    return (ids - 1).astype(np.int32)
