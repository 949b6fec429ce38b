"""Runs a study in this process, and says how far it is: by what the cache holds, never by what a scheduler says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boldreams_cli.console import BoldreamsError, StopFlag, logger
from boldreams_cli.data.subjects import Subject, folder_of
from boldreams_cli.encoding.evaluation.saved.identity import FORMAT
from boldreams_cli.study.cells.grid import Cell
from boldreams_cli.study.cells.manifest import (
    DONE,
    FAILED,
    MISSING,
    RUNNING,
    STARTED,
    Study,
    edition_of,
    of_other_pixels,
    retimed,
    unchanged,
)

if TYPE_CHECKING:
    import torch

    from boldreams_cli.data.dataset import Dataset

WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SUSPENDED")
Numbers = Sequence[int]


class Known:
    """Which cells are done, by what was noted of them and whether their files and inputs are still the same.

    Parameters
    ----------
    study : to look at.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self._wanted: dict[Subject, str | None] = {}
        self._editions: dict[str, str | None] = {}

    def done(self, number: int) -> dict[str, Any] | None:
        """What was noted of a cell that is done, None of any other."""
        noted = self.study.noted(number)
        if noted.get("outcome") != DONE or not unchanged(noted["files"], self.study.cache):
            return None
        if noted.get("format") != FORMAT:
            return None  # its scores are of an earlier version
        if "store" in noted and self._edition(noted["store"]) not in (None, noted["edition"]):
            return None  # maps were made anew of other stimuli
        if "pixels" in noted and of_other_pixels(noted, self.study.cache):
            return None  # and so were the images of a finetuned model
        wanted = self._responses(self.study.cells[number].subject)
        return noted if wanted in (None, noted["responses"]) else None

    def _edition(self, store: str) -> str | None:
        """`edition_of`, looked at once."""
        if store not in self._editions:
            self._editions[store] = edition_of(self.study.cache, store)
        return self._editions[store]

    def _responses(self, subject: Subject) -> str | None:
        """Name of the responses that the data at hand make; None where there are none to compare with."""
        if subject not in self._wanted:
            self._wanted[subject] = _responses_of(self.study, subject)
        return self._wanted[subject]


def _responses_of(study: Study, subject: Subject) -> str | None:
    from boldreams_cli.data.prepared.choosing import at_hand, root_of
    from boldreams_cli.data.prepared.preparing import store_path

    settings = study.settings
    root = root_of(study.cache, subject, study.data_root)
    dataset: Dataset | None = at_hand(root, subject, settings.get("betas"))
    if dataset is None:
        return None
    try:
        request = dataset.request(subject, settings.get("sessions"), settings.get("mask"))
    except BoldreamsError as error:
        logger.debug("subject %s: %s", subject, error)
        return ""
    return store_path(study.cache, request).name


