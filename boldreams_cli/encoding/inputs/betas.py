"""Betas of the training trials, as solvers read them (paper, section 2.1)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import BoldreamsError, logger
from boldreams_cli.data.responses import Responses

BETA_COLUMNS = 2048


class TrainingBetas:
    """Betas of the training trials, for the voxels that have finite ones in all of them.

    Raises
    ------
    BoldreamsError
        If no voxel has.
    """

    def __init__(self, responses: Responses) -> None:
        self.responses = responses
        self.trials = ~responses.trial_test
        total = len(responses.voxels)
        self.voxels = np.ones(total, dtype=bool)
        for start in range(0, total, BETA_COLUMNS):
            columns = slice(start, start + BETA_COLUMNS)
            self.voxels[columns] = np.isfinite(responses.read_betas(self.trials, columns)).all(axis=0)
        if excluded := int((~self.voxels).sum()):
            if excluded == total:
                raise BoldreamsError(
                    f"no voxel of subject {responses.subject} has finite, varying betas in every session"
                )
            logger.warning("%d of %d voxels have constant or non-finite betas and are left out", excluded, total)
        shown = responses.trial_images[self.trials]
        self.images = np.searchsorted(responses.train_images, shown)

    def mean(self, columns: NDArray[np.int64]) -> Tensor:
        """(training images, voxels) averaged over repeats, of sorted columns of all voxels."""
        whole = slice(int(columns[0]), int(columns[-1]) + 1)
        images = self.responses.train_images
        return torch.from_numpy(self.responses.mean_betas(images, whole)[:, columns - columns[0]])

    def read(self, span: slice) -> Tensor:
        """(trials, voxels) of a span of the included voxels."""
        columns = np.flatnonzero(self.voxels)[span]
        betas = torch.empty((int(self.trials.sum()), len(columns)), dtype=torch.float32)
        for start in range(int(columns[0]), int(columns[-1]) + 1, BETA_COLUMNS):
            stop = min(start + BETA_COLUMNS, int(columns[-1]) + 1)
            inside = (columns >= start) & (columns < stop)
            block = self.responses.read_betas(self.trials, slice(start, stop))
            betas[:, torch.from_numpy(np.flatnonzero(inside))] = torch.from_numpy(block[:, columns[inside] - start])
        return betas
