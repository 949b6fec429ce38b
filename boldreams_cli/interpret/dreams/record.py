"""A dream from request to files: what it is called, what decides it, what it leaves on disk (paper, section 2.5)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from boldreams_cli import plots
from boldreams_cli.console import StopFlag, StoppedError, logger
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.files import fingerprint, write_npz, write_text
from boldreams_cli.interpret.dreams import parameterization, spectra
from boldreams_cli.interpret.dreams.loop import COLUMNS, Dream, Dreamer, Settings
from boldreams_cli.interpret.dreams.natural import Natural, Sources, best_natural, pictures
from boldreams_cli.interpret.dreams.objectives import Objective
from boldreams_cli.interpret.products import (
    Description,
    Product,
    hashed,
    of_model,
    said_of_model,
    spelled,
    title_of_model,
    versions_that_matter,
)
from boldreams_cli.interpret.targets import Target

STEM = "dream"
SHOWN = ("model", "roi", "objective", "images", "response", "score", "best_natural", "trace", "files")


@dataclass(frozen=True)
class Request:
    """A dream to be made.

    Parameters
    ----------
    target, objective, settings : of it.
    folder : to write, where the user names one.
    device : to compute on.
    """

    target: Target
    objective: Objective
    settings: Settings
    folder: Path | None
    device: torch.device

    @property
    def model(self) -> FittedModel:
        """That is dreamed with."""
        return self.target.full.model

    @property
    def name(self) -> str:
        """Of its folder: the target, then whatever is not the default."""
        parts: list[object] = [self.target.folder, *_objective_name(self.objective)]
        chosen, backbone = self.settings, self.target.full.backbone.entry
        usual = Settings.default(backbone, None, parameterization=chosen.parameterization)
        if chosen.parameterization != parameterization.NAMES[0]:
            parts.append(chosen.parameterization)
        named = {"steps": chosen.steps, "lr": chosen.rate, "count": chosen.count, "seed": chosen.seed}
        defaults = {"steps": usual.steps, "lr": usual.rate, "count": usual.count, "seed": usual.seed}
        for option, value in named.items():
            if value != defaults[option]:
                parts += [option, f"{value:g}" if isinstance(value, float) else value]
        return spelled(*parts)

    def product(self, sources: Sources) -> Product:
        """Where it is kept, and under which key."""
        responses = sources.responses.fingerprint if sources.responses is not None else None
        wanted = self.objective.wanted
        decides = {
            **of_model(self.model),
            "target": fingerprint(self.target.identity),
            "objective": self.objective.name,
            "betas": None if wanted is None else hashed(wanted),
            "diversity": self.objective.diversity if self.objective.name == "diversity" else None,
            "settings": asdict(self.settings),
            "spectrum": responses if self.settings.parameterization == "maco" else None,
            "device": self.device.type,
            "versions": versions_that_matter(),
        }
        images = [f"dream-{number}.png" for number in range(1, self.settings.count + 1)]
        return Product(
            kind="dream",
            folder=self.folder or self.model.folder / "dreams" / self.name,
            stem=STEM,
            files=(*images, "sheet.png", "dream.npz", "trace.csv", "trace.png"),
            decides=decides,
            own_folder=True,
            chosen=self.folder is not None,
        )


def _objective_name(objective: Objective) -> list[object]:
    if objective.name == "diversity":
        return ["diversity", *([f"{objective.diversity:g}"] if objective.diversity != 1 else [])]
    if objective.wanted is not None:
        one = len(objective.wanted) == 1
        return ["target", f"{objective.wanted[0]:g}" if one else hashed(objective.wanted)[:8]]
    return []  # a contrast's areas are in the target's name


def dream(request: Request, sources: Sources, stop: StopFlag, overwrite: bool = False) -> Description:
    """Make a dream and keep it, unless it is there.

    Parameters
    ----------
    request : what to dream.
    sources : of natural images.
    stop : looked at between steps; the state so far is kept, and the same request goes on from there.
    overwrite : whether to make it again, and to replace another in a folder that the user named.

    Returns
    -------
    The JSON object of ``dream``, paths in full.

    Raises
    ------
    StoppedError
        If a signal came.
    ChoiceError
        If the folder that the user named holds another dream, or files in the way.
    BoldreamsError
        If memory runs out, the loss is no number, or ``maco`` finds no stimuli.
    """
    product = request.product(sources)
    with product.held(stop):
        if not overwrite and (there := product.found()) is not None:
            logger.info("%s: done before, with all of the same settings (--overwrite dreams it again)", _folder(there))
            return shown(there)
        product.place(overwrite)
        return shown(_make(request, sources, product, stop, overwrite))


def _make(request: Request, sources: Sources, product: Product, stop: StopFlag, overwrite: bool) -> Description:
    settings, model = request.settings, request.model
    picture = parameterization.create(
        settings.parameterization,
        settings.count,
        request.target.full.backbone.entry.preprocessing.size,
        settings.seed,
        request.device,
        lambda: spectra.spectrum_of(model, sources.responses, sources.cache, sources.nsd_root, stop),
    )
    dreamer = Dreamer(request.target, request.objective, picture, settings)
    dreamer.resume(product.stopped, product.key)

    def keep(folder: Path, stem: str) -> Description:
        dreamer.save_state(folder, product.key)
        return _said(request) | {"step": dreamer.done, "stopped": True}

    dreamed = dreamer.run(stop, lambda: product.write_stopped(keep))
    record = Record(request, dreamed, None)
    try:
        stop.check(f"the images of step {dreamed.step} of {settings.steps} are in {product.stopped}")
        natural = best_natural(request.target, request.objective, sources, stop)
    except StoppedError:
        product.write_stopped(lambda folder, stem: keep(folder, stem) | record.write_images(folder))
        raise
    record = Record(request, dreamed, natural)
    return product.write(lambda folder, stem: record.write(folder, sources.nsd_root), overwrite)


def shown(description: Description) -> Description:
    """The JSON object of ``dream``, of a description on disk; its paths are those of today."""
    folder = _folder(description)
    found = {name: description.get(name) for name in SHOWN}
    found["images"] = [str(folder / name) for name in description["images"]]
    found["trace"] = str(folder / description["trace"])
    found["files"] = [str(path) for path in [*description["files"], folder / f"{STEM}.json"]]
    more = ("recipe", "readout", "percent", "finetuned", "settings", "unit")
    return found | {name: description.get(name) for name in more}


def _folder(description: Description) -> Path:
    folder: Path = description["files"][0].parent
    return folder


def _said(request: Request) -> Description:
    """What was asked, in words."""
    objective = request.objective
    return said_of_model(request.model) | {
        "roi": request.target.name,
        "area": request.target.folder,
        "objective": objective.name,
        "unit": request.target.unit,
        "target": objective.wanted,
        "diversity": objective.diversity if objective.name == "diversity" else None,
        "seed": request.settings.seed,
        "settings": asdict(request.settings),
    }


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

    def write_images(self, folder: Path) -> Description:
        """Write dream-N.png and dream.npz; what to say of them."""
        names = [f"dream-{number}.png" for number in range(1, len(self.dream.images) + 1)]
        for name, image in zip(names, self.dream.images, strict=True):
            Image.fromarray(_bytes(image)).save(folder / name)
        write_npz(folder / "dream.npz", images=self.dream.images, responses=self.dream.response)
        return {
            "images": names,
            "response": self.dream.response.tolist(),
            "score": self.dream.score.tolist(),
            "step": self.dream.step,
        }

    def write(self, folder: Path, nsd_root: Path | None) -> Description:
        """Write all files of a dream; what to say of them."""
        images = self.write_images(folder)
        write_text(folder / "trace.csv", _table(self.dream.trace))
        self._draw(folder, nsd_root)
        device = self.request.device
        natural = self.natural or {}
        return (
            _said(self.request)
            | images
            | {
                "best_natural": {n: {"image": b.image, "response": b.response} for n, b in natural.items()} or None,
                "natural_score": {name: best.score for name, best in natural.items()},
                "trace": "trace.csv",
                "stopped": False,
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
                "threads": torch.get_num_threads(),
                "note": "the same seed gives the same images on the same device with the same versions only",
            }
        )

    def _draw(self, folder: Path, nsd_root: Path | None) -> None:
        target = self.request.target
        title = f"{target.name}, {title_of_model(self.request.model)}"
        levels = {f"best {name} image": best.response for name, best in (self.natural or {}).items()}
        plots.dream_trace(folder / "trace.png", self.dream.trace, levels, target.unit, f"dream of {title}")
        dreams = [
            (image.transpose(1, 2, 0), f"dream {number}: {response:.2f}")
            for number, (image, response) in enumerate(zip(self.dream.images, self.dream.response, strict=True), 1)
        ]
        beside = []
        if self.natural:
            images = [item.image for item in self.natural.values()]
            shown_beside = pictures(images, target.full, nsd_root) or []
            beside = list(zip(shown_beside, captions(self.natural), strict=False))
        plots.dream_sheet(folder / "sheet.png", dreams, beside, f"{title}\n{target.unit}")


def captions(natural: Mapping[str, Natural]) -> list[str]:
    """What is written over the natural images, in their order."""
    return [f"best {name} image, {best.image}: {best.response:.2f}" for name, best in natural.items()]


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
