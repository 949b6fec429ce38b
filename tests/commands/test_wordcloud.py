"""The word cloud and the text model through the installed command, on a known CLIP with random weights."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boldreams_cli.interpret.products import Product
from tests.conftest import Run

CLIP = "ViT-S-32-alt"
WORDS = ("dog", "face", "house", "polar bear", "street", "spoon")
KEYS = {"image", "vocabulary", "words", "files", "score", "matcher", "matcher_weights", "prompt"}
KEYS |= {"dream", "reference", "model"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A text model of subject 1."""
    folder = tmp_path_factory.mktemp("words") / "cache"
    made = run("extract", "--backbone", "clip-text", "--clip", CLIP, "--weights", "random", "--subject", 1, "--json",
               BOLDREAMS_CACHE=folder)  # fmt: skip
    assert made.json["layers"] == {"last": [256, 1, 1]}
    fitted = run("fit", "--subject", 1, "--epochs", 2, "--json", BOLDREAMS_CACHE=folder)
    assert fitted.json["model"].startswith(str(folder / "models/subj01/clip-text/percent-100-paper-"))
    assert fitted.json["filters"] == {"last": 256}
    return folder


@pytest.fixture(scope="module")
def nouns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "nouns.txt"
    path.write_text("\n".join(WORDS))
    return path


@pytest.mark.usefixtures("rendered")
def test_image_without_a_model(run: Run, nouns: Path, tmp_path: Path) -> None:
    arguments = ("wordcloud", "--image", 3, "--vocabulary", nouns, "--clip", CLIP, "--weights", "random", "--top", 4)
    first = run(*arguments, "--score", "contrast", "--subject", 1, "--json", BOLDREAMS_CACHE=tmp_path)
    assert first.json.keys() == KEYS
    assert (first.json["image"], first.json["vocabulary"]) == (3, "nouns")
    scores = [score for _, score in first.json["words"]]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    assert all(-2 <= score <= 2 for score in scores)
    picture, print_, table = (Path(path) for path in first.json["files"])
    assert picture == tmp_path / "words" / "3" / f"nouns-contrast-{CLIP}-top-4.png"
    assert print_ == picture.with_suffix(".pdf")
    assert np.asarray(Image.open(picture).convert("L")).min() < 100
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [[row["word"], float(row["score"])] for row in rows] == first.json["words"]
    kept = sorted(path.name.split("-")[0] for path in (tmp_path / "vocabularies").iterdir())
    assert kept == ["nouns", "reference"]
    assert (first.json["score"], first.json["matcher"].split(":")[0]) == ("contrast", CLIP)
    assert len(first.json["matcher_weights"]) >= 12


@pytest.mark.usefixtures("rendered")
def test_several_images_in_one_figure(run: Run, nouns: Path, tmp_path: Path) -> None:
    common = ("--vocabulary", nouns, "--clip", CLIP, "--weights", "random", "--json")
    both = run("wordcloud", "--image", 3, "--image", 5, *common, BOLDREAMS_CACHE=tmp_path).json
    assert both.keys() == {"model", "results", "files"}
    alone = [run("wordcloud", "--image", image, *common, BOLDREAMS_CACHE=tmp_path).json for image in (3, 5)]
    assert both["results"] == alone
    assert alone[0]["words"] != alone[1]["words"]
    picture, print_ = (Path(path) for path in both["files"])
    assert picture == tmp_path / "words/together" / f"3+5-nouns-cosine-{CLIP}.png"
    assert print_.stat().st_size > 1000
    # No other command takes it for the words of one area.
    assert json.loads(picture.with_suffix(".json").read_text())["kind"] == "words-together"
    one = Image.open(next(path for path in alone[0]["files"] if path.endswith(".png"))).size
    assert Image.open(picture).size[0] > 1.9 * one[0]


def test_a_prompt_has_a_name_and_words_of_its_own(run: Run, nouns: Path, tmp_path: Path) -> None:
    common = ("wordcloud", "--image", 3, "--vocabulary", nouns, "--clip", CLIP, "--weights", "random", "--json")
    plain = run(*common, BOLDREAMS_CACHE=tmp_path).json
    asked = run(*common, "--prompt", "a photo of a {}", BOLDREAMS_CACHE=tmp_path).json
    assert (plain["prompt"], asked["prompt"]) == ("{}", "a photo of a {}")
    assert dict(plain["words"]) != dict(asked["words"])
    assert plain["files"][0] != asked["files"][0]
    other = run(*common, "--prompt", "a photo of a_{}", BOLDREAMS_CACHE=tmp_path).json
    assert other["files"][0] not in (plain["files"][0], asked["files"][0])


def test_classifier_without_clip(run: Run, photographs: list[Path], tmp_path: Path) -> None:
    photograph = next(path for path in photographs if path.stem == "zebra")
    arguments = ("wordcloud", "--image", photograph, "--vocabulary", "imagenet", "--backbone", "efficientnet_lite0")
    done = run(*arguments, "--json", BOLDREAMS_CACHE=tmp_path)
    assert done.json["words"][0][0] == "zebra"


