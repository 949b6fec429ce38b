"""What a dream leaves on disk, beside the natural images that excite the same target most (paper, section 2.5)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from boldreams_cli import plots
from boldreams_cli.console import BoldreamsError, StopFlag, logger
from boldreams_cli.data.dataset import open_dataset
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.evaluation.predict import Wanted, pixels_of
from boldreams_cli.encoding.model.full import FullModel, store_of
from boldreams_cli.encoding.model.spec import FittedModel, versions
from boldreams_cli.files import write_json, write_text, written_whole
from boldreams_cli.interpret.dreams import parameterization, spectra
from boldreams_cli.interpret.dreams.loop import COLUMNS, STATE, Dream, Dreamer, Settings
from boldreams_cli.interpret.dreams.objectives import Objective
from boldreams_cli.interpret.targets import Target


@dataclass(frozen=True)
class Natural:
    """The natural image that does best.

    Parameters
    ----------
    image : nsdId.
    response : of the target, in the full model's unit.
    score : what the objective makes of it.
    """

    image: int
    response: float
    score: float


def best_natural(
    request: Request, responses: Responses, cache: Path, nsd_root: Path | None, memory: int
) -> dict[str, Natural] | None:
    """The best training and test image, by prediction from the store; None (and a log line) without one.

    Those of a finetuned model are predicted from their pixels.

    Returns
    -------
    ``train`` and ``test``.
    """
    try:
        finetuned = request.model.spec.finetuned
        store = None if finetuned else store_of(request.model, cache)
        found = {}
        for name, images in (("train", responses.train_images), ("test", responses.test_images)):
            if store is None:
                activity = _from_pixels(request.target, images, cache, nsd_root)
            else:
                activity = request.target.stored(store, images, request.device, memory)
            score = request.objective.score(activity)
            best = int(np.argmax(score))
            found[name] = Natural(int(images[best]), float(activity["response"][best]), float(score[best]))
    except BoldreamsError as error:
        logger.info("best natural images: none (%s)", error)
        return None
    return found


@torch.inference_mode()
def _from_pixels(
    target: Target, images: NDArray[Any], cache: Path, nsd_root: Path | None
) -> dict[str, NDArray[np.float32]]:
    """What `Target.stored` gives, through the network."""
    wanted = [Wanted(nsd_id=int(image)) for image in images]
    parts = [target.activity(pixels) for pixels in pixels_of(target.full, wanted, cache, nsd_root)]
    names = [name for name in parts[0] if name != "maps"]
    return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in names}


def pictures(images: Sequence[int], full: FullModel, nsd_root: Path | None) -> list[NDArray[np.float32]] | None:
    """Natural images at the backbone's input size, (H, W, 3) in [0, 1]; None (and a log line) without stimuli."""
    if nsd_root is None:
        logger.info("natural images are not shown beside the dreams: no --nsd-root")
        return None
    try:
        with open_dataset(nsd_root).stimuli() as stimuli:
            read = torch.from_numpy(stimuli.read(images))
    except BoldreamsError as error:
        logger.info("natural images are not shown beside the dreams: %s", error)
        return None
    resized = full.backbone.entry.preprocessing.resize(read).permute(0, 2, 3, 1)
    return list((resized.float() / 255).numpy())


@dataclass(frozen=True)
class Request:
    """A dream to be made.

    Parameters
    ----------
    target, objective, settings : of it.
    folder : to write.
    device : to compute on.
    """

    target: Target
    objective: Objective
    settings: Settings
    folder: Path
    device: torch.device

    @property
    def model(self) -> FittedModel:
        """That is dreamed with."""
        return self.target.full.model


def dream(
    request: Request, responses: Responses | None, cache: Path, nsd_root: Path | None, memory: int, stop: StopFlag
) -> Record:
    """Make a dream, or as much of it as a signal allows, and write it.

    Parameters
    ----------
    request : what to dream.
    responses : of the model's subject, for the best natural images and for ``maco``.
    cache : that may hold the model's feature store.
    nsd_root : for the pixels of natural images.
    memory : bytes that stored maps may take.
    stop : looked at between steps; the images so far are written, and the same request goes on from there.

    Raises
    ------
    BoldreamsError
        If memory runs out, the loss is no number, or ``maco`` finds no stimuli.
    """
    settings, model = request.settings, request.model

    def spectrum() -> parameterization.Spectrum:
        return spectra.spectrum_of(model, responses, cache, nsd_root)

    picture = parameterization.create(
        settings.parameterization,
        settings.count,
        request.target.full.backbone.entry.preprocessing.size,
        settings.seed,
        request.device,
        spectrum,
    )
    natural = best_natural(request, responses, cache, nsd_root, memory) if responses is not None else None
    dreamer = Dreamer(request.target, request.objective, picture, settings)
    key = dreamer.key(model.spec.weights_digest)
    dreamer.resume(request.folder, key)
    dreamed = dreamer.run(stop)
    if dreamed.stopped:
        dreamer.save_state(request.folder, key)
    record = Record(request, dreamed, natural)
    record.save(nsd_root)
    return record


