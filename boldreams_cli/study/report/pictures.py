"""Dreams with their word clouds, and attention maps, as grids of areas by models (paper, figures 5 to 8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from boldreams_cli.data.subjects import folder_of
from boldreams_cli.files import DAMAGED_NPZ
from boldreams_cli.interpret.attribution.methods import DEFAULT as METHOD
from boldreams_cli.interpret.dreams.eccentricity import Profile, litmus, radial_profile
from boldreams_cli.interpret.products import Kept
from boldreams_cli.plots.pictures.attribution import PERCENTILE, limits_along, overlay
from boldreams_cli.plots.pictures.mosaic import SIDE, mosaic
from boldreams_cli.plots.pictures.radial import radial
from boldreams_cli.plots.pictures.words import cloud_alone
from boldreams_cli.study.report.assets import Assets, columns, square
from boldreams_cli.study.report.blocks import Cell, Figure, Grid, Section, Table
from boldreams_cli.study.report.collect import Holdings, Model, Subject
from boldreams_cli.study.report.origins import degrees
from boldreams_cli.study.report.parts import Part

ECCENTRICITY = tuple(f"ecc_{number}" for number in range(1, 6))
EARLY = ("V1", "V2", "V3", "hV4", "V3ab")
CATEGORY = ("faces", "places", "words", "bodies")
LITMUS = "Dreams of the eccentricity areas, from the middle of the visual field outwards: the paper's litmus test."
DREAMS = (
    "The image that drives each area's mean predicted response most, and under it the words that fit it best, larger "
    "the better they fit. Of several dreams of one area by one model the newest is shown, and its image of the highest "
    "response; the number is that response."
)
WORDS = ": words"  # of an area, in the name of its row
MOST_COLUMNS = 10  # of one drawing
FEW = 2  # models whose rows areas stand in side by side: one column of many rows is a page of nothing else
IMAGE = "image"  # the column of what was looked at
MOST_IMAGES = 2  # of an area's attention maps
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Shown:
    """A picture of a grid: pixels for the drawing, and what the page says of it."""

    image: Image.Image
    alt: str
    note: str
    value: float | None
    file: str
    css: str = ""


Found = dict[tuple[str, str], Shown]  # (row, column)


def dreams(held: Holdings, assets: Assets, name: str, title: str, intro: str, areas: Sequence[str] | None) -> Section:
    """A grid for each subject; of all other areas where `areas` is None."""
    section = Section(
        name, title, intro, missing="No dreams of these areas yet. `boldreams dream --roi AREA` makes one."
    )
    for subject in held.subjects:
        known = {area for model in subject.models for area in [*_dreams(model), *_words(model)]}
        named = set(ECCENTRICITY + EARLY + CATEGORY)
        wanted = sorted(known - named) if areas is None else [area for area in areas if area in known]
        found: Found = {}
        for model in subject.models:
            with held.findings.kept_going(model.row.folder, "make its dreams and words again with `--overwrite`"):
                _add_dreams(found, model, wanted)
        rows = [row for area in wanted for row in (area, area + WORDS) if any(key[0] == row for key in found)]
        if rows:
            section.blocks += _grids(assets, subject, name, title, rows, found)
    return section


def _dreams(model: Model) -> dict[str, Kept]:
    """Area -> the newest dream of its mean response."""
    found: dict[str, Kept] = {}
    for kept in sorted(model.products, key=lambda kept: kept.date):
        if kept.kind == "dream" and kept.description.get("objective") == "mean" and not kept.is_photograph:
            found[str(kept.description["area"])] = kept
    return found


def _words(model: Model) -> dict[str, Kept]:
    """Area -> words for its dream; of several those of the dream that is shown, and the newest."""
    shown, found = {kept.name for kept in _dreams(model).values()}, {}
    words = [kept for kept in model.products if kept.kind == "words"]
    for kept in sorted(words, key=lambda kept: (kept.description.get("dream") in shown, kept.date)):
        if kept.description.get("dream") or kept.description.get("score") in ("beta", "predicted-beta"):
            found[kept.files[0].parent.name] = kept
    return found


def _add_dreams(found: Found, model: Model, areas: Sequence[str]) -> None:
    dreamt, words = _dreams(model), _words(model)
    for area in areas:
        if area in dreamt:
            said = dreamt[area].description
            best = int(np.argmax(said["response"]))
            response = float(said["response"][best])
            path = next(file for file in dreamt[area].files if file.name == said["images"][best])
            unit = str(said.get("unit", "response"))
            alt = f"Dream of {area} by {model.label}: {unit} {response:.2f}."
            found[area, model.label] = Shown(_opened(path), alt, unit, response, str(path))
        if area in words:
            said = words[area].description
            path = next(file for file in words[area].files if file.suffix == ".png")
            best_words = ", ".join(str(word) for word, _ in said["words"][:8])
            alt = f"Words for {area} by {model.label}: {best_words}."
            cloud = Image.fromarray(cloud_alone(np.asarray(_opened(path))))
            found[area + WORDS, model.label] = Shown(cloud, alt, "", None, str(path), css="cloud")


def _opened(path: Path) -> Image.Image:
    """A picture, read whole, so that a damaged one is found here; what is transparent is grey."""
    with Image.open(path) as image:
        if "A" in image.getbands():
            grey = Image.new("RGBA", image.size, (128, 128, 128, 255))
            return Image.alpha_composite(grey, image.convert("RGBA")).convert("RGB")
        return image.convert("RGB")


def _grids(assets: Assets, subject: Subject, name: str, title: str, rows: Sequence[str], found: Found) -> list[Grid]:
    """Write the drawing and its table; a grid for every few columns."""
    labels = list(dict.fromkeys(column for _, column in found))
    if len([label for label in labels if label != IMAGE]) <= FEW:
        rows, labels, found = _turned(rows, labels, found)
    parts = [labels[start : start + MOST_COLUMNS] for start in range(0, len(labels), MOST_COLUMNS)]
    grids: list[Grid] = []
    for number, part in enumerate(parts, 1):
        stem = f"{name}-{folder_of(subject.number)}" + (f"-{number}" if len(parts) > 1 else "")
        of_part = f", part {number} of {len(parts)}" if len(parts) > 1 else ""
        heading = f"Subject {subject.number}: {title.lower()}{of_part}"
        listed = [{"row": row, "column": column, "value": found[row, column].value, "file": found[row, column].file}
                  for row in rows for column in part if (row, column) in found]  # fmt: skip
        table = Table(stem, heading, columns(*((key, key) for key in ("row", "column", "value", "file"))), listed)
        pixels = [[_pixels(found.get((row, column))) for column in part] for row in rows]
        files = assets.drawing(stem, _drawn(pixels, rows, part)) | assets.table(table, on_page=False)
        cells = [(row, [_cell(found.get((row, column)), assets) for column in part]) for row in rows]
        first = number == 1 and not any(grid.opened for grid in grids)
        grids.append(Grid(stem, heading, "", part, cells, files, opened=first))
    return grids


def _turned(rows: Sequence[str], labels: Sequence[str], found: Found) -> tuple[list[str], list[str], Found]:
    """The same with areas side by side, and words below the dreams of a model."""
    turned = {}
    for (row, label), shown in found.items():
        area = row.removesuffix(WORDS)
        turned[label + row[len(area) :], area] = shown
    made = {row for row, _ in turned}
    there = [row for label in labels for row in (label, label + WORDS) if row in made]
    return there, list(dict.fromkeys(row.removesuffix(WORDS) for row in rows)), turned


def _drawn(pixels: list[list[Pixels | None]], rows: Sequence[str], part: Sequence[str]) -> Callable[[], Any]:
    return lambda: mosaic(pixels, rows, part)


def _pixels(shown: Shown | None) -> Pixels | None:
    return None if shown is None else square(np.asarray(shown.image.convert("RGB")), SIDE)


def _cell(shown: Shown | None, assets: Assets) -> Cell | None:
    if shown is None:
        return None
    what = {"cloud": "word clouds", "attention": "attention maps"}.get(shown.css, "dreams")
    uri = assets.picture(shown.image, what)
    number = None if shown.value is None else repr(shown.value)
    return Cell(uri, shown.alt, shown.note, number, shown.css)


def eccentricity_contrast(held: Holdings, assets: Assets) -> list[Figure]:
    """The radial profiles of the eccentricity dreams of each subject."""
    figures = []
    for subject in held.subjects:
        profiles: dict[str, dict[str, Profile]] = {}
        for model in subject.models:
            with held.findings.kept_going(model.row.folder, "make its dreams again with `--overwrite`"):
                dreamt = _dreams(model)
                lines = {area: _profile(dreamt[area]) for area in ECCENTRICITY if area in dreamt}
                profiles |= {model.label: lines} if lines else {}
        if profiles:
            figures.append(_profiles(assets, subject, profiles))
    return figures


def _profile(kept: Kept) -> Profile:
    """As the dream itself says; of dreams of earlier versions from their pictures."""
    known = kept.description.get("radial_profile")
    if known:
        return Profile(np.array(known["radius"]), np.array(known["contrast"]))
    names = set(kept.description["images"])
    pictures = [np.asarray(_opened(file)) for file in kept.files if file.name in names]
    return radial_profile(np.stack(pictures).transpose(0, 3, 1, 2) / 255)


def _profiles(assets: Assets, subject: Subject, profiles: dict[str, dict[str, Profile]]) -> Figure:
    spanned = degrees(subject)
    radius = 1.0 if spanned is None else spanned / 2  # of the picture
    unit, mark = ("half widths", "") if spanned is None else ("degrees", "°")
    rows, drawn = [], {}
    for model, lines in profiles.items():
        test = litmus(lines)
        relative = {area: found.contrast / found.contrast.mean() for area, found in lines.items()}
        drawn[model] = {area: (found.radius * radius, relative[area]) for area, found in lines.items()}
        for area, found in lines.items():
            row: dict[str, Any] = {"model": model, "area": area, "mean_radius": found.mean_radius * radius}
            row["rank_correlation"] = None if test is None else test.correlation
            at = [f"{ring * radius:.3f}" for ring in found.radius]
            rows.append(row | dict(zip(at, relative[area].tolist(), strict=True)))
    rings = [key for key in dict.fromkeys(key for row in rows for key in row) if key[0].isdigit()]
    heads = (("mean_radius", f"mean distance, {unit}", 2), ("rank_correlation", "rank correlation of the model", 2))
    table = Table(
        f"contrast-{folder_of(subject.number)}",
        f"contrast of the eccentricity dreams by distance from the middle in {unit}, relative to its mean",
        columns(("model", "model"), ("area", "area"), *heads, *((key, f"{float(key):.2f}{mark}", 2) for key in rings)),
        rows,
        folded=True,
    )
    said = "; ".join(f"{row['model']} {row['area']}: {row['mean_radius']:.2f}" for row in rows[:15])
    ranks = {row["model"]: row["rank_correlation"] for row in rows if row["rank_correlation"] is not None}
    width = (
        "how many degrees a picture spans is not known" if spanned is None else f"a picture spans {spanned:g} degrees"
    )
    caption = (
        "Local contrast of the eccentricity dreams in rings around the middle, relative to its mean over rings; "
        f"{width}. A model that knows retinotopy has it farther out from ecc_1 to ecc_5: then the rank correlation of "
        "mean distance with the band is 1"
        + "".join(f"; of {model} it is {rank:.2f}" for model, rank in [*ranks.items()][:MOST_COLUMNS])
        + "."
    )
    return assets.figure(
        table,
        f"Subject {subject.number}: radial contrast of eccentricity dreams",
        caption,
        f"Mean distance of contrast from the middle, in {unit}: {said}.",
        lambda: radial(drawn, unit),
    )


def attention(held: Holdings, assets: Assets) -> Section:
    """Figure 8."""
    section = Section(
        "attention",
        "Attention maps",
        "Integrated gradients of a target's response, or of the method that is named, over the image in grey: red "
        "raises the response, blue lowers it, the more the stronger the colour. The strongest is the "
        f"{PERCENTILE:g}th percentile of absolute values, of a target and image the same for all models. The number is "
        "the predicted response.",
        missing="No attributions yet. `boldreams attribute --roi AREA` makes them.",
    )
    for subject in held.subjects:
        found: Found = {}
        for area, images in _attributed(subject).items():
            for image, made in images[:MOST_IMAGES]:
                _add_attention(held, found, f"{area}, image {image}", made)
        rows = list(dict.fromkeys(row for row, _ in found))
        if rows:
            section.blocks += _grids(assets, subject, "attention", section.title, rows, found)
    return section


def _attributed(subject: Subject) -> dict[str, list[tuple[str, list[tuple[Model, Kept]]]]]:
    """Area -> its images, those of most models first, with the newest attribution of each model."""
    found: dict[str, dict[str, dict[str, tuple[Model, Kept]]]] = {}
    for model in subject.models:
        for kept in sorted(model.products, key=lambda kept: kept.date):
            if kept.kind == "attribution":
                image = str(kept.description.get("image_label", kept.description["image"])).rsplit("/", 1)[-1]
                place = found.setdefault(str(kept.description["roi"]), {}).setdefault(image + _other_method(kept), {})
                place[model.label] = (model, kept)
    order = [*EARLY, *ECCENTRICITY, *CATEGORY]
    areas = sorted(found, key=lambda area: (order.index(area) if area in order else len(order), area))
    return {
        area: sorted(((image, list(made.values())) for image, made in found[area].items()), key=lambda p: -len(p[1]))
        for area in areas
    }


def _other_method(kept: Kept) -> str:
    """Of attributions that are no integrated gradients, what they are."""
    method = str(kept.description.get("method", METHOD))
    return "" if method == METHOD else f", {method}"


def _add_attention(held: Holdings, found: Found, row: str, made: Sequence[tuple[Model, Kept]]) -> None:
    """One target and image, by each model; colours mean the same in all."""
    read: list[tuple[Model, Kept, Path, NDArray[np.floating], NDArray[np.floating]]] = []
    for model, kept in made:
        where = f"{model.row.folder}: {kept.kind} {kept.name}"
        with held.findings.kept_going(where, "make it again with `--overwrite`"):
            path = next(file for file in kept.files if file.suffix == ".npz")
            read.append((model, kept, path, *_attributions_in(path)))
    limits = limits_along([signed for *_, signed in read], [row] * len(read))
    for (model, kept, path, pixels, signed), limit in zip(read, limits, strict=True):
        prediction = float(kept.description["prediction"])
        if (row, IMAGE) not in found:
            found[row, IMAGE] = Shown(_image(pixels), f"The image of {row}.", "", None, str(path))
        unit = str(kept.description.get("response_unit", "mean beta"))  # earlier versions did not write it
        alt = f"What drives {row} by {model.label}: predicted {unit} {prediction:.2f}."
        over = _image(overlay(pixels, signed, limit))
        found[row, model.label] = Shown(over, alt, unit, prediction, str(path), css="attention")


def _attributions_in(path: Path) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Pixels (H, W, 3) and signed map (H, W)."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["pixels"].transpose(1, 2, 0), arrays["map"]
    except DAMAGED_NPZ as error:
        raise ValueError(f"{path.name} is damaged ({error})") from error


def _image(pixels: NDArray[np.floating]) -> Image.Image:
    return Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8))


def _eccentricity(held: Holdings, assets: Assets) -> Section:
    """Figure 5, and how far the dreams' contrast moves outwards."""
    contrast = eccentricity_contrast(held, assets)
    section = dreams(held, assets, "eccentricity", "Eccentricity dreams", LITMUS, ECCENTRICITY)
    section.blocks += contrast
    return section


def _category(held: Holdings, assets: Assets) -> Section:
    """Figure 7."""
    return dreams(held, assets, "category", "Dreams of category areas", DREAMS, CATEGORY)


def _early(held: Holdings, assets: Assets) -> Section:
    """Figure 6."""
    return dreams(held, assets, "early", "Dreams of early areas", DREAMS, EARLY)


def _others(held: Holdings, assets: Assets) -> Section | None:
    """Areas that no figure of the paper has, if there are dreams of them."""
    section = dreams(held, assets, "others", "Dreams of other areas", DREAMS, None)
    return section if section.blocks else None


PARTS = (
    Part(_eccentricity, place=50, turn=2),
    Part(_category, place=70, turn=3),
    Part(_early, place=60, turn=4),
    Part(attention, place=90, turn=5),
    Part(_others, place=80, turn=6),
)
