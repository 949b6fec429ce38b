"""What is missing or odd in a data file, with counts: `boldreams validate`."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, progress
from boldreams_cli.data.neutral import ceilings, contents, images
from boldreams_cli.data.neutral.betas import BETAS, BLOCK_BYTES, NEVER_WRITTEN, Block, blocks
from boldreams_cli.data.neutral.images import PIXELS
from boldreams_cli.data.neutral.reading import REMEDY, DataFile, Reading
from boldreams_cli.data.pictures import check_picture
from boldreams_cli.data.prepared.reliability import ESTIMATED
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
    _look_at_trials(data, found, facts)
    _look_at_areas(data, found)
    _look_at_ceiling(data, found, facts)
    return Checked(path, found.errors, found.warnings, facts)


def _facts(data: DataFile) -> dict[str, Any]:
    test = contents.test_images(data)[data.trials.image]
    areas, sessions = contents.areas_of(data), contents.choose_sessions(data, None)
    repeats = contents.repeats_of(data, sessions)
    estimated = data.ceiling is None and repeats.enough
    kind = None if data.ceiling is None else data.ceiling.kind
    return {
        "subject": data.subject,
        "units": len(data.units),
        "kind": data.units.plural,
        "trials": len(test),
        "images": len(data.images.names),
        "sessions": [] if data.trials.session is None else sessions,
        "train": _counted(data, ~test),
        "test": _counted(data, test) | {"marked": data.trials.test is not None},
        "zscore": contents.zscoring(data),
        "ceiling": ESTIMATED if estimated else kind,
        "repeated_images": repeats.images,
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
    bad, oblong = [], 0
    for path in data.images.paths:
        try:
            width, height = check_picture(path)
            oblong += width != height
        except BoldreamsError as error:
            if path.is_file():
                bad.append(str(error))
    found.errors += [f"{data.path}: images/path: {said}" for said in bad[:NAMED]]
    if len(bad) > NAMED:
        found.errors.append(f"{data.path}: images/path: {len(bad) - NAMED} more are no pictures that can be read")
    if oblong:
        found.warn(f"images/path: {oblong} pictures are not square; networks see the middle square of them")
    _warn_of_copies("images/path", _digests_of_files(data.images.paths), data, found)


def _digests_of_files(paths: list[Path]) -> dict[int, bytes]:
    """Image -> hash of its file, of those whose size another one has too."""
    sizes = {number: path.stat().st_size for number, path in enumerate(paths) if path.is_file()}
    several = {size for size, count in Counter(sizes.values()).items() if count > 1}
    return {
        number: hashlib.sha256(paths[number].read_bytes()).digest() for number, size in sizes.items() if size in several
    }


def _warn_of_copies(key: str, digests: dict[int, bytes], data: DataFile, found: Reading) -> None:
    """Count pictures that are there by two names: the one may be held out, and the other trained on."""
    first: dict[bytes, int] = {}
    copies = [(number, of) for number, digest in digests.items() if (of := first.setdefault(digest, number)) != number]
    if copies:
        names = data.images.names
        said = ", ".join(f"{names[number]} of {names[of]}" for number, of in copies[:NAMED])
        found.warn(
            f"{key}: {len(copies)} pictures are copies of others ({said}): "
            "one may be held out and the other trained on; give each picture one entry"
        )


def _look_at_pixels(data: DataFile, found: Reading) -> None:
    """Count images of one colour."""
    plain: list[int] = []
    digests: dict[int, bytes] = {}
    with reading(data.path, REMEDY), h5py.File(data.path, "r") as file:
        pixels = file[PIXELS]
        step = max(1, BLOCK_BYTES // math.prod(pixels.shape[1:]))
        for start in range(0, len(pixels), step):
            block = pixels[start : start + step]
            digests |= {start + row: hashlib.sha256(image.data).digest() for row, image in enumerate(block)}
            plain += (start + np.flatnonzero(block.min((1, 2, 3)) == block.max((1, 2, 3)))).tolist()
    if plain:
        names = ", ".join(data.images.names[place] for place in plain[:NAMED])
        found.warn(f"{PIXELS}: {len(plain)} images are of one grey ({names}): was their part never written?")
    _warn_of_copies(PIXELS, {number: item for number, item in digests.items() if number not in plain}, data, found)


@dataclass
class _Extremes:
    """Smallest and largest beta of each unit in each session (one where there are none).

    And which units are finite, and which trials have a beta that is not 0.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    finite: NDArray[np.bool_]
    written: NDArray[np.bool_]

    @classmethod
    def of(cls, sessions: int, units: int, trials: int) -> _Extremes:
        """Of nothing yet."""
        low = np.full((sessions, units), np.inf)
        return cls(low, -low, np.ones(units, bool), np.zeros(trials, bool))

    def take_in(self, block: Block, session: NDArray[np.int64]) -> None:
        """Look at some betas; (rows of the block,) place of each one's session."""
        values, part = np.asarray(block.values, np.float64), block.columns
        self.finite[part] &= np.isfinite(values).all(0)
        self.written[block.first : block.end] |= values.any(1)
        for place in np.unique(session):
            own = values[session == place]
            self.low[place, part] = np.fmin(self.low[place, part], own.min(0))
            self.high[place, part] = np.fmax(self.high[place, part], own.max(0))


