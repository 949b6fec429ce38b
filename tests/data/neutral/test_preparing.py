"""Prepared responses of a data file: z-scored as it says, split, with ceilings of every kind; named when it changes."""

from __future__ import annotations

from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import scipy.stats
from PIL import Image

from boldreams_cli.console import BoldreamsError, ChoiceError, MismatchError
from boldreams_cli.data.identity import of_named_images
from boldreams_cli.data.neutral.ceilings import ncsnr_of
from boldreams_cli.data.neutral.contents import test_images as images_of_the_test
from boldreams_cli.data.neutral.maker import DataFiles
from boldreams_cli.data.neutral.reading import open_file
from boldreams_cli.data.opening import label_of, open_dataset
from boldreams_cli.data.prepared.checking import check_inputs
from boldreams_cli.data.prepared.choosing import names_of, responses_for, root_of
from boldreams_cli.data.units import VertexUnits
from boldreams_cli.encoding.evaluation.predict import find_images
from boldreams_cli.encoding.evaluation.statistics import noise_ceiling

from .conftest import Arrays, Write


def test_betas_are_z_scored_by_session_and_trials_put_in_order(written: Write, arrays: Arrays, tmp_path: Path) -> None:
    responses = open_dataset(written()).prepare("CSI1", tmp_path / "cache")
    order = np.argsort(arrays["sessions"], kind="stable")
    wanted = np.concatenate([scipy.stats.zscore(arrays["betas"][arrays["sessions"] == s], axis=0) for s in (1, 3)])
    assert responses.sessions == [1, 3]
    assert np.array_equal(responses.trial_images, arrays["trial_image"][order])
    assert np.array_equal(responses.trial_test, arrays["test"][order])
    assert np.allclose(responses.read_betas(), wanted, atol=1e-5)
    assert np.array_equal(responses.voxels, arrays["units"].ijk)
    assert responses.path.name.startswith("CSI1-")
    assert responses.areas.counts() == {"V1": 4, "a long name": 6}
    assert np.allclose(responses.ncsnr, arrays["ceiling"])
    assert responses.units.plural == "voxels"


def test_some_sessions_and_a_mask(written: Write, arrays: Arrays, tmp_path: Path) -> None:
    responses = open_dataset(written()).prepare("CSI1", tmp_path / "cache", sessions="3", mask="V1")
    wanted = scipy.stats.zscore(arrays["betas"][arrays["sessions"] == 3][:, :4], axis=0)
    assert np.allclose(responses.read_betas(), wanted, atol=1e-5)
    with pytest.raises(ChoiceError, match="no session 2; there: 1, 3"):
        open_dataset(written()).prepare("CSI1", tmp_path / "cache", sessions="2,3")
    with pytest.raises(ChoiceError, match="no area 'V7'"):
        open_dataset(written()).prepare("CSI1", tmp_path / "cache", mask="V7")


def test_without_sessions_the_training_trials_decide_the_scale(written: Write, arrays: Arrays, tmp_path: Path) -> None:
    responses = open_dataset(written(sessions=None)).prepare("CSI1", tmp_path / "cache")
    train = arrays["betas"][~arrays["test"]].astype(float)
    wanted = (arrays["betas"] - train.mean(0)) / train.std(0)
    assert np.allclose(responses.read_betas(), wanted, atol=1e-5)
    assert np.allclose(responses.read_betas(~responses.trial_test).mean(0), 0, atol=1e-6)


def test_betas_that_are_z_scored_are_taken_as_they_are(written: Write, arrays: Arrays, tmp_path: Path) -> None:
    responses = open_dataset(written(zscored=True, sessions=None)).prepare("CSI1", tmp_path / "cache")
    assert np.array_equal(responses.read_betas(), arrays["betas"])


