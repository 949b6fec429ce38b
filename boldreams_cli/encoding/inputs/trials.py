"""Trials of a subject with their pixels: what finetuning trains on, read ahead by another thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import BoldreamsError, logger, size
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.inputs.betas import BETA_COLUMNS, TrainingBetas, hold_out
from boldreams_cli.encoding.inputs.pixels import ResizedImages
from boldreams_cli.encoding.inputs.scratch import Scratch
from boldreams_cli.files import free_bytes
from boldreams_cli.transfers import read_ahead

BATCHES_AHEAD = 2


class ImageTrials:
    """Pixels and betas of the training trials of one subject; test trials are not in it.

    Parameters
    ----------
    responses : of the subject.
    images : its resized stimuli.
    held_out : fraction of the training images to hold out.
    seed : of the choice of those.
    memory : bytes that betas may take; beyond half of it they go to a file without a name.
    scratch : folder for that file.

    Attributes
    ----------
    training, held_out : indices of trials. No image has trials in both.
    voxels : number of voxels trained, those with finite betas in all training trials.
    included : (all voxels,) which those are.
    """

    def __init__(
        self, responses: Responses, images: ResizedImages, held_out: float, seed: int, memory: int, scratch: Path
    ) -> None:
        self.responses, self.images = responses, images
        train = TrainingBetas(responses)
        self.included = train.included
        self.voxels = len(train.columns)
        self.image_ids: NDArray[np.int32] = train.image_ids[train.images]
        held = hold_out(train.image_ids, held_out, seed)[train.images]
        self.held_out, self.training = np.flatnonzero(held), np.flatnonzero(~held)
        self._betas = self._read_betas(train, memory, scratch)

    def _read_betas(self, train: TrainingBetas, memory: int, scratch: Path) -> NDArray[np.float32]:
        shape = (len(self.image_ids), self.voxels)
        needed = 4 * shape[0] * shape[1]
        if needed <= memory // 2:
            return train.trials(train.columns).numpy()
        scratch.mkdir(parents=True, exist_ok=True)
        if needed > free_bytes(scratch):
            raise BoldreamsError(
                f"the betas take {size(needed)}, more than half of --memory, and {scratch} has "
                f"{size(free_bytes(scratch))} free for them; use more --memory or a larger disk"
            )
        logger.info("the betas take %s, more than half of --memory; they are put into a file", size(needed))
        file = Scratch(scratch, needed, "the betas", less="")
        betas = file.mapped(shape)
        for start in range(0, self.voxels, BETA_COLUMNS):
            betas[:, start : start + BETA_COLUMNS] = train.trials(train.columns[start : start + BETA_COLUMNS])
        file.written()
        return betas

    def batches(self, order: Sequence[NDArray[Any]], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pixels and betas of each array of trial indices, read ahead while others are used.

        Parameters
        ----------
        order : trials of each batch.
        device : to put them on.

        Yields
        ------
        (trials, 3, size, size) uint8 and (trials, voxels) float32.
        """
        yield from read_ahead(self._read, order, device, BATCHES_AHEAD)

    def _read(self, trials: NDArray[Any]) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.images.read(self.image_ids[trials])), torch.from_numpy(self._betas[trials])
