"""Which pixels of an image drive the predicted response of an area (paper, sections 2.4 and 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli import plots
from boldreams_cli.console import BoldreamsError, StopFlag, logger, progress
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.evaluation.predict import Wanted, pixels_of, read_images
from boldreams_cli.encoding.model.full import FullModel, store_of
from boldreams_cli.files import written_whole
from boldreams_cli.interpret.attribution.integration import (
    Integral,
    Respond,
    baseline_of,
    integrated_gradients,
    signed_map,
)
from boldreams_cli.interpret.dreams.loop import is_out_of_memory, repeatable
from boldreams_cli.interpret.targets import Means, read_stored, voxels_of
from boldreams_cli.interpret.words.cloud import folder_name

STEPS = 256  # at most; below 1 % on AlexNet and efficientnet_lite0 where half of them would do
LARGEST_ERROR = 0.01
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
        self.full, self.rois, self.responses, self.settings = full, list(rois), responses, settings
        self.means = Means(full, [voxels_of(full.model, responses.areas, roi) for roi in rois])
        self.device = full.backbone.device
        self._batch: dict[int, int] = {}

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


def attribute(
    attributor: Attributor, jobs: Sequence[Job], folder: Path, nsd_root: Path | None, stop: StopFlag
) -> Iterator[dict[str, Any]]:
    """Attribute images to areas and write, under ``folder/AREA``, an .npz and a panel of each, and a sheet.

    Parameters
    ----------
    attributor, jobs : what to do.
    folder : of all areas.
    nsd_root : to read nsdIds from.
    stop : looked at between images; finished ones are on disk.

    Yields
    ------
    Image by image and area by area, the entries of ``results`` in the JSON object of ``attribute``.

    Raises
    ------
    StoppedError
        If a signal came.
    """
    rows: dict[int, list[tuple[NDArray[Any], NDArray[Any], str]]] = {}
    taken: dict[str, str] = {}
    with progress("attribute", len(jobs), "images") as shown:
        for job in jobs:
            stop.check(f"finished maps are in {folder}")
            pixels = attributor.pixels(job.image, nsd_root)
            result = attributor.integrate(pixels, job.areas)
            name = _file_name(job.image, taken)
            for place, area in enumerate(job.areas):
                entry, row = _save(attributor, folder, area, job.image, name, pixels, result, place)
                rows.setdefault(area, []).append(row)
                yield entry
            shown.advance()
    for area, shown_rows in rows.items():
        roi = attributor.rois[area]
        plots.attribution(folder / folder_name(roi) / "sheet.png", shown_rows, _title(attributor, roi))


def _save(
    attributor: Attributor,
    folder: Path,
    area: int,
    image: Wanted,
    name: str,
    pixels: Tensor,
    result: Integral,
    place: int,
) -> tuple[dict[str, Any], tuple[NDArray[Any], NDArray[Any], str]]:
    """Write one image's attribution to one area; the result's entry and the row of the sheet."""
    roi = attributor.rois[area]
    raw = result.values[place].astype(np.float32)
    smooth = signed_map(result.values[place])
    prediction, start = float(result.prediction[place]), float(result.baseline_prediction[place])
    error = float(result.completeness_error[place])
    if not error <= LARGEST_ERROR:
        logger.warning(
            "image %s, %s: the attribution misses the difference of the predictions (%.3g) by %.1f %%; "
            "use more --steps than %d",
            *(image.name, roi, prediction - start, 100 * error, attributor.settings.steps),
        )
    files = [folder / folder_name(roi) / f"{name}{suffix}" for suffix in (".npz", ".png")]
    with written_whole(files[0]) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            attribution=raw,
            map=smooth.astype(np.float32),
            pixels=pixels.cpu().numpy(),
            prediction=prediction,
            baseline_prediction=start,
            image=str(image.name),
        )
    said = image.name if image.nsd_id is not None else name
    row = (pixels.permute(1, 2, 0).cpu().numpy(), smooth, f"image {said}: mean beta {prediction:.2f}")
    plots.attribution(files[1], [row], _title(attributor, roi))
    entry = {
        "image": image.name,
        "roi": roi,
        "files": files,
        "prediction": prediction,
        "baseline_prediction": start,
        "attribution_sum": float(result.sums[place]),
        "completeness_error": error,
    }
    return entry, row


def _title(attributor: Attributor, roi: str) -> str:
    spec = attributor.full.model.spec
    return f"{roi}, subject {spec.subject}, {spec.backbone} {spec.percent:g} %"


def _file_name(image: Wanted, taken: dict[str, str]) -> str:
    """A name for the files of an image; two files of one name in different folders are told apart."""
    name = f"image-{image.nsd_id:05d}" if image.nsd_id is not None else folder_name(Path(str(image.file)).name)
    base, number = name, 2
    while taken.setdefault(name, str(image.name)) != str(image.name):
        name, number = f"{base}-{number}", number + 1
    return name
