"""Dreams and attributions that were killed, stopped, or made twice at once."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from boldreams_cli.console import StopFlag, StoppedError
from boldreams_cli.encoding.inputs import maps
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.interpret import targets
from boldreams_cli.interpret.dreams import natural
from boldreams_cli.interpret.dreams.ascent import loop, spectra
from boldreams_cli.interpret.dreams.ascent.objectives import Objective
from boldreams_cli.interpret.dreams.natural import Sources
from boldreams_cli.interpret.dreams.record import Request, dream
from boldreams_cli.interpret.products import find_products
from tests.conftest import Run
from tests.forked import CONTEXT, Forked
from tests.interpret.conftest import CPU, Fitted
from tests.interpret.killing import run_and_be_killed
from tests.interpret.test_dreaming import After

DREAM = ("dream", "--roi", "V1", "--steps", "6", "--count", "1", "--lr", "0.02", "--json")
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("BOLDREAMS_")}
ENVIRONMENT |= {"BOLDREAMS_DEVICE": "cpu"}


def killed(*arguments: object) -> None:
    """Run the command, killed at its fifth step or second image."""
    process = CONTEXT.Process(target=run_and_be_killed, args=([*map(str, arguments)], ENVIRONMENT))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_killed_dream_goes_on_from_its_last_state_to_the_same_end(run: Run, copied: Fitted) -> None:
    common = (*DREAM, "--cache", copied.cache)
    finished = run(*common, "--seed", 1)
    before = {path: path.read_bytes() for path in map(Path, finished.json["files"])}
    killed(*common, "--nsd-root", copied.root)
    (stopped,) = [item for item in find_products(copied.model.folder) if item.state != "done"]
    assert (stopped.kind, stopped.state, stopped.description["step"]) == ("dream", "stopped", 4)
    assert not list((copied.model.folder / "dreams").glob("V1-steps-6-lr-0.02-count-1/*.png"))
    again = run(*common)
    assert "going on after step 4" in again.err
    other = copied.cache.parent / "uninterrupted"
    run(*common, "--output", other)
    for name in ("images", "responses"):
        with (
            np.load(other / "dream.npz") as whole,
            np.load(Path(again.json["images"][0]).parent / "dream.npz") as mended,
        ):
            np.testing.assert_array_equal(mended[name], whole[name])
    assert (other / "trace.csv").read_bytes() == Path(again.json["trace"]).read_bytes()
    assert all(path.read_bytes() == content for path, content in before.items()), "another dream is as it was"
    assert not list(copied.model.folder.rglob(".stopped"))
    assert not list(copied.model.folder.rglob(".making*"))


def test_a_finished_dream_is_returned_until_it_is_to_be_overwritten(run: Run, copied: Fitted) -> None:
    common = (*DREAM, "--cache", copied.cache, "--seed", 2)
    first = run(*common)
    stamps = {path: Path(path).stat().st_mtime_ns for path in first.json["files"]}
    second = run(*common)
    assert second.json == first.json
    assert "done before" in second.err
    assert "6/6 steps" not in second.err
    assert {path: Path(path).stat().st_mtime_ns for path in stamps} == stamps
    third = run(*common, "--overwrite")
    assert third.json["response"] == first.json["response"]
    assert {path: Path(path).stat().st_mtime_ns for path in stamps} != stamps


def test_output_keeps_what_is_not_ours(run: Run, fitted: Fitted, tmp_path: Path) -> None:
    (tmp_path / "dream-house.png").write_text("mine")
    common = ("dream", "--steps", 1, "--lr", "0.02", "--output", tmp_path, "--cache", fitted.cache)
    run(*common, "--roi", "V1", "--count", 2)
    refused = run(*common, "--roi", "faces", "--count", 1, code=2)
    assert "--overwrite" in refused.err
    assert "1/1 steps" not in refused.err, "found out before it is dreamed"
    assert json.loads((tmp_path / "dream.json").read_text())["roi"] == "V1"
    run(*common, "--roi", "faces", "--count", 1, "--overwrite")
    assert {path.name for path in tmp_path.glob("dream-*")} == {"dream-house.png", "dream-1.png"}
    assert (tmp_path / "dream-house.png").read_text() == "mine"
    assert "done before" in run(*common, "--roi", "faces", "--count", 1).err
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/dream-1.png").write_text("mine")
    theirs = run("dream", "--roi", "V1", "--steps", 1, "--output", tmp_path / "theirs", "--cache", fitted.cache, code=2)
    assert "dream-1.png was not made by boldreams" in theirs.err
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["dream-1.png"]


def test_a_dream_from_a_cache_that_may_only_be_read(
    run: Run, copied: Fitted, tmp_path: Path, only_read: Callable[[Path], None]
) -> None:
    before = sorted(copied.cache.rglob("*"))
    common = (*DREAM, "--cache", copied.cache, "--nsd-root", copied.root, "--parameterization", "maco")
    only_read(copied.cache)
    done = run(*common, "--output", tmp_path / "dreams")
    assert done.json["best_natural"]["train"]
    assert (tmp_path / "dreams/dream.npz").is_file()
    assert "not kept" not in done.err
    assert sorted(copied.cache.rglob("*")) == before


def test_a_killed_attribution_goes_on_with_the_next_image(run: Run, copied: Fitted) -> None:
    images = [item for image in copied.responses.test_images[:2] for item in ("--image", image)]
    common = ("attribute", "--roi", "V2", *images, "--steps", 8, "--cache", copied.cache, "--nsd-root", copied.root)
    killed(*common)
    folder = copied.model.folder / "attributions/V2-steps-8"
    (first,) = folder.glob("*.npz")
    stamp, content = first.stat().st_mtime_ns, first.read_bytes()
    done = run(*common, "--json")
    assert "1 of 2 images were done before" in done.err
    assert len(done.json["results"]) == 2
    assert (first.stat().st_mtime_ns, first.read_bytes()) == (stamp, content)
    assert Path(done.json["sheets"][0]) == folder / "sheet.png"
    again = run(*common, "--json")
    assert again.json == done.json
    assert "2 of 2 images were done before" in again.err
    fresh = run(*common, "--json", "--overwrite").json["results"]
    for entry, other in zip(done.json["results"], fresh, strict=True):
        assert entry["prediction"] == other["prediction"]
        assert entry["attribution_sum"] == pytest.approx(other["attribution_sum"], rel=1e-6)


def test_two_processes_dream_once(copied: Fitted) -> None:
    both = [Forked((*DREAM, "--cache", copied.cache), ENVIRONMENT) for _ in range(2)]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert sum("done before" in err for _, err in said) == 1


def request(fitted: Fitted) -> Request:
    target = targets.choose(fitted.full, fitted.responses.areas, "V3")
    settings = loop.Settings.default(fitted.full.backbone.entry, "V3", steps=3, rate=0.02, count=1)
    return Request(target, Objective("mean"), settings, None, CPU)


def test_a_stopped_dream_does_not_replace_a_finished_one(copied: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copied.full.model, "folder", copied.model.folder)
    sources = Sources(copied.responses, copied.cache, copied.root, 2**30)
    asked = request(copied)
    finished = dream(asked, sources, StopFlag())
    before = {path: Path(path).read_bytes() for path in finished["files"]}
    with pytest.raises(StoppedError):
        dream(asked, sources, After(1), overwrite=True)
    assert {path: Path(path).read_bytes() for path in finished["files"]} == before
    assert {item.state for item in find_products(copied.model.folder)} == {"done", "stopped"}
    assert dream(asked, sources, StopFlag(), overwrite=True)["response"] == finished["response"]
    assert {item.state for item in find_products(copied.model.folder)} == {"done"}


def test_a_signal_is_heard_while_natural_images_are_searched(copied: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copied.full.model.spec, "finetuned", True)
    monkeypatch.setattr(copied.full.model, "folder", copied.model.folder)
    target = targets.choose(copied.full, copied.responses.areas, "V3")
    passes: list[int] = []
    original = target.activity
    monkeypatch.setattr(target, "activity", lambda pixels: passes.append(len(pixels)) or original(pixels))
    sources = Sources(copied.responses, copied.cache, copied.root, 2**30)
    with pytest.raises(StoppedError):
        natural.best_natural(target, Objective("mean"), sources, After(1))
    assert len(passes) <= 1
    found = natural.best_natural(target, Objective("mean"), sources, StopFlag())
    passes.clear()
    assert natural.best_natural(target, Objective("diversity"), sources, StopFlag()) == found
    assert not passes, "what was found is kept"


def test_a_signal_is_heard_while_stored_images_are_searched(copied: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10,000 images their maps are gigabytes."""
    monkeypatch.setattr(maps, "IMAGE_BLOCK", 1)
    monkeypatch.setattr(copied.full.model, "folder", copied.model.folder)
    target = targets.choose(copied.full, copied.responses.areas, "V3")
    sources = Sources(copied.responses, copied.cache, copied.root, 2**30)
    with pytest.raises(StoppedError, match="2 of"):
        natural.best_natural(target, Objective("mean"), sources, After(3))  # one look is before each split
    assert not list(copied.model.folder.rglob(".natural/*.json"))
    assert natural.best_natural(target, Objective("mean"), sources, StopFlag()) is not None


def test_each_edition_of_the_stimuli_has_its_spectrum(fitted: Fitted, tmp_path: Path) -> None:
    for edition in ("", "1a2b3c4d5e6f", ""):
        model = FittedModel(fitted.model.folder, replace(fitted.model.spec, edition=edition), fitted.model.weights)
        spectra.spectrum_of(model, fitted.responses, tmp_path, fitted.root, StopFlag(), images=2)
    assert len(list(tmp_path.rglob("*.npz"))) == 2


def test_a_signal_is_heard_while_the_spectrum_is_measured(fitted: Fitted, tmp_path: Path) -> None:
    stop = StopFlag()
    stop.signal = signal.SIGTERM
    with pytest.raises(StoppedError, match="spectrum"):
        spectra.spectrum_of(fitted.model, fitted.responses, tmp_path, fitted.root, stop, images=5)
    assert not list(tmp_path.rglob("*.npz"))
