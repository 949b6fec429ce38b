"""A data set of one's own through the installed commands: 300 vertices, no sessions, one averaged trial an image, JPEG
files of several sizes."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image

from boldreams_cli.data.neutral.writing import write
from boldreams_cli.data.units import VertexUnits, VoxelUnits
from boldreams_cli.features.preprocessing import Preprocessing

from ..conftest import Run

IMAGES, VERTICES, TURNED = 60, 300, 4
EXIF_ORIENTATION = 0x0112


def picture(number: int) -> Image.Image:
    """Of a size and a brightness of its own; number TURNED lies on its side, as a camera would write it."""
    rng = np.random.default_rng(number)
    height, width = 40 + 3 * (number % 7), 60 - 2 * (number % 5)
    coarse = (rng.integers(0, 60, (5, 6, 3)) + 190 * rng.random()).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data file beside its pictures; vertices of the left hemisphere follow the pictures' brightness."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "pictures").mkdir()
    light = []
    for number in range(IMAGES):
        made = picture(number)
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = 6 if number == TURNED else 1
        made.save(folder / "pictures" / f"{number:03d}.jpg", exif=exif, quality=92)
        light.append(np.asarray(made).mean() / 255)
    rng = np.random.default_rng(1)
    left = np.arange(VERTICES) < 200
    betas = rng.normal(size=(IMAGES, VERTICES)) * 0.3
    betas[:, left] += 8 * (np.array(light)[:, None] - 0.5)
    write(
        folder / "study.h5",
        subject="study-S1",
        betas=betas.astype(np.float32),
        trial_image=np.arange(IMAGES),
        image_names=[f"{number:03d}" for number in range(IMAGES)],
        image_paths=[f"pictures/{number:03d}.jpg" for number in range(IMAGES)],
        zscored=False,
        units=VertexUnits("fsaverage5", np.where(left, "L", "R"), np.arange(VERTICES) * 3 % 10000),
        areas={"left": left, "right": ~left},
    )
    return folder / "study.h5"


@pytest.fixture(scope="module")
def made(run: Run, file: Path, random_alexnet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with two fitted and scored models of it."""
    cache = tmp_path_factory.mktemp("made") / "cache"
    prepared = run("prepare", "--data", file, "--cache", cache, "--json")
    assert prepared.json["subject"] == "study-S1"
    assert prepared.json["voxels"] == VERTICES
    assert prepared.json["rois"] == {"left": 200, "right": 100}
    assert prepared.json["test"] == {"images": 6, "trials": 6}
    assert "over the training trials: there are no sessions" in prepared.err
    assert "no trial is marked as test: 6 images are held out" in prepared.err
    stored = run(
        "extract", "--backbone", "alexnet", "--weights", random_alexnet, "--data", file, "--cache", cache, "--json"
    )
    assert stored.json["rows"] == IMAGES
    for percent in (10, 50):
        fitted = run(
            "fit", "--subject", "study-S1", "--percent", percent, "--readout", "ridge", "--cache", cache, "--json"
        )
        assert f"models/study-S1/alexnet/percent-{percent}-ridge-" in fitted.json["model"]
        run("score", "--subject", "study-S1", "--percent", percent, "--cache", cache)
    return cache


def test_scores_are_maps_of_vertices(run: Run, made: Path) -> None:
    done = run("score", "--subject", "study-S1", "--percent", 50, "--cache", made)
    assert "no noise ceiling" in done.out
    found = run("score", "--subject", "study-S1", "--percent", 50, "--cache", made, "--json").json
    assert found["voxels"] == VERTICES
    assert found["ceiling_mean"] is None
    assert found["rois"]["left"]["r_mean"] > 0.5 > found["rois"]["right"]["r_mean"]
    folder = Path(found["model"])
    names = {Path(name).name for name in found["files"]}
    assert {"correlation.L.func.gii", "correlation.R.func.gii", "q.L.func.gii", "voxels.csv"} <= names
    assert not any(name.endswith(".nii.gz") for name in names)
    rows = list(csv.DictReader((folder / "voxels.csv").open()))
    assert list(rows[0])[:4] == ["space", "hemisphere", "vertex", "areas"]
    mesh = nibabel.load(folder / "correlation.R.func.gii").darrays[0].data
    assert len(mesh) == 10242
    right = [row for row in rows if row["hemisphere"] == "R"]
    assert np.isfinite(mesh).sum() == len(right) == 100
    assert mesh[int(right[7]["vertex"])] == pytest.approx(float(right[7]["r"]), abs=1e-6)


