"""Which pixels of an image drive the predicted response of an area (paper, sections 2.4 and 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from boldreams_cli.console import BoldreamsError, logger
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.evaluation.predict import Wanted, pixels_of, read_images
from boldreams_cli.encoding.model.full import FullModel, store_of
from boldreams_cli.interpret.attribution.integration import (
    BASELINES,
    ORDER,
    TOLERANCE,
    Integral,
    Respond,
    baseline_of,
    integrated_gradients,
)
from boldreams_cli.interpret.products import (
    Product,
    hashed,
    of_model,
    spelled,
    versions_that_matter,
)
from boldreams_cli.interpret.readers import Means, read_stored
from boldreams_cli.interpret.targets import said, voxels_of
from boldreams_cli.machine import is_out_of_memory, repeatable

STEPS = 256  # at most; below 1 % on AlexNet and efficientnet_lite0 where half of them would do
BATCHES = {"cpu": 16, "cuda": 256}  # larger ones are no faster


@dataclass(frozen=True)
class Settings:
    """Of the integral.

    Parameters
    ----------
    steps : points on the line from baseline to image, at most.
    baseline : of `integration.BASELINES`.
    memory : bytes that a forward pass may keep for its gradients.
    """

    steps: int = STEPS
    baseline: str = "black"
    memory: int = 4 * 2**30


@dataclass(frozen=True)
class Job:
    """One image and the areas (numbers in the order asked) that it is attributed to."""

    image: Wanted
    areas: tuple[int, ...]


class Attributor:
    """Integrated gradients of a model's areas; their forward passes are shared.

    Parameters
    ----------
    full : the full model.
    rois : areas as asked for.
    responses : of the model's subject.
    settings : of the integral.

    Raises
    ------
    ChoiceError, BoldreamsError
        If an area is not there.
    """

    def __init__(self, full: FullModel, rois: Sequence[str], responses: Responses, settings: Settings) -> None:
        self.full, self.responses, self.settings = full, responses, settings
        asked: dict[str, str] = {}
        for roi in rois:
            asked.setdefault(responses.areas.canonical(roi), roi)  # V1 and v1 are one
        self.rois = [said(responses.areas, roi) for roi in asked.values()]
        self.names = [self._folder_name(area) for area in asked]
        self.voxels = [voxels_of(full.model, responses.areas, roi) for roi in asked.values()]
        self.means = Means(full, self.voxels)
        self.device = full.backbone.device
        self._batch: dict[int, int] = {}

    def _folder_name(self, area: str) -> str:
        """The area, then whatever is not the default."""
        baseline = self.settings.baseline if self.settings.baseline != BASELINES[0] else ""
        return spelled(area, baseline, f"steps-{self.settings.steps}" if self.settings.steps != STEPS else "")

    def product(self, folder: Path, area: int, image: Wanted, pixels: Tensor) -> Product:
        """Where an image's attribution to an area is kept under `folder`, and under which key."""
        decides = {
            **of_model(self.full.model),
            "voxels": hashed(np.flatnonzero(self.voxels[area])),
            "pixels": hashed(pixels.cpu().numpy()),
            "baseline": self.settings.baseline,
            "integral": [self.settings.steps, ORDER, TOLERANCE],
            "device": self.device.type,
            "versions": versions_that_matter(),
        }
        name = f"image-{image.nsd_id:05d}" if image.nsd_id is not None else spelled(Path(str(image.file)).stem)
        return Product("attribution", folder / self.names[area], name, ("{stem}.npz", "{stem}.png"), decides)

    def best_test_images(self, cache: Path, nsd_root: Path | None, count: int, memory: int) -> list[Job]:
        """The test images that excite each area most, best first: by prediction from the store, or from pixels.

        Raises
        ------
        MismatchError
            If the cache lacks the store or it lacks them.
        BoldreamsError
            If the model is finetuned and there are no stimuli.
        """
        model, images = self.full.model, self.responses.test_images
        if model.spec.finetuned:
            wanted = [Wanted(nsd_id=int(image)) for image in images]
            with torch.inference_mode():
                parts = [self.means(self.full.maps(p)) for p in pixels_of(self.full, wanted, cache, nsd_root)]
            predicted = torch.cat(parts).cpu().numpy()
        else:
            predicted = read_stored(model, store_of(model, cache), images, self.means, self.device, memory)
        best = np.argsort(-predicted, axis=0, kind="stable")[:count]
        chosen: dict[int, list[int]] = {}
        for row in best:
            for area, image in enumerate(row):
                chosen.setdefault(int(images[image]), []).append(area)
        return [Job(Wanted(nsd_id=image), tuple(areas)) for image, areas in chosen.items()]

    def all_areas(self, images: Sequence[Wanted]) -> list[Job]:
        """Every image for every area."""
        return [Job(image, tuple(range(len(self.rois)))) for image in images]

    def pixels(self, image: Wanted, nsd_root: Path | None) -> Tensor:
        """(3, size, size) in [0, 1], on the device, resized as `extract` does.

        Raises
        ------
        BoldreamsError
            If the picture is damaged, or there are no stimuli.
        """
        picture = torch.from_numpy(read_images([image], nsd_root)[0])[None]
        return self.full.backbone.entry.preprocessing.resize(picture)[0].to(self.device).float() / 255

    def integrate(self, pixels: Tensor, areas: Sequence[int]) -> Integral:
        """Attribute one image to some of the areas, with batches that fit into memory.

        Raises
        ------
        BoldreamsError
            If even one point at a time does not fit.
        """
        means = [self.means.areas[area] for area in areas]

        def respond(points: Tensor) -> Tensor:
            maps = self.full.maps(points)
            return torch.stack([area.read(maps) for area in means], dim=1)

        mean = self.full.backbone.entry.preprocessing.mean
        baseline = baseline_of(self.settings.baseline, pixels, mean)
        batch = self._batch.get(len(areas)) or self._fitting_batch(respond, pixels)
        while True:
            try:
                with repeatable(self.device):
                    result = integrated_gradients(respond, pixels, baseline, self.settings.steps, batch)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if batch == 1:
                    raise BoldreamsError(
                        f"out of memory on {self.device} with a single image at a time; use another --device"
                    ) from error
                batch //= 2
            else:
                self._batch[len(areas)] = batch
                return result
            logger.info("out of memory: going on with %d points at a time", batch)

    def _fitting_batch(self, respond: Respond, pixels: Tensor) -> int:
        """Points whose kept tensors take half of --memory."""
        return max(
            1, min(self.settings.steps, BATCHES[self.device.type], self.settings.memory // 2 // kept(respond, pixels))
        )


def kept(respond: Respond, pixels: Tensor) -> int:
    """Bytes that a forward pass of one image keeps for its gradients."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not tensor.is_leaf or tensor.requires_grad:  # weights are kept once for all
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        respond(pixels[None].clone().requires_grad_())
    return max(1, sum(sizes.values()))
