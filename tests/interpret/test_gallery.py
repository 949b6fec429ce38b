"""`boldreams gallery`: each picture in its own row and column, and what is missing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boldreams_cli import plots
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.interpret import gallery
from boldreams_cli.interpret.dreams import gallery as side_by_side
from boldreams_cli.interpret.gallery import Source, titles
from boldreams_cli.interpret.products import Kept, Product, find_products
from boldreams_cli.plots.pictures.grid import Cell
from tests.conftest import Run
from tests.interpret.conftest import Fitted
from tests.interpret.test_dreams_asked import QUICK


@pytest.fixture
def two(run: Run, copied: Fitted) -> Fitted:
    """Two models: the first with dreams of V1 and faces and an attribution, the second with a dream of faces."""
    other = copied.model.folder.with_name("percent-50-paper-aaaaaa")
    shutil.copytree(copied.model.folder, other)
    spec = json.loads((other / "spec.json").read_text())
    (other / "spec.json").write_text(json.dumps(spec | {"percent": 50}))
    chosen = ("--model", copied.model.folder, "--cache", copied.cache)
    run("dream", "--roi", "faces", "--roi", "V1", *QUICK, *chosen)
    shown = copied.responses.test_images[0]
    run("dream", "--roi", "V1", "--start", shown, *QUICK, *chosen)  # newer, and not what V1 wants most
    run("attribute", "--roi", "V1", "--image", copied.responses.test_images[0], "--steps", 8, *chosen)
    run("dream", "--roi", "faces", *QUICK, "--model", other, "--cache", copied.cache)
    return copied


def test_pictures_stand_in_their_rows_and_columns(
    run: Run, two: Fitted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: dict[str, tuple[list[list[Cell | None]], list[str], list[str]]] = {}
    original = plots.areas_by_models

    def remember(path: Path, cells: list[list[Cell | None]], areas: list[str], models: list[str], kind: str) -> None:
        drawn[kind] = (cells, areas, models)
        original(path, cells, areas, models, kind)

    monkeypatch.setattr(plots, "areas_by_models", remember)
    done = run("gallery", "--roi", "V1", "--roi", "faces", "--roi", "V2", "--json", "--cache", two.cache)
    assert done.json["there"] == {"dreams": 3, "words": 0, "attributions": 1}
    assert done.json["areas"] == ["V1", "faces", "V2"]
    cells, areas, models = drawn["dreams"]
    assert areas == ["V1", "faces"]
    assert ["10 %" in models[0], "50 %" in models[1]] == [True, True]
    for row, area in zip(cells, areas, strict=True):
        (path,) = (two.model.folder / "dreams").glob(f"{area}-steps*/dream-1.png")
        assert row[0] is not None
        np.testing.assert_array_equal(row[0].pixels, np.asarray(Image.open(path)) / 255)
        assert (row[1] is None) == (area == "V1")
    assert [len(row) for row in drawn["attributions"][0]] == [1]
    assert "10 %" in drawn["attributions"][2][0], "a model of which there is none is no column"
    missing = [item["run"] for item in done.json["missing"] if item["kind"] == "dreams"]
    other = two.model.folder.with_name("percent-50-paper-aaaaaa")
    assert missing == [
        f"boldreams dream --roi V1 --model {other}",
        f"boldreams dream --roi V2 --model {two.model.folder}",
        f"boldreams dream --roi V2 --model {other}",
    ]
    assert {Path(file).name for file in done.json["files"]} == {
        *("dreams.png", "dreams.pdf", "attributions.png", "attributions.pdf"),
    }
    kept = run(
        "gallery", "--kind", "dreams", "--percent", 10, "--output", tmp_path / "own", "--json", "--cache", two.cache
    )
    assert set(kept.json["areas"]) == {"V1", "faces"}
    assert kept.json["missing"] == []
    assert {path.name for path in (tmp_path / "own").iterdir()} == {"dreams.png", "dreams.pdf", "gallery.json"}


def written(path: Path, said: dict[str, object]) -> dict[str, object]:
    path.write_bytes(b"")
    return said


def made(folder: Path, kind: str, name: str, **said: object) -> Kept:
    """A product that holds no more than its description."""
    about = {"roi": "V1", "method": "integrated-gradients", "baseline": "black", "steps": 256}
    product = Product(kind, folder / {"words": "words"}.get(kind, "attributions") / "V1", name, ("{stem}.npz",), said)
    found = product.write(lambda place, stem: written(place / f"{stem}.npz", about | said))
    return next(item for item in find_products(folder) if item.key == found["key"])


def test_columns_of_models_that_are_called_alike_say_which(tmp_path: Path, fitted: Fitted) -> None:
    """As of one percent before and after the stimuli were replaced."""
    other = replace(fitted.model.spec, percent=50.0)
    named = {"percent-10-paper-1a2b3c": fitted.model.spec, "percent-10-paper-4d5e6f": fitted.model.spec, "x-1": other}
    sources = [Source(FittedModel(tmp_path / name, spec, fitted.model.weights), []) for name, spec in named.items()]
    assert titles(sources) == [
        "alexnet 10 %\npaper, subject 1\n1a2b3c",
        "alexnet 10 %\npaper, subject 1\n4d5e6f",
        "alexnet 50 %\npaper, subject 1",
    ]


def test_a_row_shows_what_most_models_have(tmp_path: Path, fitted: Fitted) -> None:
    """Of one image, that a model has it by several methods does not make it that of most models."""
    folders = [tmp_path / name for name in "abc"]
    for method in ("integrated-gradients", "saliency", "occlusion"):
        made(folders[0], "attribution", f"image-9-{method}", image=9, method=method)
    common = [made(folder, "attribution", "image-3", image=3) for folder in folders[:2]]
    only = made(folders[2], "attribution", "image-5", image=5, method="saliency")
    for folder, score in zip(folders, ("logit", "cosine", "cosine"), strict=True):
        made(folder, "words", score, image="V1", vocabulary="brown", score=score, prompt="{}")
    made(folders[0], "words", "cosine", image="V1", vocabulary="brown", score="cosine", prompt="{}")
    sources = [
        Source(FittedModel(folder, fitted.model.spec, fitted.model.weights), find_products(folder))
        for folder in folders
    ]
    assert [gallery.CELLS["attributions"](source, "V1", sources) for source in sources] == [*common, only]
    shown = [gallery.CELLS["words"](source, "V1", sources) for source in sources]
    assert [item.description["score"] for item in shown if isinstance(item, Kept)] == ["cosine"] * 3


def test_what_weights_of_before_made_is_not_shown(tmp_path: Path, fitted: Fitted) -> None:
    """A model that was fitted again on another device keeps its folder, and with it what it made before."""
    model = FittedModel(tmp_path, fitted.model.spec, fitted.model.weights)
    of_now = {"model_weights": model.spec.weights_digest}
    shown = [
        made(tmp_path, "attribution", "image-3", image=3, **of_now),
        made(tmp_path, "words", "cosine", image="V1", **of_now),
    ]
    made(tmp_path, "attribution", "image-9", image=9, model_weights="of before")
    made(tmp_path, "words", "logit", image="V1", score="logit", model_weights="of before")
    source = Source.of(model)
    assert [gallery.CELLS[kind](source, "V1", [source]) for kind in ("attributions", "words")] == shown
    assert len(source.products) == 2


@pytest.fixture
def odd(tmp_path: Path, fitted: Fitted) -> Source:
    """Dreams of a group, a label, a mask, a voxel and a contrast; words and an attribution of two of them."""
    model = FittedModel(tmp_path, fitted.model.spec, fitted.model.weights)
    (tmp_path / "scores.json").write_text(json.dumps({"rois": {"V1": {}, "faces": {}}}))
    (tmp_path / "own.nii").touch()
    mask = str(tmp_path / "own.nii")
    dreams = {"faces": "faces", "FFA-1": "FFA-1", "mask-12345678": mask, "voxel-1-2-3": "voxel 1,2,3"}
    for area, roi in (dreams | {"V1-minus-faces": "V1 minus faces"}).items():
        objective = "contrast" if "minus" in roi else "mean"
        one = Product("dream", tmp_path / "dreams" / area, "dream", ("dream.npz",), {"of": area}, own_folder=True)
        about = {"area": area, "roi": roi, "objective": objective}
        one.write(lambda place, _, about=about: written(place / "dream.npz", about))
    for area, roi in (("faces", "faces"), ("mask-12345678", mask)):
        words = Product("words", tmp_path / "words" / area, "cosine", ("{stem}.png",), {"of": area})
        words.write(lambda at, stem, a=area, r=roi: written(at / f"{stem}.png", {"image": r, "dream": a}))
        made(tmp_path, "attribution", f"image-3-{area}", image=3, roi=roi, area=area)
    return Source.of(model)


def test_rows_are_of_all_that_there_is(odd: Source) -> None:
    """Also of what is no group of the scores; a contrast is no area's own dream."""
    assert [row.name for row in odd.rows] == ["faces", "FFA-1", "mask-12345678", "voxel-1-2-3"]
    remedies = {row.name: gallery._missing("words", odd, row).run.split(" --model")[0] for row in odd.rows}
    begins = "boldreams wordcloud --roi"
    assert remedies == {
        "faces": f"{begins} faces",
        "FFA-1": f"{begins} FFA-1",
        "mask-12345678": f"{begins} {odd.model.folder / 'own.nii'}",
        "voxel-1-2-3": "",
    }


