"""Figures of a dream: contact sheet, trace, and what became of the photograph that it started from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli import plots
from boldreams_cli.data.opening import label_of
from boldreams_cli.interpret.dreams.ascent import parameterization
from boldreams_cli.interpret.dreams.natural import Natural, pictures
from boldreams_cli.interpret.products import title_of_model

if TYPE_CHECKING:
    from boldreams_cli.interpret.dreams.record import Record


def draw(folder: Path, record: Record, start: Mapping[str, Any] | None, data_root: Path | None) -> None:
    """Draw all figures of a dream, each as .png and .pdf.

    Parameters
    ----------
    folder : to write into.
    record : the dream.
    start : what became of the photograph, where it started from one.
    data_root : to read natural images from.
    """
    request, target = record.request, record.request.target
    title = f"{', '.join([target.name, *_aim(record)])}, {title_of_model(request.model)}"
    natural = record.natural or {}
    levels = {f"best {name} image, {label_of(data_root, best.image)}": best.score for name, best in natural.items()}
    if start is not None:
        levels["the photograph"] = start["score"]
    penalty = None if start is None else "penalty of distance"
    if request.objective.name == "diversity":
        penalty = "penalty of likeness" if start is None else "penalties"
    plots.dream_trace(folder / "trace.png", _scores(record), levels, score_unit(record), f"dream of {title}", penalty)
    dreams = list(zip(record.dream.images.transpose(0, 2, 3, 1), _captions(record), strict=True))
    if (alpha := record.alpha) is not None:
        clear = [plots.over_paper(pixels, opacity) for (pixels, _), opacity in zip(dreams, alpha, strict=True)]
        dreams += [(pixels, f"{number}, by what mattered") for number, pixels in enumerate(clear, 1)]
    beside = []
    if natural:
        shown = pictures([item.image for item in natural.values()], target.full, data_root) or []
        beside = list(zip(shown, natural_captions(natural, data_root, request.objective.name), strict=False))
    if request.photograph is not None and start is not None:
        photograph = request.photograph.pixels[0].permute(1, 2, 0).cpu().numpy()
        plots.dream_difference(
            folder / "difference.png",
            (photograph, _start(record, start)),
            [(*pair, far) for pair, far in zip(dreams, start["feature_distance"], strict=True)],
            f"{title}\n{_unit(record, data_root)}",
        )
        beside.insert(0, (photograph, _start(record, start)))
    plots.dream_sheet(folder / "sheet.png", dreams, beside, f"{title}\n{_unit(record, data_root)}")


def _start(record: Record, start: Mapping[str, Any]) -> str:
    """What is written over the photograph."""
    name = str(record.request.photograph)
    return f"start, {'image ' * name.isdigit()}{name}: {start['response']:.2f}"


def _aim(record: Record) -> list[str]:
    """What is not a plain dream of the most: the objective, where the target's name does not say it, and the form."""
    objective, form = record.request.objective, record.request.settings.parameterization
    said = []
    if objective.name == "diversity":
        said.append(f"diversity {objective.diversity:g}")
    if objective.wanted is not None:
        one = len(objective.wanted) == 1
        said.append(f"towards a beta of {objective.wanted[0]:g}" if one else "towards given betas")
    return said + ([form] if form != parameterization.NAMES[0] else [])


def _scores(record: Record) -> NDArray[np.float64]:
    """The trace with the score of the untransformed images, where the trace has their response."""
    trace = record.dream.trace
    if record.request.objective.name in ("mean", "diversity"):
        return trace
    scores = trace.copy()
    scores[:, 3] = np.nan
    scores[-1, 3] = trace[-1, 4]
    return scores


def score_unit(record: Record) -> str:
    """What the objective measures, for an axis."""
    target, objective = record.request.target, record.request.objective.name
    both = {"contrast": "difference of mean betas", "both": "mean beta of both areas", "target": "minus squared error"}
    return both.get(objective, target.unit)


def _captions(record: Record) -> list[str]:
    """Of each dream: its response, that of the other area, and a star where it is beyond all data."""
    dream, beyond = record.dream, record.beyond
    found = []
    for number, response in enumerate(dream.response):
        other = "" if dream.other is None else f", {dream.other[number]:.2f}"
        star = " *" if beyond is not None and beyond[number] else ""
        found.append(f"dream {number + 1}: {response:.2f}{other}{star}")
    return found


def _unit(record: Record, data_root: Path | None) -> str:
    target = record.request.target
    sides = record.sides
    unit = target.unit if sides is None else f"{target.unit} of {' and of '.join(sides)}"
    if record.largest is not None and any(record.beyond or []):
        largest, image = record.largest, label_of(data_root, record.largest.image)
        unit += f"; * beyond all that was measured (at most {largest.beta:.2f}, image {image})"
    return unit


def natural_captions(natural: Mapping[str, Natural], data_root: Path | None, objective: str = "mean") -> list[str]:
    """What is written over the natural images, in their order; the model was fitted to the training images."""
    found = []
    for name, best in natural.items():
        other = ""
        if objective in ("contrast", "both"):  # the other area's response, as its dreams have it
            value = best.response - best.score if objective == "contrast" else 2 * best.score - best.response
            other = f", {value:.2f}"
        fitted = " (fitted)" if name == "train" else ""
        found.append(f"best {name} image, {label_of(data_root, best.image)}: {best.response:.2f}{other}{fitted}")
    return found
