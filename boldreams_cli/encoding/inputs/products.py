"""Products of all pairs of images by each of some receptive fields, from pooled maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from boldreams_cli.encoding.inputs.pooled import PooledMaps
from boldreams_cli.encoding.numerics.tiles import TILE, field_products, triangle, values, whole
from boldreams_cli.machine import give_back


class FieldProducts:
    """Products of the features of some images, each feature times the root of a field at its node.

    Maps are read some images at a time, from memory or from their file; float32 is enough for features of float16,
    and rounding by it is less than any penalty.

    Parameters
    ----------
    pooled : maps of each group.
    fields : of each group, (fields, nodes).
    images : indices of the images, in order.
    repeats : (images,) trials that each stands for.
    """

    def __init__(self, pooled: Sequence[PooledMaps], fields: Sequence[Tensor], images: Tensor, repeats: Tensor) -> None:
        device = repeats.device
        self.pooled, self.images = pooled, images.numpy()
        self.fields = [field.float().to(device) for field in fields]
        self.root = repeats.double().sqrt().float()
        self.centres = self._centres(repeats.double() / repeats.sum())

    @property
    def bytes_each(self) -> int:
        """Memory of one field's products."""
        return 4 * values(len(self.images))

    def of(self, chosen: Sequence[int], look: Callable[[], None]) -> list[Tensor]:
        """Tiles of each of the chosen fields, one behind the other in the order of `triangle`.

        They have one block a field, made beforehand: small blocks among the large ones that each tile takes and frees
        left holes that nothing fitted any more, by chance up to 2 GB of them. All fields are summed whatever is chosen:
        in a product of another shape the last bits would differ.

        Parameters
        ----------
        chosen : which fields.
        look : called before each tile.
        """
        found = [self.root.new_empty(values(len(self.images))) for _ in chosen]
        left, first, place = None, -1, 0
        for rows, columns in triangle(len(self.images)):
            look()
            if left is None or rows.start != first:
                left, first = self._features(rows), rows.start
            right = left if columns == rows else self._features(columns)
            tile = field_products(left, right, self.fields)
            for kept, field in zip(found, chosen, strict=True):
                kept[place : place + tile[field].numel()] = tile[field].flatten()
            place += tile[0].numel()
        return found

    def matrices(self, chosen: Sequence[int], look: Callable[[], None]) -> Iterator[Tensor]:
        """Yield the products by each of the chosen fields, (images, images), in the order given; as `of`.

        Tiles that were put together go back to the system: whoever asks factors a matrix as large.
        """
        tiles = self.of(chosen, look)
        while tiles:
            matrix = whole(tiles.pop(0), len(self.images))
            give_back()
            yield matrix
            del matrix  # before the next is made

    def _features(self, some: slice) -> list[Tensor]:
        """(nodes, n, K) of each group, centred, times the roots of the images' weights."""
        features = []
        for group, centre in zip(self.pooled, self.centres, strict=True):
            maps = group.read(self.images[some]).sub_(centre).mul_(self.root[some, None, None])
            first = group.layout.pixels_first
            features.append(maps.transpose(0, 1) if first else maps.permute(2, 0, 1).contiguous())
        return features

    def _centres(self, share: Tensor) -> list[Tensor]:
        """Means over images by their weights, (A, C) of each group."""
        centres = []
        for group in self.pooled:
            total = torch.zeros(group.layout.shape, dtype=torch.float64, device=share.device)
            for start in range(0, len(self.images), TILE):
                some = np.s_[start : start + TILE]
                total += (group.read(self.images[some]) * share[some, None, None]).sum(0)
            centres.append(total.float())
        return centres
