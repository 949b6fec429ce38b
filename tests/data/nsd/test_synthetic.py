"""NSD-synthetic's files: which image was shown when, as it looked; blanks, missing parts, and other forms."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from boldreams_cli.console import BoldreamsError, ChoiceError
from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.data.nsd.synthetic import read_order
from boldreams_cli.data.outside import OutsideTest
from boldreams_cli.data.prepared.preparing import zscore

from .conftest import SHAPE, Experiment, save_hdf5, save_nifti

ORDER = np.array([3, 1, 2, 2, 5, 4, 1, 3, 5])  # from 1; 5 is the first coloured one; a one-back repeat
VOXELS = np.array([[1, 2, 3], [4, 5, 0], [6, 0, 4]], np.int32)


def add(experiment: Experiment, order: np.ndarray = ORDER, count: int | None = None, form: str = "hdf5") -> np.ndarray:
    """Write the session of subject 1; gives its betas (trials, X, Y, Z)."""
    layout, rng = experiment.layout, np.random.default_rng(2)
    betas = rng.integers(-900, 900, (len(order) if count is None else count, *SHAPE), dtype=np.int16)
    path = next(path for path in layout.synthetic_betas(1) if path.name.endswith(form))
    if form == "nii.gz":
        save_nifti(path, np.ascontiguousarray(np.moveaxis(betas, 0, 3)))
    else:
        save_hdf5(path, betas)
    layout.synthetic_design.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(layout.synthetic_design, {"masterordering": order[None].astype(float)})
    shared, own = layout.synthetic_stimuli(1)
    shared.parent.mkdir(parents=True, exist_ok=True)
    for path, images in ((shared, 4), (own, 1)):
        with h5py.File(path, "w") as file:
            file["imgBrick"] = rng.integers(0, 256, (images, 6, 10, 3), dtype=np.uint8)
    return betas


def opened(experiment: Experiment) -> OutsideTest:
    return experiment.dataset.outside_test("synthetic", 1, VOXELS, SHAPE)


@pytest.mark.parametrize("form", ["hdf5", "nii.gz"])
def test_trials_and_betas(experiment: Experiment, form: str) -> None:
    betas = add(experiment, form=form)
    test = opened(experiment)
    assert test.trials.tolist() == (ORDER - 1).tolist()
    assert test.images.tolist() == [0, 1, 2, 3, 4]
    assert test.repeats.tolist() == [2, 2, 2, 1, 2]
    assert (test.images[test.rows] == test.trials).all()
    expected = zscore((betas[:, VOXELS[:, 0], VOXELS[:, 1], VOXELS[:, 2]] / 300).astype(np.float32))
    np.testing.assert_allclose(test.betas, expected, rtol=1e-6)


def test_pixels_are_light_and_become_what_photographs_are(experiment: Experiment) -> None:
    add(experiment)
    test = opened(experiment)
    files = experiment.layout.synthetic_stimuli(1)
    with h5py.File(files[0]) as shared, h5py.File(files[1]) as own:
        raw = np.concatenate([shared["imgBrick"][:], own["imgBrick"][:]])
    shown = test.read(np.array([4, 0, 4, 2], np.int32))
    expected = np.rint(255 * (raw[[4, 0, 4, 2]] / 255.0) ** 0.5)
    assert shown.dtype == np.uint8
    assert np.array_equal(shown, expected)


@pytest.mark.parametrize("blank", [0, -1, np.nan])
def test_trials_without_an_image_are_left_out(experiment: Experiment, blank: float) -> None:
    order = np.insert(ORDER.astype(float), [0, 4], blank)
    betas = add(experiment, order)
    test = opened(experiment)
    assert test.trials.tolist() == (ORDER - 1).tolist()
    expected = zscore((betas[:, VOXELS[:, 0], VOXELS[:, 1], VOXELS[:, 2]] / 300).astype(np.float32))
    np.testing.assert_allclose(test.betas, np.delete(expected, [0, 5], axis=0), rtol=1e-6)
    add(experiment, order, count=len(ORDER))  # betas of the trials with an image alone
    assert len(opened(experiment).betas) == len(ORDER)


def test_what_does_not_fit_together(experiment: Experiment) -> None:
    with pytest.raises(ChoiceError, match=r"no betas_nsdsynthetic in .*; download it"):
        opened(experiment)
    add(experiment, count=7)
    with pytest.raises(BoldreamsError, match=r"has 7 trials, .* 9 with an image"):
        opened(experiment)
    add(experiment, np.append(ORDER, 9))
    with pytest.raises(BoldreamsError, match=r"shows image 9, but .* have 5; download .*colorstimuli_subj01"):
        opened(experiment)
    add(experiment)
    assert opened(experiment).kinds == {}
    experiment.layout.synthetic_table.write_text("Image number,Image,Image class\n1,a,Noise\n5,b,Chromatic noise\n")
    assert opened(experiment).kinds == {0: "Noise", 4: "Chromatic noise"}
    with pytest.raises(BoldreamsError, match="belongs to another subject or space"):
        _ = experiment.dataset.outside_test("synthetic", 1, VOXELS, (7, 6, 4)).betas


def test_of_a_model_of_another_preparation(experiment: Experiment) -> None:
    add(experiment)
    layout = Layout.at(experiment.root, "func1mm/betas_assumehrf")
    assert layout.synthetic_betas(1)[0].parent == (
        experiment.root / "nsddata_betas/ppdata/subj01/func1mm/nsdsyntheticbetas_assumehrf"
    )


def test_the_order_must_be_whole_numbers(tmp_path: Path) -> None:
    for values in ([1.5, 2], [0, 0], [-1]):
        scipy.io.savemat(tmp_path / "design.mat", {"masterordering": np.array([values], float)})
        with pytest.raises(BoldreamsError, match="whole numbers"):
            read_order(tmp_path / "design.mat")
    scipy.io.savemat(tmp_path / "design.mat", {"other": np.ones((1, 2))})
    with pytest.raises(BoldreamsError, match="lacks masterordering"):
        read_order(tmp_path / "design.mat")
