"""`boldreams minimal`: which models are compared, what is answered, what is refused; made-up scores, and real ones."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boldreams_cli.encoding.evaluation.certainty.influences import Influences
from boldreams_cli.encoding.evaluation.saved.identity import key_of
from boldreams_cli.encoding.evaluation.statistics import interval
from boldreams_cli.encoding.model.spec import ModelSpec
from boldreams_cli.files import write_json

from ..conftest import Run

IMAGES = 400
AREAS = ("V1", "faces", "V1v", "all")  # groups, a label, all


def make(
    cache: Path,
    accuracy: float | Sequence[float],
    percent: float,
    *,
    subject: int = 1,
    recipe: str | None = "fast",
    seed: int = 0,
    loss: float | None = None,
    noise: float = 0.01,
    edition: str = "",
    **training: Any,
) -> Path:
    """A folder as `fit` and `score` leave it, of the accuracy that is given for each area."""
    readout = "separable" if recipe else "ridge"
    spec = ModelSpec(
        subject=subject,
        backbone="alexnet",
        backbone_weights={"digest": "d", "source": "pretrained"},
        preprocessing={},
        layers={"features.2": [0]},
        shapes={"features.2": (1, 1)},
        groups=[],
        percent=float(percent),
        finetuned=False,
        readout=readout,
        store="s",
        responses=f"r{subject}",
        voxels=4,
        training={"percent": float(percent), "seed": seed, "rf": "shared", "device": "cpu", **training},
        recipe=recipe,
        key=f"{percent}-{seed}-{edition}-{training}",
        edition=edition,
        weights_digest=f"w{percent}{seed}{recipe}{edition}",
    )
    tag = "".join(map(str, training.values())) + edition
    folder = (
        cache / "models" / f"subj{subject:02d}" / "alexnet" / f"percent-{percent:g}-{recipe or readout}-{seed}{tag}"
    )
    write_json(folder / "spec.json", spec.to_dict())
    write_json(
        folder / "scores.json",
        {"weights_digest": spec.weights_digest, "ceiling_source": "ncsnr", "rois": {"V1": {}, "faces": {}}},
    )
    column = "held_out_loss" if recipe == "fast" else "lr"
    (folder / "log.csv").write_text(f"epoch,{column}\n1,9\n2,{1 - np.mean(accuracy) if loss is None else loss}\n")
    values = np.broadcast_to(np.asarray(accuracy, dtype=float), len(AREAS)).copy()
    common = np.random.default_rng(subject).normal(size=IMAGES)
    own = np.random.default_rng([subject, seed, int(percent)]).normal(size=(len(AREAS), IMAGES))
    influences = common + noise * own
    influences -= influences.mean(1, keepdims=True)
    sets = np.array([f"set-{name}" for name in AREAS])
    ids, repeats = np.arange(IMAGES, dtype=np.int32), np.full(IMAGES, 3, dtype=np.int32)
    scored = Influences(ids, repeats, np.array(AREAS), influences, influences, sets, values, values)
    scored.save(folder, key_of(spec))
    return folder


def change(folder: Path, **arrays: np.ndarray) -> None:
    """Other influences."""
    with np.load(folder / "influences.npz") as saved:
        np.savez(folder / "influences.npz", **({name: saved[name] for name in saved.files} | arrays))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Subject 1: 10 % loses 1 %, 5 % loses 4 %, 1 % is as good as all again."""
    cache = tmp_path / "cache"
    for percent, accuracy in {100: 0.6, 25: 0.599, 10: 0.594, 5: 0.576, 1: 0.599}.items():
        make(cache, accuracy, percent)
    return cache


def test_the_smallest_before_the_first_failure(run: Run, made: Path) -> None:
    found = run("minimal", "--cache", made, "--json").json
    assert (found["subject"], found["backbone"], found["margin"], found["reference"]) == (1, "alexnet", 0.02, 100)
    assert found["rois"].keys() == {"V1", "faces", "all"}
    answer = found["rois"]["V1"]
    assert (answer["percent"], answer["resolvable"]) == (10, True)
    assert answer["p_lo"] == 1, "the smallest that is not significantly worse, whatever lies between"
    assert answer["difference"] == pytest.approx(-0.006)
    assert 0 < answer["lower"] < 0.594 - 0.98 * 0.6
    assert found["converged"]
    assert found["ranks"] == "filters"
    assert (found["measure"], found["ceiling_source"]) == ("A", "ncsnr")


