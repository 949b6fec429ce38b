"""Sections that are tables: data and split, sweeps, the minimal model, measured retinotopy, settings."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from boldreams_cli.data.sessions import ranges
from boldreams_cli.study.cells.table import WHOLE, flat
from boldreams_cli.study.cells.table import rows as table_rows
from boldreams_cli.study.report.assets import Assets, columns, listed, scalars
from boldreams_cli.study.report.blocks import Figure, Row, Section, Table, Tabled
from boldreams_cli.study.report.collect import Holdings, Study, Subject
from boldreams_cli.study.report.origins import by_subject, ceiling, everything, images_of_test, z_scoring
from boldreams_cli.study.report.parts import Part

ORDER = ("area", "procedure", "percent", "p_lo", "accuracy", "reference_accuracy", "difference", "lower", "resolvable")
QUESTION = ("backbone", "procedure", "margin", "reference")  # of a minimal study
HEADINGS = {
    "percent": "smallest % not inferior",
    "p_lo": "smallest % not worse",
    "accuracy": "its A",
    "reference_accuracy": "A of the reference",
    "lower": "lower bound",
}
# Columns of a sweep's table that the page shows; its CSV has all.
SWEPT = {name: name for name in ("subject", "backbone", "percent", "recipe", "readout", "finetuned", "seed", "area")}
SWEPT |= {"voxels": "voxels", "r": "mean r", "r_image_se": "its SE", "ceiling": "mean ceiling"}
SWEPT |= {"r_over_ceiling": "A", "r_over_ceiling_image_se": "SE of A"}


def data(held: Holdings, assets: Assets) -> Section:
    """Subjects, images, trials, voxels, areas."""
    section = Section(
        "data",
        "Data and split",
        "Which images are for training and which are the test.",
        missing="The cache holds no prepared responses. `boldreams prepare --subject N` makes them.",
    )
    prepared = [subject for subject in held.subjects if subject.responses is not None]
    if not prepared:
        return section
    section.intro = (
        f"Test images are {by_subject(prepared, images_of_test)}; all others are for training and ranking. Betas are "
        f"{by_subject(prepared, z_scoring)}. The noise ceiling is that of betas averaged over the repeats of a test "
        "image."
    )
    units = listed(sorted({str((subject.responses or {})["units"]) for subject in prepared}))
    split = Table(
        "data",
        "Responses of each subject",
        columns(
            ("subject", "subject"),
            ("sessions", "sessions"),
            ("voxels", units),
            ("train_images", "training images"),
            ("train_trials", "training trials"),
            ("test_images", "test images"),
            ("test_trials", "test trials"),
            ("test_repeats", "repeats of a test image", 2),
            ("ncsnr_median", "median ncsnr", 2),
            ("ceiling_source", "noise ceiling"),
            ("mask", "mask"),
            ("fingerprint", "fingerprint"),
        ),
        [_split(subject) for subject in prepared],
    )
    section.blocks.append(Tabled(split, assets.table(split)))
    names = list(dict.fromkeys(area for subject in prepared for area in (subject.responses or {})["rois"]))
    keys = [(f"subject_{subject.number}", f"subject {subject.number}") for subject in prepared]
    counts = {key: (subject.responses or {})["rois"] for subject, (key, _) in zip(prepared, keys, strict=True)}
    rows = [{"area": area} | {key: found.get(area) for key, found in counts.items()} for area in names]
    areas = Table(
        "voxels-by-area", f"{units.capitalize()} of each area", columns(("area", "area"), *keys), rows, folded=True
    )
    section.blocks.append(Tabled(areas, assets.table(areas)))
    return section


def _split(subject: Subject) -> Row:
    said = subject.responses or {}
    return {
        "subject": subject.number,
        "sessions": ranges(said["sessions"]),
        "voxels": said["voxels"],
        "train_images": said["train"]["images"],
        "train_trials": said["train"]["trials"],
        "test_images": said["test"]["images"],
        "test_trials": said["test"]["trials"],
        "test_repeats": said["test_repeats"],
        "ncsnr_median": said["ncsnr_median"],
        "ceiling_source": ceiling(said),
        "mask": said["mask"] or everything(said),
        "fingerprint": said["fingerprint"],
    }


def sweeps(held: Holdings, assets: Assets) -> Section | None:
    """Scores of each sweep's cells; None where none is done."""
    section = Section(
        "sweeps",
        "Sweeps",
        "The cells of each study that are done: first all voxels together, then by area. Standard errors and intervals "
        "are over test images. The study's own table.csv has the same.",
    )
    for state in held.sweeps:
        found = sorted((flat(row) for row in table_rows(state)), key=lambda row: row["area"] != WHOLE)
        if not found:
            continue
        named = columns(*((key, SWEPT.get(key, "")) for key in found[0]))
        title = f"Study {state.study.name}: {len(state.noted)} of {len(state.study.cells)} cells"
        table = Table(f"sweep-{state.study.name}", title, named, found, folded=len(found) > 30)
        section.blocks.append(Tabled(table, assets.table(table)))
    return section if section.blocks else None


