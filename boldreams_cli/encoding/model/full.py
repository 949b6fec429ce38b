"""From a saved spec to predictions: out of the store, or of the full model from pixels (paper, section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from boldreams_cli.console import MismatchError, logger
from boldreams_cli.encoding.inputs.layout import MapLayout, grouped, laid_out
from boldreams_cli.encoding.inputs.maps import stored_blocks
from boldreams_cli.encoding.model.spec import BACKBONE, FittedModel
from boldreams_cli.encoding.numerics.compression import compressed
from boldreams_cli.features import backbones
from boldreams_cli.features.backbones import Backbone
from boldreams_cli.features.choosing import compare_stimuli
from boldreams_cli.features.store.feature_store import FeatureStore, store_path, stores

VOXEL_BLOCK = 512  # of which what lies between two products stays in cache


def store_of(model: FittedModel, cache: Path) -> FeatureStore:
    """Find the feature store that a model was fitted to.

    Raises
    ------
    MismatchError
        If the cache no longer holds it, or its maps were made anew of other stimuli since.
    """
    path = store_path(cache, model.spec.backbone, model.spec.store)
    if not path.is_dir():
        there = ", ".join(store.path.name for store in stores(cache, model.spec.backbone)) or "none"
        raise MismatchError(
            f"{model.folder} was fitted to the store {path.name}, which {cache} does not hold (there: {there}); "
            f"run boldreams extract --backbone {model.spec.backbone} with the same weights, or fit again"
        )
    store = FeatureStore(path)
    if store.edition != model.spec.edition:
        raise MismatchError(
            f"{model.folder} was fitted before {path} was made anew of other stimuli, which have changed; fit again"
        )
    return store


def compare_store(model: FittedModel, cache: Path, root: Path | None) -> None:
    """Compare the store that a model was fitted to with the stimuli at hand, where the cache still holds it.

    Parameters
    ----------
    model : fitted; a finetuned one was fitted to no store.
    cache : that may hold the store.
    root : of the data; None where none is at hand.

    Raises
    ------
    MismatchError
        If its maps were made anew of other stimuli since.
    """
    if not model.spec.finetuned and store_path(cache, model.spec.backbone, model.spec.store).is_dir():
        compare_stimuli(store_of(model, cache), root)


class Predictor:
    """The readout of a fitted model, applied to maps.

    Parameters
    ----------
    model : fitted.
    device : to compute on.
    """

    def __init__(self, model: FittedModel, device: torch.device) -> None:
        self.model, self.device = model, device
        self.layouts = [MapLayout(group, model.spec.layers) for group in model.spec.groups]
        self.readers = [model.weights.reader(layout.group, layout.pixels_first, device) for layout in self.layouts]
        self.bias = model.weights.bias.to(device)

    def __call__(self, maps: Sequence[Tensor]) -> Tensor:
        """Predict betas.

        Parameters
        ----------
        maps : of each group, (images, A, C) as in MapLayout, on the device.

        Returns
        -------
        (images, voxels) float32; NaN for voxels excluded from the fit.
        """
        out = self.bias.expand(len(maps[0]), -1).clone()
        for group, reader in zip(maps, self.readers, strict=True):
            values = reader.pooled(compressed(group, self.model.spec.compress))
            for start in range(0, out.shape[1], VOXEL_BLOCK):
                voxels = slice(start, start + VOXEL_BLOCK)
                out[:, voxels] += reader.read(values, voxels)
        return out


def predict_stored(
    model: FittedModel, store: FeatureStore, images: NDArray[Any], device: torch.device, memory: int
) -> NDArray[np.float32]:
    """Predict betas of images from their stored maps; no backbone is built.

    Parameters
    ----------
    model, store : that belong together.
    images : image ids.
    device : to compute on.
    memory : bytes that maps may take.

    Returns
    -------
    (images, voxels).
    """
    predictor = Predictor(model, device)
    with torch.inference_mode():
        blocks = stored_blocks(store, store.rows(images), predictor.layouts, device, memory)
        parts = [predictor(block).cpu() for block in blocks]
    return torch.cat(parts).numpy()


class FullModel(nn.Module):
    """Backbone and readout: pixels in, betas out, differentiable.

    Parameters
    ----------
    model : fitted.
    backbone : with the weights that the model was fitted to.
    """

    def __init__(self, model: FittedModel, backbone: Backbone) -> None:
        super().__init__()
        self.model, self.backbone = model, backbone
        self._predictor: Predictor | None = None
        self._layouts = [MapLayout(group, model.spec.layers) for group in model.spec.groups]
        for name, indices in model.spec.layers.items():
            self.register_buffer(_buffer("filters", name), torch.tensor(indices), persistent=False)

    @classmethod
    def rebuild(cls, model: FittedModel, device: torch.device, weights: str | None = None) -> FullModel:
        """Build the full model from its spec, on `device`, in evaluation mode.

        Parameters
        ----------
        model : fitted.
        device : to put it on.
        weights : of the backbone, where they are not at the place that the spec names; a finetuned model has its
            own in its folder.

        Raises
        ------
        MismatchError
            If the weights there are others than those the model was fitted to.
        """
        own = model.folder / BACKBONE if model.spec.finetuned else None
        if own is not None and not own.is_file():
            raise MismatchError(f"{own}, the finetuned backbone, is missing; fit the model again")
        source = str(own) if own is not None else weights or model.spec.backbone_weights["source"]
        known = _tuples(model.spec.preprocessing)
        rectified = known.get("map") == "rectified"
        backbone = backbones.load(model.spec.backbone, source, layers=model.spec.layers, rectified=rectified)
        if backbone.digest != model.spec.backbone_weights["digest"]:
            if own is not None:
                raise MismatchError(f"{own} is not the file that spec.json belongs to; fit the model again")
            raise MismatchError(
                f"the weights {source} of {model.spec.backbone} are not those that {model.folder} was fitted to; "
                "give the right file with --weights FILE, or extract and fit again"
            )
        reading = backbone.reading()
        if known.get("library") != reading.get("library"):
            logger.warning("%s was fitted with %s; here is %s", model.folder, known["library"], reading["library"])
        if known | {"library": ""} != reading | {"library": ""}:
            raise MismatchError(f"{model.folder} was fitted with another preprocessing; extract and fit again")
        return cls(model, backbone).eval().to(device)

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """Maps of the chosen filters, per group (images, K, P)."""
        return self.chosen(self.backbone(pixels))

    def chosen(self, maps: dict[str, Tensor]) -> list[Tensor]:
        """All filters' maps of each layer, (images, filters, height, width) -> as `maps`."""
        filters = {name: self.get_buffer(_buffer("filters", name)) for name in self.model.spec.layers}
        return grouped(maps, filters, self._layouts)

    def forward(self, pixels: Tensor) -> Tensor:
        """Predict betas: (images, 3, H, W) pixels in [0, 1] -> (images, voxels)."""
        return self._predict(self.maps(pixels))

    def predict_images(self, images: Tensor) -> Tensor:
        """Predict betas of (images, height, width, 3) uint8 stimuli."""
        return self._predict(self.chosen(self.backbone.maps_of(images)))

    def _predict(self, maps: list[Tensor]) -> Tensor:
        if self._predictor is None or self._predictor.device != maps[0].device:
            self._predictor = Predictor(self.model, maps[0].device)
        return self._predictor(laid_out(maps, self._layouts))

    def weighted_sum(self, voxel_weights: Tensor) -> ResponseOfArea:
        """Predict one weighted sum of voxels, e.g. an area's mean, without an axis of voxels."""
        return ResponseOfArea(self, voxel_weights)


class ResponseOfArea(nn.Module):
    """A weighted sum of voxels' betas, as a function of pixels.

    Parameters
    ----------
    full : the full model.
    voxel_weights : (voxels,); must be 0 for voxels that were excluded from the fit.
    """

    def __init__(self, full: FullModel, voxel_weights: Tensor) -> None:
        super().__init__()
        self.full = full
        weights = full.model.weights
        device = full.backbone.device
        self.readers = [weights.sum_reader(group, voxel_weights, device) for group in full.model.spec.groups]
        used = voxel_weights != 0
        self.bias = float((weights.bias[used] * voxel_weights[used]).sum())

    def forward(self, pixels: Tensor) -> Tensor:
        """(images, 3, H, W) pixels in [0, 1] -> (images,) response."""
        return self.read(self.full.maps(pixels))

    def read(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of each group, (images, K, P) as `FullModel.maps` gives them -> (images,) response."""
        values = [compressed(group, self.full.model.spec.compress) for group in maps]
        shares = [reader(group) for group, reader in zip(values, self.readers, strict=True)]
        return torch.stack(shares).sum(0) + self.bias


def _buffer(kind: str, layer: str) -> str:
    return f"{kind}_{layer.replace('.', '_')}"


def _tuples(value: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
