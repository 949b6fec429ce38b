"""The maximally minimal model: per area the smallest percent of filters that is not inferior (paper, section 4)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from boldreams_cli.console import ChoiceError, MismatchError, listing, logger
from boldreams_cli.data.subjects import Subject, folder_of, in_order
from boldreams_cli.encoding.evaluation.certainty.influences import ALL, Influences
from boldreams_cli.encoding.evaluation.certainty.noninferiority import (
    Minimal,
    largest_over_subjects,
    smallest_sufficient,
)
from boldreams_cli.encoding.evaluation.statistics import interval
from boldreams_cli.features.store.feature_store import folder_name
from boldreams_cli.files import fingerprint, read_json, write_json, write_text
from boldreams_cli.plots.models.minimal import Panel, curves
from boldreams_cli.study.procedures import (
    Procedure,
    choose_procedure,
    differing,
    find_procedures,
    held_out_losses,
    models_of_seeds,
    read_influences,
)

MARGIN, REFERENCE, VALIDATION = 0.02, 100.0, "validation"
OBJECT, TABLE, CURVES = "minimal.json", "minimal.csv", "curves.csv"
OPTIMISER = "the optimiser: its fits end after a fixed number of epochs, before larger models have learned as much"
FILTERS = "filters"


@dataclass(frozen=True)
class Question:
    """What is asked of every subject and backbone, fixed before the test images are looked at.

    Parameters
    ----------
    margins : relative to the reference's accuracy; the first is the one that is answered, the others its curve.
    reference : percent, or ``validation`` for the best on held-out training images.
    seeds : whose spread bounds the margin from below; None where it is not asked for.
    """

    margins: tuple[float, ...] = (MARGIN,)
    reference: float | str = REFERENCE
    seeds: int | None = None


@dataclass
class Answer:
    """The smallest sufficient percents of one subject and backbone.

    Parameters
    ----------
    procedure : whose percents were compared.
    question : that was asked.
    reference : percent that the others were compared with.
    images : test images.
    groups : areas to show, groups of them and ``all``; `areas` has single labels too.
    areas : area -> one answer for each margin.
    left_out : area -> why there is none.
    spread : area -> standard deviation of the reference's accuracy over seeds.
    losses : percent -> error on held-out training images, where these chose the reference.
    beside : answers of procedures that are not converged, for comparison.
    ceiling_source : what noise ceilings come from; None where there are none.
    measure : what "accuracy" is: A, noise-normalised, or mean r where no ceiling is known.
    folder : of the files.
    files : that `save` wrote.
    """

    procedure: Procedure
    question: Question
    reference: float
    images: int
    groups: list[str]
    areas: dict[str, list[Minimal]]
    left_out: dict[str, str]
    spread: dict[str, float]
    losses: dict[float, float]
    folder: Path
    beside: list[Answer] = field(default_factory=list)
    ceiling_source: str | None = None
    measure: str = "A"
    files: list[Path] = field(default_factory=list)

    def rois(self, place: int = 0) -> dict[str, dict[str, Any]]:
        """The answers for one margin, of groups and ``all``."""
        return {name: described(self.areas[name][place]) for name in self.groups}

    def summary(self) -> dict[str, Any]:
        """The JSON object of ``minimal``, of one subject and backbone."""
        one = self.procedure
        return {
            "subject": one.subject,
            "backbone": one.backbone,
            "readout": one.readout,
            "recipe": one.recipe,
            "finetuned": one.finetuned,
            "seed": one.seed,
            "way": fingerprint(one.way),
            "margin": self.question.margins[0],
            "reference": self.reference,
            "reference_by": VALIDATION if self.question.reference == VALIDATION else "fixed",
            "held_out_loss": {f"{percent:g}": loss for percent, loss in sorted(self.losses.items())},
            "seeds": self.question.seeds,
            "images": self.images,
            "measure": self.measure,
            "ceiling_source": self.ceiling_source,
            "converged": one.converged,
            "ranks": FILTERS if one.converged else OPTIMISER,
            "rois": self.rois(),
            "margins": [
                {"margin": margin, "rois": self.rois(place)} for place, margin in enumerate(self.question.margins)
            ],
            "beside": [
                {"readout": other.procedure.readout, "recipe": other.procedure.recipe, "ranks": OPTIMISER,
                 "finetuned": other.procedure.finetuned, "rois": other.rois()}
                for other in self.beside
            ],
            "models": {f"{percent:g}": str(folder) for percent, folder in sorted(one.models.items())},
            "left_out": self.left_out,
            "files": [str(path) for path in self.files],
        }  # fmt: skip

    def save(self) -> None:
        """Write tables and the figure, and minimal.json when those are there."""
        self.files = [self.folder / name for name in (OBJECT, TABLE, CURVES)]
        write_text(self.folder / TABLE, self._table())
        write_text(self.folder / CURVES, self._curves())
        title = (
            f"{self.procedure.title}: reference {self.reference:g} %, margin {100 * self.question.margins[0]:g} %, "
            f"{self.images} test images"
        )
        panels = {name: panel(self.areas[name][0], self.images) for name in self.groups}
        label = "accuracy A (sum of r / sum of ceilings)" if self.measure == "A" else self.measure
        self.files += curves(self.folder / "minimal", panels, title, label)
        write_json(self.folder / OBJECT, self.summary())

    def _table(self) -> str:
        """One row an area (single labels too) and margin."""
        columns = ["percent", "p_lo", "accuracy", "difference", "lower", "resolvable"]
        rows: list[list[Any]] = [["roi", "margin_asked", "margin", "reference", *columns]]
        for name, answers in self.areas.items():
            for answer in answers:
                found = described(answer)
                rows.append([name, answer.asked, answer.margin, answer.reference, *(found[key] for key in columns)])
        return _text(rows)

    def _curves(self) -> str:
        """One row an area and percent, with the first margin."""
        numbers = ["accuracy", "accuracy_se", "difference", "difference_se", "lower", "upper"]
        rows: list[list[Any]] = [["roi", "percent", *numbers, "not_inferior", "not_worse"]]
        for name, answers in self.areas.items():
            for item in answers[0].tested:
                values = [item.accuracy, item.error, item.difference, item.difference_error, item.lower, item.upper]
                rows.append([name, item.percent, *values, item.not_inferior, item.not_worse])
        return _text(rows)


def described(answer: Minimal) -> dict[str, Any]:
    """An answer in JSON: of the percent p_min its accuracy, difference from the reference's, and lower bound.

    ``lower`` is the one-sided 95 % bound of A_p - (1 - margin) A_q, above 0 where the percent is not inferior.
    """
    found = None if answer.percent is None else answer.of(answer.percent)
    return {
        "percent": answer.percent,
        "p_lo": answer.percent_low,
        "accuracy": found and found.accuracy,
        "reference_accuracy": answer.of(answer.reference).accuracy,
        "difference": found and found.difference,
        "lower": found and found.lower,
        "margin": answer.margin,
        "resolvable": answer.resolvable,
    }


def panel(answer: Minimal, images: int) -> Panel:
    """What the figure shows of an area."""
    items = sorted(answer.tested, key=lambda item: item.percent)
    return Panel(
        percents=[item.percent for item in items],
        accuracy=[item.accuracy for item in items],
        reach=[interval(0.0, item.difference_error, images)[1] for item in items],
        reference=answer.of(answer.reference).accuracy,
        margin=answer.margin,
        percent=answer.percent,
        percent_low=answer.percent_low,
        note="" if answer.resolvable else ": too few images",
    )


def answer_all(
    cache: Path,
    question: Question,
    subjects: Sequence[Subject] = (),
    backbones: Sequence[str] = (),
    like: Path | None = None,
    **selectors: Any,
) -> list[Answer]:
    """Answer the question for every subject and backbone that the cache holds several percents of.

    Parameters
    ----------
    cache : to look in.
    question : asked of all.
    subjects, backbones : to look at; empty for all.
    like : folder of a model whose procedure is meant.
    selectors : of `find_models` that the models must match; None for any.

    Raises
    ------
    ChoiceError, MismatchError
        If the cache does not say what is to be compared, or lacks models or their scores.
    """
    found = [
        one
        for one in find_procedures(cache, **selectors)
        if (not subjects or one.subject in subjects) and (not backbones or one.backbone in backbones)
    ]
    if like is not None:
        found = [one for one in found if like.resolve() in [folder.resolve() for folder in one.models.values()]]
    cases: dict[tuple[Subject, str], list[Procedure]] = {}
    for one in found:
        cases.setdefault((one.subject, one.backbone), []).append(one)
    if not subjects and not backbones:  # what was not asked for need not be comparable
        several = {case: ones for case, ones in cases.items() if any(len(one.models) > 1 for one in ones)}
        cases = several or cases
    if not cases:
        raise ChoiceError(f"no fitted model in {cache} matches; run boldreams fit with several --percent, then score")
    there = {subject for subject, _ in cases}
    if missing := [subject for subject in subjects if subject not in there]:
        raise ChoiceError(f"{cache} holds no such model of subject {listing(missing)}")
    if missing_names := set(backbones) - {backbone for _, backbone in cases}:
        raise ChoiceError(f"{cache} holds no such model of {listing(sorted(missing_names))}")
    ordered = sorted(cases, key=lambda case: (in_order(case[0]), case[1]))
    return [_answer_case(cases[case], question, cache) for case in ordered]


def _answer_case(candidates: Sequence[Procedure], question: Question, cache: Path) -> Answer:
    """Answer for one subject and backbone, with procedures that are not converged beside."""
    wanted = None if isinstance(question.reference, str) else question.reference
    chosen = choose_procedure(candidates, wanted)
    found = answer(chosen, question, cache)
    if not chosen.converged:
        logger.warning("%s: this ranks %s (--recipe fast)", chosen.title, OPTIMISER)
        return found
    for other in candidates:
        if other.converged or other.seed != chosen.seed or len(other.models) < 2 or found.reference not in other.models:
            continue
        try:
            plain = Question(question.margins, found.reference)
            found.beside.append(answer(other, plain, cache))
        except MismatchError as error:
            logger.warning("%s is not shown beside: %s", other.title, error)
    return found


def answer(procedure: Procedure, question: Question, cache: Path) -> Answer:
    """Compare the percents of one procedure, area by area.

    Raises
    ------
    ChoiceError
        If the reference is to be chosen on held-out images, and the fits hold none out.
    MismatchError
        If models or scores by image are missing.
    """
    losses: dict[float, float] = {}
    if isinstance(question.reference, str):
        losses = held_out_losses(procedure)
        reference = min(losses, key=lambda percent: (losses[percent], percent))
    else:
        reference = question.reference
    percents = sorted(procedure.models)
    scored = dict(zip(percents, read_influences([procedure.models[p] for p in percents]), strict=True))
    if len(scored[reference].images) < 3:
        raise MismatchError(
            f"{procedure.title}: two test images say nothing of a difference; at least three are needed"
        )
    spread = _spread(procedure, reference, question.seeds, cache)
    areas: dict[str, list[Minimal]] = {}
    left_out: dict[str, str] = {}
    for name in scored[reference].areas.tolist():
        if why := _incomparable(scored, name):
            left_out[name] = why
            continue
        values, influences = _of_area(scored, name)
        areas[name] = [
            smallest_sufficient(values, influences, margin, reference, spread.get(name, 0.0))
            for margin in question.margins
        ]
    if not areas:
        raise MismatchError(f"{procedure.title}: no area can be compared: {listing(set(left_out.values()))}")
    for name in [name for name in left_out if name == ALL]:
        logger.warning("%s: %s is left out: %s", procedure.title, name, left_out[name])
    scores = read_json(procedure.models[reference] / "scores.json")
    groups = [*scores["rois"], ALL]
    decides = [procedure.key, procedure.seed, question.margins, reference, question.seeds, percents]
    name = f"{folder_of(procedure.subject)}-{folder_name(procedure.backbone)}-{fingerprint(decides)[:6]}"
    return Answer(
        procedure,
        question,
        reference,
        images=len(scored[reference].images),
        groups=[name for name in groups if name in areas],
        areas=areas,
        left_out=left_out,
        spread=spread,
        losses=losses,
        folder=cache / "studies" / "minimal" / name,
        ceiling_source=scores.get("ceiling_source"),
        measure="mean r" if all(one.accuracy is one.r for one in scored.values()) else "A",
    )


def _incomparable(scored: Mapping[float, Influences], area: str) -> str | None:
    """Why an area's percents cannot be compared; None where they can."""
    sets = {str(one.voxel_sets[one.row(area)]) if area in one.areas else "" for one in scored.values()}
    if len(sets) > 1:
        return "its voxels that have a correlation are not the same at all percents"
    values = [one.accuracy_value[one.row(area)] for one in scored.values()]
    return None if np.isfinite(values).all() else "no voxel has a noise ceiling of 0.2 and a correlation"


