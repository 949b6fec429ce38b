from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from boldreams_cli.console import BoldreamsError, ChoiceError
from boldreams_cli.data.nsd.stimuli import Stimuli

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
    with h5py.File(copy, "r+") as file:
        file["imgBrick"][39, 0, 0, 0] ^= 1
    with Stimuli(path) as one, Stimuli(copy) as two:
        assert one.identity() != two.identity()


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


def test_missing_and_truncated(experiment: Experiment, tmp_path: Path) -> None:
    with pytest.raises(BoldreamsError, match=r"there is no .*nsd_stimuli.hdf5"):
        Stimuli(tmp_path / "absent.hdf5")
    content = experiment.layout.stimuli.read_bytes()
    for share in (0.0, 0.1, 0.9):
        (tmp_path / "s.hdf5").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(BoldreamsError, match=r"truncated or damaged.*download it again"):
            Stimuli(tmp_path / "s.hdf5")