def test_the_images_held_out_depend_on_their_names_alone(written: Write, arrays: Arrays, tmp_path: Path) -> None:
    names = [f"{number:03d}.jpg" for number in range(40)]
    shown, turned = np.arange(40), np.arange(40)[::-1]
    more = {"sessions": None, "test": None, "betas": np.random.default_rng(1).normal(size=(40, 12))}
    pixels = np.zeros((40, 4, 4, 3), np.uint8)
    one = open_file(written("a.h5", trial_image=shown, image_names=names, pixels=pixels, **more))
    other = open_file(written("b.h5", trial_image=shown, image_names=names[::-1], pixels=pixels, **more))
    assert images_of_the_test(one).sum() == 4
    assert np.array_equal(images_of_the_test(one), images_of_the_test(other)[turned])
    responses = open_dataset(tmp_path / "a.h5").prepare("CSI1", tmp_path / "cache")
    assert len(responses.test_images) == 4


def test_presentations_that_were_averaged_count(written: Write, arrays: Arrays, tmp_path: Path) -> None:
    repeats = np.arange(1, 17)
    responses = open_dataset(written(zscored=True, sessions=None, repeats=repeats)).prepare("CSI1", tmp_path / "cache")
    assert responses.repeats([0, 1, 7]).tolist() == [1 + 9, 2 + 10, 8 + 16]
    wanted = (1 * arrays["betas"][0] + 9 * arrays["betas"][8].astype(float)) / 10
    assert np.allclose(responses.mean_betas([0])[0], wanted, atol=1e-5)
    plain = open_dataset(written(zscored=True, sessions=None)).prepare("CSI1", tmp_path / "cache")
    assert plain.repeats([0, 1]).tolist() == [2, 2]
    assert np.allclose(plain.mean_betas([0])[0], arrays["betas"][[0, 8]].mean(0), atol=1e-6)


def test_ceilings_of_every_kind_are_the_ceilings_that_a_score_compares_with() -> None:
    ncsnr = np.array([0.0, 0.3, 1.0, 2.5])
    repeats = np.array([3, 3, 2, 10])
    single = 100 * noise_ceiling(ncsnr, np.ones(1))
    whole = 100 * noise_ceiling(ncsnr, repeats)
    assert np.allclose(ncsnr_of(ncsnr, "ncsnr", repeats), ncsnr)
    assert np.allclose(ncsnr_of(single, "single-trial", repeats), ncsnr, atol=1e-6)
    assert np.allclose(ncsnr_of(whole, "test-set", repeats), ncsnr, atol=1e-6)
    assert np.isnan(ncsnr_of(np.array([-1, 100, 120, np.nan]), "test-set", repeats)).all()
    assert np.isnan(ncsnr_of(np.array([-1.0]), "ncsnr", repeats)).all()


def test_a_test_set_ceiling_counts_all_presentations(written: Write, tmp_path: Path) -> None:
    percent = np.full(12, 50.0)
    path = written(ceiling=percent, ceiling_kind="test-set", repeats=np.full(16, 3))
    responses = open_dataset(path).prepare("CSI1", tmp_path / "cache")
    repeats = responses.repeats(responses.test_images)
    assert repeats.tolist() == [6, 6]
    assert np.allclose(noise_ceiling(responses.ncsnr, repeats), 0.5, atol=1e-6)


def test_a_test_set_ceiling_is_of_all_sessions_whichever_are_prepared(
    written: Write, arrays: Arrays, tmp_path: Path
) -> None:
    """The percentage is of averages over all trials of the file, so fewer sessions do not make voxels less noisy."""
    percent = np.linspace(10, 90, 12)
    path = written(ceiling=percent, ceiling_kind="test-set", sessions=np.repeat([1, 2], 8))
    whole = open_dataset(path).prepare("CSI1", tmp_path / "cache")
    some = open_dataset(path).prepare("CSI1", tmp_path / "cache", sessions="2")
    assert (whole.repeats([0, 1]).tolist(), some.repeats([0, 1]).tolist()) == ([2, 2], [1, 1])
    assert np.allclose(some.ncsnr**2, percent / (100 - percent) / 2)
    assert np.array_equal(some.ncsnr, whole.ncsnr)
    kind, values, *mark = some.request["ceiling"]
    assert [kind, values] == whole.request["ceiling"], "those of the whole file are the same as before"
    assert mark, "stores of some sessions from before have other numbers"


