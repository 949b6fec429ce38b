"""The responses of several targets as one function of pixels, whose forward passes they share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from boldreams_cli.console import StopFlag
from boldreams_cli.encoding.model.full import FullModel, ResponseOfArea, store_of
from boldreams_cli.interpret.attribution.method import Respond
from boldreams_cli.interpret.readers import read_stored
from boldreams_cli.interpret.targets import AreaTarget, FilterTarget, Target


class Scores:
    """One number an image for each target: an area's mean beta, the difference of two, a filter's mean activation.

    Parameters
    ----------
    full : the full model, or another of the same voxels and filters.
    targets : either areas, which share forward passes, or one filter.

    Attributes
    ----------
    last : what the maps of `layer` pass through, (images, filters, height, width) whatever the network's own modules
        give: those of a vision transformer give tokens, Swin's have filters last.
    """

    def __init__(self, full: FullModel, targets: Sequence[Target]) -> None:
        self.full, self.targets = full, list(targets)
        self.areas = [_weighted(full, target) for target in targets if isinstance(target, AreaTarget)]
        self.last = nn.Identity()

    def some(self, numbers: Sequence[int]) -> Respond:
        """(images, 3, H, W) -> (images, of those numbers)."""
        first = self.targets[0]
        if isinstance(first, FilterTarget):
            # Not its `activity`, which lets gradients leak through closed rectifiers.
            return lambda points: self._layers(points)[first.layer][:, first.index].mean((1, 2))[:, None]
        chosen = [self.areas[number] for number in numbers]

        def respond(points: Tensor) -> Tensor:
            maps = self.full.chosen(self._layers(points))
            return torch.stack([area.read(maps) for area in chosen], dim=1)

        return respond

    def _layers(self, points: Tensor) -> dict[str, Tensor]:
        """The backbone's maps by layer; those that Grad-CAM weighs pass through `last`."""
        maps = self.full.backbone(points)
        return {name: self.last(value) if name == self.layer else value for name, value in maps.items()}

    @property
    def layer(self) -> str:
        """The last layer that is read and has more than one pixel, or that of the filter."""
        first, layers = self.targets[0], self.full.backbone.layers
        if isinstance(first, FilterTarget):
            return first.layer
        wide = [name for name in layers if min(self.full.model.spec.shapes[name]) > 1]  # class tokens have one pixel
        return (wide or layers)[-1]

    def stored(self, cache: Path, images: Sequence[int], memory: int, stop: StopFlag | None = None) -> Tensor:
        """(images, targets) from the store.

        Raises
        ------
        MismatchError
            If the cache lacks the store or it lacks them.
        StoppedError
            If a signal came.
        """
        model, device = self.full.model, self.full.backbone.device
        store = store_of(model, cache)
        ids = torch.as_tensor(images).numpy()
        if not self.areas:
            return torch.from_numpy(self.targets[0].stored(store, ids, device, memory)["response"])[:, None]

        def read(maps: Sequence[Tensor]) -> Tensor:
            return torch.stack([area.read(maps) for area in self.areas], dim=1)

        return torch.from_numpy(read_stored(model, store, ids, read, device, memory, stop))


def _weighted(full: FullModel, target: AreaTarget) -> ResponseOfArea:
    """The mean over the voxels, less that over those of the contrast."""
    weights = torch.from_numpy(target.voxels / target.voxels.sum())
    if target.minus is not None:
        weights = weights - torch.from_numpy(target.minus / target.minus.sum())
    return full.weighted_sum(weights.float())
