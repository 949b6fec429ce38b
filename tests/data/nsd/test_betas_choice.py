"""Which betas are used (--betas): another space or preparation has its own masks and store; the default stays."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from boldreams_cli.console import BoldreamsError, ChoiceError, MismatchError
from boldreams_cli.data.nsd.betas.choice import BetasChoice
from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.data.nsd.maker import NSD
from boldreams_cli.data.prepared.checking import check_inputs
from boldreams_cli.data.prepared.choosing import responses_for
from boldreams_cli.data.prepared.preparing import zscore
from boldreams_cli.files import fingerprint

from .conftest import SESSIONS, TRIALS, Experiment, save_betas, save_nifti

FINE, FITHRF = "func1mm/betas_fithrf", "func1pt8mm/betas_fithrf"
SHAPE = (9, 8, 7)  # of the finer space


def add_finer(experiment: Experiment) -> np.ndarray:
    """Subject 1 in the 1 mm space, prepared by fitted HRFs alone; gives its betas (trials, X, Y, Z)."""
    layout, rng = Layout.at(experiment.root, FINE), np.random.default_rng(3)
    betas = rng.integers(-900, 900, (SESSIONS * TRIALS, *SHAPE), dtype=np.int16)
    for session in range(SESSIONS):
        save_betas(layout, 1, session + 1, "hdf5", betas[session * TRIALS : (session + 1) * TRIALS])
    labels = np.zeros(SHAPE, np.int16)
    labels[2:5, 3:6, 1:4] = rng.integers(1, 8, (3, 3, 3))
    save_nifti(layout.roi(1, "prf-visualrois"), labels)
    brain = np.ones(SHAPE, np.uint8)
    brain[2] = 0
    save_nifti(layout.brain_masks(1)[0], brain)
    save_nifti(layout.ncsnr(1), np.full(SHAPE, 0.25, np.float32))
    save_nifti(layout.functional(1, "T1_to_func1mm"), np.full(SHAPE, 3, np.float32))
    return betas


def test_the_default_is_what_it_was(experiment: Experiment) -> None:
    request = experiment.dataset.request(1)
    keys = ["dataset", "subject", "sessions", "mask", "brain_mask", "ncsnr", "design", "rois", "labels", "betas"]
    assert list(request) == keys, "a new key would be another fingerprint"
    for same in ("func1pt8mm/betas_fithrf_GLMdenoise_RR", "func1pt8mm", "betas_fithrf_GLMdenoise_RR", None):
        assert fingerprint(NSD(experiment.root, same).request(1)) == fingerprint(request)
    assert experiment.layout.betas_folder(3) == (
        experiment.root / "nsddata_betas/ppdata/subj03/func1pt8mm/betas_fithrf_GLMdenoise_RR"
    )


def test_another_space_has_its_own_masks_betas_and_store(experiment: Experiment, cache: Path) -> None:
    betas = add_finer(experiment)
    default = responses_for(cache, 1, experiment.root)
    fine = responses_for(cache, 1, experiment.root, betas=FINE)
    assert fine.path != default.path
    assert fine.shape == SHAPE
    assert (fine.voxels >= (3, 3, 1)).all(), "x = 2 is outside the brain of that space"
    assert len(fine.voxels) == 2 * 3 * 3
    assert (fine.ncsnr == 0.25).all()
    x, y, z = fine.voxels.T
    expected = zscore((betas[:TRIALS, x, y, z] / 300).astype(np.float32))
    np.testing.assert_allclose(fine.read_betas(slice(0, TRIALS)), expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(fine.trial_images, default.trial_images)
    assert fine.summary()["preparation"] == FINE
    assert "preparation" not in default.summary()
    assert responses_for(cache, 1, experiment.root).path == default.path, "the default is not disturbed"


def test_the_same_betas_under_another_name_are_another_request(experiment: Experiment, cache: Path) -> None:
    made = responses_for(cache, 1, experiment.root)
    folder = experiment.layout.betas_folder(1)
    shutil.copytree(folder, Layout.at(experiment.root, FITHRF).betas_folder(1))
    other = responses_for(cache, 1, experiment.root, betas="betas_fithrf")
    assert other.path != made.path
    assert other.request["preparation"] == FITHRF


def test_inputs_are_compared_with_those_of_the_same_preparation(experiment: Experiment, cache: Path) -> None:
    add_finer(experiment)
    fine = responses_for(cache, 1, experiment.root, betas=FINE)
    check_inputs(fine, experiment.dataset)  # opened for the default, as commands on a model do
    shape, name = experiment.dataset.of_request(fine.request).background(1) or ((), "")
    assert shape.shape == SHAPE
    assert "T1_to_func1mm" in name
    save_nifti(Layout.at(experiment.root, FINE).ncsnr(1), np.full(SHAPE, 0.5, np.float32))
    with pytest.raises(MismatchError, match=r"other inputs than those under .*\(ncsnr\)"):
        check_inputs(fine, experiment.dataset)


def test_without_a_root_the_choice_finds_its_store(experiment: Experiment, cache: Path) -> None:
    add_finer(experiment)
    default, fine = (responses_for(cache, 1, experiment.root, betas=betas) for betas in (None, FINE))
    with pytest.raises(ChoiceError, match=r"several .*func1mm/betas_fithrf.*--betas"):
        responses_for(cache, 1, None)
    assert responses_for(cache, 1, None, betas="func1mm/betas_fithrf").path == fine.path
    assert responses_for(cache, 1, None, betas="betas_fithrf_GLMdenoise_RR").path == default.path
    with pytest.raises(BoldreamsError, match="no NSD root given"):
        responses_for(cache, 1, None, betas="betas_assumehrf")


def test_errors_name_what_is_there(experiment: Experiment, cache: Path) -> None:
    add_finer(experiment)
    there = "func1pt8mm/betas_fithrf_GLMdenoise_RR, func1mm/betas_fithrf"
    with pytest.raises(ChoiceError, match=rf"of this subject there are {there} \(--betas\)"):
        NSD(experiment.root, "betas_assumehrf").prepare(1, cache)
    with pytest.raises(ChoiceError, match=rf"of this subject there are {there} \(--betas\)"):
        responses_for(cache, 1, experiment.root, betas="betas_assumehrf")
    with pytest.raises(ChoiceError, match=r"subjects under the root: 1, 2 \(--subject\)"):
        experiment.dataset.prepare(7, cache)
    assert not (cache / "responses").exists()


@pytest.mark.parametrize("text", ["func2mm", "betas", "func1mm/func1pt8mm", "betas_fithrf/betas_fithrf", "a/b/c", ""])
def test_what_is_no_choice(text: str) -> None:
    if not text:
        assert BetasChoice.read(text) == BetasChoice()
        return
    with pytest.raises(ChoiceError, match=r"func1pt8mm, func1mm, fsaverage, nativesurface; betas_fithrf"):
        BetasChoice.read(text)


def test_surfaces_are_choices() -> None:
    assert BetasChoice.read("fsaverage") == BetasChoice("fsaverage")
    assert BetasChoice.read("betas_fithrf/nativesurface").on_surface
    assert not BetasChoice().on_surface


def test_a_volume_of_another_space_is_named(experiment: Experiment, cache: Path) -> None:
    add_finer(experiment)
    layout = Layout.at(experiment.root, FINE)
    shutil.copy(experiment.layout.roi(1, "floc-faces"), layout.roi(1, "floc-faces"))
    with pytest.raises(BoldreamsError, match=r"all must be in its func1mm space"):
        responses_for(cache, 1, experiment.root, betas=FINE)
    assert nibabel.load(layout.roi(1, "floc-faces")).shape != SHAPE


VOLUMES = ["betas_session01.nii.gz"], ["betas_session01.hdf5", "betas_session02.hdf5"]
SURFACES = (
    ["lh.betas_session01.mgh", "rh.betas_session01.mgh"],
    ["lh.betas_session02.mgh", "rh.betas_session02.mgh"],
)


@pytest.mark.parametrize(("space", "files"), [("func1pt8mm", VOLUMES), ("fsaverage", SURFACES)])
def test_links_to_what_was_never_fetched_are_no_sessions(
    tmp_path: Path, space: str, files: tuple[list[str], list[str]]
) -> None:
    """A clone of DataLad's has a link for every file, and behind most of them nothing."""
    layout = Layout(tmp_path, BetasChoice.read(space))
    folder = layout.betas_folder(1)
    folder.mkdir(parents=True)
    for name in files[0]:
        (folder / name).write_bytes(b"fetched")
    for name in files[1]:
        (folder / name).symlink_to("nowhere")
    assert {number: [path.name for path in paths] for number, paths in layout.session_files(1).items()} == {1: files[0]}
    assert layout.lone_hemispheres(1) == {}
