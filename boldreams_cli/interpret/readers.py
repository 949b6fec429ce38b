"""From maps to the responses of areas, of pixels and of stored images alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import Progress, StopFlag
from boldreams_cli.encoding.inputs.layout import MapLayout
from boldreams_cli.encoding.inputs.maps import stored_blocks
from boldreams_cli.encoding.model.full import FullModel
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.encoding.numerics.compression import compressed
from boldreams_cli.features.store.feature_store import FeatureStore

Reader = Callable[[Sequence[Tensor]], Tensor]


class Means:
    """Reads weighted sums of voxels, as an area's mean, without an axis of voxels.

    Parameters
    ----------
    full : the full model.
    areas : (voxels,) bool of each.
    """

    def __init__(self, full: FullModel, areas: Sequence[NDArray[np.bool_]]) -> None:
        self.areas = [full.weighted_sum(torch.from_numpy(area / area.sum()).float()) for area in areas]

    def __call__(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of each group, (images, K, P) -> (images, areas)."""
        return torch.stack([area.read(maps) for area in self.areas], dim=1)


class Betas:
    """Reads the voxels of an area one by one.

    Parameters
    ----------
    model : fitted.
    voxels : (voxels,) bool.
    device : of the maps.
    """

    def __init__(self, model: FittedModel, voxels: NDArray[np.bool_], device: torch.device) -> None:
        chosen = torch.from_numpy(voxels)
        self.readers = [model.weights.reader(group, False, device, chosen) for group in model.spec.groups]
        self.bias = model.weights.bias[chosen].to(device)
        self.compress = model.spec.compress

    def __call__(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of each group, (images, K, P) -> (images, voxels of the area)."""
        shares = [reader(compressed(group, self.compress)) for group, reader in zip(maps, self.readers, strict=True)]
        return torch.stack(shares).sum(0) + self.bias


def read_stored(
    model: FittedModel,
    store: FeatureStore,
    images: NDArray[Any],
    reader: Reader,
    device: torch.device,
    memory: int,
    stop: StopFlag | None = None,
) -> NDArray[np.float32]:
    """Apply a reader to stored maps.

    Parameters
    ----------
    model, store : that belong together.
    images : (n,) image ids.
    reader : `Means` or `Betas`.
    device : to compute on.
    memory : bytes that the maps may take.
    stop : looked at between batches.

    Returns
    -------
    (n, columns of the reader).

    Raises
    ------
    MismatchError
        If the store lacks some of the images.
    StoppedError
        If a signal came.
    """
    layouts = [MapLayout(group, model.spec.layers) for group in model.spec.groups]
    rows = store.rows(images)
    parts = []
    shown = Progress("read stored maps", len(rows), "images")  # a line every few seconds; mostly it takes less
    with torch.inference_mode():
        for block in stored_blocks(store, rows, layouts, device, memory):
            if stop is not None:
                stop.check(f"{shown.done} of {len(rows)} stored images were looked at")
            maps = [
                group.transpose(1, 2) if layout.pixels_first else group
                for group, layout in zip(block, layouts, strict=True)
            ]
            parts.append(reader(maps).cpu())
            shown.advance(len(parts[-1]))
    return torch.cat(parts).numpy()