def minimal(held: Holdings, assets: Assets) -> Section:
    """What `minimal` found."""
    section = Section(
        "minimal",
        "The minimal model",
        "The smallest percent of filters that is not inferior to the reference: the one-sided 95 % bound over test "
        "images of its noise-normalised accuracy A, less the margin, stays above 0 for it and all larger percents. An "
        "area that is not resolvable has too few or too noisy test images to tell; a wide range from the smallest "
        "percent not worse to the smallest not inferior says the same. Only fits of a converged procedure rank "
        "filters; others rank what the optimiser reached.",
        missing="Not determined yet. `boldreams minimal --subject N --backbone NAME` does, once several percents "
        "are scored.",
    )
    for study in held.minimals:
        with held.findings.kept_going(study.folder, "run `boldreams minimal` again"):
            section.blocks += _minimal(study, assets)
    if (over := _over_subjects(held.minimals)) is not None:
        section.blocks.insert(0, Tabled(over, assets.table(over)))
    return section


def _over_subjects(studies: Sequence[Study]) -> Table | None:
    """Of questions that were asked of several subjects, the percent that suffices in all: the largest."""
    asked: dict[tuple[tuple[str, ...], Any], dict[Any, Mapping[str, Any]]] = defaultdict(dict)
    # Of several answers to one question the newest stands.
    for study in sorted(studies, key=lambda study: (study.folder / "minimal.json").stat().st_mtime):
        said = study.said
        chosen = said.get("reference_by") == "validation"
        reference = "best on held-out images" if chosen else _share(said.get("reference"))
        asked_for = (str(said.get("backbone")), _kind(said), _percent(said.get("margin")), reference)
        asked[asked_for, said.get("way")][said.get("subject")] = said["rois"]
    rows: list[dict[str, Any]] = []
    for (question, _), answers in asked.items():
        if len(answers) < 2:
            continue
        for area in dict.fromkeys(area for rois in answers.values() for area in rois):
            found = [rois[area] for rois in answers.values() if area in rois]
            percents = [row.get("percent") for row in found]
            row: dict[str, Any] = dict(zip(QUESTION, question, strict=True)) | {"area": area}
            row |= {"subjects": len(found), "percent": None if None in percents else max(percents)}
            rows.append(row | {"resolvable": all(row.get("resolvable") for row in found)})
    if not rows:
        return None
    keys = ("backbone", "procedure", "area", "subjects", "percent", "margin", "reference", "resolvable")
    named = columns(*((key, HEADINGS.get(key, key)) for key in keys))
    return Table("minimal-over-subjects", "Smallest percent not inferior in every subject", named, rows)


def _kind(said: Mapping[str, Any]) -> str:
    """The procedure that a minimal study compared."""
    return str(said.get("recipe") or said.get("readout") or "") + ", finetuned" * bool(said.get("finetuned"))


def _minimal(study: Study, assets: Assets) -> list[Figure | Tabled]:
    said = study.said
    kind = _kind(said)
    who = f"subject {said.get('subject')}, {said.get('backbone')}, {kind}"
    title = f"{who}: margin {_percent(said.get('margin'))}, reference {_share(said.get('reference'))}"
    title += f", {said['measure']} compared" if said.get("measure", "A") != "A" else ""
    procedures = [{"procedure": kind, "ranks": said.get("ranks"), "rois": said["rois"]}]
    for other in said.get("beside") or []:
        procedures.append({"procedure": _kind(other), "ranks": other.get("ranks"), "rois": other["rois"]})
    rows: list[dict[str, Any]] = [
        {"area": area, "procedure": one["procedure"], "ranks": one["ranks"]} | scalars(row)
        for one in procedures
        for area, row in one["rois"].items()
    ]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    keys.sort(key=lambda key: ORDER.index(key) if key in ORDER else len(ORDER))
    name = f"minimal-{study.folder.name}"
    named = columns(*((key, HEADINGS.get(key, key.replace("_", " "))) for key in keys))
    table = Table(name, f"Smallest percent not inferior, {title}", named, rows)
    files = assets.table(table)
    blocks: list[Figure | Tabled] = [Tabled(table, files)]
    if (study.folder / "minimal.png").is_file():
        picture, more = assets.copied(study.folder / "minimal.png", f"{name}-figure", "figures")
        alt = f"The minimal model of {title}; the numbers by area are in the table below."
        blocks = [Figure(name, title, "", alt, picture, table, more | files)]
    margins = said.get("margins") or []
    return [*blocks, _margins(name, who, margins, assets)] if len(margins) > 1 else blocks