def test_stored_predictions_are_those_of_the_pictures_themselves(
    run: Run, made: Path, file: Path, tmp_path: Path
) -> None:
    """So a picture is cropped, turned upright and resized in one way, once, wherever it is read."""
    common = ("predict", "--subject", "study-S1", "--percent", 50, "--cache", made)
    for number in (0, 1, TURNED, 5):
        stored, read = tmp_path / f"{number}-stored.npz", tmp_path / f"{number}-read.npz"
        run(*common, "--image", f"{number:03d}", "--output", stored)
        assert np.load(stored)["images"] == [number]
        run(*common, "--image", file.parent / "pictures" / f"{number:03d}.jpg", "--output", read)
        one, other = np.load(stored)["betas"], np.load(read)["betas"]
        assert np.allclose(one, other, atol=0.02)
        assert one.std() > 0.02


def rewritten(file: Path, path: Path, pictures: Path) -> Path:
    """The file with a name that sorts before others, as more sessions bring it: a number means another picture."""
    path.write_bytes(file.read_bytes())
    with h5py.File(path, "a") as opened:
        order = [IMAGES - 1, *range(IMAGES - 1)]
        for key, values in (
            ("images/name", ["000+", *(f"{number:03d}" for number in order[1:])]),
            ("images/path", [str(pictures / f"{number:03d}.jpg") for number in order]),
        ):
            del opened[key]
            opened[key] = values
    return path


def test_images_of_a_file_that_was_rewritten_are_those_that_it_has_now(
    run: Run, made: Path, file: Path, tmp_path: Path
) -> None:
    pictures = file.parent / "pictures"
    changed = rewritten(file, tmp_path / "study.h5", pictures)
    common = ("predict", "--subject", "study-S1", "--percent", 50, "--cache", made, "--json")
    (pictures / "._005.jpg").write_bytes(b"as a Mac leaves it")
    assert len(run(*common, "--image", pictures).json["images"]) == IMAGES
    real = [np.load(run(*common, "--image", pictures / f"00{n}.jpg").json["file"])["betas"] for n in (5, 6)]
    before = np.load(run(*common, "--image", 6).json["file"])
    assert np.allclose(before["betas"], real[1], atol=0.02)
    for asked in ("005", "6"):
        found = np.load(run(*common, "--data", changed, "--image", asked).json["file"])
        assert found["images"] == [6]
        assert found["names"] == ["005"]
        assert np.allclose(found["betas"], real[0], atol=0.02)
    assert not np.allclose(*real, atol=0.1)
    again = np.load(run(*common, "--image", 6).json["file"])
    assert np.array_equal(again["betas"], before["betas"])


def test_of_a_file_whose_pictures_are_gone_the_store_gives_those_of_the_same_names(
    run: Run, made: Path, file: Path, tmp_path: Path
) -> None:
    common = ("predict", "--subject", "study-S1", "--percent", 50, "--cache", made, "--image", "005", "--json")
    wanted = np.load(run(*common).json["file"])
    gone = tmp_path / "gone.h5"
    gone.write_bytes(file.read_bytes())  # its pictures are not beside it
    found = np.load(run(*common, "--data", gone, "--output", tmp_path / "found.npz").json["file"])
    assert np.array_equal(found["betas"], wanted["betas"])
    other = rewritten(file, tmp_path / "other.h5", tmp_path / "nowhere")
    refused = run(*common, "--data", other, "--output", tmp_path / "other.npz", code=1)
    assert "there is no" in refused.err


