"""Word clouds: which words fit an image, a dream or a brain area best (paper, section 2.3)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import BoldreamsError
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.encoding.numerics.contraction import template
from boldreams_cli.files import write_text, written_whole
from boldreams_cli.interpret.words.matching import Matcher

WIDTH, HEIGHT = 1200, 750
LARGEST = (200, 170, 145, 123, 105, 90, 76, 65, 55, 47, 40, 34, 29, 25, 21)  # fonts to try, pixels
SLACK = 0.08  # of the largest font, by which one may be off: WordCloud rounds from word to word
SMALLEST = 0.25  # font of the last word, in those of the first: smaller cannot be read
INKS = ("#1d3f58", "#2c6e9b", "#b8442f", "#5a6b2f", "#6b4a7d")


def write_table(path: Path, words: Sequence[tuple[str, float]]) -> None:
    """Write rank, word and score as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "word", "score"])
    writer.writerows((rank, word, repr(score)) for rank, (word, score) in enumerate(words, 1))
    write_text(path, text.getvalue())


def scores(matcher: Matcher, features: Tensor, reference: Tensor | None = None) -> Tensor:
    """Score all words: the mean similarity with some pictures, as published, or its contrast with a reference.

    Plain similarity favours words that fit any picture; the contrast subtracts each word's mean over reference
    pictures.

    Parameters
    ----------
    matcher : for the words.
    features : (pictures, D) of what is to be described.
    reference : (references, D), or None.

    Returns
    -------
    (words,) float64.
    """
    found = matcher.similarity(features.double().mean(0, keepdim=True).float())[0].double()
    if reference is None:
        return found
    return found - matcher.similarity(reference.double().mean(0, keepdim=True).float())[0].double()


def predicted_betas(model: FittedModel, voxels: NDArray[np.bool_], embeddings: Tensor) -> Tensor:
    """Mean beta of an area that a text model predicts for each of some texts.

    Parameters
    ----------
    model : fitted, on text.
    voxels : (voxels,) of the area.
    embeddings : (texts, D) of CLIP's text tower, not normalised.

    Returns
    -------
    (texts,) float64.

    Raises
    ------
    BoldreamsError
        If none of the area's voxels took part in the fit.
    """
    used = voxels & model.weights.included
    if not used.any():
        raise BoldreamsError("none of the area's voxels took part in the fit; choose another --roi")
    share = torch.from_numpy(used / used.sum()).float()
    found = torch.full((len(embeddings),), float(model.weights.bias[torch.from_numpy(used)].double().mean())).double()
    for group in model.spec.groups:
        pattern = template(model.weights.group_field(group), model.weights.group_weights(group), share)[:, 0]
        read = torch.cat([embeddings[:, model.spec.layers[name]] for name in group.layers], dim=1)
        found += read.double() @ pattern.double()
    return found


def top(words: Sequence[str], values: Tensor, count: int) -> list[tuple[str, float]]:
    """The `count` best words, best first; ties in the vocabulary's order."""
    order = torch.argsort(values, descending=True, stable=True)[:count]
    return [(words[int(index)], float(values[index])) for index in order]


def font_sizes(values: Sequence[float]) -> list[float]:
    """Fonts in proportion to scores, the largest 1.

    Scores that are not all positive have no proportion: they are shifted so that the lowest gets SMALLEST.
    No font is smaller than SMALLEST.
    """
    highest, lowest = max(values), min(values)
    if lowest > 0:
        return [max(value / highest, SMALLEST) for value in values]
    if highest == lowest:
        return [1.0] * len(values)
    return [SMALLEST + (1 - SMALLEST) * (value - lowest) / (highest - lowest) for value in values]


def draw(path: Path, words: Sequence[tuple[str, float]], seed: int) -> None:
    """Draw a cloud; font size by score, see `font_sizes`.

    Parameters
    ----------
    path : of the PNG.
    words : (word, score), best first.
    seed : of the places.
    """
    from wordcloud import WordCloud

    sizes = dict(zip((word for word, _ in words), font_sizes([score for _, score in words]), strict=True))
    ranks = {word: rank for rank, word in enumerate(sizes)}

    def ink(word: str, **_: Any) -> str:
        return INKS[ranks[word] % len(INKS)]

    # Smaller until all fit in proportion: WordCloud shrinks or leaves out whatever does not fit.
    letters = sum(len(word) * (0.6 * size) * size for word, size in sizes.items())  # of a font of 1 pixel
    for largest in [font for font in LARGEST if font**2 * letters < WIDTH * HEIGHT] or LARGEST[-1:]:
        cloud = WordCloud(
            width=WIDTH,
            height=HEIGHT,
            margin=8,
            background_color="white",
            relative_scaling=1,
            max_font_size=largest,
            min_font_size=4,
            prefer_horizontal=0.9,
            color_func=ink,
            random_state=seed,
        ).generate_from_frequencies(sizes, max_font_size=largest)
        drawn = {entry[0][0]: entry[1] for entry in cloud.layout_}
        if all(abs(drawn.get(word, 0) - size * largest) <= SLACK * largest for word, size in sizes.items()):
            break
    with written_whole(path) as temporary:
        cloud.to_image().save(temporary)
