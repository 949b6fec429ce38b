"""What `boldreams sweep` is asked and answers before it fits: plans, refusals, studies that are there already."""

from __future__ import annotations

from pathlib import Path

import pytest

from boldreams_cli.study import sweep as study_sweep
from boldreams_cli.study.cells.manifest import Study

from ..conftest import Run
from .conftest import GRID, listing


def test_a_dry_run_writes_nothing(run: Run, own: Path) -> None:
    before = listing(own)
    grid = (*GRID[:4], "--subject", "1,2", "--readout", "separable,ridge,gaussian", "--recipe", "paper,fast")
    plan = run("sweep", *grid, "--cache", own, "--dry-run", "--json").json["plan"]
    assert listing(own) == before
    assert len(plan) == 16
    cells = {(item["cell"] % 8): item for item in plan[:8]}
    one, ten = cells[0], cells[1]
    assert one["bytes"] == 0, "its maps are among those of 10 %"
    assert ten["bytes"] > 100_000
    assert 0 < one["seconds"] < ten["seconds"]
    assert one["memory"] < ten["memory"]
    assert all(item["seconds"] > 0 and item["state"] == "missing" for item in plan[:8])
    assert plan[8]["seconds"] is None
    assert "subject 2 is not prepared yet" in plan[8]["why"]
    alone = run("sweep", *grid, "--cache", own, "--dry-run", "--executor", "slurm", "--json").json["plan"]
    assert 0 < alone[0]["bytes"] < alone[1]["bytes"] == ten["bytes"]
    text = run("sweep", *grid, "--cache", own, "--dry-run").out
    assert "16 cells" in text
    assert "subject 1, alexnet, 10 %, gaussian, seed 0" in text


def test_what_was_fitted_and_scored_by_hand_is_done_before_anything_runs(run: Run, own: Path) -> None:
    """To a dry run, which writes nothing, as to --status; whatever else the cache lacks is not made for it."""
    grid = (
        "--backbone",
        "alexnet",
        "--percent",
        "1,10",
        "--subject",
        "1",
        "--epochs",
        3,
        "--lr",
        "1e-3",
        "--cache",
        own,
    )
    before = listing(own)
    told = run("sweep", *grid, "--dry-run", "--json")
    assert listing(own) == before
    assert "--overwrite" not in told.err, "a sweep has no such option"
    found = told.json
    assert [item["state"] for item in found["plan"]] == ["missing", "done"]
    assert [item["seconds"] == 0 for item in found["plan"]] == [False, True]
    assert [Path(one["model"]).name[:15] for one in found["models"]] == ["percent-10-pape"]
    (responses,) = (own / "responses").glob("*.zarr")
    responses.rename(own / "elsewhere.zarr")
    gone = listing(own)
    assert [item["state"] for item in run("sweep", *grid, "--dry-run", "--json").json["plan"]] == ["missing"] * 2
    assert listing(own) == gone


