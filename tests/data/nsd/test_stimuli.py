"""NSD's images: in the order asked, known by their content, and refused where damaged."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from boldreams_cli.console import BoldreamsError, ChoiceError
from boldreams_cli.data.identity import content
from boldreams_cli.data.nsd.stimuli import SAMPLED_ROWS, Stimuli

from .conftest import Experiment


def test_rows_in_the_order_asked(experiment: Experiment) -> None:
    with Stimuli(experiment.layout.stimuli) as stimuli:
        assert len(stimuli) == 40
        assert stimuli.image_shape == (9, 9, 3)
        for ids in ([5, 2, 39, 2], np.array([0, 1], np.int32), []):
            found = stimuli.read(ids)
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, experiment.images[np.array(ids, int)])
        for wrong in ([40], [0, -1]):
            with pytest.raises(ChoiceError, match="nsdIds go from 0 to 39"):
                stimuli.read(wrong)


def test_identity_is_the_content(experiment: Experiment, tmp_path: Path) -> None:
    path, copy = experiment.layout.stimuli, tmp_path / "copy.hdf5"
    shutil.copy(path, copy)
    with Stimuli(path) as one, Stimuli(copy) as two:
        assert one.identity() == two.identity()
        assert one.identity()["shape"] == [40, 9, 9, 3]
    sampled = {int(row) for row in np.linspace(0, 39, SAMPLED_ROWS)}
    assert len(sampled) == 8
    for row in range(40):  # one at a time: each of the sampled rows counts, the others are seen by their hash alone
        flip(copy, row)
        with Stimuli(path) as one, Stimuli(copy) as two:
            assert (one.identity() != two.identity()) == (row in sampled), row
            assert content(one.read([row])) != content(two.read([row]))
        flip(copy, row)


def flip(path: Path, row: int) -> None:
    with h5py.File(path, "r+") as file:
        images = file["imgBrick"]
        images[row, 0, 0, 0] = int(images[row, 0, 0, 0]) ^ 1


def test_stamp_changes_with_the_file_and_not_by_reading(experiment: Experiment) -> None:
    before = experiment.dataset.stimuli_stamp()
    with experiment.dataset.stimuli() as stimuli:
        stimuli.read([3])
    assert experiment.dataset.stimuli_stamp() == before
    os.utime(experiment.layout.stimuli, (1e9, 1e9))
    assert experiment.dataset.stimuli_stamp() != before
    assert experiment.dataset.stimuli_stamp()["size"] == before["size"]


def test_a_hole_in_the_file_is_no_image(experiment: Experiment) -> None:
    with h5py.File(experiment.layout.stimuli, "r+") as file:
        file["imgBrick"][13:15] = 0
    with experiment.dataset.stimuli() as stimuli:
        stimuli.read([12, 15])
        with pytest.raises(BoldreamsError, match=r"image 13, 14 is black throughout.*download it again"):
            stimuli.read([12, 13, 14])


def test_wrong_dataset(tmp_path: Path) -> None:
    path = tmp_path / "s.hdf5"
    for array in (
        np.zeros((4, 9, 9, 3), np.float32),
        np.zeros((4, 3, 9, 9), np.uint8),
        np.zeros((0, 9, 9, 3), np.uint8),
    ):
        with h5py.File(path, "w") as file:
            file["imgBrick"] = array
        with pytest.raises(BoldreamsError, match=rf"imgBrick is \({array.shape[0]}, .* but must be .*73000, 425"):
            Stimuli(path)
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros(3)
    with pytest.raises(BoldreamsError, match="no dataset imgBrick; it holds images"):
        Stimuli(path)


def test_a_subsets_file_of_few_images_among_all_is_read(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(1, 255, (425, 425, 3)).astype(np.uint8)
    with h5py.File(tmp_path / "s.hdf5", "w") as file:
        images = file.create_dataset("imgBrick", (73_000, 425, 425, 3), np.uint8, chunks=(1, 425, 425, 3))
        images[72_999] = image
    with Stimuli(tmp_path / "s.hdf5") as stimuli:
        np.testing.assert_array_equal(stimuli.read([72_999])[0], image)
        with pytest.raises(BoldreamsError, match="image 5 is black throughout"):
            stimuli.read([5])


def test_missing_and_truncated(experiment: Experiment, tmp_path: Path) -> None:
    with pytest.raises(BoldreamsError, match=r"there is no .*absent.hdf5; download absent.hdf5 or correct --nsd-root"):
        Stimuli(tmp_path / "absent.hdf5")
    content = experiment.layout.stimuli.read_bytes()
    for share in (0.0, 0.1, 0.9):
        (tmp_path / "s.hdf5").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(BoldreamsError, match=r"truncated or damaged.*download it again"):
            Stimuli(tmp_path / "s.hdf5")
