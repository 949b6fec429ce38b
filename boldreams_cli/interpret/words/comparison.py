"""What words are compared with, and by what: CLIP or a classifier, one picture, a dream, the reference pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, ChoiceError, logger, quoted
from boldreams_cli.data.opening import open_dataset
from boldreams_cli.data.pictures import read_picture
from boldreams_cli.data.prepared.preparing import complete_stores
from boldreams_cli.data.responses import Responses
from boldreams_cli.data.subjects import Subject, store_name
from boldreams_cli.encoding.evaluation.predict import Wanted, find_images, read_images
from boldreams_cli.encoding.model import captions
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.features import clip
from boldreams_cli.features.clip import Clip
from boldreams_cli.files import DAMAGED_NPZ, digest
from boldreams_cli.interpret.products import Kept, damage, find_products
from boldreams_cli.interpret.words.matching import PLAIN, ClassifierMatcher, ClipMatcher, Matcher, classifier_of
from boldreams_cli.interpret.words.vocabulary import Vocabulary

REFERENCES = 200
OWN = ("mean", "diversity")  # objectives whose dream stands for what an area wants
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Means:
    """The options that decide how words and pictures are compared.

    Parameters
    ----------
    vocabulary : of the words.
    clip : its name.
    weights : of CLIP, or of the backbone and its classifier; None for the usual.
    backbone : whose classifier is meant where there is no model.
    seed : of random weights and of the reference sample.
    device : to compute on.
    cache : where embeddings are kept.
    prompt : a text with ``{}`` for the word.
    """

    vocabulary: Vocabulary
    clip: str
    weights: str | None
    backbone: str
    seed: int
    device: torch.device
    cache: Path
    prompt: str = PLAIN
    _loaded: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def check(self, model: FittedModel | None) -> None:
        """Raise ChoiceError for what can be told without reading anything."""
        if self.vocabulary.kind == "imagenet":
            classifier_of(model.spec.backbone if model else self.backbone)

    def matcher(self, model: FittedModel | None) -> Matcher:
        """CLIP, or the backbone's classifier for ImageNet's classes; loaded once, of one model.

        Raises
        ------
        ChoiceError, BoldreamsError
            If there is no such network, or its weights cannot be had.
        """
        if "matcher" not in self._loaded:
            self._loaded["matcher"] = self._load_matcher(model)
        return self._loaded["matcher"]

    def tower(self, model: FittedModel) -> Clip:
        """A text model's own CLIP; loaded once, of one model."""
        if "tower" not in self._loaded:
            self._loaded["tower"] = captions.tower_of(model, self.device, self.weights)
        return self._loaded["tower"]

    def _load_matcher(self, model: FittedModel | None) -> Matcher:
        if self.vocabulary.kind == "imagenet":
            source = model.spec.backbone_weights["source"] if model else "pretrained"
            name = model.spec.backbone if model else self.backbone
            return ClassifierMatcher(name, self.weights or source, self.vocabulary, self.seed, self.device)
        instead = ", or use --vocabulary imagenet, which needs no CLIP"
        network = clip.load(self.clip, self.weights or "pretrained", self.seed, instead).to(self.device)
        return ClipMatcher(network, self.vocabulary, self.cache, self.prompt)


def one_picture(image: str, data_root: Path | None) -> tuple[Wanted, Picture]:
    """What ``--image`` means, the id or name of an image or a file, and its pixels: (height, width, 3).

    Raises
    ------
    ChoiceError
        If it is not one picture.
    BoldreamsError
        If it cannot be read.
    """
    found = find_images([image], data_root, _no_word)
    if len(found) != 1:
        raise ChoiceError(f"--image takes one picture, and {image} holds {len(found)}")
    return found[0], read_images(found, data_root)[0]


def _no_word() -> NoReturn:
    raise ChoiceError("--image takes one image id or picture; test and train are words of boldreams predict")