def test_a_finetuned_model_reads_the_pictures_that_a_rewritten_file_has(
    run: Run, made: Path, file: Path, tmp_path: Path
) -> None:
    tuned = ("--percent", 10, "--finetune", "--epochs", 1, "--batch-size", 30)
    model = run("fit", "--subject", "study-S1", "--cache", made, *tuned, "--json").json["model"]
    common = ("predict", "--model", model, "--cache", made, "--json")
    changed = rewritten(file, tmp_path / "study.h5", file.parent / "pictures")
    real, resized, now = (
        np.load(run(*common, *asked).json["file"])["betas"]
        for asked in (
            ("--image", file.parent / "pictures/005.jpg"),
            ("--image", "005", "--output", tmp_path / "resized.npz"),
            ("--image", "005", "--data", changed, "--output", tmp_path / "now.npz"),
        )
    )
    assert np.allclose(resized, real, atol=1e-5)
    assert np.allclose(now, real, atol=1e-5)
    other = np.load(run(*common, "--image", "006").json["file"])["betas"]
    assert not np.allclose(other, real, atol=1e-3)


def test_every_command_takes_the_subject_by_name(run: Run, made: Path, tmp_path: Path) -> None:
    common = ("--subject", "study-S1", "--cache", made)
    model = (*common, "--percent", 50)
    assert run("rank", *common, "--backbone", "alexnet", "--json").json["subject"] == "study-S1"
    dreamt = run("dream", *model, "--roi", "left", "--steps", 2, "--count", 1, "--json").json
    assert Path(dreamt["images"][0]).is_file()
    shown = run("attribute", *model, "--roi", "left", "--count", 1, "--steps", 4, "--json").json
    assert shown["results"][0]["image"] < IMAGES
    nouns = tmp_path / "nouns.txt"
    nouns.write_text("dog\nface\nhouse")
    described = run("wordcloud", *common, "--image", 3, "--vocabulary", nouns, "--clip", "ViT-S-32-alt",
                    "--weights", "random", "--top", 2, "--score", "contrast", "--json").json  # fmt: skip
    assert len(described["words"]) == 2
    tuned = run("fit", *common, "--percent", 10, "--finetune", "--epochs", 1, "--batch-size", 30, "--json").json
    assert Path(tuned["model"], "backbone.safetensors").is_file()
    assert run("score", "--model", tuned["model"], "--cache", made, "--json").json["images"] == 6
    two = [Path(path).parent for path in sorted(made.glob("models/study-S1/alexnet/*ridge*/spec.json"))]
    compared = run("compare", *two, "--cache", made, "--json").json
    assert {Path(name).name for name in compared["files"]} >= {"difference.L.func.gii", "q.R.func.gii"}
    least = run("minimal", *common, "--reference", 50, "--json")
    assert "no noise ceiling is known: mean r is compared" in least.err
    found = least.json
    assert found["subject"] == "study-S1"
    swept = run("sweep", *common, "--percent", "10,50", "--readout", "ridge", "--json").json
    assert swept["cells"]["done"] == 2
    areas = run("info", "--rois", "study-S1", "--cache", made, "--json").json
    assert areas["rois"] == {"left": 200, "right": 100}
    assert "study-S1" in run("info", "--cache", made).out
    page = run("report", "--cache", made, "--output", tmp_path / "report.html", "--json").json
    assert "study-S1" in Path(page["file"]).read_text()
    assert not [line for line in page["warnings"] if "error" in str(line).lower()]


def test_captions_there_are_none(run: Run, made: Path, file: Path) -> None:
    refused = run("extract", "--backbone", "clip-text", "--weights", "random", "--clip", "ViT-S-32-alt",
                  "--data", file, "--cache", made, code=1)  # fmt: skip
    assert refused.err.strip().count("\n") == 0
    assert "has no captions" in refused.err


@pytest.mark.parametrize("called", ["other {}", "{:03d}"], ids=["other names", "the same names"])
def test_other_images_have_a_store_of_their_own(run: Run, made: Path, file: Path, tmp_path: Path, called: str) -> None:
    """An index means another picture there: maps of one are never read for the other."""
    other = tmp_path / "other.h5"
    other.write_bytes(file.read_bytes())
    with h5py.File(other, "a") as opened:
        opened.attrs["subject"] = "study-S2"
        names = [called.format(number) for number in range(IMAGES)]
        paths = [str(file.parent / "pictures" / f"{number:03d}.jpg") for number in reversed(range(IMAGES))]
        for key, values in (("images/name", names), ("images/path", paths)):
            del opened[key]
            opened[key] = values
    refused = run("fit", "--data", other, "--percent", 10, "--readout", "ridge", "--cache", made, code=3)
    assert "with the images of this subject" in refused.err
    shutil.rmtree(next(made.glob("responses/study-S2-*.zarr")))
    numbered = run("fit", "--subject", 1, "--percent", 10, "--cache", made, code=3)
    assert "with the images of this subject" in numbered.err


