"""A word cloud from request to files: what it is called, what decides it, what it leaves on disk (section 2.3)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boldreams_cli.console import ChoiceError, StopFlag, logger
from boldreams_cli.data.areas import Areas
from boldreams_cli.encoding.model import captions
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.features import backbones
from boldreams_cli.files import fingerprint
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
from boldreams_cli.interpret.targets import said
from boldreams_cli.interpret.words import cloud
from boldreams_cli.interpret.words.comparison import Means, References, dream_of, dream_pixels, one_picture
from boldreams_cli.interpret.words.matching import (
    Matcher,
    embed_vocabulary,
    picture_features,
    reference_features,
)

TOP = 20
CLIP = "RN50x4"
SHOWN = ("image", "vocabulary", "words", "score", "matcher", "matcher_weights", "dream", "reference")


@dataclass(frozen=True)
class Request:
    """Words to be found.

    Parameters
    ----------
    model : fitted; needed for an area.
    areas : of its subject; None where the cache lacks its responses, so that an area cannot be looked up.
    image, roi : what the words are for: an nsdId or file, or an area; one of them.
    score : ``cosine`` or ``contrast``.
    subject : whose training images are the reference.
    reference : a folder of pictures in their place.
    top : words to show.
    nsd_root : to read nsdIds from.
    """

    means: Means
    model: FittedModel | None
    areas: Areas | None
    image: str | None
    roi: str | None
    score: str
    subject: int | None
    reference: Path | None
    top: int
    nsd_root: Path | None

    @property
    def by_betas(self) -> bool:
        """Whether a text model ranks the words by an area's predicted beta."""
        if self.roi is None or self.model is None:
            return False
        return backbones.entry(self.model.spec.backbone).reads == "captions"

    @property
    def area(self) -> str:
        """The area as the name of a folder."""
        assert self.roi is not None
        return spelled(self.areas.canonical(self.roi) if self.areas is not None else self.roi)

    @property
    def subject_name(self) -> int | str:
        """What the words are for, for people: an nsdId, a file or an area."""
        if self.image is not None:
            return int(self.image) if self.image.isdecimal() else self.image
        assert self.roi is not None
        return said(self.areas, self.roi) if self.areas is not None else self.roi


def check(roi: str | None, vocabulary: str, score: str, reference: Path | None, clip: str | None, text: bool) -> None:
    """Refuse options that would change nothing.

    Parameters
    ----------
    vocabulary : its kind.
    text : whether a text model ranks the words.

    Raises
    ------
    ChoiceError
        If one is given that does not apply.
    """
    if text and score != "cosine":
        raise ChoiceError("a text model ranks words by the area's predicted beta; --score does not apply")
    if reference is not None and score != "contrast":
        raise ChoiceError("--reference is what --score contrast compares with; give both, or neither")
    if clip is not None and (vocabulary == "imagenet" or text):
        reader = "a text model's own CLIP" if text else "the backbone's own classifier"
        raise ChoiceError(f"--clip does not apply: words are scored by {reader}; leave it out")


@dataclass(frozen=True)
class _Words:
    """Scores of all words, when they are asked for, and what decides them."""

    place: str  # folder under words/
    kind: str
    matcher: str
    weights: str
    decides: dict[str, Any]
    values: Any  # () -> (words,) float64
    about: dict[str, Any]