def test_area_of_a_text_model(run: Run, cache: Path, nouns: Path, tmp_path: Path) -> None:
    """Words in the order of their predicted mean beta, which `predict --caption` confirms."""
    cloud = run("wordcloud", "--roi", "faces", "--backbone", "clip-text", "--vocabulary", nouns, "--json",
                BOLDREAMS_CACHE=cache)  # fmt: skip
    assert (cloud.json["image"], cloud.json["score"]) == ("faces", "predicted-beta")
    (model,) = (cache / "models/subj01/clip-text").glob("percent-100-paper-??????")
    assert Path(cloud.json["files"][0]).parent == model / "words/faces"
    captions = [item for word in WORDS for item in ("--caption", word)]
    predicted = run("predict", *captions, "--output", tmp_path / "p.npz", "--json", BOLDREAMS_CACHE=cache)
    assert predicted.json["images"] == list(WORDS)
    from boldreams_cli.data.responses import Responses

    faces = Responses.open(next((cache / "responses").glob("*.zarr"))).areas.select("faces")
    betas = np.load(tmp_path / "p.npz")["betas"][:, faces].mean(1)
    expected = sorted(zip(WORDS, betas.tolist(), strict=True), key=lambda pair: -pair[1])
    assert [word for word, _ in cloud.json["words"]] == [word for word, _ in expected]
    assert [score for _, score in cloud.json["words"]] == pytest.approx([beta for _, beta in expected], abs=1e-3)


def test_several_areas_in_one_figure(run: Run, cache: Path, nouns: Path, tmp_path: Path) -> None:
    """Each area's words are those that it has alone."""
    given = ("--backbone", "clip-text", "--vocabulary", nouns, "--json")
    areas = ("--roi", "V1", "--roi", "faces")
    several = run("wordcloud", *areas, *given, BOLDREAMS_CACHE=cache).json
    alone = [run("wordcloud", "--roi", area, *given, BOLDREAMS_CACHE=cache).json for area in ("V1", "faces")]
    assert [one["image"] for one in several["results"]] == ["V1", "faces"]
    assert several["results"] == alone
    assert alone[0]["words"] != alone[1]["words"]
    picture, print_ = (Path(path) for path in several["files"])
    assert picture.parent.name == "together"
    assert picture.stem.startswith("V1+faces-")
    assert print_.suffix == ".pdf"


def test_dreams_of_an_area(run: Run, experiment: Path, cache: Path, nouns: Path, tmp_path: Path) -> None:
    """An image model's folder with dreams in it, as `dream` leaves them."""
    import torch

    from boldreams_cli.encoding.inputs.layout import make_groups
    from boldreams_cli.encoding.model.spec import FittedModel, ModelSpec
    from boldreams_cli.encoding.model.weights import ReadoutWeights

    shapes = {"features.2": (1, 1)}
    spec = ModelSpec(1, "alexnet", {"digest": "", "source": "random:0"}, {}, {"features.2": [0]}, shapes,
                     make_groups(shapes, "shared"), 10, False, "separable", "", "", 1, {})  # fmt: skip
    weights = ReadoutWeights(
        {"1x1": torch.ones(1, 1, 1)}, {"features.2": torch.ones(1, 1)}, torch.ones(1), np.zeros((1, 3), dtype=np.int32)
    )
    folder = tmp_path / "model"
    folder.mkdir()
    FittedModel(folder, spec, weights).save()
    chosen = ("--vocabulary", nouns, "--clip", CLIP, "--weights", "random", "--model", folder)
    absent = run("wordcloud", "--roi", "faces", *chosen, code=2)
    assert "boldreams dream --roi faces" in absent.err
    images = np.random.default_rng(0).random((2, 3, 64, 64), dtype=np.float32)

    def make(place: Path, stem: str) -> dict[str, object]:
        np.savez(place / "dream.npz", images=images)
        return {"area": "faces", "roi": "faces", "objective": "mean"}

    product = Product("dream", folder / "dreams/faces", "dream", ("dream.npz",), {"made": "up"}, own_folder=True)
    product.write(make)
    done = run("wordcloud", "--roi", "Faces", *chosen, "--json", BOLDREAMS_CACHE=tmp_path)
    assert len(done.json["words"]) == len(WORDS)
    assert done.json["dream"] == "faces"
    assert Path(done.json["files"][0]) == folder / f"words/faces/nouns-cosine-{CLIP}.png"
    whole = (folder / "dreams/faces/dream.npz").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"torn"):
        (folder / "dreams/faces/dream.npz").write_bytes(damaged)
        refused = run("wordcloud", "--roi", "faces", *chosen, code=1, BOLDREAMS_CACHE=tmp_path)
        assert "dream.npz is damaged" in refused.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "--image ID or FILE, or --roi AREA"),
        (("--image", 1, "--roi", "V1"), 2, "either --image"),
        (("--image", 1, "--vocabulary", "nothing.txt"), 2, "brown, imagenet or a file"),
        (("--image", 1, "--vocabulary", "imagenet", "--backbone", "rn50x4"), 2, "has no classifier"),
        (("--roi", "V1"), 2, "no fitted model"),
    ],
)
def test_errors(
    arguments: tuple[object, ...],
    code: int,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from boldreams_cli.cli import main

    monkeypatch.setenv("BOLDREAMS_CACHE", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        main(["wordcloud", *map(str, arguments)])
    assert stopped.value.code == code
    out, err = capsys.readouterr()
    assert said in err
    assert err.count("\n") <= 2
    assert out == ""


def test_no_clip_weights_offline(run: Run, nouns: Path, tmp_path: Path) -> None:
    done = run("wordcloud", "--image", 1, "--vocabulary", nouns, code=1, BOLDREAMS_CACHE=tmp_path, HF_HOME=tmp_path,
               HF_ENDPOINT="https://nowhere.invalid")  # fmt: skip
    for remedy in ("--weights FILE", "HF_HOME", "--vocabulary imagenet"):
        assert remedy in done.err
    assert done.err.count("\n") == 1
