"""A dream from request to files: what it is called, what decides it, what it leaves on disk (paper, section 2.5)."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from boldreams_cli.console import BoldreamsError, StopFlag, StoppedError, logger
from boldreams_cli.data.opening import label_of
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.files import fingerprint, write_npz, write_text
from boldreams_cli.interpret.dreams import closeness, drawing
from boldreams_cli.interpret.dreams.ascent import parameterization, spectra
from boldreams_cli.interpret.dreams.ascent.loop import COLUMNS, Dream, Dreamer, Settings, steps_to_beat
from boldreams_cli.interpret.dreams.ascent.objectives import Objective
from boldreams_cli.interpret.dreams.closeness import Photograph
from boldreams_cli.interpret.dreams.eccentricity import radial_profile
from boldreams_cli.interpret.dreams.measured import Largest, largest_measured
from boldreams_cli.interpret.dreams.natural import Natural, Sources, best_natural
from boldreams_cli.interpret.products import (
    Description,
    Product,
    hashed,
    of_model,
    said_of_model,
    spelled,
    versions_that_matter,
)
from boldreams_cli.interpret.targets import AreaTarget, Target

STEM = "dream"
SHOWN = (
    *("model", "roi", "objective", "images", "response", "score", "best_natural", "trace", "files"),
    *("sides", "start", "steps_to_beat", "measured", "beyond_data", "radial_profile", "transparent"),
    *("recipe", "readout", "percent", "finetuned", "settings", "unit"),
)


@dataclass(frozen=True)
class Request:
    """A dream to be made.

    Parameters
    ----------
    target, objective, settings : of it.
    folder : to write, where the user names one.
    device : to compute on.
    photograph : to start from and to stay close to.
    natural : whether to look for the best natural images.
    """

    target: Target
    objective: Objective
    settings: Settings
    folder: Path | None
    device: torch.device
    photograph: Photograph | None = None
    natural: bool = True

    @property
    def model(self) -> FittedModel:
        """That is dreamed with."""
        return self.target.full.model

    @property
    def name(self) -> str:
        """Of its folder: the target, then whatever is not the default."""
        parts: list[object] = [self.target.folder, *_objective_name(self.objective)]
        chosen, backbone = self.settings, self.target.full.backbone.entry
        start = self.photograph is not None
        count = 1 if start else 4
        usual = Settings.default(backbone, None, count=count, parameterization=chosen.parameterization, start=start)
        if self.photograph is not None:
            parts += ["start", str(self.photograph)]
            if self.photograph.weight != closeness.WEIGHT:
                parts += ["closeness", f"{self.photograph.weight:g}"]
        if chosen.parameterization != parameterization.NAMES[0]:
            parts.append(chosen.parameterization)
        named = {"steps": chosen.steps, "lr": chosen.rate, "count": chosen.count, "seed": chosen.seed}
        defaults = {"steps": usual.steps, "lr": usual.rate, "count": usual.count, "seed": usual.seed}
        for option, value in named.items():
            if value != defaults[option]:
                parts += [option, f"{value:g}" if isinstance(value, float) else value]
        return spelled(*parts, *([] if self.natural else ["no-natural"]))

    @property
    def files(self) -> tuple[str, ...]:
        """Names of what it leaves, but the provenance file."""
        numbers = range(1, self.settings.count + 1)
        names = [*(f"dream-{number}.png" for number in numbers), "dream.npz", "trace.csv"]
        if self.settings.parameterization == "maco":
            names += [f"dream-{number}-transparent.png" for number in numbers]
        figures = ["sheet", "trace", *(["difference"] if self.photograph is not None else [])]
        return (*names, *(f"{name}.{suffix}" for name in figures for suffix in ("png", "pdf")))

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
        if (photograph := self.photograph) is not None:
            decides["start"] = {"pixels": hashed(photograph.pixels.cpu().numpy()), "closeness": photograph.weight}
        if not self.natural:
            decides["natural"] = False
        return Product(
            kind="dream",
            folder=self.folder or self.model.folder / "dreams" / self.name,
            stem=STEM,
            files=self.files,
            decides=decides,
            own_folder=True,
            chosen=self.folder is not None,
            home=self.model.folder,
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
            lacks = request.natural and sources.responses is not None and there["best_natural"] is None
            more = ", and looks for natural images, which could not be had then" if lacks else ""
            logger.info(
                "%s: done before, with all of the same settings (--overwrite dreams it again%s)", _folder(there), more
            )
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
        lambda: spectra.spectrum_of(model, sources.responses, sources.cache, sources.data_root, stop),
        None if request.photograph is None else request.photograph.pixels,
    )
    dreamer = Dreamer(request.target, request.objective, picture, settings, request.photograph)
    dreamer.resume(product.stopped, product.key)

    def keep(folder: Path, stem: str) -> Description:
        dreamer.save_state(folder, product.key)
        return _said(request) | {"step": dreamer.done, "stopped": True}

    dreamed = dreamer.run(stop, lambda: product.write_stopped(keep))
    record = Record(request, dreamed, None)
    try:
        stop.check(f"the images of step {dreamed.step} of {settings.steps} are in {product.stopped}")
        natural = best_natural(request.target, request.objective, sources, stop) if request.natural else None
        largest = _largest(request, sources, stop)
    except StoppedError:
        product.write_stopped(lambda folder, stem: keep(folder, stem) | record.write_images(folder))
        raise
    record = Record(request, dreamed, natural, largest)
    return product.write(lambda folder, stem: record.write(folder, sources.data_root), overwrite)


def shown(description: Description) -> Description:
    """The JSON object of ``dream``, of a description on disk; its paths are those of today."""
    folder = _folder(description)
    found: Description = {name: description.get(name) for name in SHOWN}
    for name in ("images", "transparent"):
        if found[name] is not None:
            found[name] = [str(folder / file) for file in found[name]]
    found["trace"] = str(folder / description["trace"])
    found["files"] = [str(path) for path in [*description["files"], folder / f"{STEM}.json"]]
    return found


def _largest(request: Request, sources: Sources, stop: StopFlag) -> Largest | None:
    """What was measured of the target at most; None of a filter, or without responses."""
    if sources.responses is None or not isinstance(request.target, AreaTarget):
        return None
    try:
        return largest_measured(request.target.voxels, sources.responses, request.model.folder, stop)
    except StoppedError:
        raise
    except BoldreamsError as error:
        logger.warning("measured responses: none (%s)", error)
        return None


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
    largest : response that was measured, or None.
    """

    request: Request
    dream: Dream
    natural: dict[str, Natural] | None
    largest: Largest | None = None

    def write_images(self, folder: Path) -> Description:
        """Write dream-N.png (of ``maco`` dream-N-transparent.png too) and dream.npz; what to say of them."""
        names = [f"dream-{number}.png" for number in range(1, len(self.dream.images) + 1)]
        for name, image in zip(names, self.dream.images, strict=True):
            Image.fromarray(_bytes(image)).save(folder / name)
        clear, alpha = [], self.alpha
        if alpha is not None:
            clear = [f"{Path(name).stem}-transparent.png" for name in names]
            for name, image, opacity in zip(clear, self.dream.images, alpha, strict=True):
                layers = np.dstack([_bytes(image), (opacity * 255 + 0.5).astype(np.uint8)])
                Image.fromarray(layers).save(folder / name)
        more: dict[str, Any] = {} if alpha is None else {"alpha": alpha}
        write_npz(folder / "dream.npz", images=self.dream.images, responses=self.dream.response, **more)
        return {
            "images": names,
            "transparent": clear or None,
            "response": self.dream.response.tolist(),
            "score": self.dream.score.tolist(),
            "step": self.dream.step,
        }

    @property
    def alpha(self) -> NDArray[np.float32] | None:
        """(count, H, W) opacity of the images, of ``maco``."""
        return None if self.dream.seen is None else parameterization.transparency(self.dream.seen)

    @property
    def beyond(self) -> list[bool] | None:
        """Of each image, whether its predicted response lies beyond all that was measured."""
        return None if self.largest is None else [bool(r > self.largest.beta) for r in self.dream.response]

    def write(self, folder: Path, data_root: Path | None) -> Description:
        """Write all files of a dream; what to say of them."""
        images = self.write_images(folder)
        write_text(folder / "trace.csv", _table(self.dream.trace))
        start = None if self.request.photograph is None else compared(self.request, self.dream)
        drawing.draw(folder, self, start, data_root)
        device = self.request.device
        natural = self.natural or {}
        best = {
            name: {"image": item.image, "image_label": label_of(data_root, item.image), "response": item.response}
            for name, item in natural.items()
        }
        beat = {name: steps_to_beat(self.dream.trace, item.score) for name, item in natural.items()}
        profile = radial_profile(self.dream.images)
        return (
            _said(self.request)
            | images
            | {
                "best_natural": best or None,
                "natural_score": {name: best.score for name, best in natural.items()},
                "steps_to_beat": beat or None,
                "measured": None if self.largest is None else asdict(self.largest),
                "beyond_data": self.beyond,
                "sides": self.sides,
                "start": start,
                "radial_profile": asdict(profile) | {"mean_radius": profile.mean_radius},
                "trace": "trace.csv",
                "stopped": False,
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
                "threads": torch.get_num_threads(),
                "note": "the same seed gives the same images on the same device with the same versions only",
            }
        )

    @property
    def sides(self) -> dict[str, list[float]] | None:
        """Responses of both areas of a contrast or a pair, by name."""
        target = self.request.target
        if self.dream.other is None or not isinstance(target, AreaTarget):
            return None
        both = (self.dream.response.tolist(), self.dream.other.tolist())
        return dict(zip(target.sides, both, strict=True))


@torch.no_grad()
def compared(request: Request, dream: Dream) -> Description:
    """What became of the photograph: its own response, and how far the images are from it."""
    photograph = request.photograph
    assert photograph is not None
    target, images = request.target, torch.from_numpy(dream.images).to(request.device)
    before, after = target.activity(photograph.pixels), target.activity(images)
    features = closeness.feature_distance(after["groups"], before["groups"])
    far = [float(value) for value in features]
    if max(far) > closeness.BOUND:
        logger.warning(
            "the images are %.2f from %s in features, beyond the %g at which a picture is still recognisably it; "
            "raise --closeness (now %g)",
            *(max(far), photograph, closeness.BOUND, photograph.weight),
        )
    return {
        "image": photograph.name,
        "image_label": str(photograph),
        "response": float(before["response"]),
        "score": float(request.objective.score(before)),
        "closeness": photograph.weight,
        "feature_distance": far,
        "feature_bound": closeness.BOUND,
        "pixel_distance": closeness.pixel_distance(images, photograph.pixels).tolist(),
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
