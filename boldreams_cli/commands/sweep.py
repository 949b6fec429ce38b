"""`boldreams sweep`: a grid of fits and scores, in this process or as SLURM arrays."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import Output
from boldreams_cli.commands.options.sweeps import MANIFEST, Arrays, StudyChoice, slurm_options, study_options
from boldreams_cli.console import ChoiceError, StoppedError, quoted

if TYPE_CHECKING:
    import torch

    from boldreams_cli.console import StopFlag
    from boldreams_cli.study.cells.manifest import Study
    from boldreams_cli.study.sweep import State


@options.command(
    "boldreams sweep --percent 1,10,100 --subject 1",
    "boldreams sweep --backbone alexnet,vgg11 --recipe paper,fast --dry-run",
    "boldreams sweep study.toml --executor slurm --partition gpu --time 4:00:00 --gres gpu:1",
    "boldreams sweep --status cache/studies/figure-2",
    "boldreams sweep --manifest cache/studies/figure-2 --cell 0-35",
)
@options.output_options
@study_options
@options.option(
    "--executor",
    type=click.Choice(["local", "slurm"]),
    default="local",
    help="Run the cells here, or submit them to SLURM as job arrays and return.",
)
@slurm_options
@options.option("--dry-run", is_flag=True, help="Print cells, bytes to read, time and memory; compute nothing.")
@options.option("--cell", default=None, metavar="I|I-J|I,J", help="Which cells of --manifest to run (default: all).")
@options.option(
    "--status", type=MANIFEST, default=None, metavar="FILE|NAME", help="Say how far the study of a manifest is."
)
@options.option(
    "--together", type=click.IntRange(1), default=2, help="Cells to run side by side on a CPU, where memory holds them."
)
def sweep(
    choice: StudyChoice,
    executor: str,
    arrays: Arrays,
    dry_run: bool,
    cell: str | None,
    status: Path | None,
    together: int,
    output: Output,
) -> None:
    """Fit and score every cell of a grid: percents, backbones, subjects, readouts, recipes, finetuning, seeds.

    Each axis takes values with commas between them; FILE is a TOML file of the same names, and what is typed wins.
    A cell is done when its model and its scores are in the cache, whoever made them. The same command again does what
    is not done. A cell that fails does not keep the others from being done: it is listed with what was wrong and
    its log, and the exit code is 1; 75 while cells are unfinished. Submitting exits with 0, --status by how far it is.

    Cells of one subject and backbone share what they read; their weights are those of fits by themselves.
    With --executor slurm the cells become job arrays of plain boldreams commands, which need nothing that stays alive;
    --status reads the cache. Where many machines share a file system without SLURM, run --manifest with --cell I-J on
    each. table.csv in CACHE/studies/NAME has r and r / ceiling with intervals by area, backbone, readout and percent.
    """
    from boldreams_cli.console import stop_on_signals

    with stop_on_signals() as stop:
        if status is not None:
            _status(choice.of_status(status), output)
            return
        if cell is not None and choice.manifest is None:
            raise ChoiceError("--cell numbers the cells of --manifest FILE; give it as well")
        study = choice.study()
        numbers, (device, memory) = _numbers(cell, len(study.cells)), choice.machine(study)
        if dry_run:
            planned = replace(study, memory=memory)
            _plan(planned, numbers, executor == "local", options.pick_device(device), output)
        elif executor == "slurm":
            choice.excludes("--executor slurm", "cell")
            _submit(replace(study, device=device, memory=memory), arrays, stop, output)  # which the jobs read
        else:
            _run(study, numbers, functools.partial(options.pick_device, device), memory, together, stop, output)


def _run(
    study: Study,
    numbers: list[int],
    device: Callable[[], torch.device],
    memory: int,
    together: int,
    stop: StopFlag,
    output: Output,
) -> None:
    """Run cells here, and say how far the study is; the exit code is that of these cells."""
    from boldreams_cli.study.sweep import Known, look, run

    known = Known(study)
    again = functools.partial(look, study, known=known)
    try:
        run(study, numbers, device, memory, stop, known, together)
    except StoppedError:
        _show(again(), again, output)
        raise
    state = again()
    _show(state, again, output)
    if code := state.exit_code(numbers):
        raise SystemExit(code)


def _status(study: Study, output: Output) -> None:
    """Say how far a study is; the exit code says it too."""
    state = _state(study)
    _show(state, lambda: _state(study), output)
    raise SystemExit(state.exit_code())


def _numbers(text: str | None, count: int) -> list[int]:
    """``--cell`` as numbers, in order.

    Raises
    ------
    ChoiceError
        If it is none, or there is no such cell.
    """
    if text is None:
        return list(range(count))
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None:
            raise ChoiceError(f"--cell {text!r} is no list of cells; write 7, 0-35 or 1,3,5")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < count:
            raise ChoiceError(f"--cell {text}: the study has cells 0 to {count - 1}")
        found |= set(range(first, last + 1))
    return sorted(found)


def _state(study: Study, needs_queue: bool = False) -> State:
    """How far a study is, by the cache and where there is one by SLURM's queue, which may have to answer."""
    from boldreams_cli.study.cells.manifest import DONE
    from boldreams_cli.study.slurm import Queue
    from boldreams_cli.study.sweep import Known, look, recognise

    asked, known = Queue.ask(needs_queue), Known(study)
    queue = None if asked is None else asked.cells(study)
    state = look(study, queue, known)
    found = recognise(state)
    for number in found.noted.keys() - state.noted.keys():
        study.note(number, DONE, **found.noted[number])
    return found


