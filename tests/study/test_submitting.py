"""What is submitted to SLURM and what is not: odd paths, a queue that does not answer, a study that is there."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from boldreams_cli.console import ChoiceError
from boldreams_cli.study import slurm as module
from boldreams_cli.study.cells.grid import make_grid
from boldreams_cli.study.cells.manifest import Study
from boldreams_cli.study.sweep import look

from ..conftest import Run
from .test_slurm import GRID, queue, wait

PRINTF = shutil.which("printf")
ODD = "it's 100%a #1 \"two\" 'three'"


def odd_study(home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Study, list[str]]:
    """Submit a study in a cache of an odd name whose cells say what they were called with; what they are to say."""
    monkeypatch.setattr(module, "lacking", lambda study, todo, stop: [])
    monkeypatch.setattr(module, "_command", lambda: f"{PRINTF} '%s\\n'")
    grid = make_grid({"subject": (1,), "backbone": ("alexnet",), "percent": (1.0, 10.0)})
    study = Study.make(home / ODD / "cache", "mine", grid, None, "cpu", 1)
    (job,) = module.submit(study, look(study), {"comment": f"a\\b {ODD}"}, 5, 1, None)  # type: ignore[arg-type]
    assert job.cells == [0, 1]
    return study, ["sweep", "--manifest", str(study.path), "--cell"]


def test_paths_of_any_name(jobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, said = odd_study(tmp_path, monkeypatch)
    wait(lambda: (jobs / "1.ended").exists())
    for number in (0, 1):
        assert study.log(number).read_text().splitlines() == [*said, str(number)]
    (comment,) = re.findall("^#SBATCH (--comment=.*)", (jobs / "1.sh").read_text(), re.MULTILINE)
    assert shlex.split(comment, comments=True) == [f"--comment=a\\b {ODD}"]


def test_paths_of_any_name_in_a_real_slurm(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, said = odd_study(tmp_path, monkeypatch)
    told = ["squeue", "--noheader", "--format=%k"]
    assert f"a\\b {ODD}" in subprocess.run(told, capture_output=True, text=True, check=True).stdout
    wait(lambda: not queue())
    for number in (0, 1):
        assert study.log(number).read_text().splitlines() == [*said, str(number)]


@pytest.mark.parametrize("name", ["back\\slash", "two\nlines"])
def test_paths_that_slurm_cannot_write_to_are_refused(
    submitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(module, "lacking", lambda study, todo, stop: [])
    grid = make_grid({"subject": (1,), "backbone": ("alexnet",), "percent": (1.0,)})
    study = Study.make(tmp_path / name / "cache", "mine", grid, None, "cpu", 1)
    with pytest.raises(ChoiceError, match="SLURM writes no log to a path with a backslash or a line break"):
        module.submit(study, look(study), {}, 5, 1, None)  # type: ignore[arg-type]
    assert not list(submitted.iterdir())
    assert not study.path.exists()


def test_nothing_is_submitted_while_squeue_does_not_answer(
    run: Run, submitted: Path, tmp_path: Path, weights: Path
) -> None:
    """What waits in the queue would be submitted a second time."""
    squeue, counted = submitted.parent / "tools/squeue", submitted.parent / "asked"
    error = "slurm_load_jobs error: Unable to contact slurm controller"
    cache = tmp_path / "cache"
    asked = ("sweep", *GRID, "--weights", weights, "--cache", cache, "--name", "mine", "--executor", "slurm")
    for answers in (0, 1):  # at the first question, and between two
        squeue.write_text(
            f"#!/bin/sh\necho >> {counted}\n[ $(/bin/cat {counted} | /usr/bin/wc -l) -le {answers} ] && exit\n"
            f"echo '{error}' >&2\nexit 1\n"
        )
        squeue.chmod(0o755)
        counted.unlink(missing_ok=True)
        said = run(*asked, code=1)
        assert f"squeue does not answer ({error}): nothing is submitted, as cells may be in the queue" in said.err
        assert "try again" in said.err
        assert (list(submitted.iterdir()), cache.joinpath("studies").exists()) == ([], False)
    squeue.write_text("#!/bin/sh\n")
    assert [job["cells"] for job in run(*asked, "--json").json["jobs"]] == [[], [0, 1]]
    squeue.write_text(f"#!/bin/sh\necho '{error}' >&2\nexit 1\n")
    looked = run("sweep", "--status", "mine", "--cache", cache, "--json", code=75)
    assert "only the cache is looked at" in looked.err
    assert looked.json["cells"]["missing"] == 2


def test_the_same_command_from_another_shell_changes_no_manifest(
    run: Run, submitted: Path, tmp_path: Path, weights: Path, experiment: Path
) -> None:
    """Cells that wait read it when they start."""
    cache, bare = tmp_path / "cache", {"BOLDREAMS_NSD_ROOT": "", "BOLDREAMS_DEVICE": ""}
    study = cache / "studies/mine"
    run("prepare", "--subject", 1, "--sessions", 1, "--cache", cache)
    run("extract", "--backbone", "alexnet", "--weights", weights, "--subject", 1, "--sessions", 1, "--cache", cache)
    asked = ("sweep", *GRID, "--weights", weights, "--cache", cache, "--name", "mine", "--executor", "slurm")
    run(*asked, "--nsd-root", experiment, "--device", "cuda", "--memory", "32G", **bare)
    first = (study / "manifest.json").read_bytes()
    known = Study.load(study)
    assert (known.data_root, known.device, known.memory) == (experiment, "cuda", 32 * 2**30)
    run(*asked, **bare)
    assert (study / "manifest.json").read_bytes() == first
    run(*asked, **(bare | {"BOLDREAMS_DEVICE": "cpu"}))
    run(*asked, **bare, BOLDREAMS_MEMORY="2G")
    known = Study.load(study)
    assert (known.data_root, known.device, known.memory) == (experiment, "cpu", 2 * 2**30)
    run(*asked, "--memory", "4G", **bare)
    assert Study.load(study).memory == 4 * 2**30, "the default too, where it was typed"
    run("sweep", "--manifest", "mine", "--cache", cache, "--executor", "slurm", "--device", "cuda:0")
    assert Study.load(study).device == "cuda:0", "what else is typed for jobs"
    (study / "manifest.json").unlink()
    run(*asked, **bare)
    assert (Study.load(study).data_root, Study.load(study).device) == (None, "auto")
