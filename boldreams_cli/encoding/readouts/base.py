"""The interface that every readout keeps (paper, equation 1).

To add a readout, add a file to this room with a frozen dataclass of settings and a class decorated with `register`;
nothing else names it. ``fit --readout NAME`` (and ``--recipe``, where several solvers lead to one kind of readout)
finds it, options of the command line become the settings of the same name, and the driver (encoding/fit.py) does all
that readouts have in common: reading, spans of voxels, checkpoints, saving.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import StopFlag
from boldreams_cli.encoding.inputs.betas import drawn_order

if TYPE_CHECKING:
    from boldreams_cli.encoding.inputs.betas import TrainingBetas
    from boldreams_cli.encoding.inputs.layout import MapLayout
    from boldreams_cli.encoding.inputs.pooled import PooledMaps

R = TypeVar("R", bound="Readout")

LATER = {"later": True}  # metadata of a setting that was added to a readout; see ReadoutSettings.recorded


class MapSource(Protocol):
    """Maps of the chosen filters of the training images, in the order of `TrainingBetas.image_ids`.

    Whether they lie in memory or in a scratch file is the source's matter, and never changes a result.
    """

    layouts: Sequence[MapLayout]

    @property
    def resident_bytes(self) -> int:
        """Memory that `batches` takes and keeps: that of all maps, or 0 where they go through a file."""
        ...

    def batches(self, order: Sequence[NDArray[np.int64]]) -> Iterator[list[Tensor]]:
        """Yield, for each array of image indices, the maps of every group, (images, A, C) float32."""
        ...

    def pooled(self, grid: int, memory: int, compress: str = "none") -> list[PooledMaps]:
        """Maps of every group, compressed and pooled on a grid, scaled over all training images; made once and kept.

        Beyond `memory` bytes they go to a file; that changes no number.
        """
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
    title : of progress lines.
    """

    maps: MapSource
    betas: TrainingBetas
    held_out: NDArray[np.bool_]
    seed: int
    device: torch.device
    memory: int
    title: str = "fit"

    def some_images(self, most: int) -> Tensor:
        """Indices of the training images, of no more than `most` drawn by their ids and the seed, in order."""
        return torch.from_numpy(np.sort(drawn_order(self.betas.image_ids, self.seed, b"choice")[:most]))


@dataclass(frozen=True)
class Solution:
    """The weights of a span of voxels.

    Parameters
    ----------
    fields : of each group (voxels, P); empty where all voxels share `basis`. With `queries` (voxels, rows, columns)
        position biases at the nodes of a grid.
    weights : of each group (voxels, K), or (voxels, K, nodes).
    bias : (voxels,).
    curve : columns of log.csv, e.g. ``train_loss``; each a list with one number an epoch, a mean over these voxels.
    basis : of each group (nodes, P), the fields that all voxels share.
    chosen : what was chosen for each voxel (penalty, field, epoch), (voxels,) each; kept in ``chosen.csv``.
    queries : of each group (voxels, K), where fields depend on the image (numerics/attention.py); else empty.
    """

    fields: list[Tensor]
    weights: list[Tensor]
    bias: Tensor
    curve: dict[str, list[float]]
    basis: list[Tensor] | None = None
    chosen: dict[str, Tensor] = field(default_factory=dict)
    queries: list[Tensor] = field(default_factory=list)


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

    @property
    def there(self) -> bool:
        """Whether anything is kept."""
        ...

    def beside(self, name: str) -> Checkpoint:
        """Another one of the same voxels, for what is large and done once; it stays until the model is whole."""
        ...


@dataclass(frozen=True)
class ReadoutSettings:
    """All that decides the weights, besides the data and the seed; each readout has its own, hashed into the name.

    Fields named ``epochs``, ``rate``, ``batch_size`` and ``precision`` are set by the options of the command line.
    """

    def check(self) -> None:
        """Raise ChoiceError for values that make no sense."""

    def recorded(self) -> dict[str, Any]:
        """What the spec says and the key hashes.

        A field with `LATER` is left out while it has the value that all models had before it was there, ``before``
        in its metadata or else its default: they keep their keys.
        """
        known = {one.name: one.metadata.get("before", one.default) for one in fields(self) if "later" in one.metadata}
        return {name: value for name, value in asdict(self).items() if name not in known or value != known[name]}


class Readout(Protocol):
    """A way from maps to betas; made as ``Class(settings)``.

    Attributes
    ----------
    name : of the solver, its key in READOUTS.
    readout : kind of weights that it leads to, ``--readout``; several solvers may lead to one.
    recipe : which of these it is, ``--recipe``; None where there is one solver.
    reads : ``images`` or ``captions``, of the backbones that it is for.
    pooled : whether it reads maps pooled on a grid, and never the whole ones.
    Settings : class of its settings, all fields with defaults.
    """

    name: ClassVar[str]
    readout: ClassVar[str]
    recipe: ClassVar[str | None] = None
    reads: ClassVar[str] = "images"
    pooled: ClassVar[bool] = False
    Settings: ClassVar[type[ReadoutSettings]]
    settings: Any

    def __init__(self, settings: Any) -> None: ...

    def bytes_resident(self, problem: Problem) -> int:
        """Memory that is taken whatever the number of voxels (maps, pooled maps, a decomposition)."""
        ...

    def bytes_per_voxel(self, problem: Problem) -> int:
        """Memory that a voxel takes more, its solution included; decides the spans of voxels, never a result."""
        ...

    def voxels_together(self, problem: Problem) -> int:
        """Spans are cut at multiples of this where memory allows: then the arithmetic is the same to the last bit."""
        return 1

    def sets(self, problem: Problem) -> list[NDArray[np.int64]]:
        """Voxels that share weights and are solved together, a span each; empty where every voxel is by itself."""
        return []

    def prepare(self, problem: Problem, checkpoint: Checkpoint, stop: StopFlag) -> None:
        """Do once what all spans need (a decomposition, a search through fields); `checkpoint` is of all voxels."""
        return

    def solve(self, problem: Problem, voxels: NDArray[np.int64], checkpoint: Checkpoint, stop: StopFlag) -> Solution:
        """Solve for some voxels (columns of all of the subject's); a voxel's result depends on none outside its set.

        Raises
        ------
        StoppedError
            If a signal came; the state is in `checkpoint`, and the same call goes on from it to the same bits.
        """
        ...


READOUTS: dict[str, type[Readout]] = {}


def register(solver: type[R]) -> type[R]:
    """Add a class to READOUTS under its name."""
    READOUTS[solver.name] = solver
    return solver
