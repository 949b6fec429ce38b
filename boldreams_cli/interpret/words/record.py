"""A word cloud from request to files: what it is called, what decides it, what it leaves on disk (section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boldreams_cli.console import ChoiceError, StopFlag, logger
from boldreams_cli.data.areas import Areas
from boldreams_cli.data.subjects import Subject
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.features import backbones
from boldreams_cli.files import fingerprint
from boldreams_cli.interpret.labels import called
from boldreams_cli.interpret.products import (
    Description,
    Make,
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
    PLAIN,
    Matcher,
    embed_vocabulary,
    picture_features,
    reference_features,
)
from boldreams_cli.plots import clouds

TOP = 20
CLIP = "RN50x4"
KINDS = {
    "cosine": "cosine of CLIP's embeddings",
    "contrast": "contrast: cosine of CLIP's embeddings",
    "logit": "logit of the classifier",
    "logit-contrast": "logit of the classifier",
    "predicted-beta": "mean beta of the area, predicted from the word",
}
SHOWN = ("image", "vocabulary", "words", "score", "matcher", "matcher_weights", "prompt", "dream", "reference")


@dataclass(frozen=True)
class Request:
    """Words to be found.

    Parameters
    ----------
    model : fitted; needed for an area.
    areas : of its subject; None where the cache lacks its responses, so that an area cannot be looked up.
    image, roi : what the words are for: an image id or file, or an area; one of them.
    score : ``cosine`` or ``contrast``.
    subject : whose training images are the reference.
    reference : a folder of pictures in their place.
    top : words to show.
    data_root : to read image ids from.
    """

    means: Means
    model: FittedModel | None
    areas: Areas | None
    image: str | None
    roi: str | None
    score: str
    subject: Subject | None
    reference: Path | None
    top: int
    data_root: Path | None

    @property
    def by_betas(self) -> bool:
        """Whether a text model ranks the words by an area's predicted beta."""
        if self.roi is None or self.model is None:
            return False
        return backbones.entry(self.model.spec.backbone).reads == "captions"

    @property
    def home(self) -> Path:
        """Folder of the words."""
        return (self.model.folder if self.model is not None else self.means.cache) / "words"

    def named(self, kind: str) -> str:
        """Stem of files: the vocabulary, the score and what is not the default."""
        means = self.means
        return spelled(
            means.vocabulary.name,
            kind,
            means.clip if kind in ("cosine", "contrast") and means.clip != CLIP else "",
            f"prompt-{means.prompt}" if means.prompt != PLAIN else "",
            f"reference-{self.reference.resolve().name}" if self.reference else "",
            f"top-{self.top}" if self.top != TOP else "",
            f"seed-{means.seed}" if means.seed else "",
        )

    @property
    def area(self) -> str:
        """The area as the name of a folder."""
        assert self.roi is not None
        return spelled(self.areas.canonical(self.roi) if self.areas is not None else self.roi)

    @property
    def subject_name(self) -> int | str:
        """What the words are for, for people: an image id, a file or an area."""
        if self.image is not None:
            return int(self.image) if self.image.isdecimal() else self.image
        assert self.roi is not None
        return said(self.areas, self.roi) if self.areas is not None else self.roi


