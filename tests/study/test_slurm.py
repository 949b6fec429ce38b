"""A study as job arrays: what is submitted, with an sbatch that runs it in processes, and with a SLURM of one node."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from boldreams_cli.console import BoldreamsError
from boldreams_cli.data.neutral.writing import write
from boldreams_cli.data.units import VertexUnits
from boldreams_cli.study import slurm as module
from boldreams_cli.study.cells.grid import make_grid
from boldreams_cli.study.cells.manifest import Study
from boldreams_cli.study.needs import Need
from boldreams_cli.study.slurm import Queue, array_size, index_list
from boldreams_cli.study.sweep import look

from ..conftest import Run

GRID = ("--backbone", "alexnet", "--percent", "1,10", "--subject", "1", "--sessions", "1", "--recipe", "fast")


@pytest.fixture
def submit(run: Run, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict]:
    """Call sweep --executor slurm on a cache that holds nothing."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def call(*more: object) -> dict:
        given = (*GRID, "--epochs", 3000, "--weights", weights, "--cache", tmp_path / "cache", "--name", "mine")
        return run("sweep", *given, "--executor", "slurm", "--shards", 1, *more, "--json").json

    return call


def wait(condition: Callable[[], object], seconds: float = 150) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def status(run: Run, study: Path, code: int) -> dict:
    return run("sweep", "--status", study, "--json", code=code).json


def test_jobs_in_processes_one_of_which_is_killed(
    run: Run, submit: Callable[..., dict], jobs: Path, tmp_path: Path, weights: Path
) -> None:
    study = tmp_path / "cache/studies/mine"
    run("extract", "--backbone", "alexnet", "--weights", weights, "--subject", 1, "--cache", tmp_path / "cache")
    (first,) = submit("--partition", "gpu", "--time", "1:00:00", "--gres", "gpu:1", "--cpus", 4, "--mem", "8G")["jobs"]
    assert (first["job"], first["cells"], first["after"]) == ("1", [0, 1], [])
    script = (jobs / "1.sh").read_text().splitlines()
    assert script[0] == "#!/bin/bash"
    asked = {line.removeprefix("#SBATCH --") for line in script if line.startswith("#SBATCH")}
    assert asked >= {"partition=gpu", "time=1:00:00", "gres=gpu:1", "cpus-per-task=4", "mem=8G"}
    assert asked >= {"signal=B:USR1@120", "requeue", "open-mode=append", "array=0-1%32"}
    assert script[-1].startswith("exec ")
    assert script[-1].endswith(f"sweep --manifest {study}/manifest.json --cell $SLURM_ARRAY_TASK_ID")

    wait(lambda: _text(jobs / "1_1.pid"))
    wait(lambda: "alexnet, 10 %" in _text(study / "logs/cell-0001.log"))
    os.kill(int((jobs / "1_1.pid").read_text()), signal.SIGKILL)
    wait(lambda: (jobs / "1.ended").exists())
    assert "cell 0: done" in (study / "logs/cell-0000.log").read_text()
    broken = status(run, study, 1)
    assert broken["cells"] == {"done": 1, "failed": 1, "running": 0, "missing": 0}
    assert broken["failures"][0]["cell"] == 1

    (again,) = submit()["jobs"]
    assert (again["cells"], again["after"]) == ([1], []), "only what is not done"
    assert "#SBATCH --array=1%32" in (jobs / "2.sh").read_text()
    wait(lambda: (jobs / "2.ended").exists())
    assert status(run, study, 0)["cells"]["done"] == 2
    assert (study / "table.csv").is_file()
    assert submit()["jobs"] == []


def test_cells_wait_for_the_extraction_that_they_need(
    submit: Callable[..., dict], submitted: Path, tmp_path: Path, weights: Path, experiment: Path
) -> None:
    found = submit("--sbatch", "time=10")
    assert found["cells"] == {"done": 0, "failed": 0, "running": 0, "missing": 2}
    assert [(job["job"], job["cells"], job["after"]) for job in found["jobs"]] == [
        ("40", [], []),
        ("40", [0, 1], ["40"]),
    ]
    extraction = (submitted / "extract-alexnet.sh").read_text()
    assert extraction.splitlines()[-1].endswith(
        f"extract --cache {tmp_path}/cache --nsd-root {experiment} --backbone alexnet --subject 1 --weights {weights} "
        "--sessions 1 --device cpu --shard-index $SLURM_ARRAY_TASK_ID --shard-count 1"
    )
    assert "#SBATCH --array=0-0\n" in extraction
    cells = (submitted / "cells-0000-after-40.sh").read_text()
    assert "#SBATCH --dependency=afterok:40\n#SBATCH --kill-on-invalid-dep=yes\n" in cells
    assert "#SBATCH --time=10\n" in cells
    assert "#SBATCH --time=10\n" in extraction


