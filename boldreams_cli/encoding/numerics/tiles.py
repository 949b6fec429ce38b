"""Products of all pairs of images by each of many fields, in square tiles of one triangle; pure functions of arrays.

A field's products are a weighted sum over nodes of those of each node's features. Tile by tile those of the nodes are
made once, and summed for all fields by one matrix product, so that few images of a large matrix are in work at a time.
Tiles have the same shape whatever the memory: it decides no bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TILE = 512  # images along each side
NODES = 64  # whose products are held at a time


def triangle(images: int) -> list[tuple[slice, slice]]:
    """Tiles of the lower triangle and its diagonal, row by row.

    Parameters
    ----------
    images : along each side of the whole.

    Returns
    -------
    (rows, columns) of each tile, columns not behind rows.
    """
    parts = [slice(start, min(start + TILE, images)) for start in range(0, images, TILE)]
    return [(rows, columns) for number, rows in enumerate(parts) for columns in parts[: number + 1]]


def values(images: int) -> int:
    """Numbers in all tiles of `triangle`."""
    return sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in triangle(images))


def field_products(rows: Sequence[Tensor], columns: Sequence[Tensor], fields: Sequence[Tensor]) -> Tensor:
    """One tile: products of some images with others by each field.

    Parameters
    ----------
    rows : of each group (nodes, n, K) float32, features of some images at each node, centred and weighted.
    columns : of each group (nodes, m, K), those of others.
    fields : of each group (fields, nodes) float32, what each field is at each node.

    Returns
    -------
    (fields, n, m) float32.
    """
    n, m = rows[0].shape[1], columns[0].shape[1]
    total = rows[0].new_zeros(len(fields[0]), n * m)
    for left, right, field in zip(rows, columns, fields, strict=True):
        for start in range(0, len(left), NODES):
            some = slice(start, min(start + NODES, len(left)))
            part = left.new_empty(some.stop - start, n, m)
            for node, product in zip(range(start, some.stop), part, strict=True):
                torch.mm(left[node], right[node].T, out=product)
            total.addmm_(field[:, some], part.flatten(1))
    return total.view(-1, n, m)


def whole(tiles: Tensor, images: int) -> Tensor:
    """Put tiles of `triangle` together, and mirror them.

    Parameters
    ----------
    tiles : (values,), one behind the other in the order of `triangle`.
    images : along each side.

    Returns
    -------
    (images, images), symmetric to the last bit.
    """
    full, start = tiles.new_empty(images, images), 0
    for rows, columns in triangle(images):
        place = full[rows, columns]
        tile = tiles[start : start + place.numel()].view(place.shape)
        start += place.numel()
        place.copy_(tile)
        if rows != columns:
            full[columns, rows] = tile.T
        else:
            full[rows, columns] = tile.tril() + tile.tril(-1).T
    return full
