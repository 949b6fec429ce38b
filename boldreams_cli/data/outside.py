"""A test with images of another kind than those that models are fitted to, as a data set offers it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

TESTS = ("synthetic",)  # names that a data set may offer


@dataclass(frozen=True)
class OutsideTest:
    """Responses of one subject to such images; they are never among its prepared responses.

    Parameters
    ----------
    name : one of TESTS.
    trials : (T,) int32, id of the image shown on each trial.
    kinds : id -> kind of image, where that is known.
    identity : all that decides the numbers.
    read : ids -> (n, height, width, 3) uint8, as models see images of the training.
    load : () -> (T, V) float32, z-scored betas of the trials.
    """

    name: str
    trials: NDArray[np.int32]
    kinds: dict[int, str]
    identity: dict[str, Any]
    read: Callable[[NDArray[np.integer]], NDArray[np.uint8]]
    load: Callable[[], NDArray[np.float32]]

    @cached_property
    def images(self) -> NDArray[np.int32]:
        """(n,) sorted ids of the images shown."""
        return np.unique(self.trials)

    @cached_property
    def repeats(self) -> NDArray[np.int64]:
        """(n,) trials of each image."""
        return np.unique(self.trials, return_counts=True)[1].astype(np.int64)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """(T,) place of each trial's image among the images."""
        return np.searchsorted(self.images, self.trials)

    @cached_property
    def betas(self) -> NDArray[np.float32]:
        """(T, V) z-scored betas, read once."""
        return self.load()