def _of_area(scored: Mapping[float, Influences], area: str) -> tuple[dict[float, float], dict[float, Any]]:
    """Percent -> accuracy, and its influences."""
    rows = {percent: one.row(area) for percent, one in scored.items()}
    values = {percent: float(one.accuracy_value[rows[percent]]) for percent, one in scored.items()}
    return values, {percent: one.accuracy[rows[percent]] for percent, one in scored.items()}


def _spread(procedure: Procedure, reference: float, seeds: int | None, cache: Path) -> dict[str, float]:
    """Standard deviation over seeds of the reference's accuracy, area by area; none where seeds were not asked for."""
    if seeds is None:
        return {}
    several = read_influences(models_of_seeds(procedure, reference, seeds, cache))
    names = [name for name in several[0].areas.tolist() if all(name in one.areas for one in several)]
    values = {name: [one.accuracy_value[one.row(name)] for one in several] for name in names}
    return {name: float(np.std(found, ddof=1)) for name, found in values.items()}


def over_subjects(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Of each backbone with several subjects, the percent that suffices in all of them: the largest.

    Raises
    ------
    ChoiceError
        If subjects were fitted in different ways.
    """
    found = []
    for backbone in dict.fromkeys(one.procedure.backbone for one in answers):
        mine = [one for one in answers if one.procedure.backbone == backbone]
        if len(mine) < 2:
            continue
        if unlike := differing([one.procedure for one in mine]):
            raise ChoiceError(
                f"subjects of {backbone} were fitted in different ways: {listing(unlike)}; choose with --recipe or "
                "--readout, or one --subject, or fit them alike"
            )
        margins = [
            {"margin": margin, "rois": _over(mine, place)} for place, margin in enumerate(mine[0].question.margins)
        ]
        subjects = [one.procedure.subject for one in mine]
        found.append({"backbone": backbone, "subjects": subjects, **margins[0], "margins": margins})
    return found


def _over(answers: Sequence[Answer], place: int) -> dict[str, dict[str, Any]]:
    rois = {}
    for name in dict.fromkeys(name for one in answers for name in one.groups):
        known = {one.procedure.subject: one.areas[name][place] for one in answers if name in one.areas}
        percent, resolvable = largest_over_subjects(known)
        rois[name] = {"percent": percent, "subjects": len(known), "resolvable": resolvable}
    return rois


def _text(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
