from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import zarr

from boldreams_cli.console import BoldreamsError, ChoiceError, MismatchError, StopFlag, StoppedError
from boldreams_cli.data.nsd.preparation import ledger_of, sessions_done
from boldreams_cli.data.responses import Responses, find, responses_for

from .conftest import CONSTANT, SHARED, TRIALS, Experiment, save_betas, save_nifti, write_design


def prepare(experiment: Experiment, subject: int, cache: Path, **options: Any) -> Responses:
    return experiment.dataset.prepare(subject, cache, **options)


def expected_betas(experiment: Experiment, subject: int, sessions: list[int]) -> np.ndarray:
    """Z-scored betas (trials, V) by scipy, session by session."""
    voxels = experiment.used(subject)
    parts = []
    for session in sessions:
        raw = experiment.betas[subject][(session - 1) * TRIALS : session * TRIALS]
        values = raw[:, voxels[:, 0], voxels[:, 1], voxels[:, 2]] / 300.0
        constant = (values == values[0]).all(axis=0)
        scores = scipy.stats.zscore(np.where(constant, np.arange(TRIALS)[:, None], values), axis=0)
        parts.append(np.where(constant, np.nan, scores))
    return np.concatenate(parts)


def listing_of(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(root.rglob("*"))}


@pytest.mark.parametrize("subject", [1, 2])
def test_store_holds_what_numpy_and_scipy_compute(experiment: Experiment, cache: Path, subject: int) -> None:
    before = listing_of(experiment.root)
    responses = prepare(experiment, subject, cache)
    assert listing_of(experiment.root) == before
    voxels = experiment.used(subject)
    np.testing.assert_array_equal(responses.voxels, voxels)
    np.testing.assert_allclose(responses.read_betas(), expected_betas(experiment, subject, [1, 2, 3]), atol=1e-5)
    np.testing.assert_array_equal(responses.trial_images, experiment.trial_images[subject])
    np.testing.assert_array_equal(responses.trial_sessions, np.repeat([1, 2, 3], TRIALS))
    shown = set(SHARED.tolist())
    assert responses.trial_test.tolist() == [int(i) in shown for i in experiment.trial_images[subject]]
    np.testing.assert_array_equal(responses.ncsnr, experiment.ncsnr[subject][tuple(voxels.T)])
    for volume, labels in experiment.rois[subject].items():
        np.testing.assert_array_equal(responses.areas.labels[volume], labels[tuple(voxels.T)])
    assert responses.shape == (7, 6, 5)
    assert responses.affine[0, 3] == -60
    stored = zarr.open_group(responses.path, mode="r")
    assert stored["betas"].chunks == (TRIALS, len(voxels))
    assert stored.metadata.zarr_format == 3


def test_constant_voxel_is_nan_in_its_session_alone(experiment: Experiment, cache: Path) -> None:
    responses = prepare(experiment, 1, cache)
    column = int(np.flatnonzero((responses.voxels == CONSTANT).all(axis=1))[0])
    betas = responses.read_betas()[:, column].reshape(3, TRIALS)
    assert np.isnan(betas[1]).all()
    assert np.isfinite(betas[[0, 2]]).all()
    assert np.isnan(responses.read_betas()).sum() == TRIALS


def test_sessions_mask_and_summary(experiment: Experiment, cache: Path) -> None:
    responses = prepare(experiment, 1, cache, sessions="3,1", mask="nsdgeneral")
    assert responses.sessions == [1, 3]
    expected = np.concatenate([experiment.trial_images[1][:TRIALS], experiment.trial_images[1][2 * TRIALS :]])
    np.testing.assert_array_equal(responses.trial_images, expected)
    test = np.isin(expected, SHARED)
    summary = responses.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["sessions"] == [1, 3]
    assert summary["train"] == {"images": len(np.unique(expected[~test])), "trials": int((~test).sum())}
    assert summary["test"] == {"images": len(np.unique(expected[test])), "trials": int(test.sum())}
    assert summary["rois"] == responses.areas.counts()
    assert summary["voxels"] == len(responses.voxels)
    np.testing.assert_array_equal(np.sort(experiment.dataset.images(1, "1,3")), np.unique(expected))
    np.testing.assert_array_equal(experiment.dataset.training_images(1, "1,3"), np.unique(expected[~test]))


