"""The interface that every readout keeps; a readout is one file in this room (paper, equation 1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import StopFlag

if TYPE_CHECKING:
    from boldreams_cli.encoding.inputs.betas import TrainingBetas
    from boldreams_cli.encoding.inputs.layout import MapLayout
    from boldreams_cli.encoding.inputs.pooled import PooledMaps


class MapSource(Protocol):
    """Maps of the chosen filters of the training images, in the order of `TrainingBetas.image_ids`.

    Whether they lie in memory or in a scratch file is the source's matter, and never changes a result.
    """

    layouts: Sequence[MapLayout]

    def batches(self, order: Sequence[NDArray[np.int64]]) -> Iterator[list[Tensor]]:
        """Yield, for each array of image indices, the maps of every group, (images, A, C) float32."""
        ...

    def pooled(self, grid: int) -> list[PooledMaps]:
        """Maps of every group pooled on a grid, with scales over all training images; made once and kept."""
        ...


@dataclass(frozen=True)
class Problem:
    """All that a solver may look at; test images are not in it.

    Parameters
    ----------
    maps : of the training images.
    betas : their trials; `.trials(voxels)`, `.means(voxels)`, `.repeats`.
    held_out : (images,) those that choose among epochs and fields; the same for every readout and percent.
    seed : of all random numbers.
    device : to solve on.
    memory : bytes that a way through may take. It never decides a result.
    """

    maps: MapSource
    betas: TrainingBetas
    held_out: NDArray[np.bool_]
    seed: int
    device: torch.device
    memory: int


@dataclass(frozen=True)
class Solution:
    """The weights of a span of voxels.

    Parameters
    ----------
    fields : of each group (voxels, P); empty where all voxels share `basis`.
    weights : of each group (voxels, K), or (voxels, K, nodes).
    bias : (voxels,).
    curve : columns of log.csv, e.g. ``train_loss``; each a list with one number an epoch, a mean over these voxels.
    basis : of each group (nodes, P), the fields that all voxels share.
    chosen : what was chosen for each voxel (penalty, field, epoch), (voxels,) each; kept in ``chosen.csv``.
    """

    fields: list[Tensor]
    weights: list[Tensor]
    bias: Tensor
    curve: dict[str, list[float]]
    basis: list[Tensor] | None = None
    chosen: dict[str, Tensor] = field(default_factory=dict)


class Checkpoint(Protocol):
    """Where an unfinished solve of one span keeps its state; it carries the key of the fit and of the span."""

    @property
    def due(self) -> bool:
        """Whether the last one is a minute old."""
        ...

    def load(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """The note and tensors of the last `save`, None where there is none."""
        ...

    def save(self, note: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Keep them, whole or not at all."""
        ...


class Readout(Protocol):
    """A way from maps to betas."""

    name: ClassVar[str]
    settings: Any  # a frozen dataclass: all that decides the weights, hashed into the model's folder

    def bytes_resident(self, problem: Problem) -> int:
        """Memory that is taken whatever the number of voxels (pooled maps, a decomposition)."""
        ...

    def bytes_per_voxel(self, problem: Problem) -> int:
        """Memory that a voxel takes more; decides the spans of voxels, never a result."""
        ...

    def solve(self, problem: Problem, voxels: NDArray[np.int64], checkpoint: Checkpoint, stop: StopFlag) -> Solution:
        """Solve for some voxels (columns of all of the subject's); the result of a voxel depends on no other.

        Raises
        ------
        StoppedError
            If a signal came; the state is in `checkpoint`, and the same call goes on from it to the same bits.
        """
        ...
