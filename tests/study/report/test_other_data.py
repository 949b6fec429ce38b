"""A page of a data file says what is so of that file, and not what is so of NSD."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from boldreams_cli.data.neutral.writing import write
from boldreams_cli.data.prepared.reliability import ESTIMATED
from boldreams_cli.data.units import VoxelUnits
from boldreams_cli.interpret import gallery
from boldreams_cli.study.report import brain_map, origins
from boldreams_cli.study.report.collect import Model, Subject
from boldreams_cli.study.report.findings import Findings
from boldreams_cli.study.report.methods import methods

from ...conftest import Run

IMAGES, REPEATS, VOXELS = 30, 3, 8


@pytest.fixture(scope="module")
def cache(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a file without ceilings and degrees, with dreams of pixels and two kinds of attributions."""
    folder = tmp_path_factory.mktemp("other")
    rng = np.random.default_rng(0)
    shown, light = np.tile(np.arange(IMAGES), REPEATS), rng.random(IMAGES)
    pixels = (rng.integers(0, 80, (IMAGES, 32, 32, 3)) + 170 * light[:, None, None, None]).astype(np.uint8)
    write(
        folder / "S1.h5",
        subject="S1",
        betas=2 * light[shown, None] + rng.normal(size=(len(shown), VOXELS)),
        trial_image=shown,
        image_names=[f"{number:02d}.png" for number in range(IMAGES)],
        pixels=pixels,
        zscored=False,
        sessions=None,
        units=VoxelUnits(np.argwhere(np.ones((2, 2, 2))), np.eye(4), (2, 2, 2)),
        areas={"ecc_1": np.arange(VOXELS) < 4, "ecc_2": np.arange(VOXELS) >= 4},
    )
    common = ("--cache", folder / "cache")
    run("prepare", "--data", folder / "S1.h5", *common)
    run("extract", "--backbone", "alexnet", "--weights", "random", "--data", folder / "S1.h5", *common)
    run("fit", "--subject", "S1", "--percent", 10, "--readout", "ridge", *common)
    run("score", *common)
    run("dream", "--roi", "ecc_1", "--roi", "ecc_2", "--steps", 1, "--count", 1, "--parameterization", "pixel", *common)
    methods = ("--method", "integrated-gradients", "--method", "saliency")
    run("attribute", "--filter", "features.2:3", *methods, "--steps", 8, "--image", "03.png", *common)
    return folder / "cache"


