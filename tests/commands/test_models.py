"""Which model is meant: selectors, --model, what info lists, and what remove deletes."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from boldreams_cli.stores import ResumableStore

from ..conftest import Run
from .conftest import listing


@pytest.fixture(scope="module")
def several(run: Run, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with three models of subject 1: of the paper's recipe, of ridge, and of another seed."""
    path = Path(shutil.copytree(cache, tmp_path_factory.mktemp("several") / "cache"))
    run("fit", "--percent", 10, "--subject", 1, "--readout", "ridge", "--cache", path)
    run("fit", "--percent", 2, "--subject", 1, "--epochs", 1, "--seed", 3, "--cache", path)
    return path


@pytest.fixture
def copied(several: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(several, tmp_path / "cache"))


def models(run: Run, cache: Path) -> dict[str, dict[str, Any]]:
    """Rows of info, by readout and percent."""
    rows = run("info", "--cache", cache, "--json").json["models"]
    return {f"{row['readout']} {row['percent']:g}": row for row in rows}


def test_several_candidates_are_listed_with_their_r(run: Run, several: Path) -> None:
    """Selectors have no defaults: --percent 10 is of ridge too, though fit --percent 10 is not."""
    done = run("score", "--percent", 10, "--cache", several, code=2)
    assert "2 fitted models match" in done.err
    rows = done.err.splitlines()
    ridge = next(line for line in rows if "ridge" in line and "subj01/alexnet/percent-10" in line)
    paper = next(line for line in rows if "paper" in line and "subj01/alexnet/percent-10" in line)
    r = models(run, several)["separable 10"]["r_mean"]
    assert f"{r:.3f}" in paper
    assert f"{r:.3f}" not in ridge, "it was not scored"
    assert not any("percent-2" in line for line in rows[1:])


@pytest.mark.parametrize(
    ("selectors", "chosen"),
    [
        (["--readout", "ridge"], "ridge 10"),
        (["--percent", 10, "--recipe", "paper"], "separable 10"),
        (["--seed", 3], "separable 2"),
        (["--fit-seed", 3, "--rf", "shared", "--no-finetune", "--subject", "subj01", "--backbone", "alexnet"],
         "separable 2"),
    ],
)  # fmt: skip
def test_any_field_selects(run: Run, several: Path, selectors: list[object], chosen: str, tmp_path: Path) -> None:
    predict = ("predict", "--image", 3, "--output", tmp_path / "p.npz", "--cache", several, "--json")
    assert run(*predict, *selectors).json["model"] == models(run, several)[chosen]["model"]


def test_the_seed_of_the_fit_is_not_that_of_a_dream(run: Run, several: Path) -> None:
    dream = ("dream", "--roi", "V1", "--steps", 1, "--count", 1, "--cache", several, "--json")
    done = run(*dream, "--percent", 2, "--fit-seed", 3, "--seed", 5)
    assert done.json["model"] == models(run, several)["separable 2"]["model"]
    assert "no fitted model" in run(*dream, "--percent", 2, "--fit-seed", 5, code=2).err


def test_model_takes_a_folder_a_name_or_a_beginning(run: Run, several: Path, tmp_path: Path) -> None:
    folder = Path(models(run, several)["ridge 10"]["model"])
    predict = ("predict", "--image", 3, "--output", tmp_path / "p.npz", "--cache", several, "--json", "--model")
    for name in (folder, folder.name, folder.name[:-3], f"subj01/alexnet/{folder.name[:-5]}"):
        assert run(*predict, name).json["model"] == str(folder)
    assert "may be 2 models" in run(*predict, "percent-10", code=2).err
    assert "no model 'percent-3' (--model)" in run(*predict, "percent-3", code=2).err


def test_a_model_that_stands_by_itself_is_not_called_an_option(run: Run, several: Path) -> None:
    cache = ("--cache", several)
    for line in (("compare", "percent-3", "percent-2"), ("remove", "percent-3", "--yes")):
        said = run(*line, *cache, code=2).err
        assert "no model 'percent-3'; there: " in said
    for line in (("compare", "percent-10", "percent-2"), ("remove", "percent-10", "--yes")):
        said = run(*line, *cache, code=2).err
        assert said.startswith("boldreams: percent-10 may be 2 models")
        assert "--model" not in said


