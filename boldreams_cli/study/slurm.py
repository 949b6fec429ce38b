"""A study as SLURM's job arrays: scripts of plain command lines, and what its queue has in hand.

Nothing of ours stays alive. A job's state decides nothing but what is not to be submitted a second time; whether a cell
is done is what the cache says.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boldreams_cli.console import BoldreamsError, ChoiceError, StopFlag, logger
from boldreams_cli.data.subjects import Subject
from boldreams_cli.files import fingerprint, write_text
from boldreams_cli.study.cells.grid import Cell
from boldreams_cli.study.cells.manifest import FAILED, MISSING, Study
from boldreams_cli.study.needs import Need, lacking
from boldreams_cli.study.sweep import State

LARGEST_ARRAY = 1001  # SLURM's own default of MaxArraySize
DIGITS = 4  # of a cell's number in the name of its log
# What every job is given, unless --sbatch says otherwise: USR1 to the command two minutes before the time limit.
DEFAULTS = {"signal": "B:USR1@120", "requeue": "", "open-mode": "append"}
EXCLUDES = {"no-requeue": "requeue"}
OURS = ("array", "job-name", "output", "dependency", "parsable")  # not to be set with --sbatch


@dataclass(frozen=True)
class Job:
    """A job array that was submitted.

    Parameters
    ----------
    id : as SLURM calls it.
    script : that it runs.
    cells : numbers of those in it; none of an extraction.
    after : ids of the arrays that it waits for.
    """

    id: str
    script: Path
    cells: list[int]
    after: list[str]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"job": self.id, "script": str(self.script), "cells": self.cells, "after": self.after}


@dataclass(frozen=True)
class Queue:
    """What SLURM has in hand, of all of this user's jobs.

    Parameters
    ----------
    rows : (job, index in its array, state, name).
    """

    rows: list[tuple[str, str, str, str]]

    @classmethod
    def ask(cls, needed: bool = False) -> Queue | None:
        """What squeue says; None where there is none, or it does not answer.

        Raises
        ------
        BoldreamsError
            If it does not answer and its answer is `needed`: what waits would be submitted a second time.
        """
        if shutil.which("squeue") is None:
            return None
        command = ["squeue", "--me", "--noheader", "--array", "--format=%F|%K|%T|%j"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            silent = f"squeue does not answer ({_line(done.stderr)})"
            if needed:
                raise BoldreamsError(f"{silent}: nothing is submitted, as cells may be in the queue already; try again")
            logger.warning("%s: only the cache is looked at", silent)
            return None
        rows = [line.strip().split("|", 3) for line in done.stdout.splitlines() if line.count("|") >= 3]
        return cls([(job, index, state, name) for job, index, state, name in rows])

    def cells(self, study: Study) -> dict[int, str]:
        """State of each cell of a study that it has in hand."""
        found = {}
        for _, index, state, name in self.rows:
            match = re.fullmatch(re.escape(job_name(study)) + r"\.(\d+)", name)
            if match and index.isdecimal():
                found[int(match[1]) + int(index)] = state
        return found

    def job(self, name: str) -> str | None:
        """Id of the array of that name, None where it has none."""
        return next((job for job, _, _, other in self.rows if other == name), None)


def job_name(study: Study) -> str:
    """Of a study's arrays, without the number of their first cell: no two studies have the same."""
    return f"boldreams.{study.name}.{fingerprint(str(study.folder.resolve()))[:6]}"


def submit(study: Study, state: State, sbatch: Mapping[str, str], limit: int, shards: int, stop: StopFlag) -> list[Job]:
    """Submit the cells that are neither done nor in hand, and the extractions that they need before.

    Parameters
    ----------
    study : whose manifest is written.
    state : of it, with what the queue has in hand.
    sbatch : more of sbatch's long options.
    limit : cells of an array that run at a time.
    shards : tasks of an extraction's array.
    stop : looked at where a subject must be prepared to know its images.

    Raises
    ------
    ChoiceError
        If there is no SLURM here, an option is not to be set, a path is none for SLURM, or maps are to be extracted by
        hand.
    BoldreamsError
        If sbatch refuses a script, or there is a squeue that does not answer.
    """
    if shutil.which("sbatch") is None:
        raise ChoiceError(
            "no sbatch here: submit from a machine that has it, use --executor local, or run --manifest FILE "
            "--cell I-J on each machine by hand"
        )
    if wrong := [name for name in sbatch if name in OURS]:
        raise ChoiceError(f"--sbatch {wrong[0]} is set by the sweep itself; leave it out")
    _check_written(study, sbatch)
    queue, jobs = Queue.ask(needed=True), []
    study.save()
    todo = [number for number in state.of(MISSING, FAILED) if number not in state.queued]
    before: dict[tuple[Subject, str], str] = {}
    wanted = [(need, need.words(study)) for need in lacking(study, todo, stop)]  # all, before any is submitted
    for need, words in wanted:
        job = None if queue is None else queue.job(need.job_name(study))
        if job is None:
            jobs.append(_extraction(study, need, words, sbatch, shards))
            job = jobs[-1].id
        before |= {(subject, need.backbone): job for subject in need.subjects}
    for (after, first), numbers in _arrays(study, todo, before).items():
        jobs.append(_cells(study, first, numbers, after, sbatch, limit))
    return jobs


def _check_written(study: Study, sbatch: Mapping[str, str]) -> None:
    """Refuse what cannot be said in a script.

    SLURM takes every backslash out of the path of a log, and with one in it replaces no %a: of all tasks the same log.
    """
    if wrong := [name for name, value in sbatch.items() if "\n" in value]:
        raise ChoiceError(f"--sbatch {wrong[0]} has a line break; write it in one line")
    if re.search(r"[\\\n]", str(study.folder.absolute())):
        raise ChoiceError(
            f"SLURM writes no log to a path with a backslash or a line break, as {str(study.folder.absolute())!r}; "
            "rename the folder, or use another --cache DIR"
        )


