"""`boldreams sweep` in this process and in several: what is done is what the cache holds."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from boldreams_cli.console import StopFlag
from boldreams_cli.encoding.model.folder import find_models
from boldreams_cli.study import sweep as study_sweep
from boldreams_cli.study.cells import table
from boldreams_cli.study.cells.manifest import Study
from boldreams_cli.study.cells.running import Group

from .. import held
from ..conftest import Run
from ..forked import Forked
from .conftest import GRID, listing

LONG = (*GRID[:-1], "60")


def environment(experiment: Path, threads: int) -> dict[str, str]:
    return os.environ | {
        "BOLDREAMS_NSD_ROOT": str(experiment),
        "BOLDREAMS_DEVICE": "cpu",
        "OMP_NUM_THREADS": str(threads),
        "BOLDREAMS_TOGETHER": "2",
    }


def start(*arguments: object, experiment: Path, threads: int = 1, first: Callable[[], None] | None = None) -> Forked:
    return Forked(arguments, environment(experiment, threads), first)


def start_anew(*arguments: object, experiment: Path, first: Callable[[], None]) -> subprocess.Popen[str]:
    """In a process that imports everything, as a user's."""
    program = f"from {first.__module__} import {first.__name__} as first; from boldreams_cli import cli; "
    command = [sys.executable, "-c", f"{program}first(); cli.main()", *map(str, arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment(experiment, 1), **pipes)


def test_cells_are_models_with_scores_and_nothing_is_done_twice(run: Run, own: Path) -> None:
    run("fit", *GRID[:2], "--percent", 10, *GRID[4:], "--cache", own)  # of another hand: it counts
    before = {row.folder: row for row in find_models(own)}
    done = run("sweep", *GRID, "--recipe", "fast,paper", "--cache", own, "--json", "--name", "two").json
    assert done["study"] == "two"
    assert done["cells"] == {"done": 4, "failed": 0, "running": 0, "missing": 0}
    assert [(m["percent"], m["recipe"]) for m in done["models"]] == [
        (1, "fast"),
        (10, "fast"),
        (1, "paper"),
        (10, "paper"),
    ]
    rows = {row.folder: row for row in find_models(own)}
    for model in done["models"]:
        row = rows[Path(model["model"])]
        assert (row.percent, row.kind, row.seed, row.r_mean) == (model["percent"], model["recipe"], 0, model["r_mean"])
    fitted = next(row for row in before.values() if row.recipe == "fast")
    assert rows[fitted.folder].date == fitted.date, "a model that is there is not fitted again"

    files = listing(own)
    again = run("sweep", *GRID, "--recipe", "fast,paper", "--cache", own, "--json", "--name", "two")
    assert again.json == done
    changed = {name for name in files if files[name] != listing(own).get(name)}
    assert all("/locks/" in name for name in changed), changed
    assert "cell" not in again.err

    table = list(csv.DictReader((own / "studies/two/table.csv").open()))
    scores = json.loads((fitted.folder / "scores.json").read_text())
    mine = {row["area"]: row for row in table if row["model"] == str(fitted.folder.relative_to(own))}
    assert mine.keys() == {"all", *scores["rois"]}
    assert float(mine["V1"]["r"]) == scores["rois"]["V1"]["r_mean"]
    assert [float(mine["V1"][f"r_ci_{end}"]) for end in ("low", "high")] == scores["rois"]["V1"]["r_ci"]
    assert float(mine["all"]["r_over_ceiling"]) == scores["accuracy"]
    assert len(json.loads((own / "studies/two/table.json").read_text())) == len(table)


@pytest.mark.usefixtures("rendered")
def test_finetuned_cells_lie_beside_the_others(run: Run, own: Path) -> None:
    grid = ("--backbone", "alexnet", "--percent", 1, "--subject", 1, "--epochs", 1, "--finetune", "no,yes")
    done = run("sweep", *grid, "--cache", own, "--json").json
    assert done["cells"] == {"done": 2, "failed": 0, "running": 0, "missing": 0}
    assert [one["finetuned"] for one in done["models"]] == [False, True]
    plain, tuned = (Path(one["model"]) for one in done["models"])
    assert {row.folder for row in find_models(own) if row.percent == 1} == {plain, tuned}
    before = listing(tuned)
    again = run("fit", *grid[:-2], "--finetune", "--cache", own, "--json")
    assert Path(again.json["model"]) == tuned
    assert listing(tuned) == before, "the fit by hand is that cell"
    for model in (plain, tuned):
        run("score", "--model", model, "--bootstrap", 100, "--cache", own)
    study = Path(done["files"][0]).parent
    report = run("report", "--cache", own, "--json").json
    assert not [said for said in report["warnings"] if "not done" in str(said)], "scores with more in them count"
    assert run("sweep", "--status", study, "--json").json["cells"]["done"] == 2
    (resized,) = (own / "stimuli").glob("*.json")
    as_made = resized.read_text()
    resized.write_text(json.dumps(json.loads(as_made) | {"content": "of other images, resized anew"}))
    assert run("sweep", "--status", study, "--json", code=75).json["cells"]["done"] == 1
    resized.write_text(as_made)
    assert run("sweep", "--status", study, "--json").json["cells"]["done"] == 2
    (tuned / "log.csv").write_text("another fit's\n")
    assert run("sweep", "--status", study, "--json", code=75).json["cells"]["done"] == 1


def test_a_table_of_an_older_look_is_not_written_over_a_newer_one(mine: Path) -> None:
    study = Study.load(mine / "studies/mine")
    newer, looked = study_sweep.look(study), []

    def again() -> study_sweep.State:
        looked.append(study.table_lock().is_held())
        return newer

    before = (study.folder / "table.csv").read_text()
    table.write(newer.part([0]), again)  # as a task of an array that looked before another's cell was done
    assert looked == [True]
    assert (study.folder / "table.csv").read_text() == before
    table.write(newer, again)
    assert looked == [True], "what is there already takes no lock"


def test_a_rerun_imports_no_torch(mine: Path, experiment: Path) -> None:
    program = (
        "import sys\nfrom boldreams_cli.cli import boldreams\n"
        "boldreams.main(sys.argv[1:], standalone_mode=False)\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules), 'a finished sweep needs neither'"
    )
    command = [sys.executable, "-c", program, "sweep", *GRID, "--cache", str(mine), "--name", "mine"]
    values = os.environ | {"BOLDREAMS_NSD_ROOT": str(experiment)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=values)
    assert done.returncode == 0, done.stderr
    assert "done 2, failed 0" in done.stdout


def test_a_rerun_looks_at_the_data_once(run: Run, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    plain = study_sweep._responses_of
    monkeypatch.setattr(study_sweep, "_responses_of", lambda study, of: (looked.append(of), plain(study, of))[1])
    assert run("sweep", *GRID, "--cache", mine, "--name", "mine", "--json").json["cells"]["done"] == 2
    assert looked == [1]

    files = listing(mine)
    study = Study.load(mine / "studies/mine")
    group = Group(study, 1, "alexnet", torch.device("cpu"), 2**30, StopFlag(), done=study_sweep.Known(study).done)
    group.run([0, 1])  # as a process does that looked before another one did them
    assert {name for name in files if files[name] != listing(mine).get(name) and "/locks/" not in name} == set()


@pytest.mark.parametrize("damage", ["model removed", "weights", "scores removed", "map removed", "other betas"])
def test_what_is_no_longer_whole_is_done_again(
    run: Run, mine: Path, experiment: Path, tmp_path: Path, damage: str
) -> None:
    model = next(mine.glob("models/subj01/alexnet/percent-1-fast-*"))
    root, digest = experiment, json.loads((model / "spec.json").read_text())["weights_digest"]
    if damage == "model removed":
        run("remove", model.name, "--cache", mine, "--yes")
    elif damage == "weights":
        (model / "weights.safetensors").write_bytes(b"x" * (model / "weights.safetensors").stat().st_size)
    elif damage == "scores removed":
        (model / "scores.json").unlink()
    elif damage == "map removed":
        (model / "correlation.nii.gz").unlink()
    else:
        root = Path(shutil.copytree(experiment, tmp_path / "nsd"))
        shutil.rmtree(next((root / "nsddata_betas").rglob("subj01")))
        shutil.copytree(
            next((root / "nsddata_betas").rglob("subj02")), next((root / "nsddata_betas").rglob("ppdata")) / "subj01"
        )
        failed = run("sweep", *GRID, "--cache", mine, "--name", "mine", "--nsd-root", root, "--json", code=1).json
        assert failed["cells"]["failed"] == 2
        assert "other betas" in failed["failures"][0]["line"]
        return
    again = run("sweep", *GRID, "--cache", mine, "--name", "mine", "--json")
    assert again.err.count("done, mean r") == 1
    assert again.json["cells"]["done"] == 2
    assert json.loads((model / "spec.json").read_text())["weights_digest"] == digest
    assert (model / "correlation.nii.gz").is_file()


def test_cells_stay_done_when_their_features_are_deleted_for_room(run: Run, mine: Path) -> None:
    shutil.rmtree(mine / "features")
    again = run("sweep", *GRID, "--cache", mine, "--name", "mine", "--json")
    assert again.json["cells"]["done"] == 2
    assert "cell" not in again.err
    run("predict", "--percent", 1, "--cache", mine)  # through the network


def test_what_is_added_to_scores_changes_nothing_of_a_study_without_its_features(run: Run, mine: Path) -> None:
    run("score", "--percent", 1, "--recipe", "fast", "--cache", mine, "--bootstrap", 100)
    shutil.rmtree(mine / "features")
    assert run("sweep", *GRID, "--cache", mine, "--name", "mine", "--json").json["cells"]["done"] == 2
    assert run("sweep", "--status", mine / "studies/mine", "--json").json["cells"]["done"] == 2


def test_scores_of_an_earlier_version_are_made_again(run: Run, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_sweep, "FORMAT", 999)
    for module in ("evaluation.saved.identity", "evaluation.saved.files"):
        monkeypatch.setattr(f"boldreams_cli.encoding.{module}.FORMAT", 999)
    monkeypatch.setattr("boldreams_cli.study.cells.running.FORMAT", 999)
    monkeypatch.setattr("boldreams_cli.study.report.collect.FORMAT", 999)
    page = Path(run("report", "--cache", mine, "--json").json["file"])
    assert "is of an earlier version" in page.read_text()
    assert run("sweep", "--status", mine / "studies/mine", "--json", code=75).json["cells"]["missing"] == 2
    again = run("sweep", *GRID, "--cache", mine, "--name", "mine", "--json")
    assert again.err.count("done, mean r") == 2
    assert json.loads(next(mine.glob("models/*/*/*/scores.json")).read_text())["format"] in (5, 999)
    assert run("sweep", "--status", mine / "studies/mine", "--json").json["cells"]["done"] == 2


def test_cells_side_by_side_are_those_of_fits_by_themselves(run: Run, own: Path, experiment: Path) -> None:
    """Two threads for torch: two cells at a time, one thread each; the same weights and scores, each cell its log."""
    other = Path(shutil.copytree(own, own.with_name("other")))
    kinds = ("--readout", "separable,ridge", "--recipe", "paper,fast", "--epochs", 3)
    grid = ("sweep", *GRID[:6], *kinds, "--name", "mine", "--json", "--cache")
    both = {cache: start(*grid, cache, experiment=experiment, threads=n) for cache, n in ((own, 2), (other, 1))}
    said = {cache: process.communicate() for cache, process in both.items()}
    assert [process.returncode for process in both.values()] == [0, 0], said
    assert said[own][1].count("2 cells at a time, 1 thread each") == 2, "of pooled maps, then of whole ones"
    assert "at a time" not in said[other][1]
    folders = [Path(one["model"]).relative_to(own) for one in json.loads(said[own][0])["models"]]
    assert len(folders) == 6
    for folder in folders:
        digests = [json.loads((cache / folder / "spec.json").read_text())["weights_digest"] for cache in both]
        assert digests[0] == digests[1], folder
        tables = [(cache / folder / "voxels.csv").read_text() for cache in both]
        assert tables[0] == tables[1], folder
        figures = [(cache / folder / "figures/rois.png").read_bytes() for cache in both]
        assert figures[0] == figures[1], "another process drew those of cells side by side"
    for number in range(6):
        named = re.findall(r" cell (\d+): ", Study.load(own / "studies/mine").log(number).read_text())
        assert named == [str(number)] * 2, "started and done, and no other cell's lines"


def test_a_signal_stops_cells_side_by_side(run: Run, own: Path, experiment: Path) -> None:
    grid = ("sweep", *GRID, "--cache", own, "--name", "mine", "--json")
    process = start(*grid, experiment=experiment, threads=2, first=held.before_the_first_fit)
    logs = [own / f"studies/mine/logs/cell-000{number}.log" for number in (0, 1)]
    _wait(lambda: all(log.exists() and ", fast, seed 0" in log.read_text() for log in logs), process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == 75, err
    assert json.loads(out)["cells"] == {"done": 0, "failed": 0, "running": 0, "missing": 2}
    assert all("stopped by SIGTERM" in log.read_text() for log in logs)


def test_a_copied_cache_is_done_by_what_it_holds(run: Run, swept: Path, tmp_path: Path) -> None:
    """Copies have other times of change; files are then told by their content, once."""
    copy = Path(shutil.copytree(swept, tmp_path / "copy", copy_function=shutil.copy))
    again = run("sweep", *GRID, "--cache", copy, "--name", "mine", "--json")
    assert again.json["cells"]["done"] == 2
    assert "cell" not in again.err, "nothing is fitted or scored again"
    note = json.loads((copy / "studies/mine/cells/0000.json").read_text())
    assert all((copy / name).stat().st_mtime_ns == stamp[1] for name, stamp in note["files"].items())
    weights = next(copy.glob("models/subj01/alexnet/percent-1-fast-*/weights.safetensors"))
    spoilt = bytearray(weights.read_bytes())
    spoilt[-1] ^= 1
    weights.write_bytes(spoilt)
    assert run("sweep", "--status", copy / "studies/mine", "--json", code=75).json["cells"]["done"] == 1


def test_saying_how_far_it_is_writes_no_locks(run: Run, own: Path) -> None:
    run("sweep", "--backbone", "vgg11", *GRID[2:], "--cache", own, "--name", "mine", code=1)
    shutil.rmtree(own / "studies/mine/locks")
    before = listing(own)
    assert run("sweep", "--status", own / "studies/mine", "--json", code=1).json["cells"]["failed"] == 2
    assert listing(own) == before


def test_what_runs_is_named_with_what_it_said_last(run: Run, own: Path) -> None:
    run("sweep", "--backbone", "vgg11", *GRID[2:], "--cache", own, "--name", "mine", code=1)
    study = Study.load(own / "studies/mine")
    study.log(1).write_text("fit vgg11: 1/3 epochs\nfit vgg11: 2/3 epochs\n")
    with study.lock(1):
        status = run("sweep", "--status", study.folder, code=75).out
    assert "running: cell 1 (subject 1, vgg11, 10 %, fast, seed 0): fit vgg11: 2/3 epochs" in status
    assert "running: cell 0" not in status


def test_a_cell_that_fails_is_named_and_the_others_are_done(run: Run, own: Path) -> None:
    grid = ("--backbone", "vgg11,alexnet", *GRID[2:], "--cache", own)
    done = run("sweep", *grid, "--json", code=1)
    assert done.json["cells"] == {"done": 2, "failed": 2, "running": 0, "missing": 0}
    failure = done.json["failures"][0]
    assert failure["cell"] == 0
    assert failure["line"].endswith("holds no store of vgg11; run boldreams extract --backbone vgg11")
    log = Path(failure["log"])
    assert log.read_text().splitlines()[-1].endswith(failure["line"])
    log.write_text(f"{log.read_text()}table: studies/mine/table.csv\n")  # as a job prints there at its end
    status = run("sweep", "--status", Path(done.json["manifest"]).parent, code=1).out
    assert "done 2, failed 2, running 0" in status
    assert f"failed: cell 0 (subject 1, vgg11, 1 %, fast, seed 0): {failure['line']}" in status


def test_cells_by_number_and_status(run: Run, mine: Path) -> None:
    manifest = mine / "studies/mine"
    for row in find_models(mine, recipe="fast"):
        run("remove", row.folder.name, "--cache", mine, "--yes")
    status = run("sweep", "--status", "mine", "--cache", mine, "--json", code=75).json
    assert status["cells"] == {"done": 0, "failed": 0, "running": 0, "missing": 2}
    one = run("sweep", "--manifest", manifest / "manifest.json", "--cell", 1, "--json").json
    assert one["cells"] == {"done": 1, "failed": 0, "running": 0, "missing": 1}
    assert [model["percent"] for model in one["models"]] == [10]
    shutil.rmtree(manifest / "cells")  # notes spare work; the cache is the truth
    assert run("sweep", "--status", manifest, "--json", code=75).json["cells"]["done"] == 1
    run("sweep", "--manifest", manifest, "--cell", "0-1")
    assert run("sweep", "--status", manifest, "--json").json["cells"]["done"] == 2


def test_killed_in_the_middle_and_two_at_once(run: Run, own: Path, experiment: Path) -> None:
    grid = ("sweep", *LONG, "--cache", own, "--name", "mine", "--json")
    study = own / "studies/mine"
    first = start(*grid, experiment=experiment, first=held.before_the_first_fit)
    spans = own / "models/subj01/alexnet"
    _wait(lambda: any(spans.glob("percent-*-fast-*")) or any(spans.glob(".percent-*-fast-*")), first)
    first.kill()
    first.wait()
    status = run("sweep", "--status", study, "--json", code=75).json
    assert status["cells"] == {"done": 0, "failed": 1, "running": 0, "missing": 1}, "it ended without a word"
    both = [start(*grid, experiment=experiment) for _ in range(2)]
    _wait(lambda: any(study.glob("cells/*.json")), both[0])
    for process in both:
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert json.loads(out)["cells"]["done"] == 2
    for number in range(2):
        fits = [line for line in Study.load(study).log(number).read_text().splitlines() if "60/60 epochs" in line]
        assert len(fits) == 1, "each cell is fitted once"


def test_a_signal_stops_it_and_the_same_command_goes_on(run: Run, own: Path, experiment: Path) -> None:
    grid = ("sweep", *GRID, "--cache", own, "--name", "mine", "--json")
    log = own / "studies/mine/logs/cell-0001.log"
    for times, sent in enumerate((signal.SIGTERM, signal.SIGUSR1), 1):
        begin = (start, start_anew)[times - 1]
        process = begin(*grid, experiment=experiment, first=held.before_the_first_fit)
        _wait(lambda times=times: log.exists() and log.read_text().count("alexnet, 10 %, fast") == times, process)
        process.send_signal(sent)
        out, err = process.communicate()
        assert process.returncode == 75, err
        assert f"stopped by {sent.name}" in err
        assert json.loads(out)["cells"] == {"done": 0, "failed": 0, "running": 0, "missing": 2}
    assert run(*grid).json["cells"]["done"] == 2


def _wait(condition: object, process: subprocess.Popen[str] | Forked) -> None:
    while not condition():  # type: ignore[operator]
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
