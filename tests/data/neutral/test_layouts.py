"""Betas are the same however the file lays them out, and no chunk of it is unpacked again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from boldreams_cli.console import BoldreamsError, logger
from boldreams_cli.data.neutral import betas as reading
from boldreams_cli.data.neutral.betas import betas_identity, blocks, read_betas, rows_of
from boldreams_cli.data.neutral.checking import check
from boldreams_cli.data.neutral.images import FileStimuli
from boldreams_cli.data.neutral.reading import open_file
from boldreams_cli.data.opening import open_dataset

from .conftest import Arrays, Write

LAYOUTS = [None, (1, 12), (16, 1), (16, 5), (3, 5), (5, 12)]


def laid_out(path: Path, chunks: tuple[int, int] | None, dtype: Any = np.float32) -> None:
    with h5py.File(path, "a") as file:
        betas = file["betas"][:]
        del file["betas"]
        more = {} if chunks is None else {"chunks": chunks, "compression": "gzip"}
        file.create_dataset("betas", data=betas.astype(dtype), **more)
        file["betas"].attrs["zscored"] = False


@pytest.mark.parametrize("room", [2**26, 200, 1])
@pytest.mark.parametrize("chunks", LAYOUTS, ids=str)
def test_every_layout_gives_the_same_betas(
    written: Write, arrays: Arrays, monkeypatch: pytest.MonkeyPatch, chunks: tuple[int, int] | None, room: int
) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", room)
    path = written()
    plain = betas_identity(open_file(path), [1, 3])
    laid_out(path, chunks)
    data = open_file(path)
    for session in (1, 3):  # their trials alternate
        own = arrays["betas"][arrays["sessions"] == session]
        np.testing.assert_array_equal(read_betas(data, session, data.units.ijk), own)
        some = data.units.ijk[[7, 2, 11]]
        np.testing.assert_array_equal(read_betas(data, session, some), own[:, [7, 2, 11]])
    assert betas_identity(data, [1, 3]) == plain
    found = check(path)
    assert (found.errors, found.facts["constant"]) == ([], 0)


def test_a_chunk_is_unpacked_once_for_a_session(written: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 12 * 4 * 4)  # four trials
    path = written()
    laid_out(path, (2, 12))
    data = open_file(path)
    with h5py.File(path) as file:
        parts = list(blocks(file["betas"], rows_of(data, 3)))
    assert [(part.first, part.end, part.columns) for part in parts] == [
        (first, first + 2, slice(0, 12)) for first in (0, 2, 4, 6)
    ]
    laid_out(path, (16, 3))  # taller than what is read at once: some units of all trials
    with h5py.File(path) as file:
        parts = list(blocks(file["betas"], rows_of(data, 3)))
    assert [(part.first, part.end, part.columns) for part in parts] == [
        (0, 8, slice(start, start + 3)) for start in (0, 3, 6, 9)
    ]


def test_other_betas_have_another_identity(written: Write, arrays: Arrays) -> None:
    data = open_file(written())
    before = betas_identity(data, [1, 3])
    betas = arrays["betas"].copy()
    betas[arrays["sessions"] == 3] += 1
    other = betas_identity(open_file(written(betas=betas)), [1, 3])
    assert (other["1"] == before["1"], other["3"] == before["3"]) == (True, False)


@pytest.mark.parametrize("chunks", [None, (1, 20, 20, 3), (8, 5, 7, 1), (3, 20, 20, 3)], ids=str)
def test_pixels_are_the_same_in_every_layout(written: Write, arrays: Arrays, chunks: tuple[int, ...] | None) -> None:
    path = written()
    with FileStimuli(open_file(path)) as stimuli:
        before = stimuli.identity()
    with h5py.File(path, "a") as file:
        del file["images/pixels"]
        more = {} if chunks is None else {"chunks": chunks, "compression": "gzip"}
        file.create_dataset("images/pixels", data=arrays["pixels"], **more)
    with FileStimuli(open_file(path)) as stimuli:
        for asked in ([3], [7, 0, 1, 1, 2, 5], [], [4, 3, 2]):
            np.testing.assert_array_equal(stimuli.read(asked), arrays["pixels"][asked])
        assert stimuli.identity() == before
    assert check(path).errors == []


def test_images_of_one_grey_are_counted(written: Write, arrays: Arrays) -> None:
    pixels = arrays["pixels"].copy()
    pixels[[2, 5]] = 7
    found = check(written(pixels=pixels))
    assert any("images/pixels: 2 images are of one grey (picture 2, picture 5)" in line for line in found.warnings)


def test_an_image_of_one_colour_is_read_and_one_never_written_is_not(
    written: Write, arrays: Arrays, tmp_path: Path
) -> None:
    """People show grey screens; what a writer that was killed left out is the fill value throughout."""
    pixels = arrays["pixels"].copy()
    pixels[2], pixels[5] = 7, 0
    path = written(pixels=pixels)
    with FileStimuli(open_file(path)) as stimuli:
        assert (np.asarray(stimuli.read([1, 2])[1]) == 7).all()
        with pytest.raises(BoldreamsError, match=r"own\.h5: images/pixels: picture 5 is 0 throughout.*images/path"):
            stimuli.read([4, 5, 6])
    for number in range(8):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    black = written("black.h5", pixels=None, image_paths=[f"{number}.png" for number in range(8)])
    with FileStimuli(open_file(black)) as stimuli:
        assert not stimuli.read([5])[0].any()


@pytest.mark.parametrize("chunks", [(4, 12), (16, 3)], ids=str)
def test_what_was_never_written_is_said(
    written: Write,
    arrays: Arrays,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    chunks: tuple[int, int],
) -> None:
    """HDF5 gives zeros for what a writer that was killed left out."""
    monkeypatch.setattr(reading, "BLOCK_BYTES", 12 * 4 * 4)
    path = written()
    with h5py.File(path, "a") as file:
        del file["betas"]
        betas = file.create_dataset("betas", (16, 12), np.float32, chunks=chunks)
        betas[:13], betas.attrs["zscored"] = arrays["betas"][:13], False
    assert any("betas: 3 trials are 0 in all units" in line for line in check(path).warnings)
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level("WARNING", logger="boldreams"):
        open_dataset(path).prepare("CSI1", tmp_path / "cache")
    assert "trials are 0 in all units: was a part of the file never written?" in caplog.text


def test_doubles_and_halves_are_read(written: Write, arrays: Arrays) -> None:
    for dtype, close in ((np.float64, 0), (np.float16, 1e-2)):
        path = written()
        laid_out(path, None, dtype)
        data = open_file(path)
        found = read_betas(data, 3, data.units.ijk)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, arrays["betas"][arrays["sessions"] == 3], rtol=close, atol=close)
