"""Members of a stack of ridges: which features of the pooled maps each reads, and near which field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.encoding.inputs.layout import MapLayout
from boldreams_cli.encoding.inputs.pooled import PooledMaps, on_grid
from boldreams_cli.encoding.numerics.stacking import nested_grids

KINDS = ("ridge", "local", "layers")
TOGETHER = 1024  # features in a block: a part of the arithmetic, whatever the memory


@dataclass(frozen=True)
class Member:
    """One ridge of a stack.

    Parameters
    ----------
    name : its column in ``chosen.csv``.
    grid : nodes along each side of the maps that it reads.
    layer : that it reads; None for all.
    field : which of the fields its prior is, the flat one last.
    """

    name: str
    grid: int
    layer: str | None
    field: int

    @property
    def source(self) -> tuple[int, str | None]:
        """What features it has: members of one source differ by their prior alone."""
        return self.grid, self.layer

    def filters(self, layout: MapLayout) -> slice:
        """Which of a group's filters it reads."""
        if self.layer is None:
            return slice(0, layout.count)
        start = 0
        for name in layout.group.layers:
            count = len(layout.filters[name])
            if name == self.layer:
                return slice(start, start + count)
            start += count
        return slice(0, 0)

    def maps(self, pooled: Sequence[PooledMaps]) -> dict[int, PooledMaps]:
        """What it reads of the pooled maps of some groups, by the group's number."""
        if self.layer is None:
            return dict(enumerate(pooled))
        chosen = {number: self.filters(group.layout) for number, group in enumerate(pooled)}
        return {
            number: cast(PooledMaps, Part(pooled[number], some))
            for number, some in chosen.items()
            if some.stop > some.start
        }

    def features(self, layouts: Sequence[MapLayout]) -> int:
        """Number of features that it reads of the maps of all groups."""
        pooled = [on_grid(layout, self.grid) for layout in layouts]
        chosen = [self.filters(layout) for layout in pooled]
        return sum(layout.group.pixels * (some.stop - some.start) for layout, some in zip(pooled, chosen, strict=True))


class Part:
    """Pooled maps of some of a group's filters.

    Parameters
    ----------
    group : of all.
    filters : that are read.
    """

    def __init__(self, group: PooledMaps, filters: slice) -> None:
        self.group, self.filters = group, filters
        nodes, count = group.layout.group.pixels, filters.stop - filters.start
        first = group.layout.pixels_first
        # In the order of the group's, whichever of the two is longer here.
        self.layout = SimpleNamespace(pixels_first=first, shape=(nodes, count) if first else (count, nodes))

    def read(self, images: NDArray[np.int64]) -> Tensor:
        """(images, A, C) of those filters; not a view of the group's."""
        maps = self.group.read(images)
        return (maps[:, :, self.filters] if self.layout.pixels_first else maps[:, self.filters]).contiguous()


def members_of(kinds: Sequence[str], grid: int, fields: NDArray[np.float64], layers: Sequence[str]) -> list[Member]:
    """All members, those of one source side by side.

    Parameters
    ----------
    kinds : some of KINDS: a ``ridge`` of all; ``local``, the same near each field, and ridge itself; a ridge of each of
        the ``layers``, on each grid whose nodes are among those of `grid`.
    grid : nodes along each side.
    fields : (n, 3) x, y and standard deviation, in fractions of the image.
    layers : names of them.
    """
    found, flat = [], len(fields)
    if "local" in kinds:
        for number, (x, y, size) in enumerate(fields):
            found.append(Member(f"local x {x:.3g} y {y:.3g} size {size:.3g}", grid, None, number))
    if "ridge" in kinds or "local" in kinds:
        found.append(Member("ridge", grid, None, flat))
    if "layers" in kinds:
        found += [Member(f"{name} grid {one}", one, name, flat) for one in nested_grids(grid) for name in layers]
    return found


def features_at(group: PooledMaps, node: int, filters: slice) -> Iterator[tuple[slice, Tensor]]:
    """Yield some filters, and a group's maps of these at one node (images, some); constant numbers of them."""
    count, nodes = group.layout.count, group.layout.group.pixels
    if filters.start == filters.stop:
        return
    if group.layout.pixels_first:
        for start in range(filters.start, filters.stop, TOGETHER):
            stop = min(start + TOGETHER, filters.stop)
            yield slice(start, stop), group.columns(slice(node * count + start, node * count + stop))
    else:
        yield filters, group.columns(slice(filters.start * nodes, filters.stop * nodes))[:, node::nodes]


def weighted_means(group: PooledMaps, share: Tensor) -> Tensor:
    """Weighted means over images of a group's scaled maps.

    Parameters
    ----------
    group : of pooled maps.
    share : (images,) float64, weights that sum to 1.

    Returns
    -------
    (nodes, K) float64.
    """
    starts = range(0, group.values, TOGETHER)
    blocks = (group.columns(slice(start, min(start + TOGETHER, group.values))) for start in starts)
    means = torch.cat([(share @ block.double()).cpu() for block in blocks]) + group.centre.flatten()
    shaped = means.view(group.layout.shape)
    return (shaped if group.layout.pixels_first else shaped.T).contiguous()
