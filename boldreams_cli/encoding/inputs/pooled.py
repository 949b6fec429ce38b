"""Maps summed against smooth receptive fields: a field given on a coarse grid needs only maps pooled on it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.encoding.inputs.layout import Group, MapLayout
from boldreams_cli.encoding.inputs.maps import read_groups
from boldreams_cli.encoding.numerics.contraction import contract
from boldreams_cli.encoding.numerics.fields import interpolation
from boldreams_cli.features.feature_store import FeatureStore

READ_BYTES = 256 * 2**20
SCALE_IMAGES = 512


class PooledMaps:
    """Maps of one group, pooled on the grid, centred and scaled, in memory.

    Parameters
    ----------
    store : to read from.
    rows : (images,) of the store.
    layout : of the group.
    grid : nodes along each side of a field.
    """

    def __init__(self, store: FeatureStore, rows: NDArray[np.int64], layout: MapLayout, grid: int) -> None:
        group = layout.group
        self.expand = interpolation(group.height, group.width, grid)
        nodes = self.expand.shape[1]
        side = (min(grid, group.height), min(grid, group.width))
        self.layout = MapLayout(Group(group.name, *side, group.layers), layout.filters)
        # Averages rather than sums: then equal steps of Adam suit every resolution.
        self.pool = self.expand / self.expand.sum(0)
        image_bytes = layout.count * group.pixels * 4
        step = max(1, READ_BYTES // image_bytes)
        step = max(store.rows_per_shard, step // store.rows_per_shard * store.rows_per_shard)
        by_row = np.argsort(rows, kind="stable")
        edges = np.flatnonzero(np.diff(rows[by_row] // step, prepend=-1))
        self.scale = torch.ones(layout.count)
        self.maps = torch.empty(len(rows), *self.layout.shape)
        plain = _FiltersFirst(group, layout.filters)
        for start, stop in zip(edges, [*edges[1:], len(rows)], strict=True):
            chosen = by_row[start:stop]
            maps = torch.from_numpy(read_groups(store, rows[chosen], [plain])[0]).float()
            if start == 0:
                self.scale = maps[:SCALE_IMAGES].std((0, 2)).clamp_min(1e-6)
            pooled = (maps.view(-1, group.pixels) @ self.pool).view(len(chosen), layout.count, nodes)
            pooled /= self.scale[:, None]
            self.maps[torch.from_numpy(chosen)] = pooled.transpose(1, 2) if self.layout.pixels_first else pooled
        self.centre = self.maps.mean(0)
        self.maps -= self.centre

    def fold(self, fields: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Undo pooling, scaling and centring, exactly.

        Parameters
        ----------
        fields : (voxels, nodes) on the grid.
        weights : (voxels, K) of the scaled maps.

        Returns
        -------
        fields (voxels, P) and weights (voxels, K) of the maps as they are, and what the bias loses (voxels,).
        """
        left, right = (fields, weights) if self.layout.pixels_first else (weights, fields)
        loss = contract(self.centre[None], left.T, right.T)[0][0]
        return fields @ self.pool.T, weights / self.scale, loss


class _FiltersFirst(MapLayout):
    """Reads (images, K, P) whatever the sizes."""

    @property
    def pixels_first(self) -> bool:
        return False
