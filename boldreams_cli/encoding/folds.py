"""Cross-validated predictions of the training images: each is predicted by a model that was fitted without it.

A fold's model is an ordinary fit to responses in which the fold's images count as test images: its ranking of filters,
its scales and the images that it holds out are of the other training images alone. Only its predictions are kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from boldreams_cli.console import BoldreamsError, ChoiceError, MismatchError, StopFlag, listing, logger
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.fit import fit, model_spec, settled
from boldreams_cli.encoding.inputs.betas import drawn_order
from boldreams_cli.encoding.inputs.shared import Inputs
from boldreams_cli.encoding.model.checkpoint import read_note, read_tensors, write_checkpoint
from boldreams_cli.encoding.model.folder import added_to
from boldreams_cli.encoding.model.full import predict_stored
from boldreams_cli.encoding.model.spec import FittedModel, ModelSpec, versions
from boldreams_cli.encoding.model.weights import written_rows
from boldreams_cli.encoding.readouts.base import Readout
from boldreams_cli.encoding.readouts.settings import FitSettings
from boldreams_cli.encoding.result import AGAIN, FitResult, drop_left
from boldreams_cli.features.store.feature_store import FeatureStore
from boldreams_cli.files import digest, fingerprint, read_json, write_json

FORMAT = 1  # of the files of folds, and of how images are dealt to them


@dataclass(frozen=True)
class Folds:
    """Predictions of all training images of a model's subject, whole on disk.

    Parameters
    ----------
    path : of the safetensors file; its provenance lies beside it.
    count : of folds.
    images : (images,) int32 sorted image ids.
    fold : (images,) int32 fold of each image, counted from 1.
    key : hash of all that decides the predictions.
    """

    path: Path
    count: int
    images: NDArray[np.int32]
    fold: NDArray[np.int32]
    key: str

    def predictions(self, voxels: slice = slice(None)) -> NDArray[np.float32]:
        """Read some voxels' predictions, (images, some); NaN where a voxel was left out of the fit."""
        with safe_open(self.path, "np") as stored:
            some: NDArray[np.float32] = stored.get_slice("betas")[:, voxels]
        return some

    def summary(self) -> dict[str, Any]:
        """What ``fit --folds --json`` says of them."""
        return {"folds": self.count, "images": len(self.images), "file": str(self.path)}


def deal(images: NDArray[np.integer], count: int, seed: int) -> NDArray[np.int32]:
    """Deal images to folds whose sizes differ by one at most, in an order drawn for each from its id and the seed.

    Parameters
    ----------
    images : (n,) ids of training images.
    count : of folds.
    seed : of the order.

    Returns
    -------
    (n,) fold of each, counted from 1.

    Raises
    ------
    ChoiceError
        If a fold would hold all images, or one alone: a fold is compared around its mean.
    """
    most = len(images) // 2
    if not 2 <= count <= most:
        raise ChoiceError(f"--folds takes a number from 2 to {most}, half of the training images, not {count}")
    fold = np.empty(len(images), dtype=np.int32)
    fold[drawn_order(images, seed, b"folds")] = np.arange(len(images)) % count + 1
    return fold


def fit_folds(
    model: FittedModel,
    count: int,
    store: FeatureStore,
    responses: Responses,
    settings: FitSettings,
    readout: Readout,
    device: torch.device,
    memory: int,
    stop: StopFlag,
    resume: bool = True,
    overwrite: bool = False,
) -> Folds:
    """Fit a model without each fold, predict the fold, and save the predictions beside `model`, which stays as it is.

    Parameters
    ----------
    model : of all training images, by the same settings.
    count : of folds.
    store, responses, settings, readout : of that model's fit.
    device, memory, stop, resume : as for `fit`; a fold that is done is kept.
    overwrite : make predictions again that are there.

    Raises
    ------
    ChoiceError
        If there are too few images.
    MismatchError
        If the store lacks images, or filters that a fold's own ranking asks for.
    StoppedError
        If a signal came; the same call goes on from there.
    """
    settings = settled(store, settings)
    inputs = Inputs(store, responses, device, model.folder)
    if model_spec(inputs, settings, readout).key != model.spec.key:
        raise ValueError(f"{model.folder} was fitted by other settings or to other inputs")
    images = responses.train_images
    fold = deal(images, count, settings.seed)
    key, path = _key(model.spec, count), _path(model, count)
    with added_to(model.folder, stop):
        work = path.with_suffix("")
        if (there := _begin(model, count, work, resume, overwrite)) is not None:
            return there
        without = [responses.leaving_out(images[fold == number + 1]) for number in range(count)]
        # Refused now, rather than after hours, where a fold asks for filters that the store does not keep.
        specs = [model_spec(Inputs(store, some, device, work), settings, readout) for some in without]
        parts = [(work / f"fold-{number}.safetensors", spec) for number, spec in enumerate(specs, start=1)]
        for number, (some, (part, spec)) in enumerate(zip(without, parts, strict=True), start=1):
            if _read(part, spec.key) is None:
                stop.check(f"{number - 1} of {count} folds are done")
                logger.info("fold %d of %d: a fit without %d images", number, count, (fold == number).sum())
                again = partial(fit, store, some, settings, readout.__class__(readout.settings))
                _predict(part, spec.key, store, images[fold == number], again, device, memory, stop)
        _join(path, images, fold, parts)
        (work / AGAIN).unlink(missing_ok=True)
        _save_provenance(path, key, model.spec, fold, specs)
        shutil.rmtree(work)
    return Folds(path, count, images, fold, key)