def check(vocabulary: str, score: str, reference: Path | None, clip: str | None, prompt: str, text: bool) -> None:
    """Refuse options that would change nothing.

    Parameters
    ----------
    vocabulary : as it is typed.
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
    if "{}" not in prompt:
        raise ChoiceError(f"--prompt {prompt!r} has no place for the word; write {{}} there: 'a photo of a {{}}'")
    if prompt != PLAIN and vocabulary == "imagenet":
        raise ChoiceError("--prompt does not apply: the backbone's own classifier reads no texts; leave it out")
    if clip is not None and (vocabulary == "imagenet" or text):
        reader = "a text model's own CLIP" if text else "the backbone's own classifier"
        raise ChoiceError(f"--clip does not apply: words are scored by {reader}; leave it out")


@dataclass(frozen=True)
class _Words:
    """Scores of all words, when they are asked for, and what decides them."""

    place: str  # folder under words/
    title: str
    kind: str
    matcher: str
    weights: str
    decides: dict[str, Any]
    values: Any  # () -> (words,) float64
    about: dict[str, Any]


def wordclouds(requests: Sequence[Request], overwrite: bool = False) -> Description:
    """Find the words that fit images, or areas' dreams, best, and keep them, unless they are there.

    Parameters
    ----------
    requests : one or more, alike but in what the words are for.
    overwrite : whether to do again what is done.

    Returns
    -------
    The JSON object of ``wordcloud``; of several, theirs as `results`, and the figure of all as `files`.

    Raises
    ------
    ChoiceError, BoldreamsError
        If there is no such area, dream or picture, or what compares cannot be had.
    """
    # What is missing is found out before anything is computed.
    found = [_by_betas(request) if request.by_betas else _by_pictures(request) for request in requests]
    kept = [_keep(request, words, overwrite) for request, words in zip(requests, found, strict=True)]
    shown = [
        {key: there.get(key) for key in ("model", *SHOWN)}
        | {"image": request.subject_name, "files": [str(path) for path in there["files"]]}
        for request, there in zip(requests, kept, strict=True)
    ]
    if len(shown) == 1:
        return shown[0]
    files = [str(path) for path in _together(requests[0], found, kept, overwrite)["files"]]
    return {"model": shown[0]["model"], "results": shown, "files": files}


def _keep(request: Request, found: _Words, overwrite: bool) -> Description:
    means, model, vocabulary = request.means, request.model, request.means.vocabulary
    product = Product(
        "words",
        request.home / found.place,
        request.named(found.kind),
        ("{stem}.png", "{stem}.pdf", "{stem}.csv"),
        found.decides
        | {
            "vocabulary": vocabulary.digest,
            "prompt": means.prompt,
            "score": found.kind,
            "matcher": [found.matcher, found.weights],
            "top": request.top,
            "seed": means.seed,
            "versions": versions_that_matter(),
        },
        home=model.folder if model is not None else None,
    )

    def make(folder: Path, stem: str) -> Description:
        best = cloud.top(vocabulary.words, found.values(), request.top, vocabulary.singulars)
        panel = cloud.panel(found.title, best, found.kind)
        clouds(folder / f"{stem}.png", [panel], *_framing(request, found))
        cloud.write_table(folder / f"{stem}.csv", best)
        about = said_of_model(model) | {"title": title_of_model(model)} if model is not None else {}
        facts = {"image": request.subject_name, "words": best, "score": found.kind, "prompt": means.prompt}
        facts |= {"vocabulary": vocabulary.name, "vocabulary_digest": vocabulary.digest}
        facts |= {"matcher": found.matcher, "matcher_weights": found.weights, "seed": means.seed}
        return about | facts | found.about

    return _made(product, make, overwrite)


def _together(request: Request, found: Sequence[_Words], kept: Sequence[Description], overwrite: bool) -> Description:
    """All clouds in one figure."""
    titles = [words.title for words in found]
    stem = spelled("+".join(dict.fromkeys(words.place for words in found)), request.named(found[0].kind))
    decides = {"of": [there["key"] for there in kept], "titles": titles, "versions": versions_that_matter()}
    files, home = ("{stem}.png", "{stem}.pdf"), request.model.folder if request.model is not None else None
    product = Product("words-together", request.home / "together", stem, files, decides, home=home)

    def make(folder: Path, stem: str) -> Description:
        panels = [
            cloud.panel(words.title, [(word, score) for word, score in there["words"]], words.kind)
            for words, there in zip(found, kept, strict=True)
        ]
        clouds(folder / f"{stem}.png", panels, *_framing(request, found[0]))
        about = said_of_model(request.model) if request.model is not None else {}
        return about | {"image": [there["image"] for there in kept], "of": [str(there["files"][0]) for there in kept]}

    return _made(product, make, overwrite)


def _made(product: Product, make: Make, overwrite: bool) -> Description:
    with product.held(StopFlag()):
        there = None if overwrite else product.found()
        if there is None:
            return product.write(make)
        logger.info("%s: done before, with all of the same settings (--overwrite does it again)", there["files"][0])
        return there


def _framing(request: Request, found: _Words) -> tuple[str, str]:
    """Title and foot of a figure: whose words they are, and what was compared with what."""
    means, vocabulary = request.means, request.means.vocabulary
    words = f"{len(vocabulary.words)} words of {vocabulary.name}"
    words += f" as {means.prompt!r}" if means.prompt != PLAIN else ""
    against = f", minus its mean over {found.about['reference']}" if found.about["reference"] else ""
    foot = f"{KINDS[found.kind]}{against}; {words}; {found.matcher}, weights {found.weights[:12]}"
    title = title_of_model(request.model) if request.model is not None else f"words by {found.matcher}"
    return title, f"{foot}; boldreams {versions_that_matter()['boldreams']}"


def _by_betas(request: Request) -> _Words:
    """The area's mean beta, as a text model predicts it from each word."""
    model, means = request.model, request.means
    assert model is not None
    assert request.roi is not None
    assert request.areas is not None
    voxels = request.areas.select(request.roi)
    tower = means.tower(model)

    def values() -> Tensor:
        return cloud.predicted_betas(
            model, voxels, embed_vocabulary(tower, means.vocabulary, means.cache, means.prompt)
        )

    decides = of_model(model) | {"voxels": hashed(np.flatnonzero(voxels))}
    about = {"dream": None, "reference": None}
    title = str(request.subject_name)
    return _Words(request.area, title, "predicted-beta", tower.name, tower.digest, decides, values, about)


