"""Accuracy by percent, by area, and its histogram (paper, figures 2 and 4)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError
from boldreams_cli.encoding.evaluation.certainty.influences import Influences, load_influences
from boldreams_cli.plots.models.areas import areas as draw_areas
from boldreams_cli.plots.models.distributions import distributions
from boldreams_cli.plots.models.percents import Point, percents
from boldreams_cli.study.report.assets import Assets, columns, listed
from boldreams_cli.study.report.blocks import Figure, Section, Table, Tabled
from boldreams_cli.study.report.collect import Holdings, Model
from boldreams_cli.study.report.origins import named_source
from boldreams_cli.study.report.parts import Part

BINS = np.linspace(-0.5, 1, 61)
MOST_MODELS = 8  # in one figure of areas, as many as there are colours
NOTHING_SCORED = "No model has scores. `boldreams fit` and `boldreams score` make them."


def by_percent(held: Holdings, assets: Assets) -> Section:
    """Figure 2."""
    section = Section(
        "accuracy",
        "Accuracy by percent of filters",
        "Pearson r of each voxel between prediction and betas averaged over repeats, over the test images; then the "
        "mean over the voxels that have one. Thin bars with caps are the standard error over test images, the random "
        "sample. Wide pale bars are what the paper draws, the standard error over voxels: voxels share images and "
        "noise, so it is a spread and does not say how certain the mean is.",
        missing=NOTHING_SCORED,
    )
    if not held.scored:
        return section
    rows = [_row(model) for model in held.scored]
    section.blocks.append(_percents(assets, held.scored, rows, "r_mean", "r_image_se", "mean r over voxels"))
    if any(row["accuracy"] is not None for row in rows):
        known = [row["accuracy"] is not None for row in rows]
        models, rows = list(compress(held.scored, known)), list(compress(rows, known))
        label = "noise-normalised accuracy"
        section.blocks.append(_percents(assets, models, rows, "accuracy", "accuracy_image_se", label))
    if (others := _other_tests(held)) is not None:
        section.blocks.append(Tabled(others, assets.table(others)))
    return section


def _other_tests(held: Holdings) -> Table | None:
    """Scores of other images than those of the test, beside those; None where there are none."""
    keys = ("images", "voxels", "r_mean", "r_image_se", "ceiling_mean", "accuracy", "r_within_kinds_mean")
    rows = []
    for model in held.scored:
        for test, scores in model.other_tests.items():
            low, high = scores.get("r_ci") or (None, None)
            row: dict[str, Any] = {"subject": model.subject, "model": model.label, "test": test}
            row |= {key: scores.get(key) for key in keys} | {"r_ci_low": low, "r_ci_high": high}
            rows.append(row | {"r_of_test_images": (model.scores or {})["r_mean"]})
    if not rows:
        return None
    named = columns(
        ("subject", "subject"),
        ("model", "model"),
        ("test", "other images"),
        ("images", "of them"),
        ("voxels", "voxels"),
        ("r_mean", "mean r"),
        ("r_image_se", "s.e. over images", 4),
        ("r_ci_low", "95 % from"),
        ("r_ci_high", "to"),
        ("ceiling_mean", "ceiling"),
        ("accuracy", "A"),
        ("r_within_kinds_mean", "r within kinds"),
        ("r_of_test_images", "mean r of the test images"),
    )
    return Table("other-tests", "Accuracy on other images than those of the test", named, rows)


def _row(model: Model) -> dict[str, Any]:
    """What is known of a model's accuracy over all voxels."""
    scores = dict(model.scores or {})
    known = model.r[np.isfinite(model.r)].astype(np.float64)
    spread = float(known.std(ddof=1) / math.sqrt(len(known))) if len(known) > 1 else math.nan
    low, high = scores.get("r_ci") or (None, None)
    accuracy_low, accuracy_high = scores.get("accuracy_ci") or (None, None)
    names = ("r_median", "r_image_se", "accuracy", "accuracy_image_se", "ceiling_mean", "r_single_mean", "images")
    return {
        "model": model.row.folder.name,
        "subject": model.subject,
        "backbone": model.row.backbone,
        "kind": model.kind,
        "percent": model.row.percent,
        "seed": model.row.seed,
        "voxels": len(known),
        "r_mean": scores["r_mean"],
        **{name: scores.get(name) for name in names},
        "ceiling_source": named_source(scores.get("ceiling_source"), scores.get("ceiling_images")),
        "r_ci_low": low,
        "r_ci_high": high,
        "accuracy_ci_low": accuracy_low,
        "accuracy_ci_high": accuracy_high,
        "r_spread_over_voxels": spread,
    }


