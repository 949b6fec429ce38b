"""Difference of models against the better of them, and how certain it is (paper, figure 3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError
from boldreams_cli.encoding.evaluation.certainty.influences import ALL, load_influences
from boldreams_cli.encoding.evaluation.statistics import image_error, interval
from boldreams_cli.plots.models.differences import planes
from boldreams_cli.study.report.assets import Assets, columns, scalars
from boldreams_cli.study.report.blocks import Figure, Section, Table, Tabled
from boldreams_cli.study.report.collect import Holdings, Model, Study
from boldreams_cli.study.report.parts import Part

DIFFERENCE = np.linspace(-0.4, 0.4, 41)
MAXIMUM = np.linspace(-0.2, 1, 49)


def differences(held: Holdings, assets: Assets) -> Section:
    """Figure 3, and what `compare` found."""
    section = Section(
        "difference",
        "Difference against maximum",
        "For each voxel, r of a model less r of the model with the most filters, against the larger of the two. Left "
        "of the dashed line the larger model is better. Voxels of all subjects are counted together; certainty over "
        "images is in the comparisons below it, where `boldreams compare` made them.",
        missing="No two scored models differ in percent alone, and there is no comparison. `boldreams compare A B` "
        "compares any two.",
    )
    pairs = list(_pairs(held.scored))
    if pairs:
        section.blocks += _planes(pairs, assets)
        if (certain := _certainty(pairs, assets)) is not None:
            section.blocks.append(certain)
    for study in held.compares:
        with held.findings.kept_going(study.folder, "run `boldreams compare` again"):
            section.blocks += _comparison(study.folder.name, study, assets)
    return section


Pair = tuple[Model, Model]


def _pairs(models: Sequence[Model]) -> Iterable[Pair]:
    """Models with that of the most filters, otherwise alike."""
    families: dict[Any, list[Model]] = defaultdict(list)
    for model in models:
        alike = (model.family, model.subject, model.row.seed, model.spec.get("responses"), len(model.r))
        families[alike].append(model)
    for members in families.values():
        largest = max(members, key=lambda model: model.row.percent)
        for model in members:
            if model.row.percent < largest.row.percent:
                yield model, largest


def _planes(pairs: Sequence[Pair], assets: Assets) -> list[Figure | Tabled]:
    counts: dict[tuple[str, str], NDArray[np.int64]] = {}
    means: dict[tuple[str, str], list[NDArray[np.float64]]] = defaultdict(list)
    for model, largest in sorted(pairs, key=lambda pair: pair[0].order):
        key = (", ".join(model.family), f"{model.row.percent:g} − {largest.row.percent:g} %")
        difference = model.r.astype(np.float64) - largest.r
        there = np.isfinite(difference)
        maximum = np.maximum(model.r, largest.r)[there]
        inside = (np.clip(difference[there], *DIFFERENCE[[0, -1]]), np.clip(maximum, *MAXIMUM[[0, -1]]))
        count, _, _ = np.histogram2d(*inside, bins=(DIFFERENCE, MAXIMUM))
        counts[key] = counts.get(key, 0) + count.astype(np.int64)
        means[key].append(difference[there])
    rows = []
    for (family, which), count in counts.items():
        for x, y in np.argwhere(count):
            edges = {"difference_from": DIFFERENCE[x], "difference_to": DIFFERENCE[x + 1]}
            edges |= {"maximum_from": MAXIMUM[y], "maximum_to": MAXIMUM[y + 1]}
            row = {name: round(float(value), 6) for name, value in edges.items()}
            rows.append({"models": family, "percents": which} | row | {"voxels": int(count[x, y])})
    names = ("models", "percents", "difference_from", "difference_to", "maximum_from", "maximum_to", "voxels")
    table = Table("difference", "voxels by difference and maximum", columns(*((name, name) for name in names)), rows)
    whole = _means(means)
    known = [row for row in whole.rows if row["difference"] is not None]
    said = [f"{row['models']} {row['percents']}: mean {row['difference']:+.3f}" for row in known[:12]]
    alt = "Counts of voxels by difference of r and larger r. " + "; ".join(said) + "."
    caption = "Difference of r against the larger r, by backbone (paper, figure 3); beyond the edges counts at them."
    drawn = assets.figure(
        table,
        "Difference against maximum",
        caption,
        alt,
        lambda: planes(counts, DIFFERENCE, MAXIMUM, "difference of r", "larger r"),
        shown=False,
    )
    return [drawn, Tabled(whole, assets.table(whole))]


def _means(differences: Mapping[tuple[str, str], Sequence[NDArray[np.float64]]]) -> Table:
    """What the planes come to, over the voxels of all subjects."""
    rows = []
    for (family, which), found in differences.items():
        values = np.concatenate(found)
        mean = float(values.mean()) if len(values) else None
        rows.append({"models": family, "percents": which, "voxels": len(values), "difference": mean})
    named = columns(("models", "models"), ("percents", "percents"), ("voxels", "voxels"), ("difference", "mean", 4))
    return Table("difference-planes", "Mean difference of r over the voxels of all subjects", named, rows, folded=True)


def _comparison(name: str, study: Study, assets: Assets) -> list[Figure | Tabled]:
    said = study.said
    models = [str(model).rsplit("/", 3)[-3:] for model in said["models"]]
    title = " against ".join("/".join(parts) for parts in models)
    whole = dict(said.get("difference") or {})
    over_all = {"voxels": said.get("voxels"), "difference": whole.pop("mean", None)} | whole
    rows = [{"area": area} | scalars(row) for area, row in ({ALL: over_all} | said["rois"]).items()]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    headings = {"r_a": "r of A", "r_b": "r of B", "difference": "A − B", "se": "s.e. over images"}
    headings |= {"ci_low": "95 % from", "ci_high": "to"}
    table = Table(
        f"compare-{name}",
        f"Paired difference of r, {title}",
        columns(*((key, headings.get(key, key), 4) for key in keys)),
        rows,
        folded=True,
    )
    files = assets.table(table)
    if not (study.folder / "plane.png").is_file():
        return [Tabled(table, files)]
    picture, more = assets.copied(study.folder / "plane.png", f"compare-{name}-plane", "figures")
    alt = f"Difference of r against the larger r of {title}; the numbers by area are in the table below."
    return [
        Figure(
            f"compare-{name}",
            title,
            f"A is the first, B the second. {said.get('verdict', '')}".strip(),
            alt,
            picture,
            table,
            more | files,
        )
    ]


def _certainty(pairs: Sequence[Pair], assets: Assets) -> Tabled | None:
    """Mean differences with their standard errors over images, paired; None where no scores have influences."""
    rows = [row for pair in pairs if (row := _certain(*pair)) is not None]
    if not rows:
        return None
    table = Table(
        "difference-means",
        "Mean difference of r over all voxels, paired by test image",
        columns(
            ("subject", "subject"),
            ("models", "models"),
            ("percent", "%"),
            ("reference", "less that of %"),
            ("seed", "seed"),
            ("difference", "difference", 4),
            ("image_se", "s.e. over images", 4),
            ("ci_low", "95 % from", 4),
            ("ci_high", "to", 4),
            ("images", "images"),
        ),
        rows,
        folded=len(rows) > 12,
    )
    return Tabled(table, assets.table(table))


def _certain(model: Model, largest: Model) -> dict[str, Any] | None:
    try:
        one, other = (load_influences(found.row.folder) for found in (model, largest))
        a, b = one.row(ALL), other.row(ALL)
    except (BoldreamsError, KeyError, TypeError):
        return None  # scores of an earlier version, which the first section names
    if one.voxel_sets[a] != other.voxel_sets[b] or not np.array_equal(one.images, other.images):
        return None
    difference = float(one.r_mean[a] - other.r_mean[b])
    error = float(image_error(one.r[a] - other.r[b]))
    low, high = interval(difference, error, len(one.images))
    return {
        "subject": model.subject,
        "models": ", ".join(model.family),
        "percent": model.row.percent,
        "reference": largest.row.percent,
        "seed": model.row.seed,
        "difference": difference,
        "image_se": error,
        "ci_low": low,
        "ci_high": high,
        "images": len(one.images),
    }


PARTS = (Part(differences, place=30),)
