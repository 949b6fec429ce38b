"""What a page says of its data by where they come from: which images are the test, how betas are z-scored, ceilings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from boldreams_cli.data.prepared.reliability import ESTIMATED
from boldreams_cli.data.responses import NCSNR
from boldreams_cli.data.retinotopy import STIMULUS_DEGREES
from boldreams_cli.data.subjects import Subject as SubjectName
from boldreams_cli.study.report.assets import listed
from boldreams_cli.study.report.collect import Model, Subject

Said = Mapping[str, Any]  # what is said of a subject's prepared responses
SINGULAR = {"vertices": "vertex"}  # of units; voxels by default
KINDS = {  # of ceilings that a data file holds
    NCSNR: "ncsnr as the data have it",
    "single-trial": "ncsnr from the data's noise ceiling of a single trial",
    "test-set": "ncsnr from the data's noise ceiling of the test's averages",
}


def by_subject(prepared: Iterable[Subject], what: Callable[[Said], str]) -> str:
    """What is so of all subjects once; of several kinds, with the subjects of each."""
    found: dict[str, list[SubjectName]] = {}
    for subject in prepared:
        found.setdefault(what(subject.responses or {}), []).append(subject.number)
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{text} ({subjects(names)})" for text, names in found.items())


def subjects(names: Sequence[SubjectName]) -> str:
    """For people, in a sentence."""
    return f"subject{'s' * (len(names) > 1)} {listed(names)}"


def images_of_test(said: Said) -> str:
    """Which images were held out."""
    if said["dataset"] != "file":
        return "those that all subjects saw"
    if said["test_kind"] == "marked":
        return "those that the data file marks as the test"
    return "some of the data file's images, drawn at random"


def everything(said: Said) -> str:
    """What is used of a subject without a mask."""
    return "the whole data file" if said["dataset"] == "file" else "the union of all visual areas"


def z_scoring(said: Said) -> str:
    """How betas were z-scored."""
    unit = SINGULAR.get(said["units"], "voxel")
    ways = {
        "given": "as the data file has them, z-scored",
        "session": f"z-scored for each {unit} and session",
        "training": f"z-scored for each {unit} by its training trials",
    }
    return ways[said["zscore"]]


def ceiling(said: Said) -> str:
    """Where noise ceilings come from, in a few words."""
    return named_source(said.get("ceiling_source"), said.get("ceiling_images"))


def named_source(source: str | None, images: int | None) -> str:
    """The same of scores."""
    if source is None:
        return "none"
    return source if images is None else f"{source} of {images} images"


def sources_of(models: Sequence[Model], held: Iterable[Subject]) -> dict[str, list[SubjectName]]:
    """Where the ceilings of scores come from, in words for a sentence, with their subjects; "" where there are none."""
    responses = {subject.number: subject.responses or {} for subject in held}
    found: dict[str, list[SubjectName]] = {}
    for model in models:
        scores = model.scores or {}
        # Scores of earlier versions do not say it.
        told: Said = scores if "ceiling_source" in scores else responses.get(model.subject) or {"ceiling_source": NCSNR}
        text = _sentence(told.get("ceiling_source"), told.get("ceiling_images"))
        if model.subject not in found.setdefault(text, []):
            found[text].append(model.subject)
    return found


def _sentence(source: str | None, images: int | None) -> str:
    if source == ESTIMATED:
        return f"ncsnr estimated from the repeats of {images} images"
    return "" if source is None else KINDS.get(source, source)


def degrees(subject: Subject) -> float | None:
    """Visual angle that a subject's images spanned; None where it is not known."""
    if subject.responses is not None:
        known: float | None = subject.responses["degrees"]
        return known
    return STIMULUS_DEGREES["nsd"] if isinstance(subject.number, int) else None