def test_what_sbatch_refuses_is_said(run: Run, jobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("sweep", *GRID, "--cache", tmp_path / "cache", "--executor", "slurm")
    assert (
        "invalid partition specified: refused; correct it with --sbatch"
        in run(*given, "--partition", "refused", code=1).err
    )
    assert "--sbatch array is set by the sweep itself" in run(*given, "--sbatch", "array=1", code=2).err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no sbatch here" in run(*given, code=2).err


def test_options_of_the_user_win(run: Run, submitted: Path, tmp_path: Path) -> None:
    given = ("sweep", *GRID, "--cache", tmp_path / "a b%c", "--executor", "slurm", "--limit", 3)
    run(*given, "--sbatch", "no-requeue", "--sbatch", "signal=B:TERM@60", "--sbatch", "comment=two words")
    text = (submitted / "cells-0000-after-40.sh").read_text()
    assert "--requeue" not in text
    assert "#SBATCH --no-requeue\n" in text
    assert "#SBATCH --signal=B:TERM@60\n" in text
    assert '#SBATCH --comment="two words"\n' in text
    assert "%3\n" in text
    assert f'--output="{tmp_path}/a b%%c/studies/' in text
    assert "'" in text.splitlines()[-1], "the manifest's path is quoted"


def test_arrays_are_split_and_logs_named_by_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, submitted: Path
) -> None:
    monkeypatch.setattr(module, "array_size", lambda: 100)
    monkeypatch.setattr(module, "lacking", lambda study, todo, stop: [])
    grid = make_grid({"subject": tuple(range(1, 26)), "backbone": ("alexnet",)})
    study = Study.make(tmp_path / "cache", "many", grid, None, "cpu", 1)
    state = look(study)
    state.cells[0] = state.cells[101] = "done"
    state.queued = {1}
    found = module.submit(study, state, {}, 5, 1, None)  # type: ignore[arg-type]
    assert [len(job.cells) for job in found] == [98, 99, 25]
    scripts = [job.script.read_text() for job in found]
    assert [line for text in scripts for line in text.splitlines() if "--array" in line] == [
        "#SBATCH --array=2-99%5",
        "#SBATCH --array=0,2-99%5",
        "#SBATCH --array=0-24%5",
    ]
    assert f"--output={study.folder}/logs/cell-02%2a.log" in scripts[2]
    assert study.log(207).name == "cell-0207.log"
    assert "--cell $((200 + SLURM_ARRAY_TASK_ID))" in scripts[2]
    names = [f"{module.job_name(study)}.{first}" for first in (0, 100, 200)]
    assert [f"#SBATCH --job-name={name}" in text for name, text in zip(names, scripts, strict=True)] == [True] * 3
    queue = Queue([("7", "3", "RUNNING", names[1]), ("8", "9", "PENDING", names[2]), ("9", "1", "RUNNING", "other")])
    assert queue.cells(study) == {103: "RUNNING", 209: "PENDING"}


def test_a_backbone_of_any_name_makes_files_of_its_folders_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, submitted: Path
) -> None:
    name = "open_clip:RN50/openai"
    monkeypatch.setattr(module, "lacking", lambda study, todo, stop: [Need(name, tmp_path, [1], None)])
    grid = make_grid({"subject": (1, 2), "backbone": (name,), "percent": (1.0,)})
    study = Study.make(tmp_path / "cache", "any", grid, tmp_path, "cpu", 1)
    found = module.submit(study, look(study), {}, 5, 3, None)  # type: ignore[arg-type]
    assert [(job.cells, job.after) for job in found] == [([], []), ([0], ["40"]), ([1], [])]
    assert {job.script.parent for job in found} == {study.folder}
    extraction = found[0].script.read_text()
    assert f"--backbone {name} --subject 1 " in extraction
    (log,) = [line for line in extraction.splitlines() if "--output" in line]
    assert log.rpartition("/logs/")[2].count("/") == 0


