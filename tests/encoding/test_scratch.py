"""Scratch files on a disk that is full, or under a quota: an error that says so, never zeros or a bus error."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from boldreams_cli.console import BoldreamsError
from boldreams_cli.encoding.inputs.betas import TrainingBetas
from boldreams_cli.encoding.inputs.maps import ScratchMaps
from boldreams_cli.encoding.inputs.nested import KeptPool
from boldreams_cli.encoding.inputs.pooled import StoredPool, pool_maps
from boldreams_cli.encoding.inputs.scratch import Scratch
from boldreams_cli.encoding.inputs.trials import ImageTrials
from boldreams_cli.files import read_all, write_all
from tests.encoding.test_betas import prepared
from tests.encoding.test_pooled import CPU, IMAGES, Maps, layouts
from tests.forked import CONTEXT


def whole_maps(folder: Path) -> object:
    maps = Maps(np.arange(IMAGES))
    return ScratchMaps(maps, maps.rows, layouts(), CPU, folder)  # type: ignore[arg-type]


def pooled(folder: Path) -> object:
    maps = Maps(np.arange(IMAGES))
    return pool_maps(maps, maps.rows, layouts(), 4, 0, folder, CPU)  # type: ignore[arg-type]


def kept(folder: Path) -> object:
    maps = Maps(np.arange(IMAGES))
    return KeptPool(StoredPool(maps, maps.rows, 4), IMAGES, layouts()[1], 4, folder)  # type: ignore[arg-type]


def betas(folder: Path) -> object:
    trials = ImageTrials.__new__(ImageTrials)  # without pixels
    train = TrainingBetas(prepared(folder / "data", None))
    trials.image_ids, trials.voxels = train.image_ids[train.images], len(train.columns)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    return trials._read_betas(train, 0, folder)


def under_a_limit(fill: Callable[[Path], object], limit: int, folder: Path) -> None:
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    with pytest.raises(BoldreamsError, match=r"no room for the (pooled )?(maps|betas), .* --memory"):
        fill(folder)


@pytest.mark.parametrize(("fill", "limit"), [(whole_maps, 50_000), (pooled, 4_000), (kept, 50_000), (betas, 0)])
def test_a_file_without_room_is_an_error(tmp_path: Path, fill: Callable[[Path], object], limit: int) -> None:
    process = CONTEXT.Process(target=under_a_limit, args=(fill, limit, tmp_path))
    process.start()
    process.join()
    assert process.exitcode == 0


def test_betas_in_a_file_are_the_betas(tmp_path: Path) -> None:
    train = TrainingBetas(prepared(tmp_path, None))
    trials = ImageTrials.__new__(ImageTrials)
    trials.image_ids, trials.voxels = train.image_ids[train.images], len(train.columns)
    found = trials._read_betas(train, 0, tmp_path / "scratch")
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, train.trials(train.columns).numpy())


def test_parts_are_written_and_read_until_all_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write, real_read = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: real_write(file, data[:5], at))
    monkeypatch.setattr(os, "preadv", lambda file, into, at: real_read(file, [into[0][:7]], at))
    values = torch.arange(12, dtype=torch.float16).reshape(3, 4)
    with (tmp_path / "file").open("w+b") as file:
        write_all(file.fileno(), values.numpy().data, 3)
        found = np.empty((3, 4), np.float16)
        read_all(file.fileno(), found.data, 3)
        assert found.tolist() == values.tolist()
        with pytest.raises(EOFError, match="2 B too early"):
            read_all(file.fileno(), found.data, 5)


def test_a_network_that_tells_of_a_quota_late_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    file = Scratch(tmp_path, 4, "the maps")
    file.write(np.zeros(1, np.float32).data, 0)
    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(os, "major", lambda _: 8)
    file.written()  # a disk has told by then: it is not waited for
    monkeypatch.setattr(os, "major", lambda _: 0)
    with pytest.raises(BoldreamsError, match=r"quota exceeded.*a smaller --percent"):
        file.written()