def test_a_file_that_changed_or_is_another_subjects_is_named(run: Run, made: Path, file: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.h5"
    changed.write_bytes(file.read_bytes())
    with h5py.File(changed, "a") as opened:
        opened["betas"][0] += 1
        paths = [str(file.parent / "pictures" / f"{number:03d}.jpg") for number in range(IMAGES)]
        del opened["images/path"]
        opened["images/path"] = paths
    told = run("score", "--subject", "study-S1", "--percent", 50, "--data", changed, "--cache", made, code=3).err
    assert "changed.h5" in told
    assert "betas" in told
    assert "is of subject study-S1, not 1" in run("fit", "--subject", 1, "--data", file, "--cache", made, code=2).err
    assert "exclude each other" in run("info", "--data", file, "--nsd-root", tmp_path, "--cache", made, code=2).err
    unknown = run("fit", "--subject", "nobody", "--percent", 10, "--cache", made, code=2).err
    assert "give its file with --data FILE" in unknown


def test_a_number_is_of_the_root_where_both_are_in_the_environment(
    run: Run, file: Path, random_alexnet: Path, tmp_path: Path
) -> None:
    common = ("extract", "--backbone", "alexnet", "--weights", random_alexnet, "--cache", tmp_path, "--dry-run")
    assert run(*common, "--json", BOLDREAMS_DATA=file).json["images"] == IMAGES
    assert run(*common, "--json", "--subject", 1, BOLDREAMS_DATA=file).json["images"] != IMAGES


def test_validate_says_the_same_as_prepare(run: Run, file: Path, tmp_path: Path) -> None:
    fine = run("validate", file)
    assert "units: 300" in fine.out
    assert "odd: " in fine.out
    spoiled = tmp_path / "spoiled.h5"
    spoiled.write_bytes(file.read_bytes())  # its pictures are not beside it
    with h5py.File(spoiled, "a") as opened:
        del opened["areas/left"]
        opened["areas/left"] = np.ones(3, bool)
        del opened["trial/image"]
        opened["trial/image"] = np.arange(59)
    said = run("validate", spoiled, code=1)
    errors = json.loads(run("validate", "--json", spoiled, code=1).out)["errors"]
    assert len(errors) == 2
    refused = run("prepare", "--data", spoiled, "--cache", tmp_path / "cache", code=1).err
    for line in errors:
        assert f"wrong: {line}" in said.out
        assert line in refused
    assert not (tmp_path / "cache").exists()


def test_the_lines_of_the_readme_work_as_they_are_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    section = page.split("## On data of your own")[1].split("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    write(
        tmp_path / "mydata.h5",
        subject="S1",
        betas=rng.normal(size=(40, 6)).astype(np.float32),
        trial_image=np.arange(40),
        image_names=[str(number) for number in range(40)],
        pixels=rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8),
        zscored=True,
        units=VoxelUnits(np.argwhere(np.ones((3, 2, 1))), np.eye(4), (3, 2, 1)),
    )
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert [line[:2] for line in lines] == [
        ["boldreams", name] for name in ("validate", "prepare", "extract", "fit", "score")
    ]
    for _, *words in lines:
        run(*words)
    assert list(tmp_path.glob("cache/models/S1/efficientnet_lite0/*/correlation.nii.gz"))


def test_the_crop_is_square_and_not_squashed(file: Path) -> None:
    """As the network sees them: the middle of an oblong picture."""
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 20:60] = 255
    resized = Preprocessing(40, (0, 0, 0), (1, 1, 1)).resize_all([wide, wide.transpose(1, 0, 2).copy()])
    assert resized.shape == (2, 3, 40, 40)
    assert (resized == 255).all()
