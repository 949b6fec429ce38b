"""Dreams that do not stand for what an area wants most: photographs accentuated, contrasts and pairs, other aims."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from boldreams_cli.interpret.products import Kept
from boldreams_cli.study.report.assets import Assets, columns
from boldreams_cli.study.report.blocks import Figure, Note, Section, Table
from boldreams_cli.study.report.collect import Holdings, Model, Subject
from boldreams_cli.study.report.parts import Part

MOST = 8  # of a subject, the newest
INTRO = (
    "Photographs changed to excite an area more, with what was changed; areas against or with others; other aims. A "
    "changed photograph counts as still itself where its distance in the network's features is within the bound: 0 is "
    "the photograph, 1 as far as another photograph."
)
AIMS = {"contrast": "a contrast", "both": "two areas together", "diversity": "images unlike each other",
        "target": "given betas"}  # fmt: skip


def other_dreams(held: Holdings, assets: Assets) -> Section | None:
    """As `dream` drew them; None where there are none."""
    section = Section("aims", "Photographs and contrasts", INTRO)
    for subject in held.subjects:
        found = sorted(_others(subject), key=lambda pair: pair[1].date, reverse=True)
        for model, kept in found[:MOST]:
            with held.findings.kept_going(f"{model.row.folder}: dream {kept.name}", "make it again with `--overwrite`"):
                section.blocks.append(_figure(subject, model, kept, assets))
        if len(found) > MOST:
            text = f"Subject {subject.number}: the newest {MOST} of {len(found)}; the others lie with their models."
            section.blocks.append(Note(text))
    return section if section.blocks else None


def _others(subject: Subject) -> Iterator[tuple[Model, Kept]]:
    for model in subject.models:
        for kept in model.products:
            if kept.kind == "dream" and (kept.is_photograph or kept.description.get("objective") != "mean"):
                yield model, kept


def _figure(subject: Subject, model: Model, kept: Kept, assets: Assets) -> Figure:
    said, name = kept.description, f"dream-{kept.key}"
    start = said.get("start") or {}
    drawn = "difference.png" if start else "sheet.png"
    path = next(file for file in kept.files if file.name == drawn)
    aim = f", from image {start['image_label']}" if start else f", {AIMS.get(said['objective'], said['objective'])}"
    title = f"Subject {subject.number}: {said['roi']}{aim}, by {model.label}"
    table = _table(name, title, said, start)
    files = assets.table(table)
    picture, more = assets.copied(path, name, "dreams", inked=False)
    return Figure(name, title, "", f"{title}: {_words(said, start)}.", picture, table, more | files)


def _words(said: dict[str, Any], start: dict[str, Any]) -> str:
    responses = ", ".join(f"{value:.2f}" for value in said["response"])
    if not start:
        return f"{said['unit']} {responses}"
    far = ", ".join(f"{value:.2f}" for value in start["feature_distance"])
    return f"{said['unit']} {start['response']:.2f} of the photograph, {responses} of the dream, {far} away in features"


def _table(name: str, title: str, said: dict[str, Any], start: dict[str, Any]) -> Table:
    """A row an image, the photograph first."""
    rows: list[dict[str, Any]] = []
    if start:
        rows.append({"image": start["image_label"], "response": start["response"], "score": start["score"]})
    for place, image in enumerate(said["images"]):
        row = {"image": image, "response": said["response"][place], "score": said["score"][place]}
        row |= {f"of_{side}": values[place] for side, values in (said.get("sides") or {}).items()}
        if start:
            row |= {key: start[key][place] for key in ("pixel_distance", "feature_distance")}
            row["feature_bound"] = start["feature_bound"]
        rows.append(row)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    headings = {"response": said["unit"], "score": "what the dream maximised"}
    return Table(name, title, columns(*((key, headings.get(key, key.replace("_", " "))) for key in keys)), rows)


PARTS = (Part(other_dreams, place=85, turn=7),)