@pytest.mark.parametrize(
    ("selectors", "said"),
    [
        (["--subject", 7, "--percent", 55], "--subject 7 --percent 55"),
        (["--finetune"], "not of --finetune"),
        (["--readout", "separable"], "--readout separable"),
        (["--recipe", "fast"], "--recipe fast"),
    ],
)
def test_selectors_that_contradict_model_are_refused(
    run: Run, several: Path, selectors: list[object], said: str
) -> None:
    folder = models(run, several)["ridge 10"]["model"]
    before = listing(several)
    assert said in run("score", "--model", folder, *selectors, "--cache", several, code=2).err
    assert listing(several) == before


def test_variables_do_not_contradict_model(run: Run, several: Path, tmp_path: Path) -> None:
    folder = models(run, several)["ridge 10"]["model"]
    predict = ("predict", "--image", 3, "--output", tmp_path / "p.npz", "--cache", several, "--json")
    done = run(*predict, "--model", folder, BOLDREAMS_PERCENT=55, BOLDREAMS_SUBJECT=7)
    assert done.json["model"] == folder
    chosen = run(*predict, "--overwrite", "--seed", 3, BOLDREAMS_MODEL=folder)
    assert chosen.json["model"] == models(run, several)["separable 2"]["model"]


def test_info_lists_models_and_stores(run: Run, several: Path) -> None:
    held = run("info", "--cache", several, "--json").json
    (store,) = held["features"]
    assert (store["rows"], store["done"], store["problem"]) == (75, 75, None)
    (responses,) = held["responses"]
    assert responses["subject"] == 1
    assert responses["done"] == responses["rows"]
    rows = models(run, several)
    assert rows.keys() == {"separable 10", "ridge 10", "separable 2"}
    wanted = {"subject": 1, "backbone": "alexnet", "recipe": "paper", "finetuned": False, "seed": 3, "percent": 2}
    assert wanted.items() <= rows["separable 2"].items()
    assert rows["separable 2"]["r_mean"] is None
    assert rows["separable 10"]["bytes"] > 1000
    assert rows["separable 10"]["date"].startswith("20")
    out = run("info", "--cache", several).out
    assert f"  {Path(rows['ridge 10']['model']).relative_to(several / 'models')} " in out
    assert f" {rows['separable 10']['r_mean']:.3f} " in out


def test_r_of_other_weights_is_not_shown(run: Run, copied: Path) -> None:
    folder = Path(models(run, copied)["separable 10"]["model"])
    scores = json.loads((folder / "scores.json").read_text())
    (folder / "scores.json").write_text(json.dumps(scores | {"weights_digest": "another"}))
    assert models(run, copied)["separable 10"]["r_mean"] is None


def test_what_cannot_be_read_is_listed_and_never_makes_info_fail(run: Run, copied: Path) -> None:
    rows = models(run, copied)
    old, torn = Path(rows["ridge 10"]["model"]), Path(rows["separable 2"]["model"])
    spec = json.loads((old / "spec.json").read_text())
    (old / "spec.json").write_text(json.dumps(spec | {"format": -1}))
    (torn / "spec.json").write_text("{")
    unfinished = old.with_name("percent-3-paper-000000")
    unfinished.mkdir()
    (unfinished / "checkpoint.safetensors").write_bytes(b"")
    (copied / "features/alexnet-000000000000.zarr").mkdir()
    shutil.copytree(next((copied / "responses").glob("*.zarr")), copied / "responses/subj02-000000000000.zarr")
    (copied / "responses/subj02-000000000000.zarr/zarr.json").write_text("{")
    held = run("info", "--cache", copied, "--json").json
    problems = {row["model"]: row["problem"] for row in held["models"]}
    assert problems.pop(rows["separable 10"]["model"]) is None
    assert "remove" in problems[str(old)]
    assert "remove" in problems[str(torn)]
    assert "goes on" in problems[str(unfinished)]
    assert all(row.keys() == held["models"][0].keys() for row in held["models"])
    assert [row["problem"] is None for row in held["features"]] == [False, True]
    assert sum(row["problem"] is None for row in held["responses"]) == 1
    assert "goes on" in run("info", "--cache", copied).out
    assert run("predict", "--image", 3, "--cache", copied, "--json").json["model"] == rows["separable 10"]["model"]