def test_the_files_hold_the_numbers(run: Run, made: Path) -> None:
    found = run("minimal", "--cache", made, "--json", "--margin", "2%,10%").json
    names = ["minimal.json", "minimal.csv", "curves.csv", "minimal.png", "minimal.pdf"]
    assert [Path(file).name for file in found["files"]] == names
    folder = Path(found["files"][0]).parent
    assert folder.parent == made / "studies" / "minimal"
    assert folder.name.startswith("subj01-alexnet-")
    assert json.loads((folder / "minimal.json").read_text()) == found
    with (folder / "minimal.csv").open() as stream:
        rows = {(row["roi"], float(row["margin"])): row for row in csv.DictReader(stream)}
    assert float(rows["V1", 0.02]["percent"]) == found["rois"]["V1"]["percent"]
    assert ("V1v", 0.1) in rows, "single labels too"
    with (folder / "curves.csv").open() as stream:
        curve = {float(row["percent"]): row for row in csv.DictReader(stream) if row["roi"] == "V1"}
    assert list(curve) == [100, 25, 10, 5, 1]
    with (
        np.load(Path(found["models"]["10"]) / "influences.npz") as a,
        np.load(Path(found["models"]["100"]) / "influences.npz") as b,
    ):
        values = a["accuracy"][0] - 0.98 * b["accuracy"][0]
    error = values.std(ddof=1) / np.sqrt(IMAGES)
    assert float(curve[10]["lower"]) == pytest.approx(interval(0.594 - 0.98 * 0.6, error, IMAGES, 0.9)[0])
    again = run("minimal", "--cache", made, "--json").json
    assert again["files"][0] != found["files"][0], "other margins lie beside"


def test_a_wider_margin_gives_fewer_filters(run: Run, made: Path) -> None:
    found = run("minimal", "--cache", made, "--json", "--margin", "0.5%,2%,0.1").json
    assert [row["margin"] for row in found["margins"]] == [0.005, 0.02, 0.1]
    assert [row["rois"]["V1"]["percent"] for row in found["margins"]] == [25, 10, 1]
    assert found["rois"] == found["margins"][0]["rois"]
    shown = run("minimal", "--cache", made, "--margin", "0.5%,2%,0.1").out
    assert "margin 10 %, p_min: V1 1 %" in shown


def test_the_best_on_held_out_training_images_is_the_reference(run: Run, made: Path) -> None:
    make(made, 0.594, 10, loss=0.1)
    found = run("minimal", "--cache", made, "--reference", "validation", "--json").json
    assert (found["reference"], found["reference_by"]) == (10, "validation")
    assert found["held_out_loss"]["10"] == 0.1
    (made / "models/subj01/alexnet/percent-10-fast-0/log.csv").write_text("epoch,train_loss\n1,9\n")
    refused = run("minimal", "--cache", made, "--reference", "validation", code=2).err
    assert "hold no training images out" in refused
    assert "--reference 100" in refused


def test_seeds_widen_the_margin(run: Run, made: Path) -> None:
    refused = run("minimal", "--cache", made, "--seeds", 3, code=3).err
    for seed in (1, 2):
        again = f"boldreams fit --cache {made} --subject 1 --backbone alexnet --percent 100 --recipe fast --seed {seed}"
        assert again in refused
    for seed, accuracy in ((1, 0.61), (2, 0.64)):
        make(made, accuracy, 100, seed=seed)
    found = run("minimal", "--cache", made, "--seeds", 3, "--json").json
    assert found["rois"]["V1"]["margin"] == pytest.approx(2 * np.std([0.6, 0.61, 0.64], ddof=1) / 0.6)
    assert found["rois"]["V1"]["percent"] == 1
    assert run("minimal", "--cache", made, "--seeds", 2, "--json").json["rois"]["V1"]["margin"] < 0.03


def test_the_papers_recipe_is_shown_beside(run: Run, made: Path) -> None:
    for percent, accuracy in {100: 0.4, 10: 0.5, 1: 0.45}.items():
        make(made, accuracy, percent, recipe="paper")
    found = run("minimal", "--cache", made, "--json").json
    assert (found["recipe"], found["rois"]["V1"]["percent"]) == ("fast", 10)
    (beside,) = found["beside"]
    assert (beside["recipe"], beside["rois"]["V1"]["percent"]) == ("paper", 1)
    assert beside["ranks"].startswith("the optimiser")
    assert "ranks the optimiser" in run("minimal", "--cache", made).out
    alone = run("minimal", "--cache", made, "--recipe", "paper", "--json")
    assert (alone.json["recipe"], alone.json["converged"], alone.json["beside"]) == ("paper", False, [])
    assert "ranks the optimiser" in alone.err


