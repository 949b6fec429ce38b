"""Images are called by their names in the data set, wherever people read of them; JSON keeps their numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from boldreams_cli import plots
from boldreams_cli.encoding.evaluation.predict import Wanted
from boldreams_cli.interpret import labels
from boldreams_cli.interpret.dreams import drawing
from boldreams_cli.interpret.dreams import record as dreams
from boldreams_cli.interpret.words import record as words
from boldreams_cli.plots.pictures.words import Panel
from tests.conftest import Run
from tests.interpret.conftest import Fitted

CLIP = "ViT-S-32-alt"


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set that has names for its images."""
    for place in (labels, drawing, dreams):
        monkeypatch.setattr(place, "label_of", lambda root, image: f"scene-{image}")


def test_a_file_is_called_by_its_name() -> None:
    assert labels.called(Wanted(file=Path("/somewhere/photo.jpg")), None) == "photo.jpg"
    assert labels.called(Wanted(image_id=7), None) == "7"


@pytest.mark.usefixtures("named")
def test_attributions(run: Run, fitted: Fitted) -> None:
    image = int(fitted.responses.test_images[2])
    common = ("attribute", "--roi", "V2", "--method", "saliency", "--image", image, "--cache", fitted.cache)
    (entry,) = run(*common, "--json").json["results"]
    assert (entry["image"], entry["image_label"]) == (image, f"scene-{image}")
    arrays = Path(entry["files"][0])
    assert json.loads(arrays.with_suffix(".json").read_text())["caption"].startswith(f"image scene-{image}: ")
    with np.load(arrays) as stored:
        assert stored["image"] == f"scene-{image}"
    assert f"image scene-{image}, saliency" in run(*common).out


@pytest.mark.usefixtures("named")
def test_dreams(run: Run, fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    original = plots.dream_sheet

    def sheet(path: Path, made: list, natural: list[tuple[np.ndarray, str]], title: str) -> None:
        said.extend(caption for _, caption in natural)
        original(path, made, natural, title)

    monkeypatch.setattr(plots, "dream_sheet", sheet)
    image = int(fitted.responses.test_images[2])
    quick = ("--steps", 1, "--lr", "1e-3", "--cache", fitted.cache)
    done = run("dream", "--roi", "V2", "--start", image, *quick, "--json").json
    best = done["best_natural"]["test"]
    assert best["image_label"] == f"scene-{best['image']}"
    assert (done["start"]["image"], done["start"]["image_label"]) == (str(image), f"scene-{image}")
    assert f"V2-start-scene-{image}" in done["images"][0]
    assert [caption.split(":")[0] for caption in said] == [
        f"start, scene-{image}",
        *(f"best {split} image, {done['best_natural'][split]['image_label']}" for split in ("train", "test")),
    ]
    assert f"best test image: scene-{best['image']}" in run("dream", "--roi", "V2", "--start", image, *quick).out


@pytest.mark.usefixtures("named")
def test_words(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    original = words.clouds

    def clouds(path: Path, panels: list[Panel], title: str, foot: str) -> None:
        titles.extend(panel.title for panel in panels)
        original(path, panels, title, foot)

    monkeypatch.setattr(words, "clouds", clouds)
    (tmp_path / "words.txt").write_text("tree\nriver\n")
    common = ("--vocabulary", tmp_path / "words.txt", "--clip", CLIP, "--weights", "random", "--json")
    done = run("wordcloud", "--image", 3, *common, BOLDREAMS_CACHE=tmp_path)
    assert done.json["image"] == 3
    assert Path(done.json["files"][0]).parent == tmp_path / "words/scene-3"
    assert titles == ["image scene-3"]
