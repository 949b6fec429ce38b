"""A rehearsal at NSD's full size: every step of one subject through its command, with time and peak memory.

    python -m benchmarks.full_size FOLDER [--scale S] [--steps NAME,...] [--limit MINUTES] [--again] [--list]

FOLDER takes the experiment, the cache and results.json: 20 GB and some hours at full size, so give a limit; what was
running then is stopped as a batch system would stop it, and the same command goes on. --steps takes names or their
beginnings (make, prepare, extract, fit-local, fit-local-100, score, ...), each of which needs those before it;
--scale 0.02 shows in minutes that all work. Peak memory is of the command's process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import full_baselines, full_subject
from benchmarks.full_baselines import BACKBONE
from benchmarks.full_subject import FITTED, GROUPS, HDF5, NIFTI, SESSIONS, Size
from boldreams_cli.console import StoppedError
from boldreams_cli.encoding import readouts
from boldreams_cli.features.store.feature_store import stores

PERCENTS = ("10", "100")
MEMORY = {"local": "5G"}  # of others the command's own default
PRODUCTS = {"prepare": "responses", "extract": "store", "fit": "model"}  # command -> where it says what it made
GRACE = 60  # seconds that a command has to stop


@dataclass(frozen=True)
class Step:
    """One line of the table.

    Parameters
    ----------
    name : for --steps.
    command : of boldreams, without the options that all have; or a function of this program, by its name.
    memory : --memory, where it is not the default.
    """

    name: str
    command: tuple[str, ...]
    memory: str | None = None


def all_steps() -> list[Step]:
    """All, in order; readouts are those that there are."""
    subject = ("--subject", str(FITTED))
    steps = [
        Step("make", ("write_experiment",)),
        Step("prepare-hdf5", ("prepare", "--subject", str(HDF5))),
        Step("prepare-nii", ("prepare", "--subject", str(NIFTI))),
        Step("baseline-bytes", ("read_bytes",)),
        Step("extract", ("extract", "--backbone", BACKBONE, "--subject", str(HDF5))),
        Step("baseline-forward", ("bare_forward",)),
        Step("betas", ("write_responses",)),
        Step("prepare-fitted", ("prepare", *subject)),
        Step("rank", ("rank", "--backbone", BACKBONE, *subject)),
    ]
    solvers = [solver for solver in readouts.load().values() if solver.reads == "images"]
    models = []
    for percent in PERCENTS:
        for solver in solvers:
            chosen = ("--percent", percent, "--readout", solver.readout)
            chosen += ("--recipe", solver.recipe) if solver.recipe else ()
            models.append((f"{solver.recipe or solver.name}-{percent}", chosen))
            steps.append(Step(f"fit-{models[-1][0]}", ("fit", *chosen, *subject), MEMORY.get(solver.name)))
    steps += [Step(f"score-{name}", ("score", *chosen, *subject)) for name, chosen in models]
    steps += [Step("baseline-product", ("matrix_product",)), Step("baseline-himalaya", ("himalaya_ridge",))]
    fast = ("--percent", "10", "--readout", "separable", "--recipe", "fast", *subject)
    return [
        *steps,
        Step("dream", ("dream", *fast, "--roi", "V1")),
        Step("attribute", ("attribute", *fast, "--roi", "V1", "--count", "1")),
    ]


def write_experiment(rehearsal: Rehearsal) -> dict[str, Any]:
    """Write all but the fitted subject's betas."""
    full_subject.make(rehearsal.root, rehearsal.size)
    return {}


def write_responses(rehearsal: Rehearsal) -> dict[str, Any]:
    """Write the fitted subject's betas, which follow from the feature store."""
    full_subject.write_fitted(rehearsal.root, stores(rehearsal.cache, BACKBONE)[0], rehearsal.size)
    return {}


# Of this program, each in a process of its own.
OWN: dict[str, Callable[[Rehearsal], dict[str, Any]]] = {
    "write_experiment": write_experiment,
    "write_responses": write_responses,
    "read_bytes": lambda it: full_baselines.read_bytes(it.root),
    "bare_forward": lambda it: full_baselines.bare_forward(),
    "matrix_product": lambda it: full_baselines.matrix_product(it.cache),
    "himalaya_ridge": lambda it: full_baselines.himalaya_ridge(it.cache),
}


