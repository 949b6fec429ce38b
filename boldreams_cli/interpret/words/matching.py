"""How well words fit pictures: by CLIP (paper, section 2.3), or by a backbone's own classifier, without CLIP."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from boldreams_cli.console import BoldreamsError, ChoiceError, listing, progress
from boldreams_cli.features import backbones
from boldreams_cli.features import weights as weight_files
from boldreams_cli.features.clip import Clip
from boldreams_cli.features.preprocessing import Preprocessing
from boldreams_cli.files import fingerprint, saving_work, written_whole
from boldreams_cli.interpret.words.vocabulary import Vocabulary

PICTURES_IN_A_PASS = 8
PLAIN = "{}"  # the word alone, as the paper embeds it
CLASSES = 1000  # of ImageNet


class Matcher(Protocol):
    """Words, and what compares them with pictures."""

    words: tuple[str, ...]
    name: str
    digest: str
    preprocessing: Preprocessing

    def features(self, pixels: Tensor) -> Tensor:
        """What is kept of pictures: (n, 3, H, W) in [0, 1] -> (n, D) float32 on the CPU."""
        ...

    def similarity(self, features: Tensor) -> Tensor:
        """(n, D) -> (n, words); its mean over pictures is that of the pictures' mean features."""
        ...


class ClipMatcher:
    """Cosine similarity of embeddings.

    Parameters
    ----------
    clip : with weights.
    vocabulary : its words.
    cache : where the words' embeddings are kept.
    prompt : a text with ``{}`` for the word.
    """

    def __init__(self, clip: Clip, vocabulary: Vocabulary, cache: Path, prompt: str = PLAIN) -> None:
        self.clip, self.words = clip, vocabulary.words
        self.name, self.digest, self.preprocessing = clip.name, clip.digest, clip.preprocessing
        self._vocabulary, self._cache, self._prompt = vocabulary, cache, prompt

    @cached_property
    def embeddings(self) -> Tensor:
        """(words, D), each of length 1; made when first needed."""
        return functional.normalize(embed_vocabulary(self.clip, self._vocabulary, self._cache, self._prompt), dim=1)

    def features(self, pixels: Tensor) -> Tensor:
        """(n, D), each of length 1."""
        return functional.normalize(self.clip.embed_pixels(pixels), dim=1)

    def similarity(self, features: Tensor) -> Tensor:
        """Cosines, where the features are of length 1."""
        return features @ self.embeddings.T


class ClassifierMatcher:
    """Logits of the network that a backbone was cut from; its words are ImageNet's classes.

    Parameters
    ----------
    backbone : name of one that was trained to classify.
    weights : ``pretrained``, ``random`` or a file, which must hold the classifier too.
    vocabulary : ImageNet's.
    seed : of random weights.
    device : to compute on.

    Raises
    ------
    ChoiceError
        If the backbone never had such a classifier.
    BoldreamsError
        If the weights cannot be had, or hold no classifier.
    """

    def __init__(self, backbone: str, weights: str, vocabulary: Vocabulary, seed: int, device: torch.device) -> None:
        classifier_of(backbone)
        entry = backbones.entry(backbone)
        self.renamed = entry.renamed
        self.words, self.name, self.preprocessing = vocabulary.words, backbone, entry.preprocessing
        weights, seed = weight_files.asked(weights, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = classifier_of(backbone)().eval().to(device)
        state, said = weight_files.find(backbone, entry.source, entry.pretrained, weights, seed)
        if state is not None:
            self.network.load_state_dict(self._matched(state, said))
        self.digest = weight_files.digest(self.network.state_dict())
        if len(self.words) != CLASSES:
            raise ValueError(f"{len(self.words)} words for {CLASSES} classes")
        self.device = device

    def _matched(self, state: dict[str, Tensor], said: str) -> dict[str, Tensor]:
        try:
            return weight_files.match(self.network.state_dict(), self.renamed(state), said)
        except BoldreamsError as error:
            raise BoldreamsError(
                f"{error}. --vocabulary imagenet needs the whole {self.name}, its classifier too: give such weights "
                "with --weights FILE (or --weights pretrained where they are cached)"
            ) from error

    def features(self, pixels: Tensor) -> Tensor:
        """(n, 1000) logits."""
        with torch.inference_mode():
            return self.network(self.preprocessing.normalise(pixels.to(self.device))).float().cpu()

    def similarity(self, features: Tensor) -> Tensor:
        """The logits themselves."""
        return features


def classifier_of(backbone: str) -> Callable[[], nn.Module]:
    """What builds the whole network that a backbone was cut from.

    Raises
    ------
    ChoiceError
        If it was never trained to tell ImageNet's classes.
    """
    build = backbones.entry(backbone).classifier
    if build is None:
        able = [name for name, entry in backbones.BACKBONES.items() if entry.classifier is not None]
        raise ChoiceError(
            f"{backbone} has no classifier of ImageNet; choose --backbone {listing(able)}, or a "
            "--vocabulary that CLIP scores: brown or a file"
        )
    return build


def embed_vocabulary(clip: Clip, vocabulary: Vocabulary, cache: Path, prompt: str = PLAIN) -> Tensor:
    """Embeddings of the words, (words, D), not normalised; computed once for these words, prompt and weights."""
    texts = [prompt.replace("{}", word) for word in vocabulary.words]
    name = f"{vocabulary.name}-{clip.name.replace(':', '-')}"
    path = cache / "vocabularies" / f"{name}-{fingerprint([clip.digest, texts])}.safetensors"
    what = f"embed the {len(vocabulary.words)} words of {vocabulary.name}"
    return _kept(path, lambda: clip.embed_texts(texts, what))


def reference_features(
    matcher: Matcher, pictures: Iterable[NDArray[np.uint8]], count: int, identity: Any, cache: Path
) -> Tensor:
    """Features of the reference set that `contrast` subtracts; computed once for these pictures and weights.

    Parameters
    ----------
    matcher : for the words.
    pictures : each (height, width, 3) uint8; read only if they must be, a few at a time.
    count : of them.
    identity : what identifies them.
    cache : where the features are kept.

    Returns
    -------
    (pictures, D).
    """
    key = fingerprint([matcher.digest, matcher.preprocessing.to_dict(), identity])
    path = cache / "vocabularies" / f"reference-{matcher.name.replace(':', '-')}-{key}.safetensors"
    return _kept(path, lambda: picture_features(matcher, pictures, count))


def picture_features(matcher: Matcher, pictures: Iterable[NDArray[np.uint8]], count: int) -> Tensor:
    """Features of `count` pictures of any sizes: (pictures, D)."""
    found = []
    with progress(f"pictures through {matcher.name}", count, "pictures") as shown:
        left = iter(pictures)
        while block := list(islice(left, PICTURES_IN_A_PASS)):
            # One at a time: pictures of different sizes do not stack before they are resized.
            resized = [matcher.preprocessing.resize(torch.from_numpy(picture)[None]) for picture in block]
            found.append(matcher.features(torch.cat(resized).float() / 255))
            shown.advance(len(block))
    return torch.cat(found)


def _kept(path: Path, compute: Callable[[], Tensor]) -> Tensor:
    """Read a tensor from the cache, or compute and keep it."""
    if path.is_file():
        try:
            return load_file(path)["features"]
        except (SafetensorError, KeyError) as error:
            raise BoldreamsError(f"{path} is damaged ({error}); delete it, it will be made again") from error
    values = compute().contiguous()
    with saving_work(path), written_whole(path) as temporary:
        save_file({"features": values}, temporary)
    return values