def _look_at_betas(data: DataFile, found: Reading) -> dict[str, int]:
    """Count units that cannot be used: not finite, or the same in all trials that are z-scored together."""
    session = data.trials.session if contents.zscoring(data) == "session" else None
    none = np.zeros(len(data.trials.image), np.int64)
    places = none if session is None else np.unique(session, return_inverse=True)[1]
    trials = np.bincount(places)
    seen = _Extremes.of(len(trials), len(data.units), len(places))
    total = len(places) * len(data.units)
    with (
        reading(data.path, REMEDY),
        h5py.File(data.path, "r") as file,
        progress("validate", total, "betas") as shown,
    ):
        for block in blocks(file[BETAS], np.arange(len(places))):
            seen.take_in(block, places[block.first : block.end])
            shown.advance(block.values.size)
    finite, same = seen.finite, seen.low.min(0) == seen.high.max(0)
    sometimes = (seen.low == seen.high)[trials > 1].any(0) & ~same
    counts = {"not_finite": int((~finite).sum()), "constant": int((finite & same).sum())}
    counts["constant_in_a_session"] = int((finite & sometimes).sum())
    said = {
        "not_finite": "have values that are not finite",
        "constant": "are the same in all trials",
        "constant_in_a_session": "are the same in all trials of a session",
    }
    for name, count in counts.items():
        if count:
            found.warn(f"betas: {count} units {said[name]}; they will be left out")
    if zeros := int((~seen.written).sum()):
        found.warn(f"betas: {zeros} trials are {NEVER_WRITTEN}")
    if sum(counts.values()) == len(finite):
        found.errors.append(f"{data.path}: betas: no unit has finite betas that vary")
    return counts


def _look_at_trials(data: DataFile, found: Reading, facts: dict[str, Any]) -> None:
    marks, names, test = data.trials, data.images.names, facts["test"]["images"]
    if unseen := len(names) - len(np.unique(marks.image)):
        first = "" if (marks.image == 0).any() else "; the first is one of them: indices are counted from 0"
        found.warn(f"trial/image: {unseen} of {len(names)} images are in no trial{first}")
    if marks.test is None:
        found.warn(f"trial/test is missing: {test} of the images shown will be held out as the test")
    if test < contents.LEAST_TEST:
        found.warn(f"trial/test: {test} images are the test; a correlation over so few says nothing")
    if lonely := contents.lonely_sessions(data, contents.choose_sessions(data, None)):
        found.errors.append(lonely)


def _look_at_areas(data: DataFile, found: Reading) -> None:
    if not data.areas:
        found.warn("areas is missing: --roi will have nothing to choose from")
    if empty := [area.names[label] for area in data.areas for label in area.names if not (area.labels == label).any()]:
        found.warn(f"areas: {len(empty)} have no unit: {', '.join(empty[:NAMED])}")


def _look_at_ceiling(data: DataFile, found: Reading, facts: dict[str, Any]) -> None:
    ceiling, repeated = data.ceiling, facts["repeated_images"]
    if ceiling is None:
        if facts["ceiling"] == ESTIMATED:
            found.warn(f"ceiling is missing: it will be estimated from the repeats of {repeated} images")
        else:
            few = f"only {repeated} images are" if repeated else "no image is"
            found.warn(f"ceiling is missing, and {few} in several trials: there will be no noise ceilings")
        return
    if wrong := ceilings.undefined(ceiling.values, ceiling.kind):
        found.warn(f"ceiling: {wrong} values are no {ceiling.kind} ceiling; they count as not known")
    if odd := ceilings.unlikely(ceiling.values, ceiling.kind):
        found.warn(f"ceiling: {odd}")
    one_each = facts["test"]["images"] == facts["test"]["trials"] and data.trials.repeats is None
    if ceiling.kind == "test-set" and one_each:
        found.warn(
            "ceiling: test-set, but every test image has one trial and trial/repeats is missing: taken as of one "
            "presentation"
        )