class Rehearsal:
    """The steps in one folder.

    Parameters
    ----------
    folder : of the experiment, the cache and the results.
    scale : of the experiment.
    weights : of the backbone.
    """

    def __init__(self, folder: Path, scale: float, weights: str) -> None:
        self.folder, self.size, self.weights = folder.resolve(), Size(scale), weights
        self.root, self.cache, self.file = self.folder / "nsd", self.folder / "cache", self.folder / "results.json"
        self.done: dict[str, dict[str, Any]] = {}
        if self.file.is_file():
            kept = json.loads(self.file.read_text(encoding="utf-8"))
            if kept["scale"] != scale:
                raise SystemExit(f"{self.folder} is of scale {kept['scale']}; give another folder")
            self.done = kept["steps"]

    def run(self, step: Step, seconds: float) -> bool:
        """Run a step to its end, or to the limit; False where it did not end."""
        command = self.command(step)
        log = self.folder / "logs" / f"{step.name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        with log.open("w", encoding="utf-8") as stream, (log.with_suffix(".json")).open("w") as out:
            child = subprocess.Popen(command, stdout=out, stderr=stream, env=os.environ | {"PYTHONUNBUFFERED": "1"})
            status, usage = _wait(child, seconds)
        took = time.perf_counter() - start
        before = self.done.get(step.name, {"seconds": 0.0, "cpu": 0.0, "peak": 0.0, "parts": 0, "finished": False})
        if before["finished"]:
            before = before | {"seconds": 0.0, "cpu": 0.0, "peak": 0.0, "parts": 0}
        self.done[step.name] = {
            "command": " ".join(command[1:]),
            "seconds": before["seconds"] + took,
            "cpu": before["cpu"] + usage.ru_utime + usage.ru_stime,
            "peak": max(before["peak"], usage.ru_maxrss * 1024),
            "parts": before["parts"] + 1,
            "finished": status == 0,
            "status": status,
            "date": date.today().isoformat(),
            "said": _json(log.with_suffix(".json")),
        }
        self.save()
        if status not in (0, StoppedError.exit_code):
            print(f"{step.name} failed with {status}; its last lines, of {log}:", file=sys.stderr)
            print("\n".join(log.read_text(encoding="utf-8").splitlines()[-5:]), file=sys.stderr)
        return status == 0

    def forget(self, step: Step) -> None:
        """Delete what a step made: with it there, the command would find all done, and be timed doing nothing."""
        made = (self.done.get(step.name, {}).get("said") or {}).get(PRODUCTS.get(step.command[0], ""))
        if made is not None and Path(made).is_relative_to(self.cache):
            shutil.rmtree(made, ignore_errors=True)

    def command(self, step: Step) -> list[str]:
        """The command line of a step."""
        if step.command[0] in OWN:
            own = [str(self.folder), "--scale", str(self.size.scale), "--weights", self.weights]
            return [sys.executable, "-m", "benchmarks.full_size", *own, "--run", step.command[0]]
        boldreams = [sys.executable, "-m", "boldreams_cli.cli", *step.command, "--cache", str(self.cache), "--json"]
        if step.command[0] != "rank":
            boldreams += ["--nsd-root", str(self.root)]
        if step.command[0] == "extract":
            boldreams += ["--weights", self.weights]
        return boldreams + (["--memory", step.memory] if step.memory else [])

    def save(self) -> None:
        """Write the results."""
        text = json.dumps({"scale": self.size.scale, "steps": self.done}, indent=1)
        self.file.write_text(text + "\n", encoding="utf-8")

    def table(self) -> str:
        """All results as they go into RESULTS.md."""
        size = self.size
        lines = [
            f"One subject of {SESSIONS} sessions of {size.trials} trials, {size.images:,} images, "
            f"{size.voxels * GROUPS:,} voxels of "
            f"{' x '.join(map(str, size.grid))}; {platform.machine()}, {os.cpu_count()} cores, "
            f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '-')}, weights {Path(self.weights).name}; "
            f"`python -m benchmarks.full_size FOLDER --scale {size.scale:g}`.",
            "",
            "| step | minutes | of a core | peak, GB | date | |",
            "|---|---|---|---|---|---|",
        ]
        for name, one in self.done.items():
            notes = [] if one["finished"] else [f"not finished ({one['status']})"]
            notes += [f"in {one['parts']} parts"] if one["parts"] > 1 else []
            notes += [f"{key} {value:.3f}" for key, value in (one["said"] or {}).items() if key == "r_mean"]
            lines.append(
                f"| {name} | {one['seconds'] / 60:.2f} | {one['cpu'] / 60:.2f} | {one['peak'] / 1e9:.2f} | "
                f"{one['date']} | {', '.join(notes)} |"
            )
        return "\n".join([*lines, "", "| ratio | measured | must reach |", "|---|---|---|", *self.ratios()])

    def ratios(self) -> list[str]:
        """Rows of the ratios of which both sides are there."""
        finished = {name: one for name, one in self.done.items() if one["finished"]}
        return [f"| {what} | {value:.3g} | {target} |" for what, value, target in full_baselines.ratios(finished)]


