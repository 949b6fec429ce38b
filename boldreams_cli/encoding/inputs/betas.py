"""Betas of the training trials, as solvers read them (paper, section 2.1)."""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import BoldreamsError, ChoiceError, logger
from boldreams_cli.data.responses import Responses
from boldreams_cli.transfers import in_threads

BETA_COLUMNS = 512  # voxels read at a time; so many share a chunk
READERS = 2  # threads that read; each takes memory for its block


class TrainingBetas:
    """Betas of the training trials; those of test trials cannot be reached from here.

    Parameters
    ----------
    responses : of the subject.

    Attributes
    ----------
    columns : sorted indices, among all of the subject's voxels, of those with finite betas in all training trials.
    included : (all voxels,) bool, which those are.
    areas : (columns,) number of the first area that each voxel lies in, in the order that the subject's areas are
        listed in; behind them all where it lies in none.
    image_ids : (images,) sorted ids of the training images.
    images : (trials,) index into `image_ids` of each trial.
    repeats : (images,) int64 presentations of each image; a trial that is an average counts as often as it stands for.

    Raises
    ------
    BoldreamsError
        If no voxel has finite betas.
    """

    def __init__(self, responses: Responses) -> None:
        trials = ~responses.trial_test
        self._read = lambda columns: responses.read_betas(trials, columns)
        total = len(responses.voxels)
        self.included = np.ones(total, dtype=bool)

        def look(start: int) -> None:
            columns = slice(start, start + BETA_COLUMNS)
            self.included[columns] = np.isfinite(self._read(columns)).all(axis=0)

        in_threads(look, range(0, total, BETA_COLUMNS), READERS)
        if excluded := int((~self.included).sum()):
            if excluded == total:
                raise BoldreamsError(
                    f"no voxel of subject {responses.subject} has finite, varying betas in every session"
                )
            logger.warning("%d of %d voxels have constant or non-finite betas and are left out", excluded, total)
        self.columns: NDArray[np.int64] = np.flatnonzero(self.included)
        self._responses = responses
        shown = responses.trial_images[trials]
        self.image_ids: NDArray[np.int32] = responses.train_images
        self.images: NDArray[np.int64] = np.searchsorted(self.image_ids, shown)
        self._averaged = None if responses.trial_repeats is None else responses.trial_repeats[trials].astype(np.float64)
        presented = np.bincount(self.images, self._averaged, len(self.image_ids))
        self.repeats: NDArray[np.int64] = presented.astype(np.int64)

    @cached_property
    def areas(self) -> NDArray[np.int64]:
        """See the attributes."""
        areas = self._responses.areas
        inside = np.array([areas.select(name) for name in areas.counts()] + [np.ones_like(self.included)])
        return inside.argmax(0)[self.columns]

    def trials(self, voxels: NDArray[np.int64]) -> Tensor:
        """Betas of single trials.

        Parameters
        ----------
        voxels : sorted columns of all voxels.

        Returns
        -------
        (trials, voxels) float32.
        """
        betas = torch.empty((len(self.images), len(voxels)), dtype=torch.float32)

        def take(place: slice) -> None:
            betas[:, place] = torch.from_numpy(self._block(voxels[place]))

        in_threads(take, _places(voxels), READERS)
        return betas

    def means(self, voxels: NDArray[np.int64]) -> Tensor:
        """Betas averaged over the repeats of each image, summed in float64, as `Responses.mean_betas` does.

        Beside the result it takes memory for some hundred voxels only.

        Parameters
        ----------
        voxels : sorted columns of all voxels.

        Returns
        -------
        (images, voxels) float32.
        """
        means = torch.empty((len(self.image_ids), len(voxels)), dtype=torch.float32)
        order = np.argsort(self.images, kind="stable")
        rows = np.bincount(self.images, minlength=len(self.image_ids))
        first = np.cumsum(rows) - rows

        def average(place: slice) -> None:
            block = self._block(voxels[place])
            sums = np.zeros((len(self.image_ids), block.shape[1]), dtype=np.float64)
            for number in range(int(rows.max())):
                some = np.flatnonzero(rows > number)
                trials = order[first[some] + number]
                sums[some] += block[trials] if self._averaged is None else block[trials] * self._averaged[trials, None]
            sums /= self.repeats[:, None]
            means[:, place] = torch.from_numpy(sums).float()

        in_threads(average, _places(voxels), READERS)
        return means

    def _block(self, voxels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Betas (trials, some) of voxels that are stored near each other."""
        first, last = int(voxels[0]), int(voxels[-1])
        betas = self._read(slice(first, last + 1))
        return betas if betas.shape[1] == len(voxels) else betas[:, voxels - first]


def _places(voxels: NDArray[np.int64]) -> list[slice]:
    """Where the voxels of each block of the store are, among sorted ones: each block is read once."""
    edges = np.flatnonzero(np.diff(voxels // BETA_COLUMNS, prepend=-1)).tolist()
    return [slice(start, stop) for start, stop in zip(edges, [*edges[1:], len(voxels)], strict=True)]


def hold_out(images: NDArray[np.integer], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Choose training images to hold out, whole images with all their trials.

    Each image is drawn by itself, from its id and the seed: the choice depends on nothing else, and a larger fraction
    holds out those of a smaller one and more.

    Parameters
    ----------
    images : (n,) ids of training images: never test images.
    fraction : of them; at least one is held out where this is above 0.
    seed : of the choice.

    Returns
    -------
    (n,) whether each is held out.

    Raises
    ------
    ChoiceError
        If none would be left to train on.
    """
    count = max(1, round(len(images) * fraction)) if fraction else 0
    if count and count >= len(images):
        raise ChoiceError(f"holding out {fraction:g} leaves none of {len(images)} images to train on")
    held = np.zeros(len(images), dtype=bool)
    held[drawn_order(images, seed)[:count]] = True
    return held


def drawn_order(images: NDArray[np.integer], seed: int, purpose: bytes = b"") -> NDArray[np.int64]:
    """An order of images by a number drawn for each from its id and the seed: it depends on nothing else.

    Parameters
    ----------
    images : (n,) ids.
    seed : of the order.
    purpose : draws of different purposes have nothing to do with each other.

    Returns
    -------
    (n,) places among `images`.
    """
    drawn = [hashlib.blake2b(f"{seed} {int(image)}".encode(), digest_size=8, person=purpose) for image in images]
    return np.argsort(np.array([hashed.digest() for hashed in drawn], dtype="S8"), kind="stable")
