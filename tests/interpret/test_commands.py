"""`boldreams dream` and `boldreams attribute` through the installed entry point."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import COMMAND, Done, Run, in_this_process
from tests.interpret.conftest import Fitted


def called(*arguments: object) -> Done:
    """The command without the environment that `run` gives it."""
    return in_this_process([str(argument) for argument in arguments], {})


DREAM = "dreams/V1-steps-4-lr-0.02-count-2"


@pytest.fixture(scope="module")
def dreamed(run: Run, fitted: Fitted) -> dict:
    done = run("dream", "--roi", "V1", "--steps", 4, "--count", 2, "--lr", "0.02", "--json", "--cache", fitted.cache)
    return done.json


def test_dream_prints_one_object_and_writes_what_it_names(dreamed: dict, fitted: Fitted) -> None:
    promised = {"model", "roi", "objective", "images", "response", "best_natural", "trace"}
    told_apart = {"score", "files", "recipe", "readout", "percent", "finetuned", "settings", "unit"}
    told_apart |= {"sides", "start", "steps_to_beat", "measured", "beyond_data", "radial_profile", "transparent"}
    assert set(dreamed) == promised | told_apart
    assert dreamed["score"] == dreamed["response"], "of the mean objective"
    assert (dreamed["roi"], dreamed["objective"], len(dreamed["response"])) == ("V1", "mean", 2)
    folder = fitted.model.folder / DREAM
    assert dreamed["images"] == [str(folder / f"dream-{number}.png") for number in (1, 2)]
    with np.load(folder / "dream.npz") as stored:
        assert stored["images"].shape == (2, 3, 227, 227)
        np.testing.assert_allclose(stored["responses"], dreamed["response"], rtol=1e-6)
        shown = np.asarray(Image.open(dreamed["images"][0])).transpose(2, 0, 1) / 255
        assert np.abs(shown - stored["images"][0]).max() <= 0.5 / 255 + 1e-6
    rows = list(csv.DictReader(Path(dreamed["trace"]).read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3, 4]
    assert float(rows[-1]["untransformed"]) == pytest.approx(np.mean(dreamed["response"]), rel=1e-4)
    assert {path.name for path in folder.iterdir()} == {
        *("dream-1.png", "dream-2.png", "dream.npz", "trace.csv", "dream.json"),
        *("sheet.png", "sheet.pdf", "trace.png", "trace.pdf"),
    }


def test_dream_describes_itself(dreamed: dict, fitted: Fitted) -> None:
    said = json.loads((fitted.model.folder / DREAM / "dream.json").read_text())
    assert said.items() >= {"seed": 0, "stopped": False, "step": 4, "device": "cpu", "unit": "mean beta"}.items()
    assert said["settings"]["transforms"] == {"rotate": 1.0, "translate": 0.1, "scale": [1.0, 1.0]}
    assert "torch" in said["versions"]


def test_best_natural_images_are_of_their_own_split(dreamed: dict, fitted: Fitted) -> None:
    natural = dreamed["best_natural"]
    assert natural["train"]["image"] in fitted.responses.train_images
    assert natural["test"]["image"] in fitted.responses.test_images


def test_dream_of_a_filter_without_responses_or_stimuli_says_so(run: Run, copied: Fitted, tmp_path: Path) -> None:
    for path in (copied.cache / "responses").iterdir():
        path.rename(tmp_path / path.name)
    done = run(
        *("dream", "--filter", "features.12:7", "--steps", 2, "--count", 1, "--output", tmp_path / "here", "--json"),
        *("--cache", copied.cache),
    )
    assert done.json["best_natural"] is None
    assert done.json["roi"] == "features.12:7"
    assert "best natural images: none" in done.err
    assert (tmp_path / "here/sheet.png").is_file()


def test_terminated_dream_keeps_its_images_and_exits_75(fitted: Fitted, tmp_path: Path) -> None:
    arguments = ["dream", "--roi", "faces", "--steps", "5000", "--count", "1", "--output", str(tmp_path)]
    process = subprocess.Popen(
        [COMMAND, *arguments, "--cache", fitted.cache],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={key: value for key, value in os.environ.items() if not key.startswith("BOLDREAMS_")},
    )
    assert process.stderr is not None
    heard = ""
    for line in process.stderr:
        heard += line
        if "dream faces:" in line:
            process.send_signal(signal.SIGTERM)
            break
    out, rest = process.communicate(timeout=120)
    assert process.returncode == 75, heard + rest
    assert out == ""
    assert "run the same command to go on" in rest
    assert [path.name for path in tmp_path.iterdir()] == [".stopped"]
    (kept,) = (tmp_path / ".stopped").iterdir()
    said = json.loads((kept / "dream.json").read_text())
    assert (said["stopped"], said["state"]) == (True, "stopped")
    assert 0 < said["step"] < 5000
    assert (kept / "dream-1.png").is_file()
    assert (kept / "state.safetensors").is_file()


def test_attribute_shares_passes_and_adds_up(run: Run, fitted: Fitted) -> None:
    done = run(
        *("attribute", "--roi", "V1", "--roi", "faces", "--image", fitted.responses.test_images[0], "--steps", 16),
        *("--json", "--cache", fitted.cache),
    )
    assert (done.json["roi"], done.json["rois"]) == ("V1,faces", ["V1", "faces"])
    assert [Path(sheet).parent.name for sheet in done.json["sheets"]] == ["V1-steps-16", "faces-steps-16"]
    for entry in done.json["results"]:
        difference = entry["prediction"] - entry["baseline_prediction"]
        error = abs(entry["attribution_sum"] - difference) / abs(difference)
        assert entry["completeness_error"] == pytest.approx(error, rel=1e-6)
        assert entry["delta"] == pytest.approx(entry["attribution_sum"] - difference, rel=1e-6)
        with np.load(entry["files"][0]) as stored:
            assert stored["attribution"].shape == (3, 227, 227)
            assert stored["map"].shape == (227, 227)
            absolute = np.abs(stored["attribution"]).sum(dtype=float)
            assert entry["absolute_sum"] == pytest.approx(absolute, rel=1e-3)
            assert entry["relative_delta"] == pytest.approx(entry["delta"] / absolute, rel=1e-3)
            assert stored["attribution"].sum(dtype=float) == pytest.approx(entry["attribution_sum"], rel=1e-3, abs=1e-5)
        assert Image.open(entry["files"][1]).width > 800
        assert (Path(entry["files"][1]).parent / "sheet.png").is_file()


def test_prediction_of_attribute_is_that_of_predict(fitted: Fitted, tmp_path: Path) -> None:
    picture, file = tmp_path / "picture.png", tmp_path / "betas.npz"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)).save(picture)
    common = ["--image", picture, "--cache", fitted.cache]
    entry = called("attribute", "--roi", "V1", "--steps", 2, "--json", *common).json["results"][0]
    called("predict", "--output", file, *common)
    with np.load(file) as stored:
        expected = stored["betas"][0, fitted.responses.areas.select("V1")].mean()
    assert entry["prediction"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["dream"], 2, "--roi AREA, --voxel X,Y,Z and --filter"),
        (["dream", "--roi", "V1", "--filter", "features.2:0"], 2, "one of"),
        (["dream", "--roi", "V9"], 2, "no area 'V9'"),
        (["dream", "--roi", "V1", "--objective", "diversity", "--count", "1"], 2, "--count 2"),
        (["dream", "--voxel", "1,2"], 2, "X,Y,Z"),
        (["dream", "--roi", "V1", "--weights", "nowhere.safetensors"], 1, "--weights"),
        (["dream", "--roi", "V1", "--percent", "50"], 2, "no fitted model"),
        (["attribute", "--roi", "V1", "--image", "nothing.png"], 2, "no image 'nothing.png'"),
        (["attribute", "--roi", "V9"], 2, "no area 'V9'"),
    ],
)
def test_errors_say_what_to_do(fitted: Fitted, arguments: list[str], code: int, said: str) -> None:
    done = called(*arguments, "--cache", fitted.cache)
    assert done.code == code
    assert said in done.err
    assert done.out == ""


def test_damaged_picture_is_named(fitted: Fitted, tmp_path: Path) -> None:
    picture = tmp_path / "broken.jpg"
    picture.write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    done = called("attribute", "--roi", "V1", "--image", picture, "--cache", fitted.cache)
    assert done.code == 1
    assert "broken.jpg" in done.err


def test_model_of_other_weights_is_refused(copied: Fitted) -> None:
    path = copied.model.folder / "spec.json"
    spec = json.loads(path.read_text())
    spec["backbone_weights"]["source"] = "random:3"
    path.write_text(json.dumps(spec))
    done = called("dream", "--roi", "V1", "--cache", copied.cache)
    assert done.code == 3
    assert "--weights FILE" in done.err


def test_model_of_captions_is_refused(copied: Fitted) -> None:
    path = copied.model.folder / "spec.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"backbone": "clip-text"}))
    for command in ("dream", "attribute"):
        done = called(command, "--roi", "V1", "--cache", copied.cache)
        assert done.code == 2
        assert "no gradient to pixels" in done.err
