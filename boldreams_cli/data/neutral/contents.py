"""What a subject's responses are made from in a data file but betas: their identity, trials, areas, ceilings."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, ChoiceError, listing
from boldreams_cli.data import identity
from boldreams_cli.data.areas import Areas, from_anywhere
from boldreams_cli.data.dataset import Contents, Trials
from boldreams_cli.data.neutral.betas import ONLY, betas_identity, rows_of
from boldreams_cli.data.neutral.ceilings import ncsnr_of
from boldreams_cli.data.neutral.images import FileStimuli
from boldreams_cli.data.neutral.reading import DataFile
from boldreams_cli.data.prepared.reliability import ESTIMATED, Repeats
from boldreams_cli.data.sessions import parse_sessions
from boldreams_cli.data.units import VertexUnits
from boldreams_cli.files import to_json

HELD_OUT = 0.1  # share of the images that is the test, where no trial is marked
LEAST_TEST = 3  # images of a test; a correlation over two is 1 or -1 whatever they are
WHOLE_TEST = "test-set"  # kind of ceilings that are of averages over all trials of the file
OF_ALL_SESSIONS = "over the trials of all sessions"  # marks stores of some; earlier versions counted only theirs
ESTIMATE = 1  # version of how ceilings are estimated


def choose_sessions(data: DataFile, sessions: str | None) -> list[int]:
    """Numbers of the sessions asked for; all of them where nothing is.

    Raises
    ------
    ChoiceError
        If one is not there.
    """
    there = [ONLY] if data.trials.session is None else np.unique(data.trials.session).tolist()
    if sessions is None:
        return [int(number) for number in there]
    asked = parse_sessions(sessions)
    if absent := sorted(set(asked) - set(there)):
        said = "it has no sessions" if data.trials.session is None else f"there: {listing(there, 40)}"
        raise ChoiceError(f"{data.path} has no session {listing(absent)}; {said} (--sessions)")
    return asked


def test_images(data: DataFile) -> NDArray[np.bool_]:
    """(images,) those of the test: as marked; where nothing is, a tenth of those shown, and three at least.

    These are chosen by their names alone: the same whatever the sessions and the order of the file.
    """
    shown = np.unique(data.trials.image)
    test = np.zeros(len(data.images.names), bool)
    if data.trials.test is not None:
        test[data.trials.image[data.trials.test]] = True
        return test
    drawn = [hashlib.sha256(data.images.names[image].encode()).hexdigest() for image in shown]
    count = min(len(shown) - 1, max(LEAST_TEST, round(HELD_OUT * len(shown))))
    test[shown[np.argsort(drawn, kind="stable")[:count]]] = True
    return test


def zscoring(data: DataFile) -> str:
    """How betas are z-scored: not again, by session, or by mean and deviation over the training trials."""
    if data.zscored:
        return "given"
    return "session" if data.trials.session is not None else "training"


def areas_of(data: DataFile, chosen: NDArray[np.bool_] | slice = slice(None)) -> Areas:
    """Areas over some of the units, each a group of its own, in the order of the file."""
    named = {f"labels-{place}": item for place, item in enumerate(data.areas)}
    groups: dict[str, tuple[str, tuple[str | int, ...]]] = {}
    for volume, item in named.items():
        for label, name in item.names.items():  # of labels that share a name, as left and right may, all are the area
            groups[name] = (volume, (*groups.get(name, (volume, ()))[1], label))
    units = data.units
    return Areas(
        labels={volume: item.labels[chosen] for volume, item in named.items()},
        tables={volume: item.names for volume, item in named.items()},
        voxels=units.ijk[chosen],
        shape=units.shape,
        affine=units.affine,
        groups=groups,
        space=units.space if isinstance(units, VertexUnits) else None,
    )


def inside(data: DataFile, mask: str | None) -> NDArray[np.bool_]:
    """(units,) those that ``--mask`` names, an area, a union of areas or a NIfTI file; all without one.

    Raises
    ------
    ChoiceError, MismatchError, BoldreamsError
        As `Areas.select`.
    """
    return np.ones(len(data.units), bool) if mask is None else areas_of(data).select(mask)


def request_for(data: DataFile, sessions: str | None, mask: str | None) -> dict[str, Any]:
    """All that decides the numbers of the prepared responses: content alone, wherever the file lies.

    Raises
    ------
    ChoiceError
        If a session or the mask is not there.
    BoldreamsError
        If a picture's file is missing.
    """
    chosen, marks = choose_sessions(data, sessions), data.trials
    known = [array for array in (marks.session, marks.test, marks.repeats) if array is not None]
    units = data.units
    meshes = [units.space, units.vertices] if isinstance(units, VertexUnits) else [list(units.shape)]
    request: dict[str, Any] = {
        "dataset": "file",
        "subject": data.subject,
        "sessions": chosen,
        "mask": None if mask is None else identity.content(inside(data, mask)),
        "images": images_identity(data),
        "trials": [identity.content(array) for array in (marks.image, *known)],
        "test": ["held out", HELD_OUT, LEAST_TEST] if marks.test is None else "marked",
        "zscore": zscoring(data),
        "units": [*meshes, identity.content(units.ijk), identity.content(units.affine)],
        "areas": [[item.names, identity.content(item.labels)] for item in data.areas],
        "ceiling": _ceiling_identity(data, chosen),
        "degrees": data.degrees,
        "betas": betas_identity(data, chosen),
    }
    read: dict[str, Any] = to_json(request)  # as it is when it was stored and read
    return read


def images_identity(data: DataFile) -> dict[str, Any]:
    """Names, sizes and a hash of a sample of the images: what feature stores have for the same pictures."""
    with FileStimuli(data) as stimuli:
        return stimuli.identity()


def _ceiling_identity(data: DataFile, sessions: Sequence[int]) -> list[Any] | None:
    """Kind and content of the ceiling, or that it is estimated; None where there is none."""
    if data.ceiling is not None:
        some = data.ceiling.kind == WHOLE_TEST and set(sessions) != set(choose_sessions(data, None))
        return [data.ceiling.kind, identity.content(data.ceiling.values), *[OF_ALL_SESSIONS] * some]
    return [ESTIMATED, ESTIMATE] if repeats_of(data, sessions).enough else None


def repeats_of(data: DataFile, sessions: Sequence[int]) -> Repeats:
    """Images with several trials in some sessions."""
    return Repeats.of(data.trials.image[np.concatenate([rows_of(data, session) for session in sessions])])


def lonely_sessions(data: DataFile, sessions: Sequence[int]) -> str:
    """Say which sessions have one trial, where betas are z-scored by session: all of them would be NaN."""
    if zscoring(data) != "session":
        return ""
    lonely = [session for session in sessions if len(rows_of(data, session)) == 1]
    if not lonely:
        return ""
    return (
        f"{data.path}: trial/session: session {listing(lonely)} has one trial, which cannot be z-scored by session; "
        "leave it out with --sessions, or give it the number of another"
    )


def plan_trials(data: DataFile, sessions: list[int]) -> Trials:
    """Images and split of the trials of `sessions`, a session after the other.

    Raises
    ------
    BoldreamsError
        If no training or no test image is left.
    """
    rows = {session: rows_of(data, session) for session in sessions}
    every = np.concatenate(list(rows.values()))
    images = data.trials.image[every]
    test = test_images(data)[images]
    for kind, there in (("training", not test.all()), ("test", test.any())):
        if not there:
            raise BoldreamsError(
                f"{data.path}: no {kind} image in session {listing(sessions)} of {data.subject}; take more (--sessions)"
            )
    repeats = None if data.trials.repeats is None else data.trials.repeats[every]
    return Trials({session: len(part) for session, part in rows.items()}, images, test, repeats)


def contents(data: DataFile, request: dict[str, Any], mask: str | None) -> Contents:
    """All of the subject's responses but the betas; see `request_for` for what is raised."""
    if lonely := lonely_sessions(data, request["sessions"]):
        raise BoldreamsError(lonely)
    chosen, trials = inside(data, mask), plan_trials(data, request["sessions"])
    ceiling, units, repeats = data.ceiling, data.units, repeats_of(data, request["sessions"])
    ncsnr = np.full(int(chosen.sum()), np.nan, np.float32)
    if ceiling is not None:
        ncsnr = ncsnr_of(ceiling.values[chosen], ceiling.kind, _test_repeats(data))
    return Contents(
        request,
        None if mask is None else from_anywhere(mask),
        trials,
        areas_of(data, chosen),
        ncsnr,
        file=data.path.absolute(),  # not what a link leads to: its pictures lie beside the link
        vertices=units.vertices if isinstance(units, VertexUnits) else None,
        ncsnr_of=repeats.images if ceiling is None and repeats.enough else None,
    )


def _test_repeats(data: DataFile) -> NDArray[np.int64]:
    """(test images,) presentations of each in the whole file: a ceiling of its test is of these, whatever is chosen."""
    trials = plan_trials(data, choose_sessions(data, None))
    weights = np.ones(len(trials.images), np.int64) if trials.repeats is None else trials.repeats
    totals = np.bincount(trials.images[trials.test], weights=weights[trials.test])
    return totals[totals > 0].astype(np.int64)