def _plan(study: Study, numbers: list[int], shared: bool, device: torch.device, output: Output) -> None:
    from boldreams_cli.study.cells import plan, running
    from boldreams_cli.study.sweep import look, recognise

    running.check(study, device.type)
    state = recognise(look(study))
    found = plan.estimates(study, state.part(numbers), device, shared)
    output.show(state.to_dict() | {"plan": [item.to_dict() for item in found]}, *plan.lines(study, found))


def _submit(study: Study, arrays: Arrays, stop: StopFlag, output: Output) -> None:
    from boldreams_cli.study import slurm
    from boldreams_cli.study.cells import running

    running.check(study, study.device.partition(":")[0])  # of the jobs, not of this machine
    state = _state(study, needs_queue=True)
    jobs = slurm.submit(study, state, arrays.sbatch, arrays.limit, arrays.shards, stop)
    lines = [
        f"job {job.id}: {f'{len(job.cells)} cells' if job.cells else 'extraction'}"
        + (f", after job {', '.join(job.after)}" if job.after else "")
        + f" ({job.script})"
        for job in jobs
    ]
    lines = lines or ["nothing to submit: every cell is done or in the queue"]
    lines.append(f"how far it is: boldreams sweep --status {quoted(study.folder)}")
    _show(state, lambda: _state(study), output, {"jobs": [job.to_dict() for job in jobs]}, *lines)


def _show(
    state: State, again: Callable[[], State], output: Output, more: Mapping[str, Any] | None = None, *said: str
) -> None:
    """Write the table of what is done, of a look `again` if there is another, and say how far the study is."""
    from boldreams_cli.study.cells import table

    files = table.write(state, again)
    counts = state.to_dict()["cells"]
    queued = f" ({len(state.queued)} in the queue)" if state.queued else ""
    lines = [f"study: {state.study.name}, {len(state.cells)} cells"]
    lines.append(
        f"done {counts['done']}, failed {counts['failed']}, running {counts['running']}, "
        f"not started or not finished {counts['missing']}{queued}"
    )
    for number in state.of("running"):
        lines.append(f"running: cell {number} ({state.study.cells[number]}): {state.study.last_line(number)}")
    for number, line in state.why.items():
        lines.append(f"failed: cell {number} ({state.study.cells[number]}): {line}")
        lines.append(f"  log: {state.study.log(number)}")
    lines += [f"table: {files[0]}"] if files else []
    output.show(state.to_dict() | {"files": [str(path) for path in files], **(more or {})}, *lines, *said)