def test_subjects_of_data_files_have_extractions_of_their_own(
    run: Run, submitted: Path, tmp_path: Path, weights: Path, experiment: Path
) -> None:
    sbatch = submitted.parent / "tools/sbatch"  # one number after another
    sbatch.write_text(
        f'#!/bin/sh\nfor last; do :; done\n/bin/cp "$last" {submitted}/\nset -- {submitted}/*.sh\necho $#\n'
    )
    cache = tmp_path / "cache"
    for seed, name in enumerate(("A1", "B2")):
        run("prepare", "--data", data_file(tmp_path / f"{name}.h5", name, seed), "--cache", cache)
    asked = ("sweep", "--backbone", "alexnet", "--percent", "1,10", "--subject", "A1,B2,1", "--recipe", "fast")
    asked += ("--weights", weights, "--cache", cache, "--name", "mine", "--executor", "slurm", "--shards", 1, "--json")
    jobs = run(*asked).json["jobs"]
    assert [(job["job"], job["cells"], job["after"]) for job in jobs] == [
        ("1", [], []),
        ("2", [], []),
        ("3", [], []),
        ("4", [0, 1], ["1"]),
        ("5", [2, 3], ["2"]),
        ("6", [4, 5], ["3"]),
    ]
    lines = {path.name: path.read_text().splitlines()[-1] for path in submitted.glob("extract-*.sh")}
    assert lines.keys() == {"extract-alexnet-A1.sh", "extract-alexnet-B2.sh", "extract-alexnet.sh"}
    for name in ("A1", "B2"):
        said = f" --data {tmp_path}/{name}.h5 --backbone alexnet --subject {name} --weights {weights} "
        assert said in lines[f"extract-alexnet-{name}.sh"]
    assert f" --nsd-root {experiment} --backbone alexnet --subject 1 " in lines["extract-alexnet.sh"]

    words = shlex.split(lines["extract-alexnet-A1.sh"].replace("$SLURM_ARRAY_TASK_ID", "0"))
    run(*words[words.index("extract") :])
    for script in submitted.glob("*.sh"):  # which are counted
        script.unlink()
    again = {tuple(job["cells"]): job["after"] for job in run(*asked).json["jobs"]}
    assert again[0, 1] == [], "its maps are there"
    assert again[2, 3]
    assert again[4, 5]


def test_the_store_that_is_there_is_extended_with_what_it_was_made_with(
    run: Run, submitted: Path, tmp_path: Path, weights: Path
) -> None:
    cache = tmp_path / "cache"
    made = ("--layers", "features.2,features.7", "--map", "rectified", "--dtype", "float32")
    there = ("--backbone", "alexnet", "--weights", weights, "--cache", cache)
    store = run("extract", *there, "--subject", 1, *made, "--json").json["store"]
    asked = ("sweep", "--backbone", "alexnet", "--percent", 1, "--subject", "1,2", "--cache", cache)
    run(*asked, "--executor", "slurm", "--shards", 1)
    words = shlex.split(
        (submitted / "extract-alexnet.sh").read_text().splitlines()[-1].replace("$SLURM_ARRAY_TASK_ID", "0")
    )
    assert run(*words[words.index("extract") :], "--json").json["store"] == store, "no second store"
    assert len(list((cache / "features").glob("*.zarr"))) == 1


def test_a_store_of_kept_filters_is_not_extended(
    run: Run, submitted: Path, tmp_path: Path, weights: Path, experiment: Path
) -> None:
    cache = tmp_path / "cache"
    run("extract", "--backbone", "alexnet", "--weights", weights, "--cache", cache, "--subject", 1, "--keep-percent", 5)
    asked = ("sweep", "--backbone", "alexnet", "--percent", 1, "--subject", "1,2", "--cache", cache)
    said = run(*asked, "--executor", "slurm", code=2).err
    assert (
        f"run boldreams extract --cache {cache} --nsd-root {experiment} --backbone alexnet --subject 1 --subject 2 "
        f"--weights {weights} --keep-percent 5 --device cpu, and name its store with --features" in said
    )
    assert not list(submitted.iterdir()), "nothing is submitted"