def test_mask_file_stays_within_the_brain(experiment: Experiment, cache: Path, tmp_path: Path) -> None:
    mask = np.zeros((7, 6, 5), np.uint8)
    mask[1:5, 2:, 1:4] = 1
    save_nifti(tmp_path / "mask.nii.gz", mask)
    responses = prepare(experiment, 2, cache, mask=str(tmp_path / "mask.nii.gz"))
    np.testing.assert_array_equal(responses.voxels, np.argwhere((mask > 0) & (experiment.brain[2] > 0)))
    save_nifti(tmp_path / "mask.nii.gz", mask[:-1])
    with pytest.raises(BoldreamsError, match="differ in shape"):
        prepare(experiment, 2, cache, mask=str(tmp_path / "mask.nii.gz"))
    with pytest.raises(ChoiceError, match="neither nsdgeneral nor"):
        prepare(experiment, 2, cache, mask="elsewhere.nii.gz")


def test_reading_parts(experiment: Experiment, cache: Path) -> None:
    responses = prepare(experiment, 1, cache)
    whole = responses.read_betas()
    mask = np.zeros(len(whole), bool)
    mask[[0, 5, 11, 12, 30, 35]] = True
    np.testing.assert_array_equal(responses.read_betas(mask, slice(3, 9)), whole[mask, 3:9])
    np.testing.assert_array_equal(responses.read_betas(slice(10, 20)), whole[10:20])
    with pytest.raises(ValueError, match="bool"):
        responses.read_betas(mask[:-1])


def test_mean_over_repeats(experiment: Experiment, cache: Path) -> None:
    responses = prepare(experiment, 1, cache, sessions="1-2")
    images = [*responses.test_images[::-1], responses.train_images[0], responses.test_images[0]]
    whole = responses.read_betas().astype(float)
    rows = [responses.trial_images == image for image in images]
    np.testing.assert_allclose(responses.mean_betas(images), [whole[r].mean(axis=0) for r in rows], atol=1e-6)
    np.testing.assert_array_equal(responses.repeats(images), [r.sum() for r in rows])
    np.testing.assert_array_equal(responses.mean_betas(images, slice(2, 5)), responses.mean_betas(images)[:, 2:5])
    assert responses.repeats([39, 10_000]).tolist()[1] == 0
    with pytest.raises(ChoiceError, match="10000 was not shown"):
        responses.mean_betas([10_000])


def test_stopping_and_resuming_gives_the_same_store(experiment: Experiment, cache: Path, tmp_path: Path) -> None:
    whole = prepare(experiment, 2, tmp_path / "other")
    stop = StopFlag()
    stop.signal = signal.SIGTERM
    for done in (1, 2):
        with pytest.raises(StoppedError, match=f"{done} of 3 sessions are kept"):
            prepare(experiment, 2, cache, stop=stop)
        assert find(cache, 2) == []
    responses = prepare(experiment, 2, cache)
    np.testing.assert_array_equal(responses.read_betas(), whole.read_betas())
    assert responses.path.name == whole.path.name
    assert find(cache, 2) == [responses.path]


def test_a_session_counts_by_its_ledger_line(experiment: Experiment, cache: Path) -> None:
    responses = prepare(experiment, 2, cache)
    whole = responses.read_betas()
    ledger = ledger_of(responses.path).path
    lines = ledger.read_text().splitlines()
    ledger.write_text(lines[0] + "\n" + lines[1][:9])  # killed while the line of session 2 was written
    with pytest.raises(BoldreamsError, match="session 2, 3 to do; run `boldreams prepare --subject 2`"):
        Responses.open(responses.path)
    zarr.open_group(responses.path, mode="r+")["betas"][TRIALS:] = 99
    np.testing.assert_array_equal(prepare(experiment, 2, cache).read_betas(), whole)


def test_a_ledger_without_its_store_counts_for_nothing(experiment: Experiment, cache: Path) -> None:
    responses = prepare(experiment, 2, cache)
    whole = responses.read_betas()
    shutil.rmtree(responses.path)
    assert sessions_done(responses.path) == set()
    assert find(cache, 2) == []
    np.testing.assert_array_equal(prepare(experiment, 2, cache).read_betas(), whole)


def test_a_damaged_session_keeps_the_others(experiment: Experiment, cache: Path) -> None:
    path = experiment.layout.betas(1, 2, "nii.gz")
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(BoldreamsError, match=r"betas_session02.nii.gz is truncated or damaged.*download"):
        prepare(experiment, 1, cache)
    assert find(cache, 1) == []
    path.write_bytes(good)
    betas = prepare(experiment, 1, cache).read_betas()
    np.testing.assert_allclose(betas, expected_betas(experiment, 1, [1, 2, 3]), atol=1e-5)


def test_nothing_is_written_when_a_cheap_check_fails(experiment: Experiment, cache: Path) -> None:
    layout = experiment.layout
    save_betas(layout, 2, 3, "hdf5", experiment.betas[2][:TRIALS, :, :, :-1])
    with pytest.raises(BoldreamsError, match=r"betas_session03.hdf5 has volumes of \(7, 6, 4\)"):
        prepare(experiment, 2, cache)
    layout.design.unlink()
    with pytest.raises(BoldreamsError, match=r"nsd_expdesign\.mat"):
        prepare(experiment, 1, cache)
    assert not cache.exists()