@dataclass
class State:
    """How far a study is.

    Parameters
    ----------
    study : that it is of.
    cells : what each is: done, failed, running or missing.
    noted : of those that are done.
    why : of those that failed, what was wrong, or of one that ended without a word the last line of its log.
    queued : those that are missing and wait in a queue.
    """

    study: Study
    cells: dict[int, str]
    noted: dict[int, dict[str, Any]]
    why: dict[int, str] = field(default_factory=dict)
    queued: set[int] = field(default_factory=set)

    def of(self, *kinds: str) -> list[int]:
        """Numbers of the cells of some kinds."""
        return [number for number, kind in self.cells.items() if kind in kinds]

    def part(self, numbers: Iterable[int]) -> State:
        """The same of some cells."""
        wanted = set(numbers)
        return State(
            self.study,
            cells={number: kind for number, kind in self.cells.items() if number in wanted},
            noted={number: noted for number, noted in self.noted.items() if number in wanted},
            why={number: line for number, line in self.why.items() if number in wanted},
            queued=self.queued & wanted,
        )

    def exit_code(self, numbers: Iterable[int] | None = None) -> int:
        """0 all done, 75 some to do, 1 all others finished and some failed; of some cells, or of all."""
        kinds = set(self.cells.values()) if numbers is None else {self.cells[number] for number in numbers}
        if kinds & {RUNNING, MISSING}:
            return 75
        return 1 if FAILED in kinds else 0

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of ``sweep``."""
        return {
            "study": self.study.name,
            "manifest": str(self.study.path),
            "cells": {kind: len(self.of(kind)) for kind in (DONE, FAILED, RUNNING, MISSING)},
            "failures": [
                {"cell": number, "line": line, "log": str(self.study.log(number))} for number, line in self.why.items()
            ],
            "models": [model_row(self.study, number, noted) for number, noted in self.noted.items()],
        }


def model_row(study: Study, number: int, noted: Mapping[str, Any]) -> dict[str, Any]:
    """What tells a model from others, and its mean r."""
    cell = study.cells[number]
    return {
        "cell": number,
        "model": str(study.cache / noted["model"]),
        "subject": cell.subject,
        "backbone": cell.backbone,
        "percent": cell.percent,
        "recipe": cell.recipe,
        "readout": cell.readout,
        "finetuned": cell.finetune,
        "seed": cell.seed,
        "r_mean": noted["scores"]["r_mean"],
    }


def look(study: Study, queue: Mapping[int, str] | None = None, known: Known | None = None) -> State:
    """How far a study is, by its notes.

    Parameters
    ----------
    study : to look at.
    queue : states of the cells that a scheduler has in hand, None where there is none to ask.
    known : of an earlier look or run in this process, so that data at hand are looked at once.
    """
    known, waiting = known or Known(study), queue or {}
    state = State(study, {}, {})
    for number in range(len(study.cells)):
        if (noted := known.done(number)) is not None:
            state.cells[number], state.noted[number] = DONE, noted
        elif study.is_running(number) or waiting.get(number, "PENDING") not in WAITING:
            state.cells[number] = RUNNING
        elif number in waiting:
            state.cells[number] = MISSING
            state.queued.add(number)
        elif (said := study.noted(number)).get("outcome") == FAILED:
            # What else its job printed, which is in its log under SLURM, is not why.
            state.cells[number], state.why[number] = FAILED, said.get("line") or "failed"
        elif said.get("outcome") == STARTED:
            # A cell that neither runs nor waits nor said that it stopped was ended without a word.
            state.cells[number], state.why[number] = FAILED, study.last_line(number) or "ended without a word"
        else:
            state.cells[number] = MISSING
    return state


def recognise(state: State) -> State:
    """The same, with what is to be noted of cells that were fitted or scored elsewhere; nothing is written.

    Cells of which the cache holds no model by that name are passed over, so that nothing is imported for them.
    """
    study = state.study
    found: dict[int, dict[str, Any]] = {}
    maybe = [number for number in state.of(MISSING, FAILED) if _candidates(study.cache, study.cells[number])]
    if maybe:
        from boldreams_cli.study.cells.recognising import recognised

        for (subject, backbone), some in groups(study, maybe).items():
            found |= recognised(study, subject, backbone, some)
    cells = state.cells | dict.fromkeys(found, DONE)
    why = {number: line for number, line in state.why.items() if number not in found}
    return State(study, cells, dict(sorted((state.noted | found).items())), why, state.queued - set(found))


def _scored_again(study: Study, numbers: Iterable[int]) -> dict[int, dict[str, Any]]:
    """What is to be noted of cells that were done, and of which the scores alone are others since."""
    noted = [number for number in numbers if study.noted(number).get("outcome") == DONE]
    if not noted:
        return {}
    from boldreams_cli.study.cells.recognising import still_done

    found: dict[int, dict[str, Any]] = {}
    for (subject, _), some in groups(study, noted).items():
        found |= still_done(study, subject, some)
    return found


def _candidates(cache: Path, cell: Cell) -> bool:
    from boldreams_cli.features.store.feature_store import folder_name

    parent = cache / "models" / folder_of(cell.subject) / folder_name(cell.backbone)
    name = f"percent-{cell.percent:g}-{cell.kind}" + ("-finetuned" if cell.finetune else "")
    return any(parent.glob(f"{name}-*/scores.json"))


def groups(study: Study, numbers: Iterable[int]) -> dict[tuple[Subject, str], list[int]]:
    """Cells by subject and backbone, in order."""
    found: dict[tuple[Subject, str], list[int]] = {}
    for number in numbers:
        cell = study.cells[number]
        found.setdefault((cell.subject, cell.backbone), []).append(number)
    return found


def run(
    study: Study,
    numbers: Iterable[int],
    device: Callable[[], torch.device],
    memory: int,
    stop: StopFlag,
    known: Known | None = None,
    together: int = 1,
) -> None:
    """Fit and score the cells that are not done; one that fails does not keep the others from being done.

    Parameters
    ----------
    study : of the cells.
    numbers : of those to do.
    device : says what to compute on, when something is to be computed.
    memory : bytes to use at most, about.
    stop : looked at while fitting.
    known : of an earlier look in this process.
    together : cells to run side by side, each with a share of the threads, where memory holds them.

    Raises
    ------
    StoppedError
        If a signal came; the same call goes on from there.
    ChoiceError
        If the study makes no sense.
    """
    known = known or Known(study)
    todo, found = [], {number: known.done(number) for number in numbers}
    again = _scored_again(study, [number for number, noted in found.items() if noted is None])
    for number, noted in found.items():
        if number in again:
            study.note(number, DONE, **again[number])
        elif noted is None:
            todo.append(number)
        elif (files := retimed(noted["files"], study.cache)) != noted["files"]:
            study.note(number, **(noted | {"files": files}))  # of a copy: its files need not be read the next time
    if not todo:
        study.save()
        return
    from boldreams_cli.study.cells import running

    where = device()
    running.check(study, where.type)
    study.save()
    logger.info("%s: %d of %d cells to do", study.name, len(todo), len(study.cells))
    for (subject, backbone), some in groups(study, todo).items():
        running.Group(study, subject, backbone, where, memory, stop, together, known.done).run(some)
