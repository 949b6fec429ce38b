"""Runs the cells of one subject and backbone, which share what they read (encoding/inputs/shared.py)."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import asdict, fields, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from boldreams_cli import plots
from boldreams_cli.console import BoldreamsError, ChoiceError, StopFlag, StoppedError, listing, logger
from boldreams_cli.data.opening import open_dataset
from boldreams_cli.data.prepared.choosing import names_of, responses_for, root_of
from boldreams_cli.data.responses import Responses
from boldreams_cli.data.subjects import Subject
from boldreams_cli.encoding import fit as fitting
from boldreams_cli.encoding.evaluation import score as scoring
from boldreams_cli.encoding.evaluation.saved.files import SCORES, Draw, save, saved_summary
from boldreams_cli.encoding.evaluation.saved.identity import FORMAT
from boldreams_cli.encoding.finetuning import processes
from boldreams_cli.encoding.finetuning.run import finetune
from boldreams_cli.encoding.finetuning.settings import FinetuneSettings
from boldreams_cli.encoding.finetuning.start import Source
from boldreams_cli.encoding.inputs.layout import MapLayout
from boldreams_cli.encoding.inputs.maps import usable
from boldreams_cli.encoding.inputs.shared import Inputs, KeptResponses
from boldreams_cli.encoding.model.folder import added_to
from boldreams_cli.encoding.model.spec import BACKBONE, WEIGHTS, FittedModel
from boldreams_cli.encoding.readouts.base import Readout
from boldreams_cli.encoding.readouts.settings import OF_OPTIONS, FitSettings, check_precision, choose_readout
from boldreams_cli.encoding.result import LOG
from boldreams_cli.features.backbones import entry
from boldreams_cli.features.choosing import the_store
from boldreams_cli.features.store.feature_store import FeatureStore
from boldreams_cli.machine import float32_products, is_out_of_memory
from boldreams_cli.study.cells.drawing import Elsewhere
from boldreams_cli.study.cells.grid import Cell
from boldreams_cli.study.cells.manifest import DONE, FAILED, STARTED, STOPPED, Study, stamps
from boldreams_cli.study.cells.room import data_bytes, layouts_of, side_by_side

# Settings of the command line, and what finetuning calls them.
OF_TUNING = {"backbone_lr": "backbone_rate"} | {
    name: name for name in ("clip_gradient", "warmup", "batch_norm", "validation_fraction", "early_stop")
}
SECONDS = 1  # between looks for a signal while cells run side by side
CAUGHT = (BoldreamsError, OSError, MemoryError, RuntimeError, ValueError, LookupError)  # of one cell; the others go on


def solver_of(cell: Cell, settings: dict[str, Any]) -> Readout:
    """The readout of a cell with those of the settings that it has.

    Raises
    ------
    ChoiceError
        If there is none, or a value makes no sense.
    """
    reads = entry(cell.backbone).reads
    plain = choose_readout(cell.readout, cell.recipe, reads, {})
    names = {field.name for field in fields(plain.settings)}
    given = {theirs: settings.get(ours) for ours, theirs in OF_OPTIONS.items() if theirs in names}
    return choose_readout(cell.readout, cell.recipe, reads, given)


def check(study: Study, device: str) -> None:
    """Refuse a study before anything of it runs.

    Parameters
    ----------
    study : to run.
    device : to compute on: its kind, or ``auto`` where it is not known yet.

    Raises
    ------
    ChoiceError
        If a backbone, readout or recipe is unknown, or a setting is one that no cell or not this device has.
    """
    check_precision(study.settings.get("precision"), device)
    taken: set[str] = set()
    for cell in dict.fromkeys(replace(cell, subject=1, percent=1.0, seed=0) for cell in study.cells):
        solver = solver_of(cell, study.settings)
        settings_of(cell, study.settings).check()
        taken |= {name for name, theirs in OF_OPTIONS.items() if hasattr(solver.settings, theirs)}
        if cell.finetune:
            _tuned(cell, study.settings).check()
            taken |= OF_TUNING.keys() | {"micro_batch", "weights"}
    always = {"sessions", "mask", "betas", "features", "rf", "weights"}
    if unused := study.settings.keys() - taken - always:
        raise ChoiceError(f"no cell of the study has the setting {listing(sorted(unused))}; leave it out")


def settings_of(cell: Cell, settings: dict[str, Any]) -> FitSettings:
    """What every readout of a cell is fitted by."""
    return FitSettings(cell.percent, settings.get("rf") or "shared", cell.seed)


def _tuned(cell: Cell, settings: dict[str, Any]) -> FinetuneSettings:
    names = {
        ours: theirs
        for ours, theirs in (OF_OPTIONS | OF_TUNING).items()
        if ours not in ("grid", "compress", "members", "share")
    }
    given = {theirs: settings[ours] for ours, theirs in names.items() if settings.get(ours) is not None}
    return FinetuneSettings(**asdict(settings_of(cell, settings)), **given)


class Group:
    """Cells of one subject and backbone; what they share is read when the first asks for it.

    Parameters
    ----------
    study : that they are of.
    subject, backbone : of the cells.
    device : to compute on.
    memory : bytes to use at most, about.
    stop : looked at while fitting.
    together : cells to run side by side at most.
    done : what is noted of a cell that is done; asked again when its lock is held.
    """

    def __init__(
        self,
        study: Study,
        subject: Subject,
        backbone: str,
        device: torch.device,
        memory: int,
        stop: StopFlag,
        together: int = 1,
        done: Callable[[int], object | None] = lambda _: None,
    ) -> None:
        self.study, self.subject, self.backbone, self.done = study, subject, backbone, done
        self.device, self.memory, self.stop, self.together = device, memory, stop, together
        self._pooled = True
        self._draw: Draw = plots.accuracy

    @cached_property
    def responses(self) -> KeptResponses:
        """Of the subject, prepared where the cache lacks them."""
        settings = self.study.settings
        return KeptResponses(
            responses_for(
                *(self.study.cache, self.subject, self.study.data_root),
                *(settings.get("sessions"), settings.get("mask"), self.stop),
                betas=settings.get("betas"),
            )
        )

    @cached_property
    def store(self) -> FeatureStore:
        """Of the backbone's maps."""
        return the_store(
            self.study.cache, self.backbone, self.study.settings.get("features"), names_of(self.responses.request)
        )

    @cached_property
    def inputs(self) -> Inputs:
        """What the fits share."""
        return Inputs(self.store, self.responses, self.device, self.study.cache / "scratch", keep=self.memory)

    def ordered(self, numbers: Sequence[int]) -> list[int]:
        """Cells that read pooled maps, then the others; of each the larger percents first, which hold the smaller's."""

        return sorted(numbers, key=lambda number: (*self._reads(number), -self.study.cells[number].percent))

    def _reads(self, number: int) -> tuple[bool, bool]:
        """Whether a cell reads images, and whether it reads whole maps rather than pooled ones."""
        cell = self.study.cells[number]
        return cell.finetune, not solver_of(cell, self.study.settings).pooled

    def run(self, numbers: Sequence[int]) -> None:
        """Fit and score cells; those that another process has in hand come last.

        Raises
        ------
        StoppedError
            If a signal came.
        """
        waiting: deque[int] = deque()
        for (tuned, whole), alike in groupby(self.ordered(numbers), self._reads):
            some = list(alike)
            if not tuned and whole is self._pooled:
                self._forget()  # these fits read other maps
                self._pooled = not whole
            needs = [] if tuned else self._needs(some)
            while some:
                count, memory = self._side_by_side(needs)
                if count > 1:
                    self._work_together(count, deque(some), waiting, memory)
                    break
                self._work(deque(some[:1]), waiting, self.memory)  # the largest; smaller ones may fit side by side
                some, needs = some[1:], needs[1:]
        for number in waiting:
            with self.study.lock(number, wait=True, stop=self.stop):
                self._cell(number, self.memory)

    def _work(self, todo: deque[int], waiting: deque[int], memory: int) -> None:
        """Take one cell after another off `todo`; what another process has in hand goes to `waiting`."""
        while todo:
            try:
                number = todo.popleft()
            except IndexError:  # another thread was quicker
                return
            lock = self.study.lock(number)
            if not lock.take():
                waiting.append(number)
                continue
            try:
                self._cell(number, memory)
            except BaseException:
                todo.clear()  # the others end with the cells that they have in hand
                raise
            finally:
                lock.release()

    def _work_together(self, count: int, todo: deque[int], waiting: deque[int], memory: int) -> None:
        """The same by several threads, among which torch's are divided.

        Small products leave cores idle, and a fit's reading, saving and scoring run on one. What is computed does not
        depend on the number of threads, where products are strict (`same_products`).
        """
        threads = torch.get_num_threads()
        each = max(1, threads // count)
        logger.info("%d cells at a time, %d thread%s each", count, each, "s" * (each > 1))
        torch.set_num_threads(each)
        try:
            with closing(Elsewhere()) as drawing:
                self._draw = drawing.accuracy
                with ThreadPoolExecutor(count, "cells") as pool:
                    at_work = [pool.submit(self._work, todo, waiting, memory) for _ in range(count)]
                    while wait(at_work, timeout=SECONDS).not_done:
                        pass  # a signal that came as this thread fell asleep is heard when it wakes
                for one in at_work:
                    one.result()
        finally:
            self._draw = plots.accuracy
            torch.set_num_threads(threads)

    def _side_by_side(self, needs: Sequence[int]) -> tuple[int, int]:
        """How many fits that need so much memory run at once, and the memory of each."""
        threads = min(torch.get_num_threads(), self.together)
        if len(needs) < 2 or threads == 1 or self.device.type != "cpu":
            return 1, 0
        return side_by_side(needs, threads, usable(self.memory), self.inputs.kept_bytes(self._pooled))

    def _needs(self, numbers: Sequence[int]) -> list[int]:
        """Bytes that each fit takes; what they share is read here. Empty where it cannot be, which each cell says."""
        if len(numbers) == 1:
            return []
        try:
            betas, _, _ = self.inputs.betas, self.inputs.ranked, self.inputs.rows
            counts = (len(betas.image_ids), len(betas.images), len(betas.columns))
            cells = [self.study.cells[number] for number in numbers]
            return [
                data_bytes(
                    *(solver_of(cell, self.study.settings), self.store, self._layouts(cell)),
                    *(*counts, usable(self.memory)),
                )
                for cell in cells
            ]
        except CAUGHT:
            return []

    def _layouts(self, cell: Cell) -> list[MapLayout]:
        return layouts_of(self.store, cell.percent, self.study.settings.get("rf") or "shared")

    def _forget(self) -> None:
        """Let go of maps that other fits have read."""
        if "inputs" in self.__dict__:
            self.inputs.forget()

    def _cell(self, number: int, memory: int) -> None:
        """One cell, its outcome noted; its lock is held."""
        self.stop.check("finished cells are kept")
        if self.done(number) is not None:  # another process did it after this one looked
            return
        cell = self.study.cells[number]
        with self.study.logged(number):
            self.study.note(number, STARTED)  # before its first word: who reads that and kills it finds it failed
            logger.info("cell %d: %s", number, cell)
            try:
                model = self._fit(cell, memory)
                with added_to(model.folder, self.stop):  # a study of other cells, or a user, may score it too
                    summary = saved_summary(model)
                    if summary is None:
                        root = root_of(self.study.cache, self.subject, self.study.data_root)
                        scores = scoring.score(*(model, self.responses, self.study.cache, root, self.device, memory))
                        save(scores, self._draw)
                        summary = scores.summary()
                store = None if cell.finetune else self.store.path.name
                self.study.note(number, DONE, **facts(self.study, model, summary, self.responses, store))
                logger.info("cell %d: done, mean r %.4f", number, summary["r_mean"])
            except StoppedError as stopped:
                self.study.note(number, STOPPED)
                logger.info("cell %d: %s", number, stopped)
                raise
            except CAUGHT as error:
                said = said_of(error)
                logger.debug("%s", traceback.format_exc())
                logger.error("cell %d failed: %s", number, said)
                self.study.note(number, FAILED, line=said, exit_code=getattr(error, "exit_code", 1))

    def _fit(self, cell: Cell, memory: int) -> FittedModel:
        """The model of a cell, fitted unless it is there."""
        study, precision = self.study, self.study.settings.get("precision")
        if not cell.finetune:  # a readout that has no such setting computes in fp32, and says so in no spec
            precision = getattr(solver_of(cell, study.settings).settings, "precision", None)
        with float32_products(precision or "fp32", self.device):
            if not cell.finetune:
                solver = solver_of(cell, study.settings)
                return fitting.fit(
                    *(self.store, self.responses, settings_of(cell, study.settings), solver),
                    *(study.cache, self.device, memory, self.stop),
                    inputs=self.inputs,
                ).model
            root, settings = root_of(study.cache, cell.subject, study.data_root), study.settings
            source = Source(
                *(
                    study.cache,
                    open_dataset(root, settings.get("betas")),
                    cell.backbone,
                    settings.get("features"),
                    settings.get("weights"),
                ),
                lambda: self.responses,
            )
            with processes.joined(self.device) as process:
                return finetune(
                    *(source, _tuned(cell, settings), process, memory, self.stop),
                    micro_batch=settings.get("micro_batch"),
                ).model


def facts(
    study: Study, model: FittedModel, summary: dict[str, Any], responses: Responses, store: str | None
) -> dict[str, Any]:
    """What is noted of a cell that is done; `Known.done` (sweep.py) looks whether its files are still the same.

    Parameters
    ----------
    study : that the cell is of.
    model, summary : of the cell, and of its scores.
    responses : that it was fitted to.
    store : name of that of its maps; None where the backbone was finetuned.
    """
    files = [model.folder / name for name in ("spec.json", WEIGHTS, LOG, SCORES)]
    files += [Path(file) for file in summary["files"]]
    files += [responses.path / "zarr.json"] + ([model.folder / BACKBONE] if store is None else [])
    # Maps may be deleted for room afterwards; of those that are there, the edition says whether they are the same.
    training = model.spec.training
    images: dict[str, Any] = {
        name: training[name] for name in ("stimuli", "pixels") if store is None and name in training
    }
    maps = {} if store is None else {"store": store, "edition": model.spec.edition}
    return {
        "model": model.folder.relative_to(study.cache).as_posix(),
        "key": model.spec.key,
        "format": FORMAT,
        "files": stamps(list(dict.fromkeys(files)), study.cache),
        "responses": responses.path.name,
        **maps,
        **images,
        "scores": {name: value for name, value in summary.items() if name not in ("files", "model")},
    }


def said_of(error: BaseException) -> str:
    """One line of what went wrong."""
    if is_out_of_memory(error):
        return "out of memory; use a smaller --memory or --batch-size, or a larger machine"
    if isinstance(error, BoldreamsError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
