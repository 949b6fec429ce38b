"""About how many multiplications and additions a fit takes, by its large matrix products; one function a readout."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from boldreams_cli.encoding.inputs.layout import MapLayout
from boldreams_cli.encoding.inputs.members import members_of
from boldreams_cli.encoding.inputs.pooled import on_grid
from boldreams_cli.encoding.readouts.base import Readout

EIGEN = 20.0  # times the cube of its side, as an eigendecomposition takes as long as so many of a product
PENALTIES_USED = 3  # of a field, that some voxel chooses
MEMBERS_USED = 10  # of a stack, that have a weight for a voxel
ERRORS = 100  # to square, weigh and add a left-out error takes as long as so many directions of a product
SOFTMAX = 500  # multiplications and additions that take as long as a node's score, its softmax and their gradients


@dataclass(frozen=True)
class Task:
    """What a fit is of.

    Parameters
    ----------
    layouts : of the maps that it reads.
    images, trials, voxels : of the training.
    """

    layouts: Sequence[MapLayout]
    images: int
    trials: int
    voxels: int

    def pooled(self, grid: int) -> Task:
        """The same on a grid."""
        return Task([on_grid(layout, grid) for layout in self.layouts], self.images, self.trials, self.voxels)

    @property
    def filters(self) -> int:
        """Of all layers."""
        return sum(layout.count for layout in self.layouts)

    @property
    def nodes(self) -> int:
        """Pixels of a field on all groups."""
        return sum(layout.group.pixels for layout in self.layouts)

    @property
    def values(self) -> int:
        """Of the maps of an image."""
        return sum(layout.count * layout.group.pixels for layout in self.layouts)


def products(solver: Readout, task: Task) -> float | None:
    """Multiplications and additions of a fit; None of a readout that is not known here."""
    settings = solver.settings
    if hasattr(settings, "passes"):  # trained on an image's mean
        pooled = task.pooled(settings.grid)
        each = 4.0 * pooled.values + (SOFTMAX * pooled.nodes if hasattr(settings, "keys") else 0)
        return settings.passes(task.images) * task.images * task.voxels * each
    if hasattr(settings, "epochs"):  # on single trials
        return 4.0 * settings.epochs * task.trials * task.voxels * task.values
    known = CLOSED.get(solver.name)
    return None if known is None else known(settings, task)


def _ridge(settings: Any, task: Task) -> float:
    """One decomposition, of the smaller side."""
    images, values = task.images, task.pooled(settings.grid).values
    rank = min(images, values)
    made = 2.0 * images * values * rank + EIGEN * rank**3
    return made + task.voxels * (_chosen(settings, images, rank) + 4.0 * images * rank + 2.0 * images * values)


def _gaussian(settings: Any, task: Task) -> float:
    """Each field read from whole maps, and decomposed."""
    fields, images, filters = len(settings.candidates), task.images, task.filters
    rank = min(images, filters)
    each = 2.0 * images * task.values + 2.0 * images * filters * rank + EIGEN * rank**3
    return fields * (each + task.voxels * _chosen(settings, images, rank)) + 4.0 * task.voxels * images * rank


def _local(settings: Any, task: Task) -> float:
    """Products of pairs of images once for all fields; each field decomposed on some images, then solved on all."""
    fields, images, some = len(settings.candidates) + 1, task.images, min(task.images, settings.images)
    pooled = task.pooled(settings.grid)
    search = _pairs(some, fields, pooled) + fields * (EIGEN * some**3 + task.voxels * _chosen(settings, some, some))
    pairs = min(task.voxels, PENALTIES_USED * fields)
    solved = _pairs(images, fields, pooled) + pairs * images**3 / 3 + 8.0 * task.voxels * images**2
    return search + solved + 2.0 * task.voxels * images * pooled.values


def _stacked(settings: Any, task: Task) -> float:
    """As local, of every member: each is a ridge of its own, chosen on some images and solved on all."""
    images, some, voxels = task.images, min(task.images, settings.images), task.voxels
    layers = [name for layout in task.layouts for name in layout.group.layers]
    members = members_of(settings.members, settings.grid, settings.candidates, layers)
    total = 2.0 * voxels * some * len(members) ** 2  # products of their predictions
    for _, same in itertools.groupby(members, key=lambda member: member.source):
        mine = list(same)
        read = [on_grid(layout, mine[0].grid) for layout in task.layouts]
        values, nodes = float(mine[0].features(task.layouts)), sum(layout.group.pixels for layout in read)
        total += (some**2 + images**2) * (values + len(mine) * nodes)
        chosen = voxels * (_chosen(settings, some, some) + 4.0 * some**2)
        total += len(mine) * (EIGEN * some**3 + chosen + PENALTIES_USED * images**3 / 3)
        used = voxels * len(mine) * min(1.0, MEMBERS_USED / len(members))
        total += used * (8.0 * images**2 + 2.0 * images * values)
    return total


CLOSED: dict[str, Callable[[Any, Task], float]] = {
    "ridge": _ridge,
    "gaussian": _gaussian,
    "local": _local,
    "stacked": _stacked,
}


def _pairs(images: int, fields: int, task: Task) -> float:
    """Products of all pairs of images at each node, and their sums for each field."""
    return float(images) ** 2 * (task.values + fields * task.nodes)


def _chosen(settings: Any, images: int, rank: int) -> float:
    """Left-out errors of a voxel by every penalty."""
    return 2.0 * (1 + len(settings.penalties)) * images * (rank + ERRORS)
