"""`boldreams attribute`: what is typed is what is attributed, checked and kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from boldreams_cli.data.opening import open_dataset
from boldreams_cli.interpret.attribution import sheets
from tests.conftest import Run
from tests.interpret.conftest import Fitted


def betas(fitted: Fitted, image: int) -> np.ndarray:
    with open_dataset(fitted.root).stimuli() as stimuli, torch.inference_mode():
        return fitted.full.predict_images(torch.from_numpy(stimuli.read([image])))[0].numpy()


def test_voxel_is_x_y_z(run: Run, fitted: Fitted) -> None:
    places = fitted.model.weights.voxels
    there = {tuple(place) for place in places.tolist()}
    number = next(n for n, (x, y, z) in enumerate(places.tolist()) if x != z and (z, y, x) in there)
    x, y, z = places[number]
    image = fitted.responses.test_images[0]
    common = ("attribute", "--method", "saliency", "--image", image, "--json", "--cache", fitted.cache)
    (entry,) = run(*common, "--voxel", f"{x},{y},{z}").json["results"]
    assert entry["prediction"] == pytest.approx(betas(fitted, image)[number], abs=1e-4)
    assert entry["roi"] == f"voxel {x},{y},{z}"


def test_contrast_and_filter_are_named_and_measured(run: Run, fitted: Fitted) -> None:
    image, areas = fitted.responses.test_images[0], fitted.responses.areas
    common = ("attribute", "--method", "saliency", "--image", image, "--json", "--cache", fitted.cache)
    (entry,) = run(*common, "--roi", "v1", "--minus", "FACES").json["results"]
    found = betas(fitted, image)
    difference = found[areas.select("V1")].mean() - found[areas.select("faces")].mean()
    assert entry["prediction"] == pytest.approx(difference, abs=1e-4)
    assert Path(entry["files"][0]).parent.name == "V1-minus-faces-saliency"
    (entry,) = run(*common, "--filter", "features.12:7").json["results"]
    assert (entry["roi"], entry["delta"], entry["baseline_prediction"]) == ("features.12:7", None, None)
    assert Path(entry["files"][0]).parent.name == "filter-features.12-7-saliency"
    for wrong in (
        ("--filter", "features.12:7", "--minus", "V1"),
        ("--voxel", "1,1,1", "--filter", "features.12:7"),
        (),
    ):
        assert "boldreams:" in run(*common, *wrong, code=2).err


def test_checks_are_kept_and_say_which_maps_survive(run: Run, copied: Fitted) -> None:
    image = copied.responses.test_images[0]
    methods = ("--method", "saliency", "--method", "grad-cam")
    common = ("attribute", *methods, "--roi", "V1", "--image", image, "--check", "--cache", copied.cache)
    done = run(*common, "--json")
    assert done.json["methods"] == ["saliency", "grad-cam"]
    for entry in done.json["results"]:
        check = entry["check"]
        assert set(check["rank_correlation"]) == {"readout", "all"}
        values = [abs(level["signed"]) for level in check["rank_correlation"].values()]
        assert check["survives"] == (max(values) <= 0.5)
        assert 0 <= check["relative_infidelity"] <= 1.001
        assert check["sensitivity"] > 0
        assert all(Path(file).is_file() for file in check["files"])
    said = " ".join(done.json["verdicts"])
    assert all(method in said for method in ("saliency", "grad-cam"))
    again = run(*common, "--json")
    assert again.json == done.json
    assert "1 of 1 images were done before" in again.err
    assert done.json["verdicts"][0] in run(*common).out


def test_output_keeps_what_is_not_ours(run: Run, fitted: Fitted, tmp_path: Path) -> None:
    first, second = fitted.responses.test_images[:2]
    common = ("attribute", "--roi", "V1", "--method", "saliency", "--output", tmp_path, "--cache", fitted.cache)
    folder = tmp_path / "V1-saliency"
    folder.mkdir()
    (folder / "sheet.png").write_text("mine")
    (folder / f"image-{second:05d}.png").write_text("mine")
    done = run(*common, "--image", first, "--json")
    assert Path(done.json["sheets"][0]).parent == folder
    assert (folder / "sheet.png").read_text() == "mine"
    refused = run(*common, "--image", second, code=2)
    assert f"image-{second:05d}.png was not made by boldreams" in refused.err
    assert (folder / f"image-{second:05d}.png").read_text() == "mine"


def test_many_images_come_in_pages(run: Run, fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "ROWS", 2)
    images = [item for image in fitted.responses.test_images[:5] for item in ("--image", image)]
    done = run("attribute", "--roi", "V1", "--method", "saliency", *images, "--json", "--cache", fitted.cache)
    pages = [Path(page) for page in done.json["sheets"]]
    assert [page.name for page in pages] == ["sheet-001.png", "sheet-002.png", "sheet-003.png"]
    assert [json.loads(page.with_suffix(".json").read_text())["rows"] for page in pages] == [2, 2, 1]