def test_dreams_words_and_attributions_are_found_by_one_name(odd: Source) -> None:
    """In whatever case it is typed, and a mask by its path."""
    for typed, name in (("FACES", "faces"), (str(odd.model.folder / "own.nii"), "mask-12345678")):
        row = gallery.Row.asked(typed, [odd])
        assert row.name == name
        cells = [gallery.CELLS[kind](odd, row.name, [odd]) for kind in gallery.KINDS]
        assert [cell and cell.kind for cell in cells] == ["dream", "words", "attribution"]
    assert gallery.Row.asked("V2", [odd]) == gallery.Row("V2", "V2"), "of which nothing was made"


def test_attributions_of_a_row_show_which_model_has_the_stronger(tmp_path: Path) -> None:
    signed = np.zeros((8, 8), np.float32)
    signed[:4], signed[4:] = 1, -1
    pixels = np.full((3, 8, 8), 0.5, np.float32)
    kept = []
    for name, factor in (("a", 1), ("b", 0.25), ("c", 50)):
        np.savez(tmp_path / f"{name}.npz", pixels=pixels, map=factor * signed)
        said = {"image": 7, "prediction": 1.25} | ({"method": "saliency"} if name == "c" else {})
        kept.append(Kept("attribution", name, "", "done", "", tmp_path / name, [tmp_path / f"{name}.npz"], said))
    full, faint, other = gallery.DRAWN["attributions"](kept)
    assert (full.pixels[:4, :, 0] > full.pixels[:4, :, 2] + 0.3).all(), "red raises"
    assert (full.pixels[4:, :, 2] > full.pixels[4:, :, 0] + 0.3).all(), "blue lowers"
    assert np.ptp(faint.pixels, -1).max() < np.ptp(full.pixels, -1).min() / 2
    np.testing.assert_allclose(other.pixels, full.pixels, err_msg="another method has its own unit")
    assert [cell.caption for cell in (full, other)] == ["image 7: 1.25", "image 7: 1.25, saliency"]


