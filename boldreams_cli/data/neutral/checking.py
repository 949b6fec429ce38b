"""What is missing or odd in a data file, with counts: `boldreams validate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, progress
from boldreams_cli.data.neutral import ceilings, contents, images
from boldreams_cli.data.neutral.contents import BLOCK_BYTES
from boldreams_cli.data.neutral.images import PIXELS
from boldreams_cli.data.neutral.reading import REMEDY, DataFile, Reading
from boldreams_cli.data.pictures import check_picture
from boldreams_cli.files import reading

NAMED = 3  # picture files that are named, of those that cannot be read


@dataclass(frozen=True)
class Checked:
    """What was found out about a file.

    Parameters
    ----------
    file : that was looked at.
    errors : that keep it from being used, one line each.
    warnings : what is odd, or will be done in its absence.
    facts : counts, empty where it could not be read.
    """

    file: Path
    errors: list[str]
    warnings: list[str]
    facts: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {"file": str(self.file), "errors": self.errors, "warnings": self.warnings, **self.facts}


def check(path: Path) -> Checked:
    """Look at all of a file: keys, shapes, every beta, and the header of every picture."""
    found = Reading(path)
    data = found.read()
    if data is None:
        return Checked(path, found.errors, found.warnings, {})
    _look_at_images(data, found)
    facts = _facts(data)
    facts |= found.part(lambda: _look_at_betas(data, found)) or {}
    _look_at_the_rest(data, found, facts)
    return Checked(path, found.errors, found.warnings, facts)


def _facts(data: DataFile) -> dict[str, Any]:
    test = contents.test_images(data)[data.trials.image]
    areas = contents.areas_of(data)
    return {
        "subject": data.subject,
        "units": len(data.units),
        "kind": data.units.plural,
        "trials": len(test),
        "images": len(data.images.names),
        "sessions": [] if data.trials.session is None else contents.choose_sessions(data, None),
        "train": _counted(data, ~test),
        "test": _counted(data, test) | {"marked": data.trials.test is not None},
        "zscore": contents.zscoring(data),
        "ceiling": None if data.ceiling is None else data.ceiling.kind,
        "rois": areas.counts(),
    }


def _counted(data: DataFile, trials: NDArray[np.bool_]) -> dict[str, Any]:
    return {"images": len(np.unique(data.trials.image[trials])), "trials": int(trials.sum())}


def _look_at_images(data: DataFile, found: Reading) -> None:
    if data.images.paths is None:
        found.part(lambda: _look_at_pixels(data, found))
        return
    if gone := images.missing(data):
        found.errors.append(gone)
    bad = []
    for path in data.images.paths:
        try:
            check_picture(path)
        except BoldreamsError as error:
            if path.is_file():
                bad.append(str(error))
    found.errors += [f"{data.path}: images/path: {said}" for said in bad[:NAMED]]
    if len(bad) > NAMED:
        found.errors.append(f"{data.path}: images/path: {len(bad) - NAMED} more are no pictures that can be read")


def _look_at_pixels(data: DataFile, found: Reading) -> None:
    """Count images of one colour."""
    with reading(data.path, REMEDY), h5py.File(data.path, "r") as file:
        pixels = file[PIXELS]
        plain = [place for place in range(len(pixels)) if (image := pixels[place]).min() == image.max()]
    if plain:
        names = ", ".join(data.images.names[place] for place in plain[:NAMED])
        found.warn(f"{PIXELS}: {len(plain)} images are of one grey ({names}); extract will refuse them")


def _look_at_betas(data: DataFile, found: Reading) -> dict[str, int]:
    """Count units that cannot be used: not finite, or the same in all trials."""
    finite = np.ones(len(data.units), bool)
    low, high = np.full(len(data.units), np.inf), np.full(len(data.units), -np.inf)
    with reading(data.path, REMEDY), h5py.File(data.path, "r") as file:
        betas = file["betas"]
        step = max(1, BLOCK_BYTES // (8 * betas.shape[1]))
        with progress("validate", len(betas), "trials") as shown:
            for start in range(0, len(betas), step):
                block = np.asarray(betas[start : start + step], np.float64)
                finite &= np.isfinite(block).all(0)
                low, high = np.fmin(low, block.min(0)), np.fmax(high, block.max(0))
                shown.advance(len(block))
    counts = {"not_finite": int((~finite).sum()), "constant": int((finite & (low == high)).sum())}
    if counts["not_finite"]:
        found.warn(f"betas: {counts['not_finite']} units have values that are not finite; they will be left out")
    if counts["constant"]:
        found.warn(f"betas: {counts['constant']} units are the same in all trials; they will be left out")
    if sum(counts.values()) == len(finite):
        found.errors.append(f"{data.path}: betas: no unit has finite betas that vary")
    return counts


def _look_at_the_rest(data: DataFile, found: Reading, facts: dict[str, Any]) -> None:
    marks, names = data.trials, data.images.names
    if unseen := len(names) - len(np.unique(marks.image)):
        found.warn(f"trial/image: {unseen} of {len(names)} images are in no trial")
    if marks.test is None:
        found.warn(f"trial/test is missing: {facts['test']['images']} of the images shown will be held out as the test")
    if not data.areas:
        found.warn("areas is missing: --roi will have nothing to choose from")
    if empty := [area.names[label] for area in data.areas for label in area.names if not (area.labels == label).any()]:
        found.warn(f"areas: {len(empty)} have no unit: {', '.join(empty[:NAMED])}")
    if data.ceiling is None:
        found.warn("ceiling is missing: there will be no noise ceilings")
        return
    if wrong := ceilings.undefined(data.ceiling.values, data.ceiling.kind):
        found.warn(f"ceiling: {wrong} values are no {data.ceiling.kind} ceiling; they count as not known")
    if data.ceiling.kind == "test-set" and facts["test"]["images"] == facts["test"]["trials"] and marks.repeats is None:
        found.warn(
            "ceiling: test-set, but every test image has one trial and trial/repeats is missing: taken as of one "
            "presentation"
        )