def test_fits_that_differ_in_more_than_percent_are_never_compared(run: Run, made: Path) -> None:
    make(made, 0.7, 100, grid=5)
    make(made, 0.6, 50, seed=1)
    found = run("minimal", "--cache", made, "--json").json
    assert list(found["models"]) == ["1", "5", "10", "25", "100"]
    assert found["rois"]["V1"]["reference_accuracy"] == 0.6
    make(made, 0.7, 10, grid=5)
    refused = run("minimal", "--cache", made, code=2).err
    assert "2 procedures" in refused
    assert "grid 5" in refused
    like = run("minimal", "--cache", made, "--model", "percent-10-fast-05", "--json").json
    assert list(like["models"]) == ["10", "100"]
    for percent in (100, 10):
        make(made, 0.6, percent, recipe=None)
    assert run("minimal", "--cache", made, "--readout", "ridge", "--json").json["readout"] == "ridge"


def test_models_of_other_stimuli_are_another_procedure(run: Run, made: Path) -> None:
    """Stimuli were replaced, their maps made anew, and one percent after the other is fitted again."""
    before = run("minimal", "--cache", made, "--json").json
    make(made, 0.9, 10, edition="1a2b3c4d5e6f")
    one = run("minimal", "--cache", made, "--json")
    assert one.json == before
    assert "models of other stimuli are left out: stimuli changed (1a2b3c): 10 %" in one.err
    make(made, 0.6, 100, edition="1a2b3c4d5e6f")
    refused = run("minimal", "--cache", made, code=2).err
    assert "2 procedures" in refused
    assert "1, 5, 10, 25, 100 %; stimuli original (--model" in refused
    assert "10, 100 %; stimuli changed (1a2b3c) (--model" in refused
    again = ("minimal", "--cache", made, "--model", "percent-10-fast-01a2b3c4d5e6f")
    assert list(run(*again, "--json").json["models"]) == ["10", "100"]
    assert "subject 1, alexnet, fast, stimuli changed (1a2b3c), seed 0: reference 100 %" in run(*again).out


@pytest.mark.usefixtures("rendered")
def test_over_subjects_the_largest_suffices_in_all(run: Run, made: Path) -> None:
    for percent, accuracy in {100: 0.5, 25: 0.499, 10: 0.4}.items():
        make(made, [0.5, accuracy, accuracy, accuracy], percent, subject=2)
    done = run("minimal", "--cache", made, "--json").json
    assert [one["subject"] for one in done["subjects"]] == [1, 2]
    (over,) = done["over_subjects"]
    assert over["rois"]["faces"] == {"percent": 25, "subjects": 2, "resolvable": True}
    assert over["rois"]["V1"]["percent"] == 10
    assert len(done["files"]) == 10
    one = run("minimal", "--cache", made, "--subject", 2, "--json").json
    assert (one["subject"], one["rois"]["faces"]["percent"]) == (2, 25)
    assert "over subjects 1, 2" in run("minimal", "--cache", made).out
    assert "no such model of subject 7" in run("minimal", "--cache", made, "--subject", 1, "--subject", 7, code=2).err


@pytest.mark.usefixtures("rendered")
def test_subjects_that_were_fitted_in_different_ways_are_not_joined(run: Run, made: Path) -> None:
    for percent in (100, 10):
        make(made, 0.6, percent, subject=2, grid=9)
        make(made, 0.6, percent, subject=3, grid=5, epochs=7)
    done = run("minimal", "--cache", made, "--subject", 2, "--subject", 3, code=2)
    assert "subjects of alexnet were fitted in different ways: grid 9 and 5; choose with" in done.err
    assert "--subject" in done.err
    for percent in (100, 10):
        shutil.rmtree(next(made.glob(f"models/subj02/*/percent-{percent}-*")))
        make(made, [0.6, 0.6, -0.1, -0.1], percent, subject=2, grid=5, epochs=6)
    said = run("minimal", "--cache", made, "--subject", 2, "--subject", 3).out.splitlines()[-1]
    assert "all - (not resolvable)" in said, "epochs may differ; an area of no accuracy has no answer"


@pytest.mark.usefixtures("rendered")
def test_too_few_images_are_said(run: Run, tmp_path: Path) -> None:
    for percent in (100, 10):
        make(tmp_path, 0.6, percent, noise=3)
    found = run("minimal", "--cache", tmp_path, "--json").json["rois"]["V1"]
    assert (found["percent"], found["p_lo"], found["resolvable"]) == (100, 10, False)
    assert "too few test images" in run("minimal", "--cache", tmp_path).out