def test_jobs_are_called_by_what_they_make(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "link").symlink_to("cache")
    need = Need("alexnet", tmp_path, [1], None)

    def study(cache: str, **settings: str) -> Study:
        grid = make_grid({"subject": (1,), "backbone": ("alexnet",), **settings})
        return Study.make(tmp_path / cache, "mine", grid, tmp_path, "cpu", 1)

    plain = study("cache", sessions="1")
    for other in ("link", "cache/../cache"):
        same = study(other, sessions="1")
        assert (need.job_name(same), module.job_name(same)) == (need.job_name(plain), module.job_name(plain))
    others = [{"sessions": "1-2"}, {"betas": "betas_fithrf"}, {"weights": "random:1"}, {"features": "1"}]
    assert len({need.job_name(study("cache", **settings)) for settings in others} | {need.job_name(plain)}) == 5


def data_file(path: Path, subject: str, seed: int) -> Path:
    """Twenty pictures, and eight vertices that follow their brightness."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (20, 4, 4, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    write(
        path,
        subject=subject,
        betas=(pixels.mean((1, 2, 3))[:, None] + rng.normal(size=(20, 8))).astype(np.float32),
        trial_image=np.arange(20),
        image_names=[f"{subject}-{number:02d}" for number in range(20)],
        pixels=pixels,
        zscored=False,
        units=VertexUnits("fsLR", np.repeat(["L", "R"], 4), np.arange(8), (40, 40)),
        areas={"left": np.arange(8) < 4},
    )
    return path


def test_what_squeue_says_twice_is_said_once(jobs: Path, caplog: pytest.LogCaptureFixture) -> None:
    program = jobs.parent / "tools/squeue"
    program.write_text("#!/bin/sh\necho 'cannot reach  the host' >&2\necho 'cannot reach the host' >&2\nexit 1\n")
    program.chmod(0o755)
    assert Queue.ask() is None
    assert "squeue does not answer (cannot reach the host): only" in caplog.text


def test_index_lists() -> None:
    assert index_list([0]) == "0"
    assert index_list([5, 0, 1, 2, 7, 8]) == "0-2,5,7-8"


@pytest.mark.parametrize(("limit", "size"), [("1001", 1000), ("1000", 1000), ("4000001", 1000), ("999", 100), ("1", 1)])
def test_the_size_of_an_array(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, size: int) -> None:
    tool = tmp_path / "scontrol"
    tool.write_text(f"#!/bin/sh\necho 'MaxArraySize            = {limit}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert array_size() == size
    tool.write_text("#!/bin/sh\necho 'MaxArraySize = 0'\n")
    with pytest.raises(BoldreamsError, match="no job arrays"):
        array_size()


def test_a_real_slurm(run: Run, submit: Callable[..., dict], slurm: Path, tmp_path: Path) -> None:
    study = tmp_path / "cache/studies/mine"
    logs = [study / f"logs/cell-000{number}.log" for number in (0, 1)]
    extraction, cells = submit("--sbatch", "time=10")["jobs"]
    assert (extraction["cells"], cells["cells"], cells["after"]) == ([], [0, 1], [extraction["job"]])
    assert status(run, study, 75)["cells"] == {"done": 0, "failed": 0, "running": 0, "missing": 2}
    assert submit()["jobs"] == [], "what is in the queue is not submitted again"
    wait(lambda: list((tmp_path / "cache/models").rglob(".percent-10-*")) and "alexnet, 1 %" in _text(logs[0]))
    assert status(run, study, 75)["cells"]["running"] >= 1
    subprocess.run(["scancel", "--batch", "--signal=USR1", f"{cells['job']}_1"], check=True)  # as before the time limit
    wait(lambda: "stopped by SIGUSR1" in _text(logs[1]))
    subprocess.run(["scancel", "--full", cells["job"]], check=True)  # as where preemption cancels
    wait(lambda: not queue())
    assert status(run, study, 75)["cells"]["missing"] >= 1, "it stopped, it did not fail"

    (again,) = submit()["jobs"]
    assert (1 in again["cells"], again["after"]) == (True, []), "the extraction is done"
    wait(lambda: not queue())
    assert status(run, study, 0)["cells"]["done"] == 2
    assert "going on from" in _text(logs[1]), "from its checkpoint"


def queue() -> str:
    return subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout.strip()


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