@dataclass(frozen=True)
class Record:
    """A dream with all that belongs to it.

    Parameters
    ----------
    request : what was asked.
    dream : images, responses, trace.
    natural : the best natural images, or None.
    """

    request: Request
    dream: Dream
    natural: dict[str, Natural] | None

    def summary(self) -> dict[str, Any]:
        """The JSON object of ``dream``."""
        folder = self.request.folder
        best = (self.natural or {}).items()
        natural = {name: {"image": item.image, "response": item.response} for name, item in best} or None
        return {
            "model": str(self.request.model.folder),
            "roi": self.request.target.name,
            "objective": self.request.objective.name,
            "images": [str(folder / f"dream-{number}.png") for number in range(1, len(self.dream.images) + 1)],
            "response": self.dream.response.tolist(),
            "best_natural": natural,
            "trace": str(folder / "trace.csv"),
        }

    def save(self, nsd_root: Path | None) -> None:
        """Write dream-N.png, sheet.png, dream.npz, trace.csv, trace.png, and last dream.json."""
        folder = self.request.folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dream.json").unlink(missing_ok=True)
        for path in folder.glob("dream-*.png"):  # an earlier dream may have had more
            path.unlink()
        for number, image in enumerate(self.dream.images, start=1):
            with written_whole(folder / f"dream-{number}.png") as temporary:
                Image.fromarray(_bytes(image)).save(temporary)
        with written_whole(folder / "dream.npz") as temporary, temporary.open("wb") as stream:
            np.savez(stream, images=self.dream.images, responses=self.dream.response)
        write_text(folder / "trace.csv", _table(self.dream.trace))
        self._draw(nsd_root)
        if not self.dream.stopped:
            (folder / STATE).unlink(missing_ok=True)
        write_json(folder / "dream.json", self._description())

    def _draw(self, nsd_root: Path | None) -> None:
        folder, target, spec = self.request.folder, self.request.target, self.request.model.spec
        title = f"{target.name}, subject {spec.subject}, {spec.backbone} {spec.percent:g} %"
        levels = {f"best {name} image": best.response for name, best in (self.natural or {}).items()}
        plots.dream_trace(folder / "trace.png", self.dream.trace, levels, target.unit, f"dream of {title}")
        dreams = [
            (image.transpose(1, 2, 0), f"dream {number}: {response:.2f}")
            for number, (image, response) in enumerate(zip(self.dream.images, self.dream.response, strict=True), 1)
        ]
        beside = []
        if self.natural:
            best = list(self.natural.items())
            shown = pictures([item.image for _, item in best], target.full, nsd_root) or []
            beside = [
                (pixels, f"best {name} image: {item.response:.2f}")
                for pixels, (name, item) in zip(shown, best, strict=False)
            ]
        plots.dream_sheet(folder / "sheet.png", dreams, beside, f"{title}\n{target.unit}")

    def _description(self) -> dict[str, Any]:
        objective, device = self.request.objective, self.request.device
        return self.summary() | {
            "unit": self.request.target.unit,
            "target": objective.wanted,
            "diversity": objective.diversity if objective.name == "diversity" else None,
            "score": self.dream.score,
            "natural_score": {name: best.score for name, best in (self.natural or {}).items()},
            "seed": self.request.settings.seed,
            "settings": asdict(self.request.settings),
            "step": self.dream.step,
            "stopped": self.dream.stopped,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "note": "the same seed gives the same images on the same device with the same versions only",
            "model_weights": self.request.model.spec.weights_digest,
        }


def _bytes(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(3, H, W) in [0, 1] -> (H, W, 3) uint8, rounded."""
    return (image.transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)


def _table(trace: NDArray[np.float64]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for step, *values in trace:
        writer.writerow([int(step), *("" if np.isnan(value) else f"{value:.6g}" for value in values)])
    return text.getvalue()