@pytest.mark.parametrize("lost", ["influences.npz", "another's"])
def test_models_without_scores_by_image_are_refused(run: Run, made: Path, lost: str) -> None:
    folder = made / "models/subj01/alexnet/percent-10-fast-0"
    if lost == "influences.npz":
        (folder / lost).unlink()
    else:
        change(folder, key=np.array("other"))
    refused = run("minimal", "--cache", made, code=3).err
    assert "1 of 5 models" in refused
    assert f"boldreams score --cache {made} --model {folder}" in refused
    assert not (made / "studies").exists()


def test_other_images_and_other_voxels_are_not_compared(run: Run, made: Path) -> None:
    folder = made / "models/subj01/alexnet/percent-10-fast-0"
    change(folder, voxel_sets=np.array(["other", *(f"set-{name}" for name in AREAS[1:])]))
    found = run("minimal", "--cache", made, "--json").json
    assert found["rois"].keys() == {"faces", "all"}
    assert "not the same at all percents" in found["left_out"]["V1"]
    change(folder, images=np.arange(1, IMAGES + 1, dtype=np.int32))
    assert "other test images" in run("minimal", "--cache", made, code=3).err


def test_a_missing_reference_is_not_replaced(run: Run, made: Path) -> None:
    shutil.rmtree(made / "models/subj01/alexnet/percent-100-fast-0")
    refused = run("minimal", "--cache", made, code=3).err
    assert f"boldreams fit --cache {made} --subject 1 --backbone alexnet --percent 100 --recipe fast" in refused
    assert "--reference 25" in refused
    assert run("minimal", "--cache", made, "--reference", 25, "--json").json["rois"]["V1"]["percent"] == 10


@pytest.mark.parametrize("margin", ["2", "0", "a%", "1%,,2%", "-1%"])
def test_margins_are_shares(run: Run, made: Path, margin: str) -> None:
    assert "is no margin; write 2%" in run("minimal", "--cache", made, f"--margin={margin}", code=2).err


def test_of_real_models(run: Run, cache: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(cache, tmp_path / "cache"))
    said = run("minimal", "--cache", own, code=2).err
    assert "no two percents" in said
    assert "paper 10 %" in said
    assert "--percent 100" in said, "10 % is there"
    for percent in (20, 10, 2):
        run("fit", "--percent", percent, "--subject", 1, "--cache", own, "--readout", "ridge")
    refused = run("minimal", "--cache", own, "--reference", 20, code=3).err
    assert "3 of 3 models have no scores by image" in refused
    scored = {
        percent: run("score", "--cache", own, "--readout", "ridge", "--percent", percent, "--json").json
        for percent in (20, 10, 2)
    }
    found = run("minimal", "--cache", own, "--reference", 20, "--json").json
    assert found["readout"] == "ridge"
    assert found["images"] == 15
    with (Path(found["files"][0]).parent / "curves.csv").open() as stream:
        rows = {(row["roi"], float(row["percent"])): row for row in csv.DictReader(stream)}
    for percent, summary in scored.items():
        row = rows["V1", percent]
        assert float(row["accuracy"]) == pytest.approx(summary["rois"]["V1"]["accuracy"])
        assert float(row["accuracy_se"]) == pytest.approx(summary["rois"]["V1"]["accuracy_image_se"])
    best = run("minimal", "--cache", own, "--reference", "validation", "--json").json
    assert best["reference"] == float(min(best["held_out_loss"], key=best["held_out_loss"].get))


def test_a_backbone_with_a_path_in_its_name_has_one_folder(run: Run, made: Path) -> None:
    for file in made.glob("models/*/*/*/spec.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"backbone": "open_clip:RN50/openai"}))
    found = run("minimal", "--cache", made, "--json").json
    folder = Path(found["files"][0]).parent
    assert folder.parent == made / "studies" / "minimal", "the report looks there"
    assert folder.name.startswith("subj01-open_clip-RN50-openai-")


def test_a_loss_that_is_no_number_chooses_no_reference(run: Run, made: Path) -> None:
    make(made, 0.1, 1, loss=float("nan"))
    (log,) = made.glob("models/*/*/percent-1-*/log.csv")
    log.write_text("epoch,held_out_loss\n1,nan\n2,nan\n")
    said = run("minimal", "--cache", made, "--reference", "validation", code=3).err
    assert "no held_out_loss that is a number" in said
