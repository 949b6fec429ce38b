"""Betas of any images: out of the feature store where it has them, else through the full model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boldreams_cli.console import ChoiceError, progress
from boldreams_cli.data.identity import of_named_images, same_images
from boldreams_cli.data.opening import image_named, images_of, open_dataset
from boldreams_cli.data.pictures import read_picture
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.inputs.pixels import ResizedImages
from boldreams_cli.encoding.model.captions import predict_captions
from boldreams_cli.encoding.model.full import FullModel, predict_stored
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.features.backbones import entry
from boldreams_cli.features.store.feature_store import FeatureStore, store_path
from boldreams_cli.files import fingerprint
from boldreams_cli.machine import float32_products

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
IMAGES_IN_A_PASS = 8


@dataclass(frozen=True)
class Wanted:
    """One image to predict: an image id or a file; or a caption."""

    image_id: int | None = None
    file: Path | None = None
    caption: str | None = None

    @property
    def name(self) -> int | str:
        """Its image id, the path of its file, or the caption."""
        return self.image_id if self.image_id is not None else self.caption or str(self.file)


def find_images(asked: Sequence[str], root: Path | None, responses: Callable[[], Responses]) -> list[Wanted]:
    """Resolve ``--image``: ids or names of images, files, folders, or the words ``test`` and ``train``.

    Parameters
    ----------
    asked : what was typed. A name of a data file's image comes before an id or a file that is called the same.
    root : of the data set.
    responses : of the subject, for the words.

    Raises
    ------
    ChoiceError
        If one is none of these.
    """
    found: list[Wanted] = []
    for item in asked:
        path = Path(item).expanduser()
        if item in ("test", "train"):
            owned = responses()
            ids = owned.test_images if item == "test" else owned.train_images
            found += [Wanted(image_id=int(number)) for number in ids]
        elif (number := image_named(root, item)) is not None:
            found.append(Wanted(image_id=number))
        elif item.isdecimal():
            found.append(Wanted(image_id=int(item)))
        elif path.is_dir():
            files = sorted(file for file in path.iterdir() if _is_picture(file))
            if not files:
                raise ChoiceError(f"the folder {path} holds no pictures ({' '.join(SUFFIXES)})")
            found += [Wanted(file=file) for file in files]
        elif path.is_file():
            found.append(Wanted(file=path))
        else:
            raise ChoiceError(
                f"no image {item!r}: --image takes the id or name of an image, a file, a folder, test or train"
            )
    return found


def _is_picture(file: Path) -> bool:
    """Whether its name is one; hidden files, as the ``._NAME`` that a Mac leaves beside NAME, are none."""
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".")


def predict(
    model: FittedModel,
    images: Sequence[Wanted],
    cache: Path,
    data_root: Path | None,
    device: torch.device,
    memory: int,
    weights: str | None = None,
    captions_dir: Path | None = None,
) -> NDArray[np.float32]:
    """Predict betas.

    Parameters
    ----------
    model : fitted.
    images : from `find_images`, or captions.
    cache : that may hold the model's feature store, or the stimuli that it was finetuned on.
    data_root : for image ids that the cache lacks, or that mean other images in a data file that was rewritten.
    device : to compute on.
    memory : bytes that stored maps may take.
    weights : of the backbone, where they are not at the place that the spec names.
    captions_dir : of COCO's captions files, in place of those under the root; for text models.

    Returns
    -------
    (images, voxels); NaN for voxels excluded from the fit.

    Raises
    ------
    ChoiceError
        If a caption is asked of a model that reads images, or a picture of one that reads captions.
    """
    reads = entry(model.spec.backbone).reads
    if wrong := [image.name for image in images if (image.caption if reads == "images" else image.file) is not None]:
        other = "--caption TEXT or an image id" if reads == "captions" else "--image"
        raise ChoiceError(f"{model.folder} reads {reads}, not {wrong[0]!r}; give {other}, or choose another model")
    betas = np.empty((len(images), model.spec.voxels), dtype=np.float32)
    stored = _stored(model, images, cache, data_root)
    if stored.any():
        store = FeatureStore(_store_path(model, cache))
        ids = np.array([image.image_id for image, there in zip(images, stored, strict=True) if there])
        betas[stored] = predict_stored(model, store, ids, device, memory)
    rest = np.flatnonzero(~stored)
    if len(rest):
        asked = [images[int(index)] for index in rest]
        if reads == "captions":
            betas[rest] = predict_captions(model, _captions(asked, data_root, captions_dir), device, weights)
        else:
            betas[rest] = _through_network(model, asked, cache, data_root, device, weights)
    return betas


def _captions(images: Sequence[Wanted], data_root: Path | None, captions_dir: Path | None) -> list[list[str]]:
    """Captions of each image: its own, or COCO's."""
    ids = [image.image_id for image in images if image.image_id is not None]
    known = open_dataset(data_root).captions(ids, captions_dir) if ids else {}
    return [known[image.image_id] if image.image_id is not None else [image.caption or ""] for image in images]


def _store_path(model: FittedModel, cache: Path) -> Path:
    return store_path(cache, model.spec.backbone, model.spec.store)