def _by_pictures(request: Request) -> _Words:
    """Similarity of the words with a picture or with an area's dreams."""
    means = request.means
    means.check(request.model)
    about: dict[str, Any] = {"dream": None, "reference": None}
    dreamt, shown = None, []
    if request.roi is not None:
        assert request.model is not None
        dream = dream_of(request.model, request.area, request.roi)
        dreamt = torch.from_numpy(dream_pixels(dream))
        about["dream"], place = dream.name, str(dream.description["area"])
        title = f"dream of {request.subject_name}" + (f" ({dream.name})" if dream.name != place else "")
        decides: dict[str, Any] = {"dream": dream.key}
    else:
        image, pixels = one_picture(str(request.image), request.data_root)
        shown, title = [pixels], called(image, request.data_root)
        decides, place = {"pixels": hashed(pixels)}, spelled(title if image.file is None else image.file.stem)
        title = f"image {title}" if image.file is None else title
    references = _references(request) if request.score == "contrast" else None
    matcher = means.matcher(request.model)
    decides["preprocessing"] = matcher.preprocessing.to_dict()
    if references is not None:
        about["reference"] = str(request.reference or f"{references.count} training images")
        decides["reference"] = fingerprint(references.identity)

    def values() -> Tensor:
        features = matcher.features(dreamt) if dreamt is not None else picture_features(matcher, shown, 1)
        return cloud.scores(matcher, features, _features(matcher, references, means.cache))

    kind = {"cosine": "logit", "contrast": "logit-contrast"}[request.score]
    kind = kind if means.vocabulary.kind == "imagenet" else request.score
    return _Words(place, title, kind, matcher.name, matcher.digest, decides, values, about)


def _references(request: Request) -> References:
    if request.reference is not None:
        return References.in_folder(request.reference)
    subject = request.model.spec.subject if request.model is not None else request.subject
    if subject is None:
        raise ChoiceError("--score contrast compares with a subject's training images: give --subject, or --reference")
    return References.of_training(request.model, subject, request.means.cache, request.data_root, request.means.seed)


def _features(matcher: Matcher, references: References | None, cache: Path) -> Tensor | None:
    if references is None:
        return None
    with references.pictures() as pictures:
        return reference_features(matcher, pictures, references.count, references.identity, cache)
