"""Word clouds: which words fit an image, a dream or a brain area best (paper, section 2.3)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import BoldreamsError
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.encoding.numerics.contraction import template
from boldreams_cli.files import write_text
from boldreams_cli.interpret.words.matching import Matcher
from boldreams_cli.plots.pictures.words import Panel

SMALLEST = 0.25  # font of the last word, in those of the first: smaller cannot be read


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


def top(
    words: Sequence[str], values: Tensor, count: int, singulars: Mapping[str, str] | None = None
) -> list[tuple[str, float]]:
    """The `count` best words, best first; ties in the vocabulary's order.

    Parameters
    ----------
    singulars : of plurals, their singular; of the two only the better is taken.
    """
    found: dict[str, tuple[str, float]] = {}
    for index in torch.argsort(values, descending=True, stable=True).tolist():
        word = words[index]
        found.setdefault((singulars or {}).get(word, word), (word, float(values[index])))
        if len(found) == count:
            break
    return list(found.values())


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


def sizes_mean(values: Sequence[float], kind: str) -> str:
    """What a cloud's fonts say, for below it."""
    highest, lowest = max(values), min(values)
    said = f"{highest:.3g} (largest) to {lowest:.3g}"
    if lowest <= 0:
        return f"size: {kind}, linear from {said}"
    below = sum(value < SMALLEST * highest for value in values)
    floor = f"; grey: {below} below {SMALLEST:g} of the largest, drawn at that" if below else ""
    return f"size in proportion to {kind}, {said}{floor}"


def panel(title: str, best: Sequence[tuple[str, float]], kind: str) -> Panel:
    """One cloud of a figure."""
    values = [score for _, score in best]
    lowest = SMALLEST * max(values)
    faint = [min(values) > 0 and value < lowest for value in values]
    return Panel(title, tuple(word for word, _ in best), font_sizes(values), faint, sizes_mean(values, kind))