@dataclass(frozen=True)
class References:
    """Pictures whose mean similarity `contrast` subtracts.

    Parameters
    ----------
    identity : what identifies them.
    count : of them.
    files : the pictures, or
    ids : image ids, to be read from
    data_root : the data set there.
    """

    identity: Any
    count: int
    files: tuple[Path, ...] = ()
    ids: tuple[int, ...] = ()
    data_root: Path | None = None

    @classmethod
    def in_folder(cls, folder: Path) -> References:
        """All pictures of a folder."""
        found = find_images([str(folder.resolve())], None, _no_word)
        files = tuple(image.file for image in found if image.file is not None)
        return cls([digest(path) for path in files], len(files), files=files)

    @classmethod
    def of_training(
        cls, model: FittedModel | None, subject: Subject, cache: Path, data_root: Path | None, seed: int
    ) -> References:
        """A sample of a subject's training images: those of the cached responses, else those under the root."""
        dataset = open_dataset(data_root)
        images = _training_images(model, subject, cache)
        if images is None:
            images = dataset.training_images(subject)
        sample = np.random.default_rng(seed).permutation(images)[:REFERENCES]
        identity = [dataset.stimuli_identity(), sample.tolist()]
        return cls(identity, len(sample), ids=tuple(int(number) for number in sample), data_root=data_root)

    @contextmanager
    def pictures(self) -> Iterator[Iterator[Picture]]:
        """One at a time: they need not fit into memory together."""
        if self.files:
            yield (read_picture(path) for path in self.files)
            return
        with open_dataset(self.data_root).stimuli() as stimuli:
            yield (stimuli.read([number])[0] for number in self.ids)


def _training_images(model: FittedModel | None, subject: Subject, cache: Path) -> NDArray[np.int32] | None:
    """Of the responses that the model was fitted to, or of the subject's only ones."""
    stores = complete_stores(cache, subject)
    if model is not None:
        stores = [path for path in stores if path.name == store_name(subject, model.spec.responses)]
    return Responses.open(stores[0]).train_images if len(stores) == 1 else None


def dream_of(model: FittedModel, area: str, roi: str | None = None) -> Kept:
    """The finished dream that stands for an area: of the mean response, with default settings if there is such.

    Arguments and errors are those of `dreams_of`.
    """
    plain = dreams_of(model, area, roi)
    best = max(plain, key=lambda item: (item.name.casefold() == area.casefold(), item.date))
    if len(plain) > 1:
        logger.info("%d dreams of %s: taking %s, made %s", len(plain), area, best.name, best.date)
    return best


def dreams_of(model: FittedModel, area: str, roi: str | None = None) -> list[Kept]:
    """The finished dreams of an area's mean response by the weights that the model has now, with any settings.

    Parameters
    ----------
    model : that dreamed.
    area : as the name of a dream's folder spells it.
    roi : the same as it was typed, for what to type next: of a mask or a long union the folder's name is no area.

    Raises
    ------
    ChoiceError
        If the area was not dreamed, or not to the end.
    """
    kept = [
        item
        for item in find_products(model.folder)
        if item.kind == "dream"
        and str(item.description.get("area", "")).casefold() == area.casefold()
        and not item.is_photograph
        and item.is_of(model.spec.weights_digest)
    ]
    remedy = f"run boldreams dream --roi {quoted(area if roi is None else roi)} --model {quoted(model.folder)}"
    plain = [item for item in kept if item.state == "done" and item.description["objective"] in OWN]
    if not plain:
        if stopped := [item for item in kept if item.state == "stopped"]:
            step = stopped[0].description.get("step")
            raise ChoiceError(
                f"the dream of {area} was stopped at step {step}, no words describe it; {remedy} to finish"
            )
        raise ChoiceError(f"no dream of {area} in {model.folder / 'dreams'}; {remedy} first")
    return plain


def dream_pixels(dream: Kept) -> NDArray[np.float32]:
    """Its images, (images, 3, H, W) in [0, 1].

    Raises
    ------
    BoldreamsError
        If the file is damaged.
    """
    path = next((path for path in dream.files if path.name == "dream.npz"), None)
    again = f"dream it again with --overwrite (roi {dream.description['roi']})"
    if path is None or path.name in damage(path.parent, dream.description):
        raise BoldreamsError(f"{path or dream.name} is damaged (other bytes than dream.json says); {again}")
    try:
        with np.load(path, allow_pickle=False) as stored:
            images = np.asarray(stored["images"], dtype=np.float32)
    except DAMAGED_NPZ as error:
        raise BoldreamsError(f"{path} is damaged ({error}); {again}") from error
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise BoldreamsError(f"{path} holds images {images.shape}, not (images, 3, height, width)")
    return images.clip(0, 1)
