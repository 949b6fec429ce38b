"""How maps are grouped by resolution and lie in memory (paper, equation 1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import ChoiceError
from boldreams_cli.features.store.feature_store import FeatureStore
from boldreams_cli.transfers import landing

HOST = torch.device("cpu")


@dataclass(frozen=True)
class Group:
    """Layers that share a resolution and hence receptive fields (``--rf layer``: one layer each).

    Parameters
    ----------
    name : ``13x13``, or the layer's name.
    height, width : of the maps, pixels.
    layers : in order.
    """

    name: str
    height: int
    width: int
    layers: tuple[str, ...]

    @property
    def pixels(self) -> int:
        """P."""
        return self.height * self.width


def make_groups(shapes: Mapping[str, tuple[int, int]], rf: str) -> list[Group]:
    """Group layers by resolution (``shared``, as published) or give each its own fields (``layer``).

    Raises
    ------
    ChoiceError
        If `rf` is neither.
    """
    if rf == "layer":
        return [Group(name, height, width, (name,)) for name, (height, width) in shapes.items()]
    if rf != "shared":
        raise ChoiceError(f"unknown receptive fields {rf!r}; choose shared or layer (--rf)")
    found: dict[tuple[int, int], list[str]] = {}
    for name, shape in shapes.items():
        found.setdefault(shape, []).append(name)
    return [Group(f"{h}x{w}", h, w, tuple(names)) for (h, w), names in found.items()]


@dataclass(frozen=True)
class MapLayout:
    """How a group's maps lie in memory: (images, A, C) with the longer of filters and pixels last.

    Parameters
    ----------
    group : of layers.
    filters : layer -> filters to read.
    """

    group: Group
    filters: Mapping[str, Sequence[int]]

    @property
    def count(self) -> int:
        """K of the group."""
        return sum(len(self.filters[name]) for name in self.group.layers)

    @property
    def pixels_first(self) -> bool:
        """Whether A are the pixels and C the filters."""
        return self.count > self.group.pixels

    @property
    def shape(self) -> tuple[int, int]:
        """(A, C)."""
        pair = (self.count, self.group.pixels)
        return (pair[1], pair[0]) if self.pixels_first else pair

    def places(self, out: NDArray[np.floating]) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.floating]]]:
        """Layer, filters, and the part of `out`, (images, A, C), where its maps go: (images, n, height, width)."""
        height, width = self.group.height, self.group.width
        if self.pixels_first:
            maps = out.reshape(len(out), height, width, self.count).transpose(0, 3, 1, 2)
        else:
            maps = out.reshape(len(out), self.count, height, width)
        start = 0
        for name in self.group.layers:
            indices = np.asarray(self.filters[name])
            yield name, indices, maps[:, start : start + len(indices)]
            start += len(indices)


def grouped(maps: Mapping[str, Tensor], filters: Mapping[str, Tensor], layouts: Sequence[MapLayout]) -> list[Tensor]:
    """Maps of the chosen filters of each group, (images, K, P).

    Parameters
    ----------
    maps : layer -> (images, filters, height, width).
    filters : layer -> indices of the chosen filters, on the same device.
    layouts : of the groups.
    """
    chosen = {name: maps[name].index_select(1, indices) for name, indices in filters.items()}
    return [torch.cat([chosen[name].flatten(2) for name in layout.group.layers], dim=1) for layout in layouts]


def laid_out(maps: Sequence[Tensor], layouts: Sequence[MapLayout]) -> list[Tensor]:
    """Turn (images, K, P) of each group into (images, A, C) as in MapLayout."""
    return [
        group.transpose(1, 2).contiguous() if layout.pixels_first else group.contiguous()
        for group, layout in zip(maps, layouts, strict=True)
    ]


def in_shards(
    rows: NDArray[np.int64], rows_per_shard: int, image_bytes: int, block_bytes: int
) -> Iterator[NDArray[np.int64]]:
    """Yield places among `rows` that are read together: whole shards where possible, so that none is decoded twice.

    Parameters
    ----------
    rows : (images,) of the store.
    rows_per_shard : of the store.
    image_bytes : that an image takes.
    block_bytes : to read at a time, about.
    """
    step = max(1, block_bytes // image_bytes)
    step = max(rows_per_shard, step // rows_per_shard * rows_per_shard)
    by_row = np.argsort(rows, kind="stable")
    edges = np.flatnonzero(np.diff(rows[by_row] // step, prepend=-1))
    for start, stop in zip(edges, [*edges[1:], len(rows)], strict=True):
        yield by_row[start:stop]


def read_groups(
    store: FeatureStore, rows: NDArray[np.int64], layouts: Sequence[MapLayout], device: torch.device = HOST
) -> list[Tensor]:
    """Read the maps of every group from the store, (images, A, C) each, to where they can be sent to a device from."""
    dtype = getattr(torch, store.spec["dtype"])
    groups = [landing((len(rows), *layout.shape), dtype, device) for layout in layouts]
    wanted = [place for layout, group in zip(layouts, groups, strict=True) for place in layout.places(group.numpy())]
    store.read_layers(wanted, rows)
    return groups
