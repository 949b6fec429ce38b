"""Which pixels of an image drive a predicted response (paper, sections 2.4 and 3.3): choices, batches, names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import BoldreamsError, ChoiceError, StopFlag, logger
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.evaluation.predict import Wanted, pixels_of, read_images
from boldreams_cli.encoding.model.full import FullModel
from boldreams_cli.files import digest, fingerprint
from boldreams_cli.interpret.attribution import methods
from boldreams_cli.interpret.attribution.integration import BASELINES, CPU_PASS, baseline_of
from boldreams_cli.interpret.attribution.method import Attribution, Method, Respond, Scene
from boldreams_cli.interpret.attribution.scores import Scores
from boldreams_cli.interpret.products import Product, hashed, of_model, spelled, versions_that_matter
from boldreams_cli.interpret.targets import Target
from boldreams_cli.machine import is_out_of_memory, repeatable, room

BATCHES = {"cpu": CPU_PASS, "cuda": 256}  # larger ones are no faster
SEED = 0


@dataclass(frozen=True)
class Settings:
    """How to attribute; `chosen` fills in what depends on the method.

    Parameters
    ----------
    method : of `methods.names()`.
    steps : what they count depends on the method; 0 for one that takes none.
    baseline : of `integration.BASELINES`; empty for a method that has none.
    memory : bytes of the host that a forward pass may keep for its gradients.
    """

    method: str = methods.DEFAULT
    steps: int = 256
    baseline: str = BASELINES[0]
    memory: int = 4 * 2**30


def chosen(names: Sequence[str], steps: int | None, baseline: str | None, memory: int) -> list[Settings]:
    """Settings of each method, with its defaults for what is None; steps and baseline go to those that take them.

    Raises
    ------
    ChoiceError
        If there is no such method, or none of them takes the steps or the baseline.
    """
    known = {name: methods.load(name) for name in names}
    stepping = any(method.steps is not None for method in known.values())
    comparing = any(method.from_baseline for method in known.values())
    for option, given, taken in (("--steps", steps, stepping), ("--baseline", baseline, comparing)):
        if given is not None and not taken:
            raise ChoiceError(f"{option} does not apply to --method {' --method '.join(known)}")
    return [
        Settings(
            name,
            0 if method.steps is None else steps or method.steps,
            (baseline or BASELINES[0]) if method.from_baseline else "",
            memory,
        )
        for name, method in known.items()
    ]


@dataclass(frozen=True)
class Job:
    """One image, the targets (numbers in the order asked) that it is attributed to, and what its files are called."""

    image: Wanted
    areas: tuple[int, ...]
    name: str


class Attributor:
    """One method, for targets of one model; their forward passes are shared.

    Parameters
    ----------
    full : the full model.
    targets : either areas and voxels, or one filter; the same one twice counts once.
    responses : of the model's subject; only the default images need them.
    settings : of the method.
    """

    def __init__(
        self, full: FullModel, targets: Sequence[Target], responses: Responses | None, settings: Settings
    ) -> None:
        self.full, self.responses, self.settings = full, responses, settings
        self.method: Method = methods.load(settings.method)
        self.targets = list({target.folder: target for target in targets}.values())
        self.scores = Scores(full, self.targets)
        self.device = full.backbone.device
        self._batch: dict[int, int] = {}

    @property
    def rois(self) -> list[str]:
        """The targets, for people."""
        return [target.name for target in self.targets]

    def folder_name(self, area: int) -> str:
        """The target, then whatever is not the default."""
        settings, known = self.settings, self.method
        method = settings.method if settings.method != methods.DEFAULT else ""
        baseline = settings.baseline if settings.baseline != BASELINES[0] else ""
        steps = f"steps-{settings.steps}" if settings.steps != (known.steps or 0) else ""
        return spelled(self.targets[area].folder, method, baseline, steps)

    def product(self, folder: Path, area: int, name: str, pixels: Tensor, chosen: bool = False) -> Product:
        """Where the attribution of an image of this name to a target is kept under `folder`, and under which key."""
        decides = {
            **of_model(self.full.model),
            "target": fingerprint(self.targets[area].identity),
            "pixels": hashed(pixels.cpu().numpy()),
            "method": {"name": self.settings.method, **self.method.settings},
            "baseline": self.settings.baseline,
            "steps": self.settings.steps,
            "seed": SEED,
            "device": self.device.type,
            "versions": versions_that_matter(),
        }
        files = ("{stem}.npz", "{stem}.png", "{stem}.pdf")
        place = folder / self.folder_name(area)
        return Product("attribution", place, name, files, decides, chosen=chosen, home=self.full.model.folder)

    def best_test_images(self, cache: Path, data_root: Path | None, count: int, stop: StopFlag) -> list[Job]:
        """The test images that excite each target most, best first: by prediction from the store, or from pixels.

        Raises
        ------
        StoppedError
            If a signal came.
        ChoiceError
            If the subject's responses, which name the test images, are not in the cache.
        MismatchError
            If the cache lacks the store or it lacks them.
        BoldreamsError
            If the model is finetuned and there are no stimuli.
        """
        if self.responses is None:
            raise ChoiceError("without the subject's responses no test images are known; name some with --image")
        images = self.responses.test_images
        if self.full.model.spec.finetuned:
            predicted = self._predicted(images, cache, data_root, stop)
        else:
            predicted = self.scores.stored(cache, images.tolist(), self.settings.memory, stop)
        best = np.argsort(-predicted.numpy(), axis=0, kind="stable")[:count]
        chosen: dict[int, list[int]] = {}
        for row in best:
            for area, image in enumerate(row):
                chosen.setdefault(int(images[image]), []).append(area)
        wanted = {Wanted(image_id=image): tuple(areas) for image, areas in chosen.items()}
        return [Job(image, areas, _name(image)) for image, areas in wanted.items()]

    @torch.inference_mode()
    def _predicted(self, images: NDArray[Any], cache: Path, data_root: Path | None, stop: StopFlag) -> Tensor:
        """(images, targets) through the network."""
        wanted, respond = [Wanted(image_id=int(image)) for image in images], self.scores.some(range(len(self.targets)))
        parts = []
        for pixels in pixels_of(self.full, wanted, cache, data_root):
            stop.check("the best test images were not found yet")
            parts.append(respond(pixels).cpu())
        return torch.cat(parts)

    def all_areas(self, images: Sequence[Wanted], chosen: bool = False) -> list[Job]:
        """Every image for every target; `chosen` says whether the user named the folder, as in `product`."""
        areas, names = tuple(range(len(self.targets))), [_name(image) for image in images]
        if chosen:  # elsewhere a name that is taken gets digits of the product's key
            names = _told_apart(images, names)
        return [Job(image, areas, name) for image, name in zip(images, names, strict=True)]

    def pixels(self, image: Wanted, data_root: Path | None) -> Tensor:
        """(3, size, size) in [0, 1], on the device, resized as `extract` does.

        Raises
        ------
        BoldreamsError
            If the picture is damaged, or there are no stimuli.
        """
        picture = torch.from_numpy(read_images([image], data_root)[0])[None]
        return self.full.backbone.entry.preprocessing.resize(picture)[0].to(self.device).float() / 255

    def baseline(self, pixels: Tensor) -> Tensor:
        """What the image is compared with; black for methods that compare it with nothing."""
        return baseline_of(self.settings.baseline or BASELINES[0], pixels, self.full.backbone.entry.preprocessing.mean)

    def scene(self, pixels: Tensor, areas: Sequence[int], batch: int = 1) -> Scene:
        """What the method looks at."""
        return Scene(
            respond=self.scores.some(areas),
            count=len(areas),
            image=pixels,
            baseline=self.baseline(pixels),
            steps=self.settings.steps,
            batch=batch,
            layer=self.scores.last,
            seed=SEED,
        )

    def attribute(self, pixels: Tensor, areas: Sequence[int]) -> Attribution:
        """Attribute one image to some of the targets, as many at once as fit into memory.

        Raises
        ------
        BoldreamsError
            If even one image at a time does not fit.
        """
        most = max(1, self.settings.memory // 2 // (self.method.holds * pixels.nbytes))
        parts = [areas[start : start + most] for start in range(0, len(areas), most)]
        return Attribution.joined([self._attribute(pixels, part) for part in parts])

    def _attribute(self, pixels: Tensor, areas: Sequence[int]) -> Attribution:
        """With batches that fit into memory."""

        def compute(batch: int) -> Attribution:
            scene = self.scene(pixels, areas, batch)
            values = self.method.compute(scene)
            with torch.no_grad():
                ends = [scene.respond(end[None])[0].double().cpu().numpy() for end in (scene.image, scene.baseline)]
            return Attribution(values, *ends)

        batch = self.batch(pixels, areas)
        while True:
            try:
                with repeatable(self.device):
                    result = compute(batch)
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
            logger.info("out of memory: going on with %d images at a time", batch)

    def batch(self, pixels: Tensor, areas: Sequence[int]) -> int:
        """Images in one pass, as far as is known."""
        return self._batch.get(len(areas)) or self._fitting_batch(self.scores.some(areas), pixels)

    def _fitting_batch(self, respond: Respond, pixels: Tensor) -> int:
        """Images whose kept tensors take half of --memory, or of what is free on the GPU."""
        half = room(self.device, self.settings.memory // 2, 1 / 2)
        return max(1, min(BATCHES[self.device.type], half // kept(respond, pixels)))


def _name(image: Wanted) -> str:
    """What an image's files are called."""
    return f"image-{image.image_id:05d}" if image.image_id is not None else spelled(Path(str(image.file)).stem)


def _told_apart(images: Sequence[Wanted], names: Sequence[str]) -> list[str]:
    """Names of which those that several files share end in digits of each file's content."""
    files = [image.file.resolve() if image.file is not None else None for image in images]
    shared: dict[str, set[Path | None]] = {}
    for file, name in zip(files, names, strict=True):
        shared.setdefault(name, set()).add(file)
    return [
        name if file is None or len(shared[name]) == 1 else spelled(name, digest(file)[:6])
        for file, name in zip(files, names, strict=True)
    ]


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