def _wait(child: subprocess.Popen[bytes], seconds: float) -> tuple[int, Any]:
    """Wait for a command, for so long; then have it stop. Its status, and what it used."""
    stop, told = time.monotonic() + seconds, 0.0
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode, usage
        now = time.monotonic()
        if now > stop and not told:
            told = now
            child.send_signal(signal.SIGTERM)
        if told and now > told + GRACE:
            child.kill()
        time.sleep(0.02)


def _json(path: Path) -> dict[str, Any] | None:
    """What a command said, without what is long."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return None
    return {key: value for key, value in said.items() if not isinstance(value, list | dict)}


def chosen_steps(asked: str | None) -> list[Step]:
    """Steps whose names are asked for, or begin so."""
    steps = all_steps()
    wanted = [name.strip() for name in (asked or "").split(",") if name.strip()]
    for name in wanted:
        if not any(step.name.startswith(name) for step in steps):
            raise SystemExit(f"no step {name!r}; there are {' '.join(step.name for step in steps)}")
    # A whole name is that step alone: fit-ridge-10 is not fit-ridge-100.
    names = {step.name for step in steps}
    return [
        step
        for step in steps
        if not wanted or any(step.name == name or (name not in names and step.name.startswith(name)) for name in wanted)
    ]


def main() -> None:
    """Run steps, and print the table of all that are done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--scale", type=float, default=1.0, help="of images, trials and voxels")
    parser.add_argument("--steps", help="names or their beginnings (default: all)")
    parser.add_argument("--limit", type=float, default=float("inf"), help="minutes in all")
    parser.add_argument("--weights", default="random", help="of AlexNet: a file, pretrained or random")
    parser.add_argument("--again", action="store_true", help="run steps again that are done, what they made deleted")
    parser.add_argument("--list", action="store_true", help="name the steps, and run none")
    parser.add_argument("--run", choices=[*OWN], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    rehearsal = Rehearsal(asked.folder, asked.scale, asked.weights)
    if asked.run:
        print(json.dumps(OWN[asked.run](rehearsal)))
        return
    stop = time.monotonic() + 60 * asked.limit
    for step in chosen_steps(asked.steps):
        done = step.name in rehearsal.done and rehearsal.done[step.name]["finished"]
        if asked.list:
            print(f"{step.name:24} {' '.join(step.command)}{'  (done)' if done else ''}")
        elif asked.again or not done:
            if done:
                rehearsal.forget(step)
            left = stop - time.monotonic()
            if left <= 0 or not rehearsal.run(step, left):
                break
            print(f"{step.name}: {rehearsal.done[step.name]['seconds']:.1f} s", file=sys.stderr, flush=True)
    if not asked.list:
        print(rehearsal.table())


if __name__ == "__main__":
    main()