def test_nothing_to_show_and_files_of_others_are_said(run: Run, copied: Fitted, tmp_path: Path) -> None:
    assert "run boldreams dream" in run("gallery", "--cache", copied.cache, code=2).err
    run("dream", "--roi", "V1", *QUICK, "--cache", copied.cache)
    (tmp_path / "dreams.png").write_text("mine")
    refused = run("gallery", "--output", tmp_path, "--cache", copied.cache, code=2)
    assert "not made by boldreams" in refused.err
    assert (tmp_path / "dreams.png").read_text() == "mine"
    assert "no fitted model" in run("gallery", "--percent", 33, "--cache", copied.cache, code=2).err


def test_of_several_images_of_a_dream_the_best_is_shown(tmp_path: Path) -> None:
    for number, grey in ((1, 10), (2, 200)):
        Image.fromarray(np.full((4, 4, 3), grey, np.uint8)).save(tmp_path / f"dream-{number}.png")
    files = sorted(tmp_path.glob("*.png"))
    said = {"images": [file.name for file in files], "response": [0.5, 1.5], "beyond_data": [False, True]}
    (cell,) = gallery.DRAWN["dreams"]([Kept("dream", "V1", "", "done", "", tmp_path, files, said)])
    np.testing.assert_allclose(cell.pixels, 200 / 255)
    assert cell.caption == "1.50 *"


def test_the_demos_picture_shows_the_best_dream_too(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fitted: Fitted
) -> None:
    drawn: list[tuple[str, list[tuple[np.ndarray, str]], str]] = []
    monkeypatch.setattr(plots, "gallery", lambda path, columns: drawn.extend(columns))
    files = [str(tmp_path / f"dream-{number}.png") for number in (1, 2)]
    for file, grey in zip(files, (10, 200), strict=True):
        Image.fromarray(np.full((4, 4, 3), grey, np.uint8)).save(file)
    best = {"test": {"image": int(fitted.responses.test_images[0]), "response": 0.25}}
    area = {"images": files, "response": [0.5, 1.5], "best_natural": best, "words": ["cat", "dog"]}
    side_by_side.draw(tmp_path / "a.jpg", experiment, {"V1": area})
    ((name, ((pixels, said), (_, natural)), words),) = drawn
    np.testing.assert_allclose(pixels, 200 / 255)
    assert (name, said, natural, words) == ("V1", "dream: beta 1.50", "best photograph: 0.25", "cat\ndog")