PERCENT_COLUMNS = columns(
    ("subject", "subject"),
    ("backbone", "backbone"),
    ("kind", "recipe or readout"),
    ("percent", "%"),
    ("seed", "seed"),
    ("voxels", "voxels"),
    ("r_mean", "mean r"),
    ("r_image_se", "s.e. over images", 4),
    ("r_ci_low", "95 % from"),
    ("r_ci_high", "to"),
    ("r_spread_over_voxels", "spread over voxels", 4),
    ("r_median", "median r"),
    ("ceiling_mean", "ceiling"),
    ("accuracy", "A"),
    ("accuracy_image_se", "s.e. of A", 4),
    ("accuracy_ci_low", "95 % from"),
    ("accuracy_ci_high", "to"),
    ("r_single_mean", ""),
    ("images", ""),
    ("ceiling_source", ""),
    ("model", ""),
)


def _percents(
    assets: Assets, models: Sequence[Model], rows: Sequence[dict[str, Any]], value: str, error: str, label: str
) -> Figure:
    several = len({model.row.seed for model in models}) > 1
    points = [
        Point(
            model.row.backbone,
            model.kind,
            f"subject {model.subject}" + (f", seed {model.row.seed}" if several else ""),
            model.row.percent,
            _float(row[value]),
            _float(row[error]),
            row["r_spread_over_voxels"] if value == "r_mean" else math.nan,
        )
        for model, row in zip(models, rows, strict=True)
    ]
    best = max(rows, key=lambda row: -math.inf if math.isnan(_float(row[value])) else row[value])
    alt = (
        f"{label} by percent of filters, {len(points)} models, a panel for each backbone and readout, a line for each "
        f"subject. Highest: {_float(best[value]):.3f}, subject {best['subject']}, {best['backbone']} "
        f"{best['percent']:g} %, {best['kind']}."
    )
    what = "A = sum of r / sum of ceilings over voxels with a ceiling of at least 0.2. " if value == "accuracy" else ""
    without = sum(math.isnan(point.error) for point in points)
    note = f"{without} of {len(points)} models have no error over images yet." if without else ""
    name = "percent" if value == "r_mean" else "percent-accuracy"
    table = Table(name, f"{label} of each model", PERCENT_COLUMNS, rows, folded=True)
    caption = f"{label.capitalize()} by percent of filters (paper, figure 2). {what}{note}".strip()
    return assets.figure(table, label.capitalize(), caption, alt, lambda: percents(points, label), value == "r_mean")


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def by_area(held: Holdings, assets: Assets) -> Section:
    """Figure 4."""
    section = Section(
        "areas",
        "Areas and histogram",
        "Of each backbone and readout the percent with the highest mean r, as in the paper; it was chosen by the same "
        "test images, so it flatters a little. Means over subjects, of several seeds the lowest; bars are standard "
        "errors over test images, an image that several subjects saw counted once, where the scores have them.",
        missing=NOTHING_SCORED,
    )
    if not held.scored:
        return section
    chosen = _best(_of_one_seed(held.scored))
    section.blocks.append(_areas(chosen, assets))
    section.blocks.append(_histogram(chosen, assets))
    return section


def _of_one_seed(models: Sequence[Model]) -> list[Model]:
    """Of models that differ in their seed alone, that of the lowest: seeds are no subjects."""
    found: dict[Any, Model] = {}
    for model in sorted(models, key=lambda model: model.row.seed or 0):
        found.setdefault((model.family, model.subject, model.row.percent), model)
    return [model for model in models if any(model is one for one in found.values())]


def _best(models: Sequence[Model]) -> dict[str, list[Model]]:
    """Of each family, the models of all its subjects with the percent of the highest mean r; the best families."""
    families: dict[Any, dict[float, list[Model]]] = defaultdict(lambda: defaultdict(list))
    for model in models:
        families[model.family][model.row.percent].append(model)

    def mean(found: Sequence[Model]) -> float:
        values = [_float((model.scores or {}).get("r_mean")) for model in found]
        return float(np.nan_to_num(np.mean(values), nan=-9.0))

    best = [max(percents.values(), key=lambda found: (len(found), mean(found))) for percents in families.values()]
    best = sorted(sorted(best, key=mean, reverse=True)[:MOST_MODELS], key=lambda found: found[0].order)
    return {found[0].label: found for found in best}