def test_the_page_says_what_is_so_of_the_file(run: Run, cache: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    said = run("report", "--cache", cache, "--output", page, "--json").json
    html, text = page.read_text(), (tmp_path / "page_files/methods.md").read_text()
    assert "drawn at random" in html
    assert "all subjects saw" not in html
    assert "z-scored for each voxel by its training trials" in html
    assert "each voxel and session" not in html
    (row,) = csv.DictReader((tmp_path / "page_files/data.csv").read_text().splitlines())
    assert row["ceiling_source"] == f"{ESTIMATED} of {IMAGES} images"
    assert row["ceiling_source"] in html
    (scores,) = csv.DictReader((tmp_path / "page_files/percent.csv").read_text().splitlines())
    assert scores["ceiling_source"] == row["ceiling_source"]
    assert f"ncsnr estimated from the repeats of {IMAGES} images" in text
    assert "decorrelated pixels" in text
    assert "Fourier" not in text
    assert "saliency" in text
    assert "None" not in text
    assert "degrees" not in html.split('id="figure-contrast-S1"')[1].split("</figure>")[0].replace(
        "how many degrees", ""
    )
    attention = html.split('id="attention-S1"')[1].split("</details>")[0]
    assert "mean activation" in attention
    assert "mean beta" not in attention
    assert said["warnings"] == []


def test_where_no_voxel_has_an_r_there_is_a_page(run: Run, cache: Path, tmp_path: Path) -> None:
    (file,) = cache.glob("models/*/*/*/scores.json")
    known = file.read_text()
    scores = json.loads(known) | {"r": [None] * VOXELS, "r_mean": None, "ceiling_mean": None, "r_ci": [None, None]}
    try:
        file.write_text(json.dumps(scores | {"rois": {}}))
        run("report", "--cache", cache, "--output", tmp_path / "page.html")
    finally:
        file.write_text(known)
    assert "highest mean r" not in (tmp_path / "page_files/methods.md").read_text()


def of(number: int | str, **said: Any) -> Subject:
    return Subject(number, {"dataset": "file", "units": "voxels", **said}, None, [])


def scored(subject: int | str, **scores: Any) -> Model:
    return cast(Model, SimpleNamespace(subject=subject, scores=scores))


def test_what_differs_between_subjects_is_said_of_each() -> None:
    nsd, marked, drawn = of(1, dataset="nsd"), of("A", test_kind="marked"), of("B", test_kind=["held out", 0.1, 3])
    said = origins.by_subject([nsd, of(2, dataset="nsd"), marked, drawn], origins.images_of_test)
    assert "all subjects saw (subjects 1 and 2); those that the data file marks as the test (subject A)" in said
    assert origins.by_subject([of("A", zscore="given", units="vertices")], origins.z_scoring).startswith("as the data")


def test_ceilings_are_of_the_scores_and_of_earlier_ones_those_of_the_responses() -> None:
    models = [
        scored("A", ceiling_source=ESTIMATED, ceiling_images=40),
        scored("B", ceiling_source=None, ceiling_images=None),
        scored("C"),
        scored(1),
        scored(1),
    ]
    held = [of("C", ceiling_source="single-trial", ceiling_images=None)]
    assert origins.sources_of(models, held) == {
        "ncsnr estimated from the repeats of 40 images": ["A"],
        "": ["B"],
        "ncsnr from the data's noise ceiling of a single trial": ["C"],
        "ncsnr as the data have it": [1],
    }


def test_subjects_with_numbers_and_with_names_stand_in_one_gallery() -> None:
    def fitted(subject: int | str) -> Any:
        spec = SimpleNamespace(subject=subject, backbone="alexnet", finetuned=False, percent=10.0)
        return SimpleNamespace(spec=spec, folder=Path("m"))

    models = gallery.ordered([fitted("CSI1"), fitted(2), fitted(1)])
    assert [model.spec.subject for model in models] == [1, 2, "CSI1"]


def test_without_ceilings_methods_say_that_there_are_none() -> None:
    model = SimpleNamespace(
        **{"subject": "A", "label": "alexnet 10 %", "products": [], "spec": {"layers": {}}, "kind": "ridge"},
        row=SimpleNamespace(backbone="alexnet", percent=10.0, kind="ridge", readout="ridge", finetuned=False, seed=0),
        scores={"r_mean": 0.5, "ceiling_mean": None, "ceiling_source": None, "ceiling_images": None},
    )
    held = SimpleNamespace(subjects=[], models=[model], scored=[model], minimals=[])
    text = methods(cast(Any, held)).markdown()
    assert "No noise ceiling is known" in text
    assert "ncsnr" not in text
    assert "The highest mean r was 0.500, by alexnet 10 %, subject A." in text


def test_a_map_of_r_over_ceiling_is_there_where_ceilings_are() -> None:
    def maps(ceiling: float) -> list[str]:
        model = SimpleNamespace(
            **{"spec": {}, "scores": {"r_mean": 0.5}, "label": "alexnet", "r": np.full(2, 0.5, np.float32)},
            ceiling=np.full(2, ceiling, np.float32),
            row=SimpleNamespace(folder=Path("percent-10")),
            column=lambda name: None,
        )
        subject = SimpleNamespace(models=[model], number=1)
        held = SimpleNamespace(compares=[], findings=Findings())
        space = SimpleNamespace(voxels=np.zeros((2, 3), int), mask=None)
        return [found.unit for found in brain_map._maps(*cast(Any, (held, subject, space)))]

    assert maps(0.8) == ["r", "r / ceiling"]
    assert maps(np.nan) == ["r"]
