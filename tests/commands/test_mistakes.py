"""What is wrong is said in one line with the remedy, and nothing is left half-written."""

import json
import shlex
import shutil
from pathlib import Path

import click
import h5py
import numpy as np
import pytest

from boldreams_cli.cli import boldreams, load
from boldreams_cli.commands.options.errors import with_places
from boldreams_cli.data.prepared.preparing import complete_stores

from ..conftest import Run
from .conftest import listing


def test_a_gpu_that_is_not_there_is_said(run: Run, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "no CUDA device" in run("fit", "--subject", 1, "--device", "cuda", "--cache", own, code=1).err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["fit", "--percent", 0], 2, "above 0 and up to 100"),
        (["fit", "--percent", 101], 2, "above 0 and up to 100"),
        (["fit", "--subject", "seven"], 2, "or a number as 1, 01 or subj01"),
        (
            ["fit", "--backbone", "resnet"],
            2,
            "choose from alexnet, clip-text, efficientnet_lite0, rn50x4, vgg11, or open_clip:NAME",
        ),
        (["fit", "--backbone", "vgg-11"], 2, "did you mean vgg11?"),
        (["fit", "--readout", "rigde", "--subject", 1], 2, "did you mean ridge?"),
        (["prepare", "--data", "nothing.h5"], 1, "nothing.h5"),
        (["dream", "--roi", "FFA1"], 2, "did you mean FFA-1?"),
        (["fit", "--backbone", "vgg11", "--subject", 1], 3, "run boldreams extract --backbone vgg11"),
        (["fit", "--features", "0123", "--subject", 1], 3, "no store 0123"),
        (["fit"], 2, "choose a subject with --subject; there: 1, 2"),
        (["fit", "--subject", 1, "--device", "tpu"], 2, "auto, cpu, cuda or cuda:N"),
        (["fit", "--subject", 1, "--memory", "much"], 2, "write 4G or 800M"),
        (["prepare", "--subject", 7], 2, "subjects under the root: 1, 2"),
        (["prepare", "--subject", 1, "--sessions", "1-99"], 2, "sessions"),
        (["prepare", "--subject", 1, "--mask", "nothing.nii.gz"], 2, "nothing.nii.gz"),
        (["rank", "--subject", 1, "--nsd-root", "/nowhere", "--sessions", "1"], 1, "/nowhere"),
        (["extract", "--backbone", "alexnet", "--nsd-root", "/nowhere"], 1, "--nsd-root"),
        (["extract", "--backbone", "alexnet", "--weights", "nowhere.pth"], 1, "no weights file"),
        (["extract", "--backbone", "alexnet", "--shard-index", 2, "--shard-count", 2], 2, "--shard-index counts"),
        (["score", "--percent", 50], 2, "boldreams fit"),
        (["score", "--model", "nowhere"], 2, "no model 'nowhere' (--model)"),
        (["info", "--layers", "resnet"], 2, "choose from"),
        (["dance"], 2, "choose from import, validate, prepare, extract"),
    ],
)
def test_errors_are_one_line_with_the_remedy(
    run: Run, cache: Path, weights: Path, arguments: list[object], code: int, says: str
) -> None:
    before = listing(cache)
    done = run(
        *arguments,
        code=code,
        BOLDREAMS_CACHE=cache,
        **({} if "--weights" in arguments else {"BOLDREAMS_WEIGHTS": weights}),
    )
    assert says in done.err
    assert "Traceback" not in done.err
    assert not done.out
    assert done.err.count("\nboldreams: ") + done.err.startswith("boldreams: ") == 1, done.err
    message = done.err[done.err.index("boldreams: ") :]
    assert 1 <= message.count("\n") <= 2
    assert listing(cache) == before, "nothing half-written"


def test_missing_images_and_other_stimuli_are_exit_3(
    run: Run, own: Path, weights: Path, experiment: Path, tmp_path: Path
) -> None:
    store = next((own / "features").glob("*.zarr"))
    attributes = json.loads((store / "zarr.json").read_text())
    attributes["attributes"]["spec"]["weights_digest"] = "another"
    (store / "zarr.json").write_text(json.dumps(attributes))
    done = run("fit", "--subject", 1, "--cache", own, code=3)
    assert "fingerprint" in done.err
    run("extract", "--backbone", "alexnet", "--weights", weights, "--subject", 2, "--cache", tmp_path / "second")
    done = run("fit", "--subject", 1, "--cache", tmp_path / "second", code=3)
    assert "lacks 30 of 30 images" in done.err
    command = f"--backbone alexnet --weights {shlex.quote(str(weights))} for that subject"
    assert command in done.err, "with other weights it would fill another store"


def test_truncated_betas_leave_nothing(run: Run, experiment: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(experiment, tmp_path / "nsd"))
    for path in root.rglob("betas_session02.*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for subject in (1, 2):
        done = run("prepare", "--subject", subject, "--nsd-root", root, "--cache", tmp_path / "cache", code=1)
        assert "betas_session02" in done.err
    assert [complete_stores(tmp_path / "cache", subject) for subject in (1, 2)] == [[], []], (
        "an unfinished store is not used"
    )
    held = run("info", "--cache", tmp_path / "cache", "--json").json["responses"]
    assert held
    assert all(row["done"] < row["rows"] for row in held), "nor is it shown as whole"
    again = run("fit", "--subject", 1, "--nsd-root", root, "--cache", tmp_path / "cache", code=3)
    assert "boldreams extract" in again.err


def test_wrong_image_dtype(run: Run, experiment: Path, weights: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(experiment, tmp_path / "nsd"))
    path = root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
    path.unlink()
    with h5py.File(path, "w") as file:
        file["imgBrick"] = np.zeros((3, 425, 425, 3), dtype=np.float32)
    done = run(
        "extract",
        "--backbone",
        "alexnet",
        "--weights",
        weights,
        "--nsd-root",
        root,
        "--cache",
        tmp_path / "cache",
        code=1,
    )
    assert "float32" in done.err
    assert "uint8" in done.err
    assert not (tmp_path / "cache").exists()


def test_a_remedy_names_the_places_that_were_typed(run: Run, experiment: Path, tmp_path: Path) -> None:
    """So that it can be pasted; what a variable says need not be typed."""
    cache, known = tmp_path / "a cache", {"BOLDREAMS_NSD_ROOT": ""}
    fit = ("fit", "--backbone", "alexnet", "--subject", 1, "--percent", 10)
    said = run(*fit, "--cache", cache, "--nsd-root", experiment, code=3, **known).err
    assert f"run boldreams extract --cache '{cache}' --nsd-root {experiment} --backbone alexnet" in said
    assert "run boldreams extract --backbone alexnet" in run(*fit, code=3, BOLDREAMS_CACHE=cache).err
    said = run("score", "--cache", cache, code=2).err
    assert f"boldreams fit --cache '{cache}'," in said
    assert said.count("--cache") == 1


def test_a_remedy_has_no_option_that_its_command_lacks() -> None:
    group = click.Context(boldreams, info_name="boldreams")
    typed = load("fit").make_context("fit", ["--cache", "c", "--nsd-root", "n"], parent=group)
    assert with_places("run boldreams remove --yes", typed) == "run boldreams remove --cache c --yes"
    assert with_places("it is where `boldreams minimal` writes", typed) == "it is where `boldreams minimal` writes"
