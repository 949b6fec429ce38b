"""Areas by models, as the paper prints figures 5 to 8: dreams, words and attributions, from what there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from boldreams_cli import plots
from boldreams_cli.console import BoldreamsError, ChoiceError, StopFlag, quoted
from boldreams_cli.data.subjects import in_order
from boldreams_cli.encoding.evaluation.saved.files import SCORES
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.features.backbones import entry
from boldreams_cli.files import DAMAGED_NPZ, read_json
from boldreams_cli.interpret.products import Description, Kept, Product, find_products
from boldreams_cli.interpret.words.comparison import dream_of
from boldreams_cli.plots.pictures.grid import Cell
from boldreams_cli.plots.style import Pictures

KINDS = ("dreams", "words", "attributions")
PLAIN = "integrated-gradients"  # the paper's


@dataclass(frozen=True)
class Source:
    """A model and what was made from it.

    Parameters
    ----------
    model : fitted.
    products : of it that are whole, of the weights it has now.
    """

    model: FittedModel
    products: Sequence[Kept]

    @classmethod
    def of(cls, model: FittedModel) -> Source:
        """Find what there is."""
        now = model.spec.weights_digest
        return cls(model, [item for item in find_products(model.folder) if item.state == "done" and item.is_of(now)])

    @property
    def title(self) -> str:
        """For the top of a column."""
        spec = self.model.spec
        kind = spec.recipe or spec.readout
        return f"{spec.backbone} {spec.percent:g} %\n{kind}{', finetuned' * spec.finetuned}, subject {spec.subject}"

    def of_kind(self, kind: str, area: str) -> list[Kept]:
        """Products of a kind that are of an area, the newest first."""
        named = {"attribution": "roi", "words": "image", "dream": "area"}[kind]
        found = [item for item in self.products if item.kind == kind and item.description.get(named) == area]
        found = [item for item in found if not item.is_photograph]
        return sorted(found, key=lambda item: item.date, reverse=True)

    @property
    def areas(self) -> list[str]:
        """Areas that something was made of, in the data set's order."""
        there = {str(item.description.get("area")) for item in self.products if item.kind == "dream"}
        there |= {str(item.description.get("roi")) for item in self.products if item.kind == "attribution"}
        try:
            order = list(read_json(self.model.folder / SCORES)["rois"])
        except (BoldreamsError, KeyError, TypeError):
            order = []
        known = [area for area in order if area in there]
        return known or sorted(there)


@dataclass(frozen=True)
class Missing:
    """What a gallery has no picture of, and the command that makes it."""

    kind: str
    area: str
    model: str
    run: str


def gallery(
    models: Sequence[FittedModel], areas: Sequence[str], kinds: Sequence[str], folder: Path, stop: StopFlag
) -> Description:
    """Draw what there is of areas (rows) and models (columns), a figure a kind.

    Parameters
    ----------
    models : in the order of the columns.
    areas : of the rows; where none are named, all that something was made of.
    kinds : of KINDS.
    folder : to write ``dreams.png`` and so on into, each as .pdf too, and gallery.json; ours there are replaced.
    stop : looked at while waiting for another process.

    Returns
    -------
    models, areas, there, missing, files.

    Raises
    ------
    ChoiceError
        If there is nothing to show, or files of others are in the way.
    """
    sources = [Source.of(model) for model in models]
    rows = list(areas) or list(dict.fromkeys(area for source in sources for area in source.areas))
    found = {kind: [[CELLS[kind](source, area, sources) for source in sources] for area in rows] for kind in kinds}
    there = {kind: sum(isinstance(c, Kept) for row in cells for c in row) for kind, cells in found.items()}
    if not any(there.values()):
        raise ChoiceError(
            f"none of the {len(models)} models has {' or '.join(kinds)} of {', '.join(rows) or 'any area'} yet; run "
            "boldreams dream, wordcloud and attribute with --roi AREA first"
        )
    shown = [kind for kind in kinds if there[kind]]
    product = Product(
        kind="gallery",
        folder=folder,
        stem="gallery",
        files=tuple(f"{kind}.{suffix}" for kind in shown for suffix in ("png", "pdf")),
        decides={"cells": {k: [[c.key if isinstance(c, Kept) else None for c in r] for r in found[k]] for k in kinds},
                 "models": [str(model.folder) for model in models], "areas": rows},
        chosen=True,
    )  # fmt: skip
    missing = [vars(cell) for kind in kinds for row in found[kind] for cell in row if isinstance(cell, Missing)]

    def make(place: Path, stem: str) -> Description:
        for kind in shown:
            cells = [_drawn(kind, row) for row in found[kind]]
            # Rows and columns without any picture say nothing.
            some = [number for number, row in enumerate(cells) if any(row)]
            across = [number for number in range(len(sources)) if any(row[number] for row in cells)]
            pictures = [[cells[down][number] for number in across] for down in some]
            names = [sources[number].title for number in across]
            plots.areas_by_models(place / f"{kind}.png", pictures, [rows[number] for number in some], names, kind)
        names = [str(model.folder) for model in models]
        return {"models": names, "areas": rows, "there": there, "missing": missing}

    with product.held(stop):
        made = product.found() or product.write(make, overwrite=True)
    names = ("models", "areas", "there", "missing")
    return {name: made[name] for name in names} | {"files": [str(path) for path in made["files"]]}


