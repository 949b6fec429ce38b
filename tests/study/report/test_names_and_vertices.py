"""What a page says of models that are called alike, of subjects together, of vertices, of other tests."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from boldreams_cli.encoding.evaluation.certainty.influences import load_influences
from boldreams_cli.encoding.evaluation.statistics import image_error
from boldreams_cli.study.report.collect import collect
from boldreams_cli.study.report.differences import _pairs
from boldreams_cli.study.report.variants import names_of

from ...conftest import Run
from .conftest import FAST, NETWORK, Reported


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def spec(percent: float, seed: int = 0, **training: object) -> dict:
    said = {"percent": percent, "seed": seed, **training}
    return {"percent": percent, "training": said, "responses": "r", "backbone_weights": {"digest": "d"}}


def test_only_what_differs_at_one_percent_and_seed_is_named() -> None:
    assert names_of([[spec(1, epochs=150), spec(10, epochs=10)]]) == [["", ""]], "the solver chose them"
    assert names_of([[spec(1), spec(1, seed=1)]]) == [["", ""]]
    twice = [spec(1, grid=5, epochs=10), spec(1, grid=9, epochs=10), spec(10, grid=9, epochs=12)]
    assert names_of([twice, [spec(1, grid=9)]]) == [["grid 5", "grid 9", "grid 9"], ["grid 9"]]
    assert names_of([[spec(1, compress="sqrt"), spec(1)]]) == [["compress sqrt", "compress None"]]
    others = [spec(1), spec(1) | {"responses": "s"}]
    assert names_of([others, [spec(1)]]) == [["responses r", "responses s"], [""]]
    rectified = spec(10) | {"preprocessing": {"map": "rectified"}}
    assert names_of([[spec(1), spec(10), rectified]]) == [["map signed", "map signed", "map rectified"]]
    assert names_of([[spec(1)], [rectified]]) == [["map signed"], ["map rectified"]], "of whatever percent and subject"
    layers = [spec(percent) | {"layers": {name: [0] for name in names}} for percent, names in ((1, "ab"), (10, "a"))]
    assert names_of([layers]) == [['layers ["a", "b"]', 'layers ["a"]']]


def test_models_of_other_stimuli_are_never_called_alike() -> None:
    """Whatever their percent: of one store whose maps were made anew, of two stores, or finetuned on other pixels."""

    def of(percent: float, store: str, edition: str = "") -> dict:
        return spec(percent) | {"store": store} | ({"edition": edition} if edition else {})

    changed = "1a2b3c4d5e6f"
    old, new, said = "stimuli original", "stimuli changed (1a2b3c)", "store 000000000001"
    assert names_of([[of(1, "s"), of(10, "s")]]) == [["", ""]]
    assert names_of([[of(1, "s"), of(10, "s"), of(10, "s", changed)]]) == [[old, old, new]]
    assert names_of([[of(1, "s"), of(10, "s", changed)]]) == [[old, new]]
    assert names_of([[of(1, "s")], [of(1, "s", changed)]]) == [[old], [new]], "subjects that share a store"
    assert names_of([[of(1, "a"), of(1, "a", changed)], [of(1, "b")]]) == [[old, new], [""]], "each data file its own"
    two = [of(1, "000000000001"), of(10, "000000000002")]
    assert names_of([two, [of(1, "000000000001")], [of(1, "c")]]) == [[said, said[:-1] + "2"], [said], [""]]
    assert names_of([[two[0]], [two[1]]]) == [[""], [""]]
    tuned = [spec(percent, stimuli="x", pixels=pixels * 64) for percent, pixels in ((1, "a"), (10, "b"))]
    assert names_of([tuned, [spec(1, stimuli="y", pixels="c" * 64)]]) == [["stimuli aaaaaa", "stimuli bbbbbb"], [""]]


@pytest.fixture(scope="module")
def alike(run: Run, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache with models of subject 1 that differ in grid and seed, each with a dream of V1."""
    copy = Path(shutil.copytree(cache, tmp_path_factory.mktemp("alike") / "cache"))
    common = ("--cache", copy, "--subject", 1, "--percent", 10)
    for more in (("--grid", 4), ("--seed", 1)):
        model = run("fit", *common, *FAST, *more, "--json").json["model"]
        run("score", "--cache", copy, "--model", model)
        run("dream", "--cache", copy, "--model", model, "--roi", "V1", "--steps", 1, "--count", 1)
    return copy


@pytest.mark.usefixtures("unrendered")
def test_models_that_are_called_alike_are_told_apart(run: Run, alike: Path) -> None:
    page = Path(run("report", "--cache", alike, "--json").json["file"])
    beside = page.with_name("report_files")
    names = [model.label for model in collect(alike).models if model.subject == 1 and model.row.percent == 10]
    assert len(names) == len(set(names)) == 3
    assert any("grid 4" in name for name in names)
    assert any("seed 1" in name for name in names)
    shown = {row["column"] for row in rows(beside / "early-subj01.csv") if row["row"] == "V1"}
    assert shown == set(names), "a dream of each"
    pairs = [row for row in rows(beside / "difference-means.csv") if row["subject"] == "1"]
    assert len(pairs) == 1, "only models of one grid and seed are compared by percent"
    counted = {row["model"]: row["subjects"] for row in rows(beside / "areas.csv") if row["area"] == "V1"}
    assert sorted(counted.values()) == ["1", "2"], "two families; seeds are no subjects"