def test_a_file_that_is_no_manifest_is_refused(run: Run, mine: Path, tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text("percent = 1\n")
    for option in ("--status", "--manifest"):
        said = run("sweep", option, file, "--cache", mine, code=2).err
        assert f"{file} is no manifest of a study; give the manifest.json that the sweep wrote, its folder, or" in said
        assert "in " + str(mine / "studies") + ": mine" in said
    assert file.read_text() == "percent = 1\n"


def test_a_precision_that_the_device_lacks_is_refused_before_anything_runs(run: Run, own: Path) -> None:
    before = listing(own)
    for more in ((), ("--dry-run",), ("--executor", "slurm")):
        said = run("sweep", *GRID, "--recipe", "paper", "--precision", "tf32", "--cache", own, *more, code=2).err
        assert "--precision tf32 needs a CUDA device; choose fp32 or bf16" in said
    assert listing(own) == before


def test_a_dry_run_knows_every_readout(run: Run, own: Path) -> None:
    """What a readout fits once more for each member or field costs more, and maps are read once for each grid."""
    kinds = "separable,ridge,local,stacked,gaussian,attention"
    grid = (*GRID[:2], "--percent", "10", *GRID[4:6], "--readout", kinds, "--recipe", "fast", "--cache", own)
    plan = run("sweep", *grid, "--dry-run", "--json").json["plan"]
    cells = dict(zip(kinds.split(","), plan, strict=True))
    assert all(item["seconds"] > 0 and item["memory"] > 0 and not item["why"] for item in plan)
    times = [cells[name]["seconds"] for name in ("ridge", "local", "stacked")]
    assert times == sorted(times)
    assert times[2] > 10 * times[0], "its members are ridges too"
    assert cells["local"]["bytes"] == 0, "ridge has read the same grid"
    assert cells["attention"]["bytes"] == 0, "so has the fast recipe"
    assert cells["stacked"]["bytes"] > 2 * cells["separable"]["bytes"] > 0, "three coarser grids"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--backbone", "alexnett"), "unknown backbone 'alexnett' (did you mean alexnet?)"),
        (("--recipe", "slow"), "has no recipe 'slow'"),
        (("--readout", "ridge", "--epochs", "3"), "no cell of the study has the setting epochs"),
        (("--cell", "1"), "--manifest"),
        (("--name", "a/b"), "no name of a study"),
        (("--name", "minimal"), "is where `boldreams minimal` writes"),
        (("--percent", "1,101"), "'101' is no percentage"),
        (("--percent", ","), "no value"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_fitted(
    run: Run, cache: Path, arguments: tuple[str, ...], said: str
) -> None:
    before = listing(cache)
    done = run("sweep", "--subject", 1, *arguments, "--cache", cache, code=2)
    assert said in done.err
    assert len(done.err.strip().splitlines()) <= 3
    assert listing(cache) == before


def test_cells_that_are_not_there(run: Run, swept: Path) -> None:
    for text, said in (("2", "cells 0 to 1"), ("1-0", "cells 0 to 1"), ("a", "no list of cells")):
        assert said in run("sweep", "--manifest", "mine", "--cache", swept, "--cell", text, code=2).err


def test_a_study_that_is_not_there_is_named_with_those_that_are(
    run: Run, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("sweep", *GRID, "--cache", mine, "--name", "theirs")
    for option in ("--status", "--manifest"):
        said = run("sweep", option, "other", "--cache", mine, code=2).err
        assert "no study 'other'" in said
        assert said.rstrip().endswith("there: mine, theirs")
    (tmp_path / "mine").mkdir()  # a folder that is called the same and holds no study
    monkeypatch.chdir(tmp_path)
    assert run("sweep", "--status", "mine", "--cache", mine, "--json").json["study"] == "mine"


def test_options_that_would_change_nothing_are_refused(run: Run, mine: Path) -> None:
    again = ("sweep", "--manifest", "mine", "--cache", mine)
    for typed, said in (
        (("--percent", 5), "--percent does not go with --manifest"),
        (("--name", "new"), "--name does not go with --manifest"),
        (("--nsd-root", "elsewhere"), "--nsd-root does not go with --manifest"),
        (("--cell", 0, "--executor", "slurm"), "--cell does not go with --executor slurm"),
    ):
        assert said in run(*again, *typed, code=2).err
    for typed in (("--cell", 0), ("--dry-run",), ("--seed", 3), ("--manifest", "mine")):
        assert (
            f"{typed[0]} does not go with --status"
            in run("sweep", "--status", "mine", "--cache", mine, *typed, code=2).err
        )
    assert run(*again, "--json", BOLDREAMS_SUBJECT=7, BOLDREAMS_BACKBONE="vgg11").json["cells"]["done"] == 2
    plan = run(*again, "--cell", 1, "--dry-run", "--json").json["plan"]
    assert [row["cell"] for row in plan] == [1]


def test_device_and_memory_that_are_typed_win_over_the_manifest(
    run: Run, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("sweep", *GRID, "--cache", mine, "--name", "mine", "--memory", "3G")
    used = []
    monkeypatch.setattr(study_sweep, "run", lambda study, numbers, device, memory, *more: used.append(memory))
    again = ("sweep", "--manifest", "mine", "--cache", mine)
    run(*again)
    run(*again, "--memory", "2G")
    run(*again, BOLDREAMS_MEMORY="1G")  # a job inherits what was exported where it was submitted
    assert used == [3 * 2**30, 2 * 2**30, 3 * 2**30]
    assert Study.load(mine / "studies/mine").memory == 3 * 2**30, "other machines run it too"