def _begin(model: FittedModel, count: int, work: Path, resume: bool, overwrite: bool) -> Folds | None:
    """Predictions that are to be left as they are; else `work` is as a fit of folds may go on from."""
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    there = _whole(model, count)
    if there is not None:
        drop_left([work], work / AGAIN, overwrite)
    if there is None or overwrite:
        return None
    logger.info("%s is there already; --overwrite makes it again", there.path)
    return there


def _predict(
    part: Path,
    key: str,
    store: FeatureStore,
    images: NDArray[np.int32],
    again: Callable[..., FitResult],
    device: torch.device,
    memory: int,
    stop: StopFlag,
) -> None:
    """Fit without some images, `again` given where, on what and until when, and keep the predictions of these alone."""
    own = part.with_suffix("")  # a cache of its own: whatever the fit leaves goes with it
    betas = predict_stored(again(own, device, memory, stop).model, store, images, device, memory)
    write_checkpoint(part, key, {}, {"betas": torch.from_numpy(betas)})
    shutil.rmtree(own)


def load_folds(model: FittedModel, count: int) -> Folds:
    """Predictions that `fit_folds` made of a model.

    Raises
    ------
    MismatchError
        If they are missing, damaged or of another fit.
    """
    if (found := _whole(model, count)) is None:
        raise _missing(model, count)
    return found


def require(model: FittedModel, count: int) -> None:
    """Raise as `load_folds` does where there are none; their content is not looked at."""
    if provenance(model, count) is None:
        raise _missing(model, count)


def _missing(model: FittedModel, count: int) -> MismatchError:
    """What was wrong, what is there, and what to type."""
    spec = model.spec
    if spec.finetuned:
        return MismatchError(f"{model.folder} is finetuned, and has no folds: --folds is for fits from the store alone")
    kind = f" --recipe {spec.recipe}" if spec.recipe else f" --readout {spec.readout}"
    return MismatchError(
        f"{model.folder} has no predictions of {count} folds (there: {listing(there_are(model))}); run its fit again, "
        f"with its options and --folds: boldreams fit --backbone {spec.backbone} --percent {spec.percent:g} "
        f"--subject {spec.subject}{'' if spec.readout == 'linear' else kind} --folds {count}"
    )


def there_are(model: FittedModel) -> list[int]:
    """Numbers of folds of which a model has predictions, in order."""
    names = [path.stem.removeprefix("folds-") for path in model.folder.glob("folds-*.json")]
    return sorted(int(name) for name in names if name.isdecimal() and provenance(model, int(name)))


def provenance(model: FittedModel, count: int) -> dict[str, Any] | None:
    """What is known of predictions of a model, its file's digest for one; None where they are missing or of another."""
    path = _path(model, count)
    try:
        known = read_json(path.with_suffix(".json"))
    except BoldreamsError:
        return None
    ours = isinstance(known, dict) and known.get("key") == _key(model.spec, count) and path.is_file()
    return known if ours else None


def _path(model: FittedModel, count: int) -> Path:
    return model.folder / f"folds-{count}.safetensors"


def _key(spec: ModelSpec, count: int) -> str:
    """Hash of all that decides the predictions; the images and the seed are in the model's own."""
    return fingerprint([FORMAT, spec.key, count])


def _whole(model: FittedModel, count: int) -> Folds | None:
    """The predictions on disk; None where they are missing, damaged or of another key."""
    path, known = _path(model, count), provenance(model, count)
    if known is None:
        return None
    if known.get("digest") != digest(path):
        logger.warning("%s is not the file that %s.json belongs to; it is left out", path, path.stem)
        return None
    with safe_open(path, "np") as stored:
        return Folds(path, count, stored.get_tensor("images"), stored.get_tensor("fold"), known["key"])


def _read(part: Path, key: str) -> torch.Tensor | None:
    """Predictions of a finished fold, None where it is missing, damaged or of other inputs."""
    try:
        return None if read_note(part, key) is None else read_tensors(part)["betas"]
    except BoldreamsError as error:
        logger.warning("%s; its fold is fitted again", error)
        part.unlink()
        return None


def _join(path: Path, images: NDArray[np.int32], fold: NDArray[np.int32], parts: list[tuple[Path, ModelSpec]]) -> None:
    """Write the folds' predictions into one file in the order of the images, one fold in memory at a time."""
    shapes = {"images": ("I32", images.shape), "fold": ("I32", fold.shape)}
    everyone = np.arange(len(images))
    with written_rows(path, shapes | {"betas": ("F32", (len(images), parts[0][1].voxels))}) as file:
        file.put("images", everyone, torch.from_numpy(images))
        file.put("fold", everyone, torch.from_numpy(fold))
        for number, (part, spec) in enumerate(parts):
            betas = _read(part, spec.key)
            if betas is None:
                raise BoldreamsError(f"{part} was damaged meanwhile; the same command makes it again")
            file.put("betas", np.flatnonzero(fold == number + 1), betas)


def _save_provenance(path: Path, key: str, spec: ModelSpec, fold: NDArray[np.int32], specs: list[ModelSpec]) -> None:
    """Write what the predictions are of beside them, last: without it they do not count."""
    folds = [
        {"fold": number + 1, "predicted": int((fold == number + 1).sum()), "key": one.key, "layers": one.layers}
        for number, one in enumerate(specs)
    ]
    known = {"format": FORMAT, "key": key, "model": spec.key, "digest": digest(path), "images": len(fold)}
    write_json(path.with_suffix(".json"), known | {"folds": folds, "versions": versions()})
