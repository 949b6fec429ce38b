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
from boldreams_cli.data.areas import parts_of
from boldreams_cli.data.subjects import in_order
from boldreams_cli.encoding.evaluation.saved.files import SCORES
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.features.backbones import entry
from boldreams_cli.files import DAMAGED_NPZ, read_json
from boldreams_cli.interpret.products import Description, Kept, Product, find_products, spelled
from boldreams_cli.interpret.words.comparison import OWN, dream_of
from boldreams_cli.plots.pictures.grid import Cell
from boldreams_cli.plots.style import Pictures

KINDS = ("dreams", "words", "attributions")
COMMANDS = {"dreams": "dream", "words": "wordcloud", "attributions": "attribute"}
PICTURED = ("dream", "words", "attribution")  # kinds of products
PLAIN = "integrated-gradients"  # the paper's


@dataclass(frozen=True)
class Row:
    """What the pictures of a row are of.

    Parameters
    ----------
    name : as the folder of its dreams is called.
    roi : as ``--roi`` takes it; empty of voxels, filters, contrasts, bounds, and masks that are no longer there.
    """

    name: str
    roi: str

    @classmethod
    def of(cls, item: Kept) -> Row | None:
        """What a product is of; None of words for an image, and of dreams that do not stand for what an area wants."""
        name, said = _called(item)
        if item.kind == "dream" and (item.is_photograph or item.description.get("objective", "mean") not in OWN):
            return None
        if item.kind == "words" and not item.description.get("dream"):
            return None
        return cls(name, said if spelled(said) == name or Path(said).is_file() else "")

    @classmethod
    def asked(cls, area: str, sources: Sequence[Source]) -> Row:
        """An area as it was typed: in whatever case, a mask by its path; as typed where nothing was made of it."""
        typed = ",".join(parts_of(area)).casefold()
        for item in (item for source in sources for item in source.products if item.kind in PICTURED):
            if typed in [name.casefold() for name in _called(item)] and (row := cls.of(item)) is not None:
                return row
        return cls(area, area)


def _called(item: Kept) -> tuple[str, str]:
    """What a product is of: as the folder of a dream of it is called, and as people are told."""
    said, folder = item.description, item.files[0].parent.name
    if item.kind == "dream":
        return str(said.get("area")), str(said.get("roi"))
    if item.kind == "words":
        title = str(said.get("image"))
        return (folder if said.get("dream") else spelled(title)), title
    title = str(said.get("roi"))
    # Attributions of earlier versions do not say it; their folder's name begins with it, and goes on with settings.
    older = spelled(title) if folder.startswith(spelled(title)) else folder
    return str(said.get("area", older)), title


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
        of_kind = [item for item in self.products if item.kind == kind and not item.is_photograph]
        found = [item for item in of_kind if _called(item)[0].casefold() == area.casefold()]
        return sorted(found, key=lambda item: item.date, reverse=True)

    @property
    def rows(self) -> list[Row]:
        """All that something was made of: groups in the data set's order, then what is none by name."""
        of_areas = [item for item in self.products if item.kind in PICTURED]
        there = {row.name: row for item in of_areas if (row := Row.of(item)) is not None}
        try:
            order = list(read_json(self.model.folder / SCORES)["rois"])
        except (BoldreamsError, KeyError, TypeError):
            order = []
        known = [area for area in order if area in there]
        return [there[name] for name in [*known, *sorted(there.keys() - set(known))]]


@dataclass(frozen=True)
class Missing:
    """What a gallery has no picture of, and the command that makes it; empty where ``--roi`` takes no such name."""

    kind: str
    area: str
    model: str
    run: str


def titles(sources: Sequence[Source]) -> list[str]:
    """For the top of each column; those that are called the same say the end of their folder's name too."""
    counts = Counter(source.title for source in sources)
    ends = [source.model.folder.name.rpartition("-")[2] for source in sources]
    return [one.title + (f"\n{end}" if counts[one.title] > 1 else "") for one, end in zip(sources, ends, strict=True)]


def gallery(
    models: Sequence[FittedModel], areas: Sequence[str], kinds: Sequence[str], folder: Path, stop: StopFlag
) -> Description:
    """Draw what there is of areas (rows) and models (columns), a figure a kind.

    Parameters
    ----------
    models : in the order of the columns.
    areas : of the rows, as ``--roi`` takes them; where none are named, all that something was made of.
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
    named = _rows(areas, sources)
    rows, named_columns = list(named), titles(sources)
    found = {kind: [_cells(kind, row, sources) for row in named.values()] for kind in kinds}
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
            names = [named_columns[number] for number in across]
            plots.areas_by_models(place / f"{kind}.png", pictures, [rows[number] for number in some], names, kind)
        names = [str(model.folder) for model in models]
        return {"models": names, "areas": rows, "there": there, "missing": missing}

    with product.held(stop):
        made = product.found() or product.write(make, overwrite=True)
    names = ("models", "areas", "there", "missing")
    return {name: made[name] for name in names} | {"files": [str(path) for path in made["files"]]}


def _rows(areas: Sequence[str], sources: Sequence[Source]) -> dict[str, Row]:
    """By name: those asked for, or all that there is of any model."""
    asked = [Row.asked(area, sources) for area in areas] or [row for source in sources for row in source.rows]
    return {row.name: row for row in asked}


def _cells(kind: str, row: Row, sources: Sequence[Source]) -> list[Kept | Missing]:
    """A row of a figure."""
    return [CELLS[kind](source, row.name, sources) or _missing(kind, source, row) for source in sources]


def _dream(source: Source, area: str, sources: Sequence[Source]) -> Kept | None:
    try:
        return dream_of(source.model, area)
    except ChoiceError:
        return None


def _words(source: Source, area: str, sources: Sequence[Source]) -> Kept | None:
    """Of the vocabulary and score that most of the models have."""
    return _shared(source, area, sources, "words", partial(_said, names=("vocabulary", "score", "prompt")))


def _attribution(source: Source, area: str, sources: Sequence[Source]) -> Kept | None:
    """Of the image that most of the models have; by the paper's method, where there is such."""
    like = partial(_said, names=("image", "method", "baseline"))
    return _shared(source, area, sources, "attribution", like, _plain)


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


def _missing(kind: str, source: Source, row: Row) -> Missing:
    folder = source.model.folder
    run = f"boldreams {COMMANDS[kind]} --roi {quoted(row.roi)} --model {quoted(folder)}" if row.roi else ""
    return Missing(kind, row.name, str(folder), run)


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


CELLS: Mapping[str, Callable[[Source, str, Sequence[Source]], Kept | None]] = {
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
