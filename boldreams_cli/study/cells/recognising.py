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
from boldreams_cli.study.cells.manifest import Study
from boldreams_cli.study.cells.running import CAUGHT, facts, settings_of, solver_of


def recognised(study: Study, subject: Subject, backbone: str, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
    """What is to be noted of those cells that are done; nothing is prepared, fitted or written.

    Parameters
    ----------
    study : that the cells are of.
    subject, backbone : of all of them.
    numbers : of the cells; finetuned ones are passed over.
    """
    found: dict[int, dict[str, Any]] = {}
    try:
        responses = Responses.open(prepared(study, subject))
        store = the_store(study.cache, backbone, study.settings.get("features"), names_of(responses.request))
        inputs = Inputs(store, responses, torch.device("cpu"), study.cache / "scratch")
        for number in numbers:
            cell = study.cells[number]
            if cell.finetune:
                continue
            spec = model_spec(inputs, settings_of(cell, study.settings), solver_of(cell, study.settings))
            folder = model_folder(study.cache, spec)
            there = is_whole(folder, spec.key) if (folder / LOG).is_file() else None
            model = None if there is None else FittedModel(folder, there)
            if model is not None and (summary := saved_summary(model)) is not None:
                found[number] = facts(study, model, summary, responses, store)
    except CAUGHT as error:  # which the run, or the plan, says of each cell
        logger.debug("subject %s, %s: %s", subject, backbone, error)
    return found


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