def test_info_says_that_there_is_no_cache(run: Run, tmp_path: Path) -> None:
    done = run("info", "--cache", tmp_path / "nowhere", "--json")
    assert [done.json[kind] for kind in ("features", "responses", "models", "products")] == [[], [], [], []]
    assert f"there is no cache in {tmp_path / 'nowhere'}" in done.err
    assert not (tmp_path / "nowhere").exists()
    empty = run("info", "--cache", tmp_path)
    assert "there is no cache" not in empty.err
    assert empty.out.count(" none\n") == 4


def test_remove_says_what_goes_and_deletes_only_that(run: Run, copied: Path) -> None:
    rows = models(run, copied)
    gone, kept = Path(rows["ridge 10"]["model"]), Path(rows["separable 10"]["model"])
    drawn = ("--readout", "ridge", "--roi", "V1", "--steps", 1, "--count", 1, "--cache", copied, "--json")
    made = run("dream", *drawn).json["images"]
    listed = run("info", "--cache", copied, "--json").json["products"]
    listed = [row for row in listed if row["model"] == str(gone)]
    assert [(row["kind"], row["state"]) for row in listed] == [("dream", "done")]
    assert set(made) <= set(listed[0]["files"])
    (place,) = (Path(row["place"]) for row in listed)
    assert all(Path(file).is_relative_to(place) for file in made)
    line = f"  {gone.relative_to(copied / 'models')}:\n    {place.relative_to(gone)}"
    assert f"{line}\n" in run("info", "--cache", copied).out
    spec = json.loads((gone / "spec.json").read_text())
    (gone / "spec.json").write_text(json.dumps(spec | {"weights_digest": "another"}))  # as fitted again since
    assert f"{line} (of earlier weights)\n" in run("info", "--cache", copied).out
    (gone / "spec.json").write_text(json.dumps(spec))
    mine = (str(gone), str(gone.with_name(f".{gone.name}.lock")))
    before = {path: value for path, value in listing(copied).items() if not path.startswith(mine)}
    done = run("remove", gone.name[:-2], "--cache", copied, "--yes", "--json")
    assert done.json == {"removed": [str(gone)]}
    assert "dream: 1" in done.err
    assert "MB" in done.err
    assert not gone.exists()
    assert kept.exists()
    after = listing(copied)
    assert {path: after.get(path) for path in before} == before, "nothing else changed"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_remove_beside_a_dream_and_after_a_kill(run: Run, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, kept = (Path(models(run, copied)[name]["model"]) for name in ("ridge 10", "separable 10"))
    killed = gone.with_name(f".removed-{gone.name}-1")
    (killed / "dreams").mkdir(parents=True)
    (gone / "dreams/V1/.making-dream").mkdir(parents=True)
    real = os.scandir

    def scandir(path: object = ".") -> object:
        if Path(str(path)).name == ".making-dream":
            (gone / "dreams/V1/.making-dream").rmdir()
        return real(path)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        run("remove", gone, "--cache", copied, "--yes")
    assert not gone.exists()
    assert not killed.exists()
    assert kept.exists()


@pytest.mark.parametrize("typed", [".", "a link", "a link in the cache"])
def test_a_model_is_one_whatever_it_is_typed_by(
    run: Run, copied: Path, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    folder = Path(models(run, copied)["ridge 10"]["model"])
    links = {"a link": copied.parent / "best", "a link in the cache": folder.with_name("best")}
    for link in links.values():
        link.symlink_to(folder)
    monkeypatch.chdir(folder)
    name = links.get(typed, ".")
    cache = ("--cache", copied)
    assert run("score", "--model", name, *cache, "--overwrite", "--json").json["model"] == str(folder)
    assert folder.with_name(f".{folder.name}.lock").is_file()
    assert not [path for path in copied.parent.rglob("*.lock") if "best" in path.name]
    assert run("remove", name, folder.name, "--yes", *cache, "--json").json == {"removed": [str(folder)]}
    assert not folder.exists()


def test_remove_asks(run: Run, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(models(run, copied)["ridge 10"]["model"])
    for none in (io.StringIO("y\n"), None):  # no terminal; closed when the command began
        monkeypatch.setattr(sys, "stdin", none)
        assert "--yes" in run("remove", folder, "--cache", copied, code=2).err
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    assert "nothing was removed" in run("remove", folder, "--cache", copied, code=1).err
    assert folder.exists()
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert run("remove", folder, "--cache", copied).out == f"removed {folder}\n"
    assert not folder.exists()


def test_remove_keeps_to_the_cache(run: Run, copied: Path, tmp_path: Path) -> None:
    folder = Path(models(run, copied)["ridge 10"]["model"])
    elsewhere = Path(shutil.copytree(folder, tmp_path / "mine"))
    linked = folder.with_name("percent-9-link")
    linked.symlink_to(elsewhere)
    before = listing(tmp_path)
    for name in (elsewhere, linked, folder / "..", copied / "models"):
        run("remove", name, "--cache", copied, "--yes", code=2)
    assert "no model 'nothing'" in run("remove", folder, "nothing", "--cache", copied, "--yes", code=2).err
    assert listing(tmp_path) == before, "all or none"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of two units in a cache of its own."""

    def build(path: Path) -> None:
        group = zarr.open_group(path, mode="a", zarr_format=3)
        group.create_array("maps", shape=(8, 3), chunks=(4, 3), shards=(4, 3), dtype="f4")
        group.create_array("names", data=np.arange(5))

    path = tmp_path / "cache/responses/made-0123456789ab.zarr"
    made = ResumableStore.create(path, build, {"format": 2}, changing=["maps/c/*"])
    for unit in (0, 1):
        with made.unit_lock("maps", unit):
            made.add("maps", unit, [made.write_array("maps", (unit, 0), np.full((4, 3), unit + 1.5, "f4"))])
    return path


def test_verify_names_what_is_damaged_and_what_to_run(run: Run, store: Path) -> None:
    verify = ("info", "--verify", "--cache", store.parents[1])
    assert run(*verify, "--json").json["damaged"] == []
    assert "nothing is damaged" in run(*verify, store).out
    shard = next(path for path in store.rglob("c/1/*") if path.is_file())
    shard.write_bytes(shard.read_bytes()[:-1] + bytes([shard.read_bytes()[-1] ^ 1]))
    done = run(*verify, "--json", code=1)
    (row,) = done.json["damaged"]
    assert (row["store"], row["unit"], row["file"]) == (str(store), "maps 1", shard.relative_to(store).as_posix())
    assert "boldreams prepare with the options" in done.err
    assert "rm " not in done.err
    assert run(*verify, code=0).err == "", "it was noted, and is not called done any more"
    names = next(path for path in store.rglob("names/c/*") if path.is_file())
    names.unlink()
    done = run(*verify, store, code=1)
    assert names.relative_to(store).as_posix() in done.out
    assert f"rm -r {store} and boldreams prepare" in done.err, "it is no unit's: no run makes it again in this store"
    (store / "zarr.json").write_text((store / "zarr.json").read_text().replace("store_id", "store_ie"))
    assert "seal" in run(*verify, code=1).out, "it is not taken for a store without checksums"


def test_verify_takes_stores_that_are_there(run: Run, tmp_path: Path) -> None:
    assert "no store" in run("info", "--verify", tmp_path / "nothing.zarr", code=2).err
    assert "--verify" in run("info", tmp_path, code=2).err
    assert "one of them" in run("info", "--verify", "--rois", 1, code=2).err
