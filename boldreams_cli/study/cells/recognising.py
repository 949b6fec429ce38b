"""Cells whose models and scores are in the cache already, made by another study or by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from boldreams_cli.console import BoldreamsError, logger
from boldreams_cli.data.prepared.choosing import at_hand, names_of, root_of
from boldreams_cli.data.prepared.preparing import complete_stores, store_path
from boldreams_cli.data.responses import Responses
from boldreams_cli.data.subjects import Subject
from boldreams_cli.encoding.evaluation.saved.files import saved_summary
from boldreams_cli.encoding.fit import model_spec
from boldreams_cli.encoding.inputs.shared import Inputs
from boldreams_cli.encoding.model.folder import model_folder
from boldreams_cli.encoding.model.spec import FittedModel, is_whole
from boldreams_cli.encoding.result import LOG
from boldreams_cli.features.choosing import the_store
from boldreams_cli.study.cells.manifest import DONE, Study, edition_of, of_other_pixels, unchanged
from boldreams_cli.study.cells.running import CAUGHT, facts, settings_of, solver_of


def recognised(study: Study, subject: Subject, backbone: str, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
    """What is to be noted of those cells that are done; nothing is prepared, fitted or written.

    Parameters
    ----------
    study : that the cells are of.
    subject, backbone : of all of them.
    numbers : of the cells; of finetuned ones, and those whose maps were deleted, only such as were noted as done are
        recognised.
    """
    found: dict[int, dict[str, Any] | None] = {}
    try:
        responses = Responses.open(prepared(study, subject))
        for number in numbers:
            found[number] = _scored_again(study, number, responses)
        rest = [number for number in numbers if found[number] is None and not study.cells[number].finetune]
        if rest:
            store = the_store(study.cache, backbone, study.settings.get("features"), names_of(responses.request))
            inputs = Inputs(store, responses, torch.device("cpu"), study.cache / "scratch")
            for number in rest:
                found[number] = _fitted(study, number, inputs)
    except CAUGHT as error:  # which the run, or the plan, says of each cell
        logger.debug("subject %s, %s: %s", subject, backbone, error)
    return {number: noted for number, noted in found.items() if noted is not None}


def still_done(study: Study, subject: Subject, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
    """What is to be noted of those cells of a subject that were noted as done and are, but for other scores."""
    try:
        responses = Responses.open(prepared(study, subject))
        found = {number: _scored_again(study, number, responses) for number in numbers}
    except CAUGHT as error:
        logger.debug("subject %s: %s", subject, error)
        return {}
    return {number: noted for number, noted in found.items() if noted is not None}


def _fitted(study: Study, number: int, inputs: Inputs) -> dict[str, Any] | None:
    """What is to be noted of a cell whose model reads the store's maps, if it is there with its scores."""
    cell = study.cells[number]
    spec = model_spec(inputs, settings_of(cell, study.settings), solver_of(cell, study.settings))
    folder = model_folder(study.cache, spec)
    there = is_whole(folder, spec.key) if (folder / LOG).is_file() else None
    model = None if there is None else FittedModel(folder, there)
    summary = None if model is None else saved_summary(model)
    return (
        None
        if model is None or summary is None
        else facts(study, model, summary, inputs.responses, inputs.store.path.name)
    )


def _scored_again(study: Study, number: int, responses: Responses) -> dict[str, Any] | None:
    """The same of a cell that was noted: all but its scores, which are still the model's, is as it was."""
    noted, store = study.noted(number), None
    if noted.get("outcome") != DONE or noted["responses"] != responses.path.name:
        return None
    if "pixels" in noted and of_other_pixels(noted, study.cache):
        return None
    if not study.cells[number].finetune:  # whose maps may have been deleted since
        store = noted.get("store")
        if store is None or edition_of(study.cache, store) not in (None, noted["edition"]):
            return None
    folder = study.cache / noted["model"]
    spec = is_whole(folder, noted["key"])
    model = None if spec is None else FittedModel(folder, spec)
    summary = None if model is None else saved_summary(model)
    if model is None or summary is None:
        return None
    scored = {Path(file).relative_to(study.cache).as_posix() for file in summary["files"]}
    others = {name: stamp for name, stamp in noted["files"].items() if name not in scored}
    return facts(study, model, summary, responses, store) if unchanged(others, study.cache) else None


def prepared(study: Study, subject: Subject) -> Path:
    """The responses of a subject.

    Raises
    ------
    BoldreamsError
        If the cache lacks them.
    """
    settings = study.settings
    dataset = at_hand(root_of(study.cache, subject, study.data_root), subject, settings.get("betas"))
    known = complete_stores(study.cache, subject)
    if dataset is not None:
        path = store_path(study.cache, dataset.request(subject, settings.get("sessions"), settings.get("mask")))
        known = [path] if path in known else []
    if len(known) != 1:
        raise BoldreamsError(f"subject {subject} is not prepared yet: boldreams prepare --subject {subject}")
    return known[0]