def wordcloud(request: Request, overwrite: bool = False) -> Description:
    """Find the words that fit an image, or an area's dream, best, and keep them, unless they are there.

    Returns
    -------
    The JSON object of ``wordcloud``.

    Raises
    ------
    ChoiceError, BoldreamsError
        If there is no such area, dream or picture, or what compares cannot be had.
    """
    means, model = request.means, request.model
    found = _by_betas(request) if request.by_betas else _by_pictures(request)
    vocabulary = means.vocabulary
    name = spelled(
        vocabulary.name,
        found.kind,
        means.clip if found.kind in ("cosine", "contrast") and means.clip != CLIP else "",
        f"reference-{request.reference.resolve().name}" if request.reference else "",
        f"top-{request.top}" if request.top != TOP else "",
        f"seed-{means.seed}" if means.seed else "",
    )
    subject = request.subject_name
    folder = (model.folder if model is not None else means.cache) / "words" / found.place
    decides = found.decides | {
        "vocabulary": vocabulary.digest,
        "score": found.kind,
        "matcher": [found.matcher, found.weights],
        "top": request.top,
        "seed": means.seed,
        "versions": versions_that_matter(),
    }
    product = Product("words", folder, name, ("{stem}.png", "{stem}.csv"), decides)

    def make(folder: Path, stem: str) -> Description:
        best = cloud.top(vocabulary.words, found.values(), request.top)
        cloud.draw(folder / f"{stem}.png", best, means.seed)
        cloud.write_table(folder / f"{stem}.csv", best)
        about = said_of_model(model) | {"title": title_of_model(model)} if model is not None else {}
        facts = {"image": subject, "vocabulary": vocabulary.name, "vocabulary_digest": vocabulary.digest, "words": best}
        facts |= {"score": found.kind, "matcher": found.matcher, "matcher_weights": found.weights, "seed": means.seed}
        return about | facts | found.about

    with product.held(StopFlag()):
        there = None if overwrite else product.found()
        if there is not None:
            logger.info("%s: done before, with all of the same settings (--overwrite does it again)", there["files"][0])
        else:
            there = product.write(make)
    shown = {key: there.get(key) for key in ("model", *SHOWN)}
    return shown | {"image": subject, "files": [str(path) for path in there["files"]]}


def _by_betas(request: Request) -> _Words:
    """The area's mean beta, as a text model predicts it from each word."""
    model, means = request.model, request.means
    assert model is not None
    assert request.roi is not None
    assert request.areas is not None
    voxels = request.areas.select(request.roi)
    tower = captions.tower_of(model, means.device, means.weights)

    def values() -> Tensor:
        return cloud.predicted_betas(model, voxels, embed_vocabulary(tower, means.vocabulary, means.cache))

    decides = of_model(model) | {"voxels": hashed(np.flatnonzero(voxels))}
    return _Words(request.area, "beta", tower.name, tower.digest, decides, values, {"dream": None, "reference": None})


def _by_pictures(request: Request) -> _Words:
    """Similarity of the words with a picture or with an area's dreams."""
    means = request.means
    means.check(request.model)
    about: dict[str, Any] = {"dream": None, "reference": None}
    dreamt, shown = None, []
    if request.roi is not None:
        assert request.model is not None
        dream = dream_of(request.model, request.area)
        dreamt = torch.from_numpy(dream_pixels(dream))
        about["dream"], place = dream.name, str(dream.description["area"])
        decides: dict[str, Any] = {"dream": dream.key}
    else:
        shown = [one_picture(str(request.image), request.nsd_root)]
        decides, place = {"pixels": hashed(shown[0])}, spelled(Path(str(request.image)).stem)
    references = _references(request) if request.score == "contrast" else None
    matcher = means.matcher(request.model)
    if references is not None:
        about["reference"] = str(request.reference or f"{references.count} training images")
        decides["reference"] = fingerprint(references.identity)

    def values() -> Tensor:
        features = matcher.features(dreamt) if dreamt is not None else picture_features(matcher, shown, 1)
        return cloud.scores(matcher, features, _features(matcher, references, means.cache))

    kind = {"cosine": "logit", "contrast": "logit-contrast"}[request.score]
    kind = kind if means.vocabulary.kind == "imagenet" else request.score
    return _Words(place, kind, matcher.name, matcher.digest, decides, values, about)


def _references(request: Request) -> References:
    if request.reference is not None:
        return References.in_folder(request.reference)
    subject = request.model.spec.subject if request.model is not None else request.subject
    if subject is None:
        raise ChoiceError("--score contrast compares with a subject's training images: give --subject, or --reference")
    return References.of_training(request.model, subject, request.means.cache, request.nsd_root, request.means.seed)


def _features(matcher: Matcher, references: References | None, cache: Path) -> Tensor | None:
    if references is None:
        return None
    with references.pictures() as pictures:
        return reference_features(matcher, pictures, references.count, references.identity, cache)
