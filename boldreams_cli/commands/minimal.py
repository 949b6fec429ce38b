"""`boldreams minimal`: the smallest percent of filters that will do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import Output

if TYPE_CHECKING:
    from boldreams_cli.data.subjects import Subject
    from boldreams_cli.study.minimal import Answer

VALIDATION = "validation"


def _margins(context: click.Context, parameter: click.Parameter, value: str) -> tuple[float, ...]:
    """Shares of 1 from ``1%,2%,5%`` or ``0.01``."""
    found = []
    for part in value.split(","):
        text = part.strip()
        try:
            number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            number = -1.0
        if not 0 < number < 1:
            raise click.BadParameter(f"{text!r} is no margin; write 2%, 0.02, or several as 1%,2%,5%")
        found.append(number)
    return tuple(dict.fromkeys(found))


def _reference(context: click.Context, parameter: click.Parameter, value: str) -> float | str:
    """A percent, or the word."""
    return value if value == VALIDATION else options.PERCENT.convert(value, parameter, context)


@options.command(
    "boldreams minimal",
    "boldreams minimal --subject 1 --backbone vgg11 --margin 1%,2%,5%",
    "boldreams minimal --reference validation --readout ridge --seeds 3 --json",
)
@options.output_options
@options.cache_option
@options.option(
    "--subject", "subjects", type=options.SUBJECT, multiple=True, help="Subject, repeatable (default: all there)."
)
@options.option("--backbone", "backbones", multiple=True, metavar="NAME", help="Backbone, repeatable (default: all).")
@options.option(
    "--readout",
    type=options.READOUT,
    metavar="NAME",
    excludes=["model", "recipe"],
    help="The readout whose percents are compared.",
)
@options.option(
    "--recipe",
    type=options.RECIPE,
    metavar="NAME",
    excludes=["model"],
    only_beside=options.WITH_RECIPES,
    help="The recipe whose percents are compared.",
)
@options.option("--finetune/--no-finetune", "finetuned", default=None, help="Finetuned models, or those that are not.")
@options.option("--rf", type=click.Choice(["shared", "layer"]), default=None, help="The models' receptive fields.")
@options.option("--seed", "--fit-seed", "fit_seed", type=options.SEED, default=None, help="The seed of the fits.")
@options.option("--model", default=None, metavar="NAME|FOLDER", help="A model: those fitted as it was are compared.")
@options.option(
    "--margin",
    "margins",
    default="2%",
    callback=_margins,
    metavar="M[,M...]",
    help="How much less than the reference will do, as a share of its accuracy; of a list, the first is the answer and "
    "the others show how it depends on it.",
)
@options.option(
    "--reference",
    default="100",
    callback=_reference,
    metavar="P|validation",
    help="The percent to compare with, fixed beforehand, or the best on held-out training images.",
)
@options.option(
    "--seeds",
    type=click.IntRange(2),
    default=None,
    help="Models of so many seeds at the reference; the margin is not below twice their standard deviation.",
)
def minimal(
    cache: Path,
    subjects: tuple[Subject, ...],
    backbones: tuple[str, ...],
    model: str | None,
    margins: tuple[float, ...],
    reference: float | str,
    seeds: int | None,
    output: Output,
    **selectors: Any,
) -> None:
    """Find the smallest percent of filters that will do, per subject, area and backbone.

    A percent will do where the test images show that its noise-normalised accuracy A falls short of the reference's by
    less than the margin: percents are tested in descending order, by the one-sided 95 % bound over images, and the
    first that fails ends it (p_min is the last that held). p_lo is the smallest that is not significantly worse, which
    shows little by itself: where it lies far below p_min, the images cannot tell. Over subjects: the largest p_min.

    Compares scored models that differ in nothing but their percent, of a procedure that converges (--recipe fast,
    --readout ridge or gaussian). The paper's recipe is shown beside it: its percents rank the optimiser. Every area is
    tested by itself. Writes studies/minimal/ in the cache.
    """
    from boldreams_cli.encoding.model import folder as folders
    from boldreams_cli.features.backbones import entry
    from boldreams_cli.study import minimal

    like = None if model is None else folders.resolve(cache, model)
    names = [entry(name).name for name in backbones]
    selectors["seed"] = selectors.pop("fit_seed")
    question = minimal.Question(margins, reference, seeds)
    answers = minimal.answer_all(cache, question, subjects, names, like, **selectors)
    over = minimal.over_subjects(answers)
    for answer in answers:
        answer.save()
    lines = [line for answer in answers for line in _lines(answer)]
    for row in over:
        count = len(row["subjects"])
        known = {name: f"{_percent(value['percent'])}{_of(value, count)}" for name, value in row["rois"].items()}
        lines.append(f"{row['backbone']}, over subjects {', '.join(map(str, row['subjects']))}, the largest p_min:")
        lines.append("  " + ", ".join(f"{name} {said}" for name, said in known.items()))
    if len(answers) == 1:
        output.show(answers[0].summary(), *lines)
    else:
        found = [answer.summary() for answer in answers]
        files = [file for one in found for file in one["files"]]
        output.show({"margin": margins[0], "subjects": found, "over_subjects": over, "files": files}, *lines)


def _of(over: Mapping[str, Any], subjects: int) -> str:
    """What restricts an answer over subjects."""
    said = [f"of {over['subjects']} of {subjects} subjects"] if over["subjects"] < subjects else []
    said += ["not resolvable"] if not over["resolvable"] else []
    return f" ({', '.join(said)})" if said else ""


def _lines(answer: Answer) -> list[str]:
    """Table of one subject and backbone, for people."""
    found, name = answer.summary(), answer.measure
    by = ", the best on held-out training images" if found["reference_by"] == VALIDATION else ""
    lines = [
        f"{answer.procedure.title}, seed {found['seed']}: reference {found['reference']:g} %{by}, margin "
        f"{100 * found['margin']:g} %, {found['images']} test images",
        f"{'area':10} {'p_min':>6} {'p_lo':>6} {name + ' of it':>12} {'of ref.':>8} {'diff.':>8} {'margin':>7}",
    ]
    for name, row in found["rois"].items():
        lines.append(
            f"{name:10} {_percent(row['percent']):>6} {_percent(row['p_lo']):>6} {_number(row['accuracy'], '.3f'):>12} "
            f"{row['reference_accuracy']:8.3f} {_number(row['difference'], '+.4f'):>8} {row['margin']:7.1%}"
            + ("" if row["resolvable"] else "  too few test images to resolve the margin")
        )
    for other in found["margins"][1:]:
        known = ", ".join(f"{name} {_percent(row['percent'])}" for name, row in other["rois"].items())
        lines.append(f"margin {100 * other['margin']:g} %, p_min: {known}")
    for other in found["beside"]:
        known = ", ".join(f"{name} {_percent(row['percent'])}" for name, row in other["rois"].items())
        kind = (other["recipe"] or other["readout"]) + (", finetuned" if other["finetuned"] else "")
        lines.append(f"beside, {kind}, p_min: {known}; ranks {other['ranks']}")
    if not found["converged"]:
        lines.append(f"ranks {found['ranks']}")
    return [*lines, f"files: {answer.folder}"]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:g} %"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
