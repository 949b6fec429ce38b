"""The natural images that excite a dream's target most, to see beside it (paper, section 2.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, StopFlag, StoppedError, logger
from boldreams_cli.data.opening import open_dataset
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.evaluation.predict import Wanted, pixels_of
from boldreams_cli.encoding.model.folder import is_there
from boldreams_cli.encoding.model.full import FullModel, store_of
from boldreams_cli.files import fingerprint, read_json, saving_work, write_json
from boldreams_cli.interpret.dreams.ascent.objectives import Objective
from boldreams_cli.interpret.products import of_model
from boldreams_cli.interpret.targets import Target

KEPT = ".natural"  # folder beside the dreams: what was found, by model, target and objective


@dataclass(frozen=True)
class Natural:
    """The natural image that does best.

    Parameters
    ----------
    image : image id.
    response : of the target, in the full model's unit.
    score : what the objective makes of it.
    """

    image: int
    response: float
    score: float


@dataclass(frozen=True)
class Sources:
    """Where natural images and what is known of them come from.

    Parameters
    ----------
    responses : of the model's subject, which name its images; None where the cache lacks them.
    cache : that may hold the model's feature store.
    data_root : for pixels.
    memory : bytes that stored maps may take.
    """

    responses: Responses | None
    cache: Path
    data_root: Path | None
    memory: int


def best_natural(target: Target, objective: Objective, sources: Sources, stop: StopFlag) -> dict[str, Natural] | None:
    """The best training and test image, by prediction from the store; None (and a warning) without one.

    Those of a finetuned model are predicted from their pixels. Found once for a model, target and objective, and kept
    in the model's folder, where that may be written.

    Returns
    -------
    ``train`` and ``test``.

    Raises
    ------
    StoppedError
        If a signal came meanwhile.
    """
    if sources.responses is None:
        return None
    path = _kept_at(target, objective, sources.responses)
    if (kept := _read(path)) is not None:
        return kept
    try:
        found = _search(target, objective, sources, sources.responses, stop)
    except StoppedError:
        raise
    except BoldreamsError as error:
        logger.warning("best natural images: none (%s)", error)
        return None
    keep(target.full.model.folder, path, {name: asdict(item) for name, item in found.items()})
    return found


def keep(model: Path, path: Path, found: Mapping[str, Any]) -> None:
    """Write what was found into a model's folder, where the model is still there and that may be written."""
    if is_there(model):
        with saving_work(path):
            write_json(path, found)


def _search(
    target: Target, objective: Objective, sources: Sources, responses: Responses, stop: StopFlag
) -> dict[str, Natural]:
    model, device = target.full.model, target.full.backbone.device
    store = None if model.spec.finetuned else store_of(model, sources.cache)
    found = {}
    for name, images in (("train", responses.train_images), ("test", responses.test_images)):
        stop.check("the best natural images were not found yet")
        if store is None:
            activity = _from_pixels(target, images, sources, stop)
        else:
            activity = target.stored(store, images, device, sources.memory, stop)
        score = objective.score(activity)
        best = int(np.argmax(score))
        found[name] = Natural(int(images[best]), float(activity["response"][best]), float(score[best]))
    return found


@torch.inference_mode()
def _from_pixels(
    target: Target, images: NDArray[Any], sources: Sources, stop: StopFlag
) -> Mapping[str, NDArray[np.float32]]:
    """What `Target.stored` gives, through the network."""
    wanted = [Wanted(image_id=int(image)) for image in images]
    parts = []
    for pixels in pixels_of(target.full, wanted, sources.cache, sources.data_root):
        stop.check("the best natural images were not found yet")
        activity = target.activity(pixels)
        parts.append({name: value for name, value in activity.items() if name not in ("maps", "groups")})
    return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}


def _kept_at(target: Target, objective: Objective, responses: Responses) -> Path:
    """Diversity chooses among images by their response, as the mean does."""
    model = target.full.model
    aim = "mean" if objective.name == "diversity" else objective.name
    decides = [of_model(model), responses.fingerprint, target.identity, aim, objective.wanted]
    return model.folder / "dreams" / KEPT / f"{fingerprint(decides)}.json"


def _read(path: Path) -> dict[str, Natural] | None:
    if not path.is_file():
        return None
    try:
        return {name: Natural(**read_json(path)[name]) for name in ("train", "test")}
    except (BoldreamsError, KeyError, TypeError):
        logger.info("%s is damaged: searching anew", path)
        return None


def pictures(images: Sequence[int], full: FullModel, data_root: Path | None) -> list[NDArray[np.float32]] | None:
    """Natural images at the backbone's input size, (H, W, 3) in [0, 1]; None (and a log line) without stimuli."""
    if data_root is None:
        logger.info("natural images are not shown beside the dreams: no --nsd-root")
        return None
    try:
        with open_dataset(data_root).stimuli() as stimuli:
            read = stimuli.read(images)
    except BoldreamsError as error:
        logger.info("natural images are not shown beside the dreams: %s", error)
        return None
    resized = full.backbone.entry.preprocessing.resize_all(read).permute(0, 2, 3, 1)
    return list((resized.float() / 255).numpy())