def stimuli_of(model: FittedModel, cache: Path, data_root: Path | None) -> str | None:
    """Hash of what identifies the images that ids mean, in the data file or where it is gone in the cache.

    None where a data set numbers its images for all subjects, or nothing is known. What was made anew of other stimuli
    is in it too.
    """
    anew, named = _made_anew(model, cache), None
    if not isinstance(model.spec.subject, int):
        now, known = images_of(data_root), _known_stimuli(model, cache)
        named = of_named_images(known if now is None or (known is not None and same_images(known, now)) else now)
    return fingerprint([named, anew]) if anew else named


def _made_anew(model: FittedModel, cache: Path) -> str:
    """Hash of the stimuli that maps, or the images of a finetuned model, were made anew of; "" where they were not."""
    if model.spec.finetuned:
        resized = _resized(model, cache)
        return "" if resized is None or resized.content == model.spec.training.get("pixels") else resized.content
    path = _store_path(model, cache)
    return FeatureStore(path).edition if path.is_dir() else ""


def _known_stimuli(model: FittedModel, cache: Path) -> Mapping[str, Any] | None:
    """What identifies the images that the cache has for a model."""
    if model.spec.finetuned:
        resized = _resized(model, cache)
        return None if resized is None else resized.stimuli
    path = _store_path(model, cache)
    return FeatureStore(path).spec["stimuli"] if path.is_dir() else None


def _resized(model: FittedModel, cache: Path) -> ResizedImages | None:
    return ResizedImages.find(cache, model.spec.training.get("stimuli", ""))


def _are_others(known: Mapping[str, Any], data_root: Path | None) -> bool:
    """Whether a data file has other images now: ids, which are places in it, then mean none of those known."""
    now = images_of(data_root)
    return now is not None and not same_images(known, now)


def _stored(model: FittedModel, images: Sequence[Wanted], cache: Path, data_root: Path | None) -> NDArray[np.bool_]:
    """Which images the model's store has, finished."""
    path = _store_path(model, cache)
    if not path.is_dir() or model.spec.finetuned:
        return np.zeros(len(images), dtype=bool)
    store = FeatureStore(path)
    if store.edition != model.spec.edition:  # made anew of other stimuli: those are looked at, not these maps
        return np.zeros(len(images), dtype=bool)
    if _are_others(store.spec["stimuli"], data_root):
        return np.zeros(len(images), dtype=bool)
    there = set(store.images[store.done()].tolist())
    return np.array([image.image_id in there for image in images])


def _through_network(
    model: FittedModel,
    images: Sequence[Wanted],
    cache: Path,
    data_root: Path | None,
    device: torch.device,
    weights: str | None,
) -> NDArray[np.float32]:
    full = FullModel.rebuild(model, device, weights)
    with float32_products("fp32", device), torch.inference_mode():
        return np.concatenate([full(pixels).cpu().numpy() for pixels in pixels_of(full, images, cache, data_root)])


def pixels_of(full: FullModel, images: Sequence[Wanted], cache: Path, data_root: Path | None) -> Iterator[torch.Tensor]:
    """Read images as the model sees them, a few at a time.

    Parameters
    ----------
    full : the full model.
    images : image ids and files.
    cache : that may hold the resized stimuli that the model was finetuned on.
    data_root : for other image ids.

    Yields
    ------
    (some, 3, size, size) in [0, 1], on the model's device.
    """
    resized = _resized(full.model, cache)
    if resized is not None and _are_others(resized.stimuli, data_root):
        resized = None
    device = full.backbone.device
    with progress("predict", len(images), "images") as shown:
        for start in range(0, len(images), IMAGES_IN_A_PASS):
            pixels = _pixels(images[start : start + IMAGES_IN_A_PASS], full, resized, data_root)
            yield pixels.to(device).float() / 255
            shown.advance(len(pixels))


def _pixels(
    images: Sequence[Wanted], full: FullModel, resized: ResizedImages | None, data_root: Path | None
) -> torch.Tensor:
    """Pixels of images at the backbone's size: those that finetuning resized, where it has them all."""
    ids = np.array([-1 if image.image_id is None else image.image_id for image in images])
    if resized is not None and resized.holds(ids).all():
        return torch.from_numpy(resized.read(ids))
    resize = full.backbone.entry.preprocessing.resize
    # One at a time: pictures of different sizes do not stack before they are resized.
    return torch.cat([resize(torch.from_numpy(picture)[None]) for picture in read_images(images, data_root)])


def read_images(images: Sequence[Wanted], data_root: Path | None) -> list[NDArray[np.uint8]]:
    """Read the pixels of images, each (height, width, 3) uint8."""
    ids = [image.image_id for image in images if image.image_id is not None]
    stimuli: dict[int, NDArray[np.uint8]] = {}
    if ids:
        with open_dataset(data_root).stimuli() as opened:
            stimuli = dict(zip(ids, opened.read(ids), strict=True))
    return [
        stimuli[image.image_id] if image.image_id is not None else read_picture(image.file or Path())
        for image in images
    ]
