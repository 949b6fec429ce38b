"""What is typed is what is made: options of dream, attribute and wordcloud, checked against the model itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from boldreams_cli import plots
from boldreams_cli.data.opening import open_dataset
from boldreams_cli.interpret.dreams.ascent import parameterization
from boldreams_cli.interpret.words import comparison
from tests.conftest import Done, Run
from tests.interpret.conftest import CPU, Fitted

QUICK = ("--steps", 1, "--count", 1, "--lr", "1e-3")
CLIP = "ViT-S-32-alt"


def betas(fitted: Fitted, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return fitted.full(torch.from_numpy(np.array(images, np.float32))).numpy()


def dreamt(done: Done) -> np.ndarray:
    with np.load(Path(done.json["images"][0]).with_name("dream.npz")) as stored:
        return stored["images"]


def told(done: Done) -> dict[str, Any]:
    return json.loads(Path(done.json["images"][0]).with_name("dream.json").read_text())


def mask_file(path: Path, fitted: Fitted, chosen: np.ndarray) -> Path:
    areas = fitted.responses.areas
    volume = np.zeros(areas.shape, np.uint8)
    volume[tuple(areas.voxels[chosen].T)] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(volume, areas.affine).to_filename(path)
    return path


def test_voxel_is_x_y_z(run: Run, fitted: Fitted) -> None:
    places = fitted.model.weights.voxels
    there = {tuple(place) for place in places.tolist()}
    number = next(n for n, (x, y, z) in enumerate(places.tolist()) if x != z and (z, y, x) in there)
    x, y, z = places[number]
    done = run("dream", "--voxel", f"{x},{y},{z}", *QUICK, "--json", "--cache", fitted.cache)
    assert done.json["response"] == pytest.approx([betas(fitted, dreamt(done))[0, number]], abs=1e-4)
    assert done.json["roi"] == f"voxel {x},{y},{z}"


def test_minus_is_subtracted_and_named(run: Run, fitted: Fitted) -> None:
    done = run("dream", "--roi", "v1", "--minus", "FACES", *QUICK, "--json", "--cache", fitted.cache)
    assert (done.json["objective"], done.json["roi"]) == ("contrast", "V1 minus faces")
    found = betas(fitted, dreamt(done))[0]
    areas = fitted.responses.areas
    difference = found[areas.select("V1")].mean() - found[areas.select("faces")].mean()
    assert done.json["score"] == pytest.approx([difference], abs=1e-4)
    assert "V1-minus-faces" in done.json["images"][0]


def test_target_is_reached_for(run: Run, fitted: Fitted, tmp_path: Path) -> None:
    chosen = fitted.responses.areas.select("V1")
    wanted = np.zeros(len(chosen), np.float32)
    wanted[chosen] = np.linspace(-1, 1, chosen.sum())
    np.savez(tmp_path / "betas.npz", betas=wanted)
    common = ("--roi", "V1", *QUICK, "--json", "--cache", fitted.cache)
    names = []
    for asked, goal in ((tmp_path / "betas.npz", wanted[chosen]), ("-1.5", np.float32(-1.5))):
        done = run("dream", "--target", asked, *common)
        found = betas(fitted, dreamt(done))[0, chosen]
        assert done.json["score"] == pytest.approx([-np.mean((found - goal) ** 2)], rel=1e-3)
        assert done.json["objective"] == "target"
        names.append(Path(done.json["images"][0]).parent.name)
    assert names[1].startswith("V1-target--1.5-")
    assert len({*names}) == 2
    for wrong in ("nan", "inf"):
        assert "finite" in run("dream", "--target", wrong, *common, code=2).err
    whole = (tmp_path / "betas.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-40])
    assert "cut.npz is no .npz file" in run("dream", "--target", tmp_path / "cut.npz", *common, code=1).err


def test_diversity_implies_its_objective_and_weighs(run: Run, fitted: Fitted) -> None:
    common = ("--roi", "V1", "--steps", 3, "--count", 2, "--lr", "0.02", "--json", "--cache", fitted.cache)
    strong = run("dream", "--diversity", 50, *common)
    assert strong.json["objective"] == "diversity"
    weak = run("dream", "--diversity", 0, *common)
    assert (told(strong)["diversity"], told(weak)["diversity"]) == (50, 0)
    assert np.abs(dreamt(strong) - dreamt(weak)).max() > 1e-3
    assert "two objectives" in run("dream", "--diversity", 2, "--target", 0, *common, code=2).err
    assert "does not go with" in run("dream", "--diversity", 2, "--objective", "mean", *common, code=2).err


def test_parameterization_is_that_asked_for(run: Run, fitted: Fitted) -> None:
    common = ("--roi", "V1", "--steps", 1, "--count", 1, "--lr", "1e-9", "--seed", 4, "--json", "--cache", fitted.cache)
    for name in ("pixel", "fourier"):
        done = run("dream", "--parameterization", name, *common)
        picture = parameterization.create(name, 1, 227, 4, CPU, lambda: pytest.fail("no spectrum is needed"))
        np.testing.assert_allclose(dreamt(done), picture().detach().numpy(), atol=1e-5)
        assert ("pixel" in Path(done.json["images"][0]).parent.name) == (name == "pixel")


def test_baseline_is_that_asked_for(run: Run, fitted: Fitted) -> None:
    image = fitted.responses.test_images[1]
    common = ("attribute", "--roi", "V1", "--image", image, "--steps", 8, "--json", "--cache", fitted.cache)
    chosen = fitted.responses.areas.select("V1")
    colour = np.array(fitted.model.spec.preprocessing["mean"], np.float32)
    plain = {"black": np.zeros((1, 3, 227, 227)), "mean": np.broadcast_to(colour[:, None, None], (1, 3, 227, 227))}
    files = []
    for name, start in plain.items():
        done = run(*common, "--baseline", name)
        (entry,) = done.json["results"]
        assert entry["baseline_prediction"] == pytest.approx(betas(fitted, start)[0, chosen].mean(), abs=1e-4)
        assert done.json["baseline"] == name
        files.append(Path(entry["files"][0]))
        said = json.loads(files[-1].with_suffix(".json").read_text())
        assert (said["baseline"], said["steps"]) == (name, 8)
    assert files[0] != files[1]
    assert [path.parent.name for path in files] == ["V1-steps-8", "V1-mean-steps-8"]


def test_words_for_a_mask_that_was_not_dreamed_of_say_what_to_type(run: Run, fitted: Fitted, tmp_path: Path) -> None:
    mask = mask_file(tmp_path / "mask.nii.gz", fitted, fitted.responses.areas.select("V1"))
    for vocabulary in ("brown", "imagenet"):
        asked = ("wordcloud", "--roi", mask, "--vocabulary", vocabulary, "--cache", fitted.cache)
        said = run(*asked, code=2).err
        assert f" --roi {mask} --model" in " ".join(said.split())


def test_masks_of_one_name_do_not_share_files(run: Run, fitted: Fitted, tmp_path: Path) -> None:
    areas = fitted.responses.areas
    masks = [mask_file(tmp_path / d / "mask.nii.gz", fitted, areas.select(a)) for d, a in (("a", "V1"), ("b", "faces"))]
    image = fitted.responses.test_images[0]
    common = ("--image", image, "--steps", 8, "--json", "--cache", fitted.cache)
    done = run("attribute", "--roi", masks[0], "--roi", masks[1], *common)
    with open_dataset(fitted.root).stimuli() as stimuli:
        pixels = fitted.full.backbone.entry.preprocessing.resize(torch.from_numpy(stimuli.read([image])))
    predicted = betas(fitted, pixels.float().numpy() / 255)[0]
    for entry, area in zip(done.json["results"], ("V1", "faces"), strict=True):
        with np.load(entry["files"][0]) as stored:
            assert stored["prediction"] == pytest.approx(predicted[areas.select(area)].mean(), abs=1e-4)
    moved = mask_file(tmp_path / "c/other name.nii.gz", fitted, areas.select("V1"))
    again = run("attribute", "--roi", moved, *common)
    assert again.json["results"][0]["files"] == done.json["results"][0]["files"], "a mask is its content"
    dream = run("dream", "--roi", masks[1], *QUICK, "--json", "--cache", fitted.cache)
    assert dream.json["response"] == pytest.approx(
        [betas(fitted, dreamt(dream))[0, areas.select("faces")].mean()], abs=1e-4
    )
    assert Path(dream.json["images"][0]).parent.name.startswith("mask-")
    words = run("wordcloud", "--roi", mask_file(tmp_path / "d.nii", fitted, areas.select("faces")), "--vocabulary",
                "imagenet", "--weights", "random:0", "--json", "--cache", fitted.cache)  # fmt: skip
    assert words.json["dream"] == Path(dream.json["images"][0]).parent.name


def test_areas_are_looked_up_before_words(run: Run, fitted: Fitted) -> None:
    common = ("--vocabulary", "imagenet", "--weights", "random:0", "--json", "--cache", fitted.cache)
    assert "no area 'nowhere'" in run("wordcloud", "--roi", "nowhere", *common, code=2).err
    run("dream", "--roi", "places", *QUICK, "--cache", fitted.cache)
    found = run("wordcloud", "--roi", "PLACES", *common)
    assert (found.json["image"], found.json["score"]) == ("places", "logit")
    assert Path(found.json["files"][0]).name == "imagenet-logit.png"
    said = json.loads(Path(found.json["files"][0]).with_suffix(".json").read_text())
    assert said["matcher_weights"] == found.json["matcher_weights"]
    assert said["kind"] == "words"


def test_a_file_called_imagenet_is_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "imagenet.txt").write_text("dog\nhouse\nface\n")
    done = run("wordcloud", "--image", 3, "--vocabulary", tmp_path / "imagenet.txt", "--clip", CLIP, "--weights",
               "random", "--json", BOLDREAMS_CACHE=tmp_path / "cache")  # fmt: skip
    assert {word for word, _ in done.json["words"]} == {"dog", "house", "face"}
    assert done.json["score"] == "cosine"


def test_brown_is_read_from_the_cache(run: Run, tmp_path: Path) -> None:
    kept = tmp_path / "vocabularies/brown-nouns-10000.txt"
    kept.parent.mkdir()
    kept.write_text("tree\nriver\ntrees\ttree\n")
    done = run("wordcloud", "--image", 3, "--vocabulary", "brown", "--clip", CLIP, "--weights", "random", "--json",
               BOLDREAMS_CACHE=tmp_path)  # fmt: skip
    assert done.json["vocabulary"] == "brown"
    shown = {word for word, _ in done.json["words"]}
    assert shown in ({"tree", "river"}, {"trees", "river"})


def test_seed_chooses_the_reference_sample(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "REFERENCES", 4)
    (tmp_path / "words.txt").write_text("tree\nriver\n")
    words = ("--vocabulary", tmp_path / "words.txt", "--clip", CLIP, "--weights", "random:0")
    common = ("wordcloud", "--image", 3, *words, "--score", "contrast", "--subject", 1, "--json")
    found = [dict(run(*common, "--seed", seed, BOLDREAMS_CACHE=tmp_path).json["words"]) for seed in (1, 2)]
    assert abs(found[0]["tree"] - found[1]["tree"]) > 1e-6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--vocabulary", "imagenet", "--clip", CLIP), "--clip does not apply"),
        (("--vocabulary", "imagenet", "--reference", "."), "--score contrast"),
        (("--vocabulary", "imagenet", "--prompt", "a {}"), "--prompt does not apply"),
        (("--vocabulary", "imagenet", "--raw"), "--raw is of Brown's nouns"),
        (("--vocabulary", __file__, "--prompt", "a photo"), "no place for the word"),
    ],
)
def test_options_that_would_change_nothing_are_refused(run: Run, fitted: Fitted, arguments: tuple, said: str) -> None:
    assert said in run("wordcloud", "--image", 3, *arguments, "--cache", fitted.cache, code=2).err


def test_a_missing_picture_is_found_out_before_words_are_embedded(run: Run, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("tree\nriver\n")
    words = ("--vocabulary", tmp_path / "words.txt", "--clip", CLIP, "--weights", "random")
    done = run("wordcloud", "--image", "nosuch.png", *words, code=2, BOLDREAMS_CACHE=tmp_path)
    assert "no image 'nosuch.png'" in done.err
    assert "texts" not in done.err


def test_contrast_takes_training_images_of_the_cached_responses(fitted: Fitted) -> None:
    """The betas need not be there any more."""
    found = comparison.References.of_training(fitted.model, 1, fitted.cache, fitted.root, 0)
    assert set(found.ids) == set(fitted.responses.train_images.tolist())


def test_captions_stand_over_their_pictures(run: Run, fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[list[tuple[np.ndarray, str]]] = []

    def sheet(path: Path, dreams: object, natural: list[tuple[np.ndarray, str]], title: str) -> None:
        shown.append(natural)
        for suffix in (".png", ".pdf"):
            path.with_suffix(suffix).write_bytes(b"")

    monkeypatch.setattr(plots, "dream_sheet", sheet)
    done = run("dream", "--roi", "hV4", *QUICK, "--json", "--cache", fitted.cache)
    best = done.json["best_natural"]
    with open_dataset(fitted.root).stimuli() as stimuli:
        for (pixels, caption), split in zip(shown[0], ("train", "test"), strict=True):
            assert caption.startswith(f"best {split} image, {best[split]['image']}: ")
            own = fitted.full.backbone.entry.preprocessing.resize(
                torch.from_numpy(stimuli.read([best[split]["image"]]))
            )
            np.testing.assert_allclose(pixels, own[0].permute(1, 2, 0).numpy() / 255, atol=1e-6)


def test_predictions_go_to_the_file_that_is_said(run: Run, fitted: Fitted, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 40, 3), np.uint8)).save(picture)
    common = ("predict", "--json", "--cache", fitted.cache)
    for name, written in (("betas", "betas.npz"), ("betas.v1", "betas.v1.npz"), ("whole.npz", "whole.npz")):
        done = run(*common, "--image", 3, "--image", picture, "--output", tmp_path / name)
        assert Path(done.json["file"]) == tmp_path / written
        with np.load(done.json["file"]) as stored:
            assert stored["betas"].shape == (2, fitted.model.spec.voxels)
            assert (stored["images"].tolist(), stored["images"].dtype) == ([3, -1], np.int32)
            assert stored["names"].tolist() == ["3", str(picture)]
    assert not list(tmp_path.glob(".*"))
    assert not (tmp_path / "betas").exists()
    refused = run(*common, "--image", 3, "--output", tmp_path / "betas", code=2)
    assert "--overwrite" in refused.err
    run(*common, "--image", 3, "--output", tmp_path / "betas", "--overwrite")
    with np.load(tmp_path / "betas.npz") as stored:
        assert stored["names"].tolist() == ["3"]
    files = [run(*common, *asked).json["file"] for asked in ((), ("--image", "train"), ("--image", 3))]
    assert [Path(file).name for file in files] == ["test.npz", "train.npz", "image-00003.npz"]


def test_pictures_stand_upright(tmp_path: Path) -> None:
    from boldreams_cli.encoding.evaluation.predict import read_picture

    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter, as telephones write it
    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(tmp_path / "a.jpg").shape == (60, 40, 3)
