"""NSD's design: which image each trial showed, of the test or not, from MATLAB files of any number type."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from boldreams_cli.console import BoldreamsError, ChoiceError
from boldreams_cli.data.nsd.design import Design

from .conftest import SHARED, Experiment, write_design


def full_size_design(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arrays of NSD's size: 8 subjects, 10,000 images of which the first 1,000 are shared, three repeats."""
    ids = rng.permutation(73_000) + 1
    shared, own = ids[:1000], ids[1000 : 1000 + 8 * 9000].reshape(8, 9000)
    subject_images = np.concatenate([np.tile(shared, (8, 1)), own], axis=1)
    return rng.permutation(np.repeat(np.arange(10_000), 3)) + 1, subject_images, np.sort(shared)


def test_small_design(experiment: Experiment) -> None:
    design = Design.read(experiment.layout.design)
    for subject in (1, 2):
        images = design.trial_images(subject)
        assert images.dtype == np.int32
        np.testing.assert_array_equal(images, experiment.trial_images[subject])
    np.testing.assert_array_equal(design.shared, np.sort(SHARED))


def test_design_of_full_size(tmp_path: Path) -> None:
    ordering, subject_images, shared = full_size_design(np.random.default_rng(0))
    write_design(tmp_path / "design.mat", ordering, subject_images, shared)
    design = Design.read(tmp_path / "design.mat")
    for subject in (1, 8):
        images = design.trial_images(subject)[: 37 * 750]
        wanted = [int(subject_images[subject - 1][k - 1]) - 1 for k in ordering[:27_750].tolist()]
        assert images.tolist() == wanted
        known = set((shared - 1).tolist())
        test = np.isin(images, design.shared)
        assert test.tolist() == [image in known for image in wanted]
        assert len(set(wanted)) == len(np.unique(images))
        # About a tenth of the trials; the paper has 24,980 + 2,770 for the true order.
        assert 2600 < test.sum() < 2950
        assert len(np.unique(images[~test])) + len(np.unique(images[test])) == len(set(wanted))
    every = design.trial_images(3)
    assert np.unique(every, return_counts=True)[1].tolist() == [3] * 10_000


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float64])
def test_any_number_type(tmp_path: Path, dtype: type) -> None:
    arrays = {
        "masterordering": np.array([[2, 1, 2]], dtype),
        "subjectim": np.array([[5, 9]], dtype),
        "sharedix": np.array([9], dtype),
    }
    scipy.io.savemat(tmp_path / "design.mat", arrays)
    design = Design.read(tmp_path / "design.mat")
    assert design.trial_images(1).tolist() == [8, 4, 8]
    assert design.shared.tolist() == [8]
    with pytest.raises(ChoiceError, match="subjects 1 to 1, not 2"):
        design.trial_images(2)


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "design.mat"
    with pytest.raises(BoldreamsError, match=r"there is no .*design\.mat; download"):
        Design.read(path)
    scipy.io.savemat(path, {"subjectim": np.ones((1, 2))})
    with pytest.raises(BoldreamsError, match="lacks masterordering, sharedix"):
        Design.read(path)
    for content in (b"", b"MATLAB" * 40, path.read_bytes()[:140]):
        path.write_bytes(content)
        with pytest.raises(BoldreamsError, match=r"must be a readable MATLAB v5 file|lacks"):
            Design.read(path)
    with h5py.File(path, "w") as file:
        file["masterordering"] = np.ones(3)
    with pytest.raises(BoldreamsError, match="must be a readable MATLAB v5 file"):
        Design.read(path)


@pytest.mark.parametrize(
    ("ordering", "images", "complaint"),
    [
        ([1, 3], [[1, 2]], "masterordering goes from 1 to 3, but subjectim has 2"),
        ([0, 1], [[1, 2]], "masterordering goes from 0"),
        ([1, 1.5], [[1, 2]], "masterordering must hold whole numbers"),
        ([1, np.nan], [[1, 2]], "masterordering must hold whole numbers"),
        ([1, 2], [[0, 2]], "subjectim holds 0, but 73k ids count from 1"),
    ],
)
def test_indices_that_point_nowhere(tmp_path: Path, ordering: list, images: list, complaint: str) -> None:
    write_design(tmp_path / "design.mat", np.array(ordering), np.array(images), np.array([1]))
    with pytest.raises(BoldreamsError, match=complaint):
        Design.read(tmp_path / "design.mat").trial_images(1)