def _dream(source: Source, area: str, sources: Sequence[Source]) -> Kept | Missing:
    try:
        return dream_of(source.model, area)
    except ChoiceError:
        return _missing("dreams", source, area, "dream")


def _words(source: Source, area: str, sources: Sequence[Source]) -> Kept | Missing:
    """Of the vocabulary and score that most of the models have."""
    found = _shared(source, area, sources, "words", partial(_said, names=("vocabulary", "score", "prompt")))
    return found or _missing("words", source, area, "wordcloud")


def _attribution(source: Source, area: str, sources: Sequence[Source]) -> Kept | Missing:
    """Of the image that most of the models have; by the paper's method, where there is such."""
    like = partial(_said, names=("image", "method", "baseline"))
    found = _shared(source, area, sources, "attribution", like, _plain)
    return found or _missing("attributions", source, area, "attribute")


def _shared(
    source: Source,
    area: str,
    sources: Sequence[Source],
    kind: str,
    like: Callable[[Kept], tuple[str, ...]],
    first: Callable[[Kept], bool] = lambda item: True,
) -> Kept | None:
    """The product that is like one of most other models, so that a row can be compared; the newest of those.

    Parameters
    ----------
    like : what two products must share.
    first : whether a product comes before all of which this is not so.
    """
    models = Counter(kept for other in sources for kept in {like(item) for item in other.of_kind(kind, area)})
    found = source.of_kind(kind, area)
    return max(found, key=lambda item: (first(item), models[like(item)], like(item)), default=None)


def _said(item: Kept, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(item.description.get(name)) for name in names)


def _plain(item: Kept) -> bool:
    return item.description.get("method", PLAIN) == PLAIN


def _missing(kind: str, source: Source, area: str, command: str) -> Missing:
    folder = source.model.folder
    return Missing(kind, area, str(folder), f"boldreams {command} --roi {quoted(area)} --model {quoted(folder)}")


def _drawn(kind: str, row: Sequence[Kept | Missing]) -> list[Cell | None]:
    """The pictures of a row; those that are missing None."""
    drawn = iter(DRAWN[kind]([cell for cell in row if isinstance(cell, Kept)]))
    return [next(drawn) if isinstance(cell, Kept) else None for cell in row]


def _drawn_dream(item: Kept) -> Cell:
    """The image that excites the area most, as the report shows it."""
    said = item.description
    best = int(np.argmax(said["response"]))
    path = next(path for path in item.files if path.name == said["images"][best])
    pixels = np.asarray(Image.open(path).convert("RGB")) / 255
    beyond = said.get("beyond_data")
    return Cell(pixels, f"{said['response'][best]:.2f}{' *' if beyond and beyond[best] else ''}")


def _drawn_words(item: Kept) -> Cell:
    path = next(path for path in item.files if path.suffix == ".png")
    score = item.description.get("score", "")
    pixels = plots.cloud_alone(np.asarray(Image.open(path).convert("RGB")))
    return Cell(pixels / 255, f"{item.description.get('vocabulary', '')} {score}")


def _drawn_attributions(items: Sequence[Kept]) -> list[Cell]:
    """Overlays whose colours mean the same along the row, of each method."""
    read = [_attributed(item) for item in items]
    methods = [str(item.description.get("method", PLAIN)) for item in items]
    limits = plots.limits_along([signed for _, signed in read], methods)
    cells = []
    for item, method, (pixels, signed), limit in zip(items, methods, read, limits, strict=True):
        image = item.description.get("image_label", item.description["image"])
        said = f"image {image}: {item.description['prediction']:.2f}" + (f", {method}" if method != PLAIN else "")
        cells.append(Cell(plots.overlay(pixels, signed, limit), said))
    return cells


def _attributed(item: Kept) -> tuple[Pictures, NDArray[np.floating]]:
    """Pixels (H, W, 3) and signed map (H, W) of an attribution."""
    path = next(path for path in item.files if path.suffix == ".npz")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["pixels"].transpose(1, 2, 0), arrays["map"]
    except DAMAGED_NPZ as error:
        raise BoldreamsError(f"{path} is damaged ({error}); attribute again with --overwrite") from error


CELLS: Mapping[str, Callable[[Source, str, Sequence[Source]], Kept | Missing]] = {
    "dreams": _dream,
    "words": _words,
    "attributions": _attribution,
}
DRAWN: Mapping[str, Callable[[Sequence[Kept]], list[Cell]]] = {  # a row at a time
    "dreams": lambda items: [_drawn_dream(item) for item in items],
    "words": lambda items: [_drawn_words(item) for item in items],
    "attributions": _drawn_attributions,
}


def ordered(models: Sequence[FittedModel]) -> list[FittedModel]:
    """By subject, backbone, frozen before finetuned, and percent, as the paper's columns; none that reads captions."""

    def key(model: FittedModel) -> tuple[Any, ...]:
        spec = model.spec
        return in_order(spec.subject), spec.backbone, spec.finetuned, spec.percent, str(model.folder)

    return sorted((model for model in models if entry(model.spec.backbone).reads == "images"), key=key)