def test_vertices_keep_their_place(written: Write, tmp_path: Path) -> None:
    sides, numbers = np.array(["L", "R"] * 6), np.arange(12) // 2 * 3
    path = written(units=VertexUnits("fsaverage5", sides, numbers))
    responses = open_dataset(path).prepare("CSI1", tmp_path / "cache")
    assert isinstance(responses.units, VertexUnits)
    assert np.array_equal(responses.units.hemisphere, sides)
    assert np.array_equal(responses.units.vertex, numbers)
    assert responses.units.space == "fsaverage5"
    with pytest.raises(ChoiceError, match="vertices of fsaverage5"):
        responses.areas.select("mask.nii.gz")


def test_a_file_that_moved_is_the_same_and_one_that_changed_is_named(
    written: Write, arrays: Arrays, tmp_path: Path
) -> None:
    path, cache = written(), tmp_path / "cache"
    made = open_dataset(path).prepare("CSI1", cache)
    assert root_of(cache, "CSI1", None) == path
    check_inputs(made, open_dataset(path))  # nothing differs
    moved = path.rename(tmp_path / "moved.h5")
    assert responses_for(cache, "CSI1", moved).path == made.path
    assert responses_for(cache, "CSI1", None).path == made.path  # the file is gone: as it was made
    betas = arrays["betas"].copy()
    betas[0] += 1
    written("moved.h5", betas=betas)
    with pytest.raises(MismatchError, match="betas of session 3"):
        check_inputs(made, open_dataset(moved))
    betas = arrays["betas"].copy()
    betas[2, 5] += 1  # in no sample: found because the file's time of change is another
    written("moved.h5", betas=betas)
    with pytest.raises(MismatchError, match=r"(other betas|other inputs)"):
        check_inputs(made, open_dataset(moved))
    written("moved.h5", areas={"V1": np.arange(12) < 5})
    with pytest.raises(MismatchError, match="areas"):
        responses_and_check(cache, moved)


def test_a_file_that_moved_is_found_once_it_was_prepared_there(written: Write, tmp_path: Path) -> None:
    path, cache = written(), tmp_path / "cache"
    made = open_dataset(path).prepare("CSI1", cache)
    moved = path.rename(tmp_path / "moved.h5")
    assert root_of(cache, "CSI1", None) == path  # where it was
    assert open_dataset(moved).prepare("CSI1", cache).path == made.path
    assert root_of(cache, "CSI1", None) == moved
    lines = len(made.store.lines())
    open_dataset(moved).prepare("CSI1", cache)
    assert len(made.store.lines()) == lines


def test_a_link_to_the_file_is_where_its_pictures_are_looked_for(written: Write, tmp_path: Path) -> None:
    """DataLad keeps files elsewhere, under other names, and links to them."""
    for number in range(8):
        Image.new("RGB", (8, 8), (number, 9, 9)).save(tmp_path / f"{number}.png")
    path, cache = written(pixels=None, image_paths=[f"{number}.png" for number in range(8)]), tmp_path / "cache"
    (tmp_path / "objects").mkdir()
    path.symlink_to(path.rename(tmp_path / "objects/MD5E-s12.h5"))
    responses_for(cache, "CSI1", path)
    assert root_of(cache, "CSI1", None) == path
    assert open_dataset(root_of(cache, "CSI1", None)).lacking("CSI1") == ""


def test_a_mask_file_is_found_again_from_any_folder(
    written: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = np.zeros((3, 2, 2), np.uint8)
    inside[1] = 1
    path, cache = written(), tmp_path / "cache"
    nibabel.save(nibabel.Nifti1Image(inside, np.diag([2.0, 2, 2, 1])), tmp_path / "some.nii.gz")
    monkeypatch.chdir(tmp_path)
    for mask, voxels in (("some.nii.gz", 4), ("V1, some.nii.gz", 8)):
        monkeypatch.chdir(tmp_path)
        made = responses_for(cache, "CSI1", path, mask=mask)
        assert len(made.voxels) == voxels
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "elsewhere")
        check_inputs(made, open_dataset(path))
    path.unlink()
    assert responses_for(cache, "CSI1", None, mask=str(tmp_path / "some.nii.gz")).path != made.path
    monkeypatch.chdir(tmp_path)
    assert responses_for(cache, "CSI1", None, mask="V1,some.nii.gz").path == made.path