def _areas(chosen: dict[str, list[Model]], assets: Assets) -> Figure:
    rows, values, ceilings = [], defaultdict(dict), {}  # type: ignore[var-annotated]
    by_image = {id(model): _influences(model) for models in chosen.values() for model in models}
    names = list(dict.fromkeys(area for models in chosen.values() for m in models for area in (m.scores or {})["rois"]))
    for label, models in chosen.items():
        for area in names:
            there = [model for model in models if (_area(model, area) or {}).get("r_mean") is not None]
            found = [row for model in there if (row := _area(model, area))]
            if not found:
                continue
            mean = float(np.mean([row["r_mean"] for row in found]))
            error = _error_of_mean(there, area, by_image)
            ceiling = float(np.mean([_float(row["ceiling_mean"]) for row in found]))
            values[label][area], ceilings[area] = (mean, error), ceiling
            spread = float(np.mean([_float(row.get("r_se")) for row in found]))
            row = {"model": label, "area": area, "subjects": len(found), "r_mean": mean, "r_image_se": error}
            voxels = sum(row["voxels"] for row in found)
            rows.append(row | {"voxels": voxels, "ceiling_mean": ceiling, "r_spread_over_voxels": spread})
    table = Table(
        "areas",
        "mean r of each area",
        columns(
            ("area", "area"),
            ("model", "model"),
            ("subjects", "subjects"),
            ("voxels", "voxels"),
            ("r_mean", "mean r"),
            ("r_image_se", "s.e. over images", 4),
            ("r_spread_over_voxels", "spread over voxels", 4),
            ("ceiling_mean", "ceiling"),
        ),
        rows,
        folded=True,
    )
    highest = max(rows, key=lambda row: row["r_mean"], default=None)
    alt = f"Mean r of {len(names)} areas for {listed(list(chosen))}, with noise ceilings."
    if highest:
        alt += f" Highest: {highest['area']}, {highest['r_mean']:.3f}, {highest['model']}."
    ylabel = "mean r over voxels"
    return assets.figure(
        table, "Accuracy by area", "Accuracy by area (paper, figure 4a).", alt,
        lambda: draw_areas(names, values, ceilings, ylabel),
    )  # fmt: skip


def _area(model: Model, area: str) -> Mapping[str, Any] | None:
    """Its scores of an area; None where it has no such voxels."""
    row: Mapping[str, Any] | None = (model.scores or {})["rois"].get(area)
    return row


def _influences(model: Model) -> Influences | None:
    """Of each test image on its scores; None where these are of an earlier version, which the first section says."""
    try:
        return load_influences(model.row.folder)
    except (BoldreamsError, TypeError):
        return None


def _error_of_mean(models: Sequence[Model], area: str, by_image: Mapping[int, Influences | None]) -> float:
    """Standard error over images of the mean over subjects of an area's mean r; NaN where it is not known.

    The test images are the random sample: what one does to several subjects who saw it adds up.
    """
    images: list[NDArray[Any]] = []
    moved: list[NDArray[np.float64]] = []
    for model in models:
        found = by_image[id(model)]
        if found is None or area not in found.areas:
            return math.nan
        influence = found.r[found.row(area)]
        moved.append((influence - influence.mean()) / (len(influence) * len(models)))
        # Numbers of images are a data set's; each data file has its own.
        place = "" if isinstance(model.subject, int) else model.spec.get("store") or str(model.subject)
        images.append(np.array([f"{place} {image}" for image in found.images.tolist()]))
    names, which = np.unique(np.concatenate(images), return_inverse=True)
    sums = np.bincount(which, np.concatenate(moved))
    return float(np.sqrt(np.square(sums).sum() * len(names) / (len(names) - 1))) if len(names) > 1 else math.nan


def _histogram(chosen: dict[str, list[Model]], assets: Assets) -> Figure:
    counts = {}
    for label, models in chosen.items():
        r = np.concatenate([model.r[np.isfinite(model.r)] for model in models])
        counts[label], _ = np.histogram(np.clip(r, BINS[0], BINS[-1]), BINS)
    rows = [
        {"model": label, "r_from": round(float(low), 6), "r_to": round(float(high), 6), "voxels": int(count)}
        for label, found in counts.items()
        for low, high, count in zip(BINS[:-1], BINS[1:], found, strict=True)
        if count
    ]
    named = columns(("model", "model"), ("r_from", "r from"), ("r_to", "to"), ("voxels", "voxels"))
    table = Table("histogram", "voxels by r", named, rows, folded=True)
    modes = [
        f"{label}: most voxels at r of {BINS[int(np.argmax(found))]:.2f} to {BINS[int(np.argmax(found)) + 1]:.2f}"
        for label, found in counts.items()
    ]
    return assets.figure(
        table, "Histogram of r", "How many voxels have which r (paper, figure 4b).", "; ".join(modes) + ".",
        lambda: distributions(counts, BINS, "r with test betas"),
    )  # fmt: skip


PARTS = (Part(by_percent, place=20), Part(by_area, place=40))