def test_missing_sessions_are_listed(experiment: Experiment, cache: Path) -> None:
    with pytest.raises(ChoiceError, match=r"session 4, 5; there are 1, 2, 3 \(--sessions\)"):
        prepare(experiment, 1, cache, sessions="2-5")
    with pytest.raises(ChoiceError, match="subjects under the root: 1, 2"):
        prepare(experiment, 3, cache)


def test_empty_split_is_an_error(experiment: Experiment, cache: Path) -> None:
    ids = np.arange(1, 13)
    write_design(experiment.layout.design, np.tile(ids, 3), np.stack([ids, ids]), np.array([40]))
    with pytest.raises(BoldreamsError, match=r"no test \(shared\) image"):
        prepare(experiment, 1, cache)
    write_design(experiment.layout.design, np.tile(ids, 3), np.stack([ids, ids]), ids)
    with pytest.raises(BoldreamsError, match="no training image"):
        prepare(experiment, 1, cache)


def test_too_short_a_design_is_an_error(experiment: Experiment, cache: Path) -> None:
    ids = np.arange(1, 13)
    write_design(experiment.layout.design, np.tile(ids, 2), np.stack([ids, ids]), ids[:3])
    with pytest.raises(BoldreamsError, match=r"ends at trial 36, but .* has 24 trials"):
        prepare(experiment, 1, cache)


def test_without_brain_mask_and_ncsnr(experiment: Experiment, cache: Path) -> None:
    experiment.layout.brain_masks(1)[0].unlink()
    experiment.layout.ncsnr(1).unlink()
    responses = prepare(experiment, 1, cache)
    assert np.isnan(responses.ncsnr).all()
    union = np.logical_or.reduce([labels > 0 for labels in experiment.rois[1].values()])
    np.testing.assert_array_equal(responses.voxels, np.argwhere(union))


def test_changed_attributes_are_refused(experiment: Experiment, cache: Path) -> None:
    path = prepare(experiment, 1, cache).path
    document = json.loads((path / "zarr.json").read_text())
    changed = json.loads(json.dumps(document))
    changed["attributes"]["request"]["sessions"] = [1]
    (path / "zarr.json").write_text(json.dumps(changed))
    with pytest.raises(MismatchError, match="does not match its fingerprint"):
        Responses.open(path)
    document["attributes"]["format"] = 99
    (path / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(MismatchError, match="has format 99"):
        Responses.open(path)
    with pytest.raises(BoldreamsError, match="no responses in"):
        Responses.open(cache / "elsewhere.zarr")


def test_cached_responses_need_no_root(experiment: Experiment, cache: Path) -> None:
    with pytest.raises(BoldreamsError, match="no NSD root given"):
        responses_for(cache, 1, None)
    made = responses_for(cache, 1, experiment.root, sessions="1-2")
    assert responses_for(cache, 1, None).path == made.path
    assert responses_for(cache, 1, experiment.root).path == made.path
    whole = responses_for(cache, 1, experiment.root, sessions="1-3")
    assert responses_for(cache, 1, experiment.root).path == whole.path  # the default one
    with pytest.raises(ChoiceError, match=r"several .*sessions 1-2\).*--sessions"):
        responses_for(cache, 1, None)
    assert responses_for(cache, 1, None, sessions="1,2").path == made.path
    general = responses_for(cache, 1, experiment.root, mask="nsdgeneral")
    assert responses_for(cache, 1, None, mask="nsdgeneral").path == general.path
    with pytest.raises(BoldreamsError, match="no NSD root given"):
        responses_for(cache, 1, None, sessions="3")


def test_other_betas_under_the_root_are_refused(experiment: Experiment, cache: Path) -> None:
    made = responses_for(cache, 2, experiment.root)
    # Same size, other values: a size alone would not tell them apart.
    save_betas(experiment.layout, 2, 2, "hdf5", experiment.betas[2][:TRIALS])
    with pytest.raises(MismatchError, match=r"betas_session02.hdf5\); run `boldreams prepare --subject 2`"):
        responses_for(cache, 2, experiment.root)
    again = prepare(experiment, 2, cache)
    assert again.path != made.path
    assert responses_for(cache, 2, experiment.root).path == again.path
    shutil.rmtree(experiment.layout.betas_folder(2))
    with pytest.raises(ChoiceError, match=r"several .*or delete"):
        responses_for(cache, 2, experiment.root)
    shutil.rmtree(made.path)
    assert responses_for(cache, 2, experiment.root).path == again.path  # betas may go once they are prepared
