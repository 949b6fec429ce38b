"""`boldreams attribute`: what is typed is what is attributed, checked and kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from boldreams_cli import plots
from boldreams_cli.data.opening import open_dataset
from boldreams_cli.interpret.attribution import sheets
from boldreams_cli.interpret.attribution.checks import curves, measures
from boldreams_cli.interpret.attribution.scores import Scores
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


def test_voxels_are_chosen_by_their_accuracy(run: Run, copied: Fitted) -> None:
    image = copied.responses.test_images[0]
    common = ("attribute", "--method", "saliency", "--image", image, "--json", "--cache", copied.cache)
    assert "run boldreams score" in run(*common, "--voxel", "best:V1", code=2).err
    assert "--min-r" in run(*common, "--filter", "features.12:7", "--min-r", "0.1", code=2).err
    run("score", "--cache", copied.cache)
    saved = json.loads((copied.model.folder / "scores.json").read_text())
    r, ceiling = (np.array(saved[name], float) for name in ("r", "ceiling"))
    chosen, found = copied.responses.areas.select("V1"), betas(copied, image)
    bound = round(float(np.median(r[chosen])), 4)
    (some,) = run(*common, "--roi", "V1", "--min-r", bound, "--min-ceiling", "0.1").json["results"]
    kept = chosen & (r >= bound) & (ceiling >= 0.1)
    assert 0 < kept.sum() < chosen.sum()
    assert some["prediction"] == pytest.approx(found[kept].mean(), abs=1e-4)
    assert some["roi"] == f"V1 (r >= {bound:g}, ceiling >= 0.1)"
    best = np.argmax(np.where(chosen & (ceiling >= 0.2) & np.isfinite(r), r / ceiling, -np.inf))
    (one,) = run(*common, "--voxel", "best:V1").json["results"]
    assert one["prediction"] == pytest.approx(found[best], abs=1e-4)


def test_best_images_are_searched_once_for_all_methods(
    run: Run, fitted: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[int] = []
    original = Scores.stored
    monkeypatch.setattr(Scores, "stored", lambda *given: searched.append(1) or original(*given))
    methods = ("--method", "saliency", "--method", "input-x-gradient")
    done = run("attribute", "--roi", "V1", *methods, "--count", 1, "--json", "--cache", fitted.cache)
    assert searched == [1]
    assert [entry["method"] for entry in done.json["results"]] == ["saliency", "input-x-gradient"]
    assert len({entry["image"] for entry in done.json["results"]}) == 1


def test_checks_are_kept_and_say_which_maps_survive(run: Run, copied: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "ORDERS", 1)
    monkeypatch.setattr(measures, "SQUARES", 16)
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


def test_files_of_one_name_each_have_their_own_place(run: Run, fitted: Fitted, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a/1.png", "b/1.png", "b/2.png")]
    for shade, file in enumerate(files):
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (60 * shade, 120, 90)).save(file)
    common = ("attribute", "--roi", "V1", "--method", "saliency", "--output", tmp_path / "maps", "--json")
    asked = [word for file in (*files, files[0]) for word in ("--image", file)]
    found = run(*common, *asked, "--cache", fitted.cache).json["results"]
    stems = [Path(entry["files"][0]).stem for entry in found]
    assert [entry["image"] for entry in found[:3]] == [str(file) for file in files]
    assert [stem[:2] for stem in stems] == ["1-", "1-", "2", "1-"]
    assert stems[0] != stems[1]
    assert stems[3] == stems[0]
    assert all(Path(file).is_file() for entry in found for file in entry["files"])
    assert run(*common, *asked, "--overwrite", "--cache", fitted.cache).json["results"] == found
    (alone,) = run(*common, "--image", files[0], "--cache", fitted.cache).json["results"]
    assert Path(alone["files"][0]).stem == "1"


def test_a_whole_split_comes_in_pages_a_few_rows_at_a_time(
    run: Run, copied: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets, "ROWS", 2)
    drawn: list[list[str]] = []

    def remember(path: Path, rows: list[plots.Row], title: str, unit: str) -> None:
        """In place of drawing, which takes most of the time."""
        if path.name.startswith("sheet"):
            drawn.append([row.caption for row in rows])
        for suffix in (".png", ".pdf"):
            path.with_suffix(suffix).write_bytes(b"")

    monkeypatch.setattr(plots, "attribution", remember)
    test = copied.responses.test_images
    done = run("attribute", "--roi", "V1", "--method", "saliency", "--image", "test", "--json", "--cache", copied.cache)
    assert [entry["image"] for entry in done.json["results"]] == test.tolist()
    assert len(done.json["sheets"]) == -(-len(test) // 2) == len(drawn)
    assert [caption.split(":")[0] for page in drawn for caption in page] == [f"image {image}" for image in test]
    titles = [json.loads(Path(page).with_suffix(".json").read_text())["title"] for page in done.json["sheets"]]
    assert titles[0].endswith(f"page 1 of {len(drawn)}")


def test_pages_have_numbers(run: Run, fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "ROWS", 2)
    images = [item for image in fitted.responses.test_images[:3] for item in ("--image", image)]
    done = run("attribute", "--roi", "V1", "--method", "saliency", *images, "--json", "--cache", fitted.cache)
    pages = [Path(page) for page in done.json["sheets"]]
    assert [page.name for page in pages] == ["sheet-001.png", "sheet-002.png"]
    assert [json.loads(page.with_suffix(".json").read_text())["rows"] for page in pages] == [2, 1]