def _margins(name: str, who: str, margins: list[dict[str, Any]], assets: Assets) -> Tabled:
    """The curve of answers: area by margin."""
    areas = list(dict.fromkeys(area for one in margins for area in one["rois"]))
    keys = [f"margin_{one['margin']:g}" for one in margins]
    rows = [
        {"area": area} | {key: one["rois"].get(area, {}).get("percent") for key, one in zip(keys, margins, strict=True)}
        for area in areas
    ]
    named = [(key, f"margin {_percent(one['margin'])}", None) for key, one in zip(keys, margins, strict=True)]
    table = Table(
        f"{name}-margins", f"Smallest percent by margin, {who}", columns(("area", "area"), *named), rows, folded=True
    )
    return Tabled(table, assets.table(table))


def _share(percent: Any) -> str:
    return f"{percent:g} %" if isinstance(percent, int | float) else str(percent)


def _percent(margin: Any) -> str:
    return f"{100 * margin:g} %" if isinstance(margin, float) and margin < 1 else str(margin)


def retinotopy(held: Holdings, assets: Assets) -> Section | None:
    """Fitted fields against measured ones, where scores have that; None where none has."""
    rows: list[dict[str, Any]] = []
    for model in held.scored:
        found = (model.scores or {}).get("retinotopy")
        if not isinstance(found, Mapping):
            continue
        areas = found["rois"] if isinstance(found.get("rois"), Mapping) else found
        said = {"subject": model.subject, "model": model.label}
        rows += [said | {"area": area} | scalars(row) for area, row in areas.items() if isinstance(row, Mapping)]
    if not rows:
        return None
    keys = list(dict.fromkeys(key for row in rows for key in row))
    named = columns(*((key, key.replace("_", " ")) for key in keys))
    table = Table("retinotopy", "fitted against measured fields", named, rows, folded=len(rows) > 30)
    return Section(
        "retinotopy",
        "Retinotopy as a check",
        "Eccentricity, angle and size of each voxel's fitted field against those that the retinotopy experiment "
        "measured: rank correlations, and for the angle a circular one, over the voxels of an area.",
        [Tabled(table, assets.table(table))],
    )


def settings(held: Holdings, assets: Assets) -> Section:
    """All that decides each model."""
    section = Section(
        "settings",
        "Settings, versions, seeds",
        "Every model, as its spec.json says. Models with equal settings and inputs have equal weights.",
        missing="The cache holds no fitted model. `boldreams fit` makes one.",
    )
    if not held.models:
        return section
    rows = []
    for model in held.models:
        spec = model.spec
        weights = spec.get("backbone_weights") or {}
        software = ", ".join(f"{name} {version}" for name, version in (spec.get("versions") or {}).items())
        row: dict[str, Any] = {"model": model.row.folder.name, "subject": model.subject, "backbone": model.row.backbone}
        row |= {"percent": model.row.percent, "kind": model.kind, "seed": model.row.seed}
        row |= {"filters": sum(len(chosen) for chosen in spec["layers"].values()), "voxels": spec["voxels"]}
        row |= {"backbone_weights": weights.get("source"), "backbone_digest": str(weights.get("digest"))[:12]}
        row |= {"weights_digest": str(spec.get("weights_digest"))[:12], "responses": spec.get("responses")}
        row |= {"features": spec.get("store"), "sessions": ranges(spec["sessions"]) if spec.get("sessions") else None}
        rows.append(row | {"training": json.dumps(spec.get("training"), sort_keys=True), "versions": software})
    table = Table(
        "settings",
        "Models",
        columns(
            ("subject", "subject"),
            ("backbone", "backbone"),
            ("percent", "%"),
            ("kind", "recipe or readout"),
            ("seed", "seed"),
            ("filters", "filters"),
            ("voxels", "voxels"),
            ("backbone_weights", "backbone's weights"),
            ("backbone_digest", "their digest"),
            ("weights_digest", "digest of the model"),
            ("responses", "responses"),
            ("features", "features"),
            ("sessions", "sessions"),
            ("model", "folder"),
            ("training", ""),
            ("versions", "versions"),
        ),
        rows,
        folded=len(rows) > 12,
    )
    section.blocks.append(Tabled(table, assets.table(table)))
    section.blocks.append(_training(held, assets))
    return section


def _training(held: Holdings, assets: Assets) -> Tabled:
    """Each setting of each family; of several values all."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for model in held.models:
        for name, value in sorted((model.spec.get("training") or {}).items()):
            found.setdefault((", ".join(model.family), name), {})[json.dumps(value)] = None
    rows = [{"models": family, "setting": name, "value": ", ".join(values)} for (family, name), values in found.items()]
    named = columns(("models", "models"), ("setting", "setting"), ("value", "value"))
    table = Table("training", "Training settings of each backbone and readout", named, rows, folded=True)
    return Tabled(table, assets.table(table))


PARTS = (
    Part(data, place=10),
    Part(sweeps, place=100),
    Part(minimal, place=110),
    Part(retinotopy, place=130),
    Part(settings, place=140),
)