def test_the_same_names_of_other_pictures_are_other_images(written: Write, arrays: Arrays, tmp_path: Path) -> None:
    """An index means another picture there: maps of the one must not be taken for the other's."""
    one = open_dataset(written()).request("CSI1")
    other = open_dataset(written("other.h5", pixels=arrays["pixels"][::-1])).request("CSI1")
    assert names_of(one) != names_of(other)
    assert names_of(one) == of_named_images(open_dataset(tmp_path / "own.h5").stimuli_identity())
    assert names_of({"dataset": "nsd"}) is None


def test_without_its_pictures_responses_are_taken_as_they_were_made(written: Write, tmp_path: Path) -> None:
    for number in range(8):
        Image.new("RGB", (8, 8), (number, 9, 9)).save(tmp_path / f"{number}.png")
    path, cache = written(pixels=None, image_paths=[f"{number}.png" for number in range(8)]), tmp_path / "cache"
    made = responses_for(cache, "CSI1", path)
    (tmp_path / "3.png").unlink()
    assert responses_for(cache, "CSI1", path).path == made.path
    check_inputs(made, open_dataset(path))
    with pytest.raises(BoldreamsError, match=r"images/path: there is no .*3\.png"):
        responses_for(tmp_path / "other", "CSI1", path)
    assert not (tmp_path / "other").exists()


def test_labels_of_images_are_their_names(written: Write, tmp_path: Path) -> None:
    path = written()
    assert [label_of(path, image) for image in (0, 7, 8)] == ["picture 0", "picture 7", "8"]
    written(image_names=[f"other {number}" for number in range(8)])  # in its place
    assert label_of(path, 0) == "other 0"
    assert [label_of(root, 12) for root in (None, tmp_path, tmp_path / "gone.h5")] == ["12", "12", "12"]


def responses_and_check(cache: Path, path: Path) -> None:
    (store,) = (cache / "responses").glob("CSI1-*.zarr")
    from boldreams_cli.data.responses import Responses

    check_inputs(Responses.open(store), open_dataset(path))


def test_nothing_is_written_of_a_file_with_a_mistake(written: Write, tmp_path: Path) -> None:
    path = written(pixels=None, image_paths=[f"{number}.png" for number in range(8)])
    with pytest.raises(BoldreamsError, match=r"images/path: there is no .*0\.png \(and 7 more\)"):
        open_dataset(path).prepare("CSI1", tmp_path / "cache")
    with h5py.File(path, "a") as file:
        del file["trial/image"]
    with pytest.raises(BoldreamsError, match="trial/image is missing"):
        open_dataset(path).prepare("CSI1", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_file_is_one_subjects(written: Write, tmp_path: Path) -> None:
    path = written()
    assert DataFiles(path).subjects() == ["CSI1"]
    with pytest.raises(ChoiceError, match="is of subject CSI1, not CSI2"):
        DataFiles(path).request("CSI2")
    with pytest.raises(ChoiceError, match="is of subject CSI1, not 1"):
        root_of(tmp_path, 1, path)
    with pytest.raises(ChoiceError, match="give its file with --data"):
        responses_for(tmp_path / "cache", "CSI1", None)
    with pytest.raises(BoldreamsError, match="no captions"):
        DataFiles(path).captions([0])


def test_images_are_found_by_name_before_number(written: Write) -> None:
    path = written(image_names=["7", "cat", *(f"picture {number}" for number in range(2, 8))])
    found = find_images(["cat", "7", "5", "picture 2"], path, lambda: None)
    assert [wanted.image_id for wanted in found] == [1, 0, 5, 2]
    with pytest.raises(ChoiceError, match="no image 'dog'"):
        find_images(["dog"], path, lambda: None)