def _arrays(
    study: Study, todo: Iterable[int], before: Mapping[tuple[Subject, str], str]
) -> dict[tuple[str, int], list[int]]:
    """Cells of each array, by the job that it waits for ("" for none) and the number of its first possible cell.

    `before` has the extraction of subjects and backbones.
    """
    size = array_size()
    found: dict[tuple[str, int], list[int]] = {}
    for number in todo:
        cell: Cell = study.cells[number]
        after = "" if cell.finetune else before.get((cell.subject, cell.backbone), "")
        found.setdefault((after, number // size * size), []).append(number)
    return found


def array_size() -> int:
    """Cells of an array: the largest power of ten, at most 1,000, that MaxArraySize allows.

    A power of ten, so that SLURM can write a cell's log under the cell's own number: its first digits are the array's.
    """
    limit = LARGEST_ARRAY
    if shutil.which("scontrol") is not None:
        done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False)
        if match := re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, re.MULTILINE):
            limit = int(match[1])
    if limit < 1:
        raise BoldreamsError(
            "this SLURM takes no job arrays (MaxArraySize is 0); run --manifest FILE --cell I-J by hand"
        )
    return next(size for size in (1000, 100, 10, 1) if size <= limit)


def index_list(indices: Sequence[int]) -> str:
    """Numbers as sbatch's --array takes them, e.g. ``0-3,7``."""
    parts: list[list[int]] = []
    for index in sorted(indices):
        if parts and index == parts[-1][1] + 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def _cells(study: Study, first: int, numbers: Sequence[int], after: str, sbatch: Mapping[str, str], limit: int) -> Job:
    """Submit an array of cells; each writes to the cell's log."""
    digits = len(str(array_size())) - 1
    prefix = f"{first // 10**digits:0{DIGITS - digits}d}"
    place = f"%{digits}a" if digits else ""
    given = {
        "job-name": f"{job_name(study)}.{first}",
        "array": f"{index_list([number - first for number in numbers])}%{limit}",
        "output": _escaped(study.folder / "logs") + f"/cell-{prefix}{place}.log",
    }
    if after:
        given |= {"dependency": f"afterok:{after}", "kill-on-invalid-dep": "yes"}
    number = f"$(({first} + SLURM_ARRAY_TASK_ID))" if first else "$SLURM_ARRAY_TASK_ID"
    line = f"{_command()} sweep --manifest {shlex.quote(str(study.path.absolute()))} --cell {number}"
    script = study.folder / f"cells-{first:0{DIGITS}d}{f'-after-{after}' if after else ''}.sh"
    said = f"Cells of the study {study.name}. The cache says which are done; boldreams sweep --status says it."
    return _submitted(script, said, given | _asked(sbatch), line, list(numbers), [after] if after else [])


def _extraction(study: Study, need: Need, words: list[str], sbatch: Mapping[str, str], shards: int) -> Job:
    """Submit an array that extracts a backbone's maps."""
    given = {
        "job-name": need.job_name(study),
        "array": f"0-{shards - 1}",
        "output": _escaped(study.folder / "logs") + f"/{need.stem}-%a.log",
    }
    line = " ".join([_command(), *words, "--shard-index", "$SLURM_ARRAY_TASK_ID", "--shard-count", str(shards)])
    script = study.folder / f"{need.stem}.sh"
    said = f"Maps of {need.backbone}, which the study {study.name} needs."
    return _submitted(script, said, given | _asked(sbatch), line, [], [])


def _asked(sbatch: Mapping[str, str]) -> dict[str, str]:
    """The defaults with the user's options over them."""
    gone = {EXCLUDES[name] for name in sbatch if name in EXCLUDES}
    return {name: value for name, value in DEFAULTS.items() if name not in gone} | dict(sbatch)


def _submitted(script: Path, said: str, given: Mapping[str, str], line: str, cells: list[int], after: list[str]) -> Job:
    """Write a script and hand it to sbatch; the shell becomes the command, which so gets the signals."""
    lines = ["#!/bin/bash", f"# {said}"]
    lines += [f"#SBATCH --{name}" + (f"={_quoted(value)}" if value else "") for name, value in given.items()]
    if "cpus-per-task" in given:  # more threads than cores would wait for each other
        lines.append("export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}")
    write_text(script, "\n".join([*lines, f"exec {line}"]) + "\n")
    (script.parent / "logs").mkdir(exist_ok=True)
    done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=False)
    job = done.stdout.strip().split(";")[0]
    if done.returncode or not job:
        raise BoldreamsError(f"sbatch refuses {script}: {_line(done.stderr or done.stdout)}; correct it with --sbatch")
    logger.info("job %s: %s", job, script)
    return Job(job, script, cells, after)


def _quoted(value: str) -> str:
    """A value in a script's #SBATCH line, of which SLURM takes out quotes, backslashes, and what comes after a #."""
    if not re.search(r"""[\s'"#\\]""", value):
        return value
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def _escaped(path: Path) -> str:
    """A path in sbatch's patterns, where %A, %a and so on stand for numbers."""
    return str(path.absolute()).replace("%", "%%")


def _command() -> str:
    """How this very command is called, so that a job needs no PATH."""
    if Path(sys.argv[0]).name == "boldreams":
        return shlex.quote(str(Path(sys.argv[0]).absolute()))
    return f"{shlex.quote(sys.executable)} -m boldreams_cli.cli"


def _line(text: str) -> str:
    """In one line, of which squeue says some twice."""
    lines = dict.fromkeys(" ".join(line.split()) for line in text.splitlines())
    return " ".join(line for line in lines if line) or "no word"
