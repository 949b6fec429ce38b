"""Noise ceilings of data files without any: estimated from repeats once betas are prepared, part of what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boldreams_cli.console import BoldreamsError, logger
from boldreams_cli.data.neutral.ceilings import unlikely
from boldreams_cli.data.neutral.checking import check
from boldreams_cli.data.opening import open_dataset
from boldreams_cli.data.prepared.preparing import complete_stores
from boldreams_cli.data.prepared.reliability import ESTIMATED, ncsnr_from_repeats
from boldreams_cli.data.responses import CEILING, NCSNR, Responses

from .conftest import Arrays, Write

IMAGES, REPEATS = 12, 3


@pytest.fixture
def repeated(arrays: Arrays) -> Arrays:
    """12 images, each shown once in three sessions; no ceiling."""
    rng = np.random.default_rng(3)
    shown = np.concatenate([rng.permutation(IMAGES) for _ in range(REPEATS)])
    signal = rng.normal(size=(IMAGES, 12))
    return {
        "betas": (signal[shown] * np.linspace(0.5, 3, 12) + rng.normal(size=(IMAGES * REPEATS, 12))).astype(np.float32),
        "trial_image": shown,
        "image_names": [f"picture {number}" for number in range(IMAGES)],
        "pixels": rng.integers(0, 256, (IMAGES, 8, 8, 3), dtype=np.uint8),
        "sessions": np.repeat([1, 2, 3], IMAGES),
        "test": shown < 4,
        "ceiling": None,
        "ceiling_kind": None,
    }


def test_it_is_that_of_the_betas_that_were_prepared(written: Write, repeated: Arrays, tmp_path: Path) -> None:
    responses = open_dataset(written(**repeated)).prepare("CSI1", tmp_path / "cache")
    wanted = ncsnr_from_repeats(responses.read_betas(), responses.trial_images)
    np.testing.assert_array_equal(responses.ncsnr, wanted)
    assert np.isfinite(responses.ncsnr).all()
    assert (responses.ceiling_source, responses.ceiling_images) == (ESTIMATED, IMAGES)
    summary = responses.summary()
    assert (summary["ceiling_source"], summary["ceiling_images"]) == (ESTIMATED, IMAGES)
    again = Responses.open(responses.path)
    np.testing.assert_array_equal(again.ncsnr, wanted)
    np.testing.assert_array_equal(again.leaving_out([5]).ncsnr, wanted)


def test_presentations_that_were_averaged_count_in_it(written: Write, repeated: Arrays, tmp_path: Path) -> None:
    repeats = np.tile([1, 2, 5], IMAGES)
    responses = open_dataset(written(**repeated, repeats=repeats)).prepare("CSI1", tmp_path / "cache")
    wanted = ncsnr_from_repeats(responses.read_betas(), responses.trial_images, repeats)
    np.testing.assert_array_equal(responses.ncsnr, wanted)


def test_what_is_in_the_file_wins(written: Write, repeated: Arrays, tmp_path: Path) -> None:
    given = np.linspace(0.1, 1.2, 12)
    path = written("given.h5", **(repeated | {"ceiling": given, "ceiling_kind": "ncsnr"}))
    responses = open_dataset(path).prepare("CSI1", tmp_path / "cache")
    assert np.allclose(responses.ncsnr, given)
    assert (responses.ceiling_source, responses.ceiling_images) == ("ncsnr", None)
    without = open_dataset(written(**repeated)).prepare("CSI1", tmp_path / "cache")
    assert without.fingerprint != responses.fingerprint


def test_nothing_is_estimated_without_repeats_enough(written: Write, repeated: Arrays, tmp_path: Path) -> None:
    """One session shows each image once; the least is ten trials beyond the first of their images."""
    path = written(**repeated)
    once = open_dataset(path).prepare("CSI1", tmp_path / "cache", sessions="2")
    assert np.isnan(once.ncsnr).all()
    assert (once.ceiling_source, once.ceiling_images) == (None, None)
    twice = open_dataset(path).prepare("CSI1", tmp_path / "cache", sessions="1,3")
    assert twice.ceiling_images == IMAGES
    few = written("few.h5", ceiling=None, ceiling_kind=None)  # 8 images, 8 trials beyond the first
    assert open_dataset(few).prepare("CSI1", tmp_path / "cache").ceiling_source is None


def test_an_estimate_that_was_not_made_or_is_damaged_is_made(written: Write, repeated: Arrays, tmp_path: Path) -> None:
    path, cache = written(**repeated), tmp_path / "cache"
    made = open_dataset(path).prepare("CSI1", cache)
    made.store.revoke(CEILING, NCSNR, "killed before it")
    assert complete_stores(cache, "CSI1") == []
    with pytest.raises(BoldreamsError, match="is incomplete: noise ceilings to do"):
        Responses.open(made.path)
    again = open_dataset(path).prepare("CSI1", cache)
    np.testing.assert_array_equal(again.ncsnr, made.ncsnr)
    chunk = made.path / "ncsnr/c/0"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    assert [(kind, unit) for kind, unit, _, _ in made.store.verify()] == [(CEILING, NCSNR)]
    np.testing.assert_array_equal(open_dataset(path).prepare("CSI1", cache).ncsnr, made.ncsnr)
    assert list(made.store.verify()) == []


def test_validate_says_what_will_be(written: Write, repeated: Arrays) -> None:
    found = check(written(**repeated))
    assert (found.facts["ceiling"], found.facts["repeated_images"]) == (ESTIMATED, IMAGES)
    assert any("estimated from the repeats of 12 images" in line for line in found.warnings)
    few = check(written("few.h5", ceiling=None, ceiling_kind=None))
    assert few.facts["ceiling"] is None
    assert any("only 8 images are in several trials: there will be no noise ceilings" in line for line in few.warnings)
    once = repeated | {"sessions": None, "trial_image": np.arange(36), "test": np.arange(36) < 4}
    once |= {"image_names": [str(n) for n in range(36)], "pixels": np.zeros((36, 4, 4, 3), np.uint8)}
    assert any("no image is in several trials" in line for line in check(written("once.h5", **once)).warnings)


def test_a_unit_that_is_unlikely_is_said(
    written: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shares = written(ceiling=np.linspace(0, 0.9, 12), ceiling_kind="single-trial")
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level("WARNING", logger="boldreams"):
        open_dataset(shares).prepare("CSI1", tmp_path / "cache")
    assert "own.h5: ceiling: the largest is 0.9 %; is it a share, to be multiplied by 100?" in caplog.text
    assert any("is it a share, to be multiplied by 100?" in line for line in check(shares).warnings)
    percent = written(ceiling=np.linspace(0, 60, 12), ceiling_kind="ncsnr")
    assert any("the largest ncsnr is 60; is it a percentage?" in line for line in check(percent).warnings)
    assert unlikely(np.array([np.nan, 0.5, 55]), "test-set") == unlikely(np.array([np.nan, 1.5]), "ncsnr") == ""
    assert unlikely(np.array([np.nan, np.nan]), "test-set") == ""