def test_models_of_other_maps_are_not_compared(own: Path) -> None:
    """Signed and rectified maps of one network, at percents that each has but one of."""
    whole = next(own.glob("models/subj01/*/percent-10-*/spec.json"))
    said = json.loads(whole.read_text())
    whole.write_text(json.dumps(said | {"preprocessing": said["preprocessing"] | {"map": "rectified"}}))
    models = [model for model in collect(own).scored if model.subject == 1]
    assert [model.kind for model in models] == ["fast, map rectified", "fast, map signed"]
    assert not list(_pairs(models))


def test_images_that_subjects_share_are_one_sample(reported: Reported) -> None:
    """Both subjects saw the same test images, so their influences add up image by image."""
    folders = sorted(path.parent for path in reported.cache.glob("models/*/*/percent-10-*/spec.json"))
    found = [load_influences(folder) for folder in folders]
    assert len(found) == 2
    assert np.array_equal(found[0].images, found[1].images)
    together = np.mean([one.r[one.row("V1")] for one in found], axis=0)
    (row,) = [row for row in rows(reported.beside / "areas.csv") if row["area"] == "V1"]
    assert float(row["r_image_se"]) == pytest.approx(float(image_error(together)))
    apart = np.hypot(*[float(image_error(one.r[one.row("V1")])) for one in found]) / 2
    assert float(row["r_image_se"]) != pytest.approx(apart, rel=1e-3)


@pytest.mark.usefixtures("unrendered")
def test_the_largest_percent_over_subjects(run: Run, alike: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(alike, tmp_path / "cache"))
    run("fit", "--cache", copy, "--subject", 2, "--percent", 1, *FAST)
    run("score", "--cache", copy, "--subject", 2, "--percent", 1)
    asked = ("minimal", "--cache", copy, "--backbone", NETWORK, "--reference", 10, "--margin", "50%", "--json")
    models = [f"percent-1-fast-{row.name.rsplit('-', 1)[1]}" for row in copy.glob("models/*/*/percent-1-fast-*")]
    said = [run(*asked, "--model", name).json for name in models]
    page = Path(run("report", "--cache", copy, "--json").json["file"])
    over = {row["area"]: row for row in rows(page.with_name("report_files") / "minimal-over-subjects.csv")}
    assert over.keys() == set(said[0]["rois"]) | set(said[1]["rois"])
    for area, row in over.items():
        percents = [one["rois"][area]["percent"] for one in said if area in one["rois"]]
        expected = "" if None in percents else str(float(max(percents)))
        assert (row["percent"], row["subjects"]) == (expected, str(len(percents))), area
    assert "Smallest percent not inferior in every subject" in page.read_text()
    methods = (page.with_name("report_files") / "methods.md").read_text()
    asked_for = f"(margin 50 %, reference 10 % of the filters, {said[0]['images']} test images)"
    whole = [one for one in said if one["rois"]["all"]["percent"] is not None]
    assert methods.count(asked_for) == len(whole), "a percent says nothing without what was asked"


@pytest.mark.usefixtures("unrendered")
def test_other_tests_are_a_table(run: Run, own: Path) -> None:
    model = next(own.glob("models/subj01/*/percent-10-*"))
    scores = json.loads((model / "scores.json").read_text())
    other = scores | {"test": "synthetic", "r_mean": 0.123456789, "images": 7, "r_within_kinds_mean": 0.05}
    (model / "scores-synthetic.json").write_text(json.dumps(other))
    folds = {"folds": 5, "images": 30, "voxels": 9, "r_mean": 0.25, "r_image_se": 0.01, "r_ci": [0.2, 0.3]}
    (model / "scores.json").write_text(json.dumps(scores | {"folds": folds | {"ceiling_mean": 0.6, "rois": {}}}))
    stale = next(own.glob("models/subj01/*/percent-1-*"))
    (stale / "scores-synthetic.json").write_text(json.dumps(other | {"weights_digest": "of others"}))
    page = Path(run("report", "--cache", own, "--json").json["file"])
    found = rows(page.with_name("report_files") / "other-tests.csv")
    assert [(row["test"], row["images"], row["r_mean"]) for row in found] == [
        ("training images, 5 folds", "30", "0.25"),
        ("synthetic", "7", "0.123456789"),
    ]
    assert found[0]["r_of_test_images"] == repr(scores["r_mean"])
    assert "training images, 5 folds" in page.read_text()


def test_products_of_weights_that_are_gone_are_left_out(own: Path) -> None:
    """As of a model that was fitted again on another device, into the same folder."""
    model = next(own.glob("models/subj01/*/percent-10-*"))
    old = next(model.glob("dreams/V1*/dream.json"))
    old.write_text(json.dumps(json.loads(old.read_text()) | {"model_weights": "of others"}))
    held = collect(own)
    (shown,) = [one.products for one in held.models if one.row.folder == model]
    assert {kept.description["area"] for kept in shown if kept.kind == "dream"} == {"ecc_1", "faces"}
    (said,) = [one for one in held.findings.found if "other weights" in one.what]
    assert said.where == f"{model}: dream {old.parent.name}"


def test_percents_are_written_as_they_are(reported: Reported) -> None:
    from boldreams_cli.study.report.assets import columns

    (percent,) = columns(("percent", "%"))
    assert [percent.text(value) for value in (0.5, 2.5, 10.0, 100.0, None)] == ["0.5", "2.5", "10", "100", "–"]
    assert ">10</data>" in reported.html
