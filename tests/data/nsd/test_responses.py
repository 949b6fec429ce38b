"""Responses prepared from NSD's files, against numpy and scipy; copied, moved, damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import zarr

from boldreams_cli.console import BoldreamsError, ChoiceError, MismatchError
from boldreams_cli.data.prepared.preparing import complete_stores
from boldreams_cli.data.responses import SESSION, Responses
from boldreams_cli.stores import ResumableStore

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
    assert stored["betas"].chunks == (1, TRIALS, len(voxels))
    assert stored["betas"].shards == (1, TRIALS, len(voxels))
    assert all("crc32c" in str(array.metadata.codecs).lower() for _, array in stored.arrays())
    assert stored.metadata.zarr_format == 3


def test_constant_voxel_is_nan_in_its_session_alone(experiment: Experiment, cache: Path) -> None:
    responses = prepare(experiment, 1, cache)
    column = int(np.flatnonzero((responses.voxels == CONSTANT).all(axis=1))[0])
    betas = responses.read_betas()[:, column].reshape(3, TRIALS)
    assert np.isnan(betas[1]).all()
    assert np.isfinite(betas[[0, 2]]).all()
    assert np.isnan(responses.read_betas()).sum() == TRIALS
    assert [responses.store.done(SESSION)[session]["constant"] for session in responses.sessions] == [0, 1, 0]


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


def test_a_session_counts_by_its_ledger_line(experiment: Experiment, cache: Path) -> None:
    responses = prepare(experiment, 2, cache)
    whole = responses.read_betas()
    ledger = responses.path / "ledger.jsonl"
    lines = sorted(ledger.read_text().splitlines(), key=lambda line: json.loads(line)["unit"])
    ledger.write_text(lines[0] + "\n" + lines[1][:9])  # killed while the line of session 2 was written
    with pytest.raises(BoldreamsError, match="session 2, 3 to do; run `boldreams prepare --subject 2`"):
        Responses.open(responses.path)
    (responses.path / "betas/c/1/0/0").write_bytes(b"torn")
    np.testing.assert_array_equal(prepare(experiment, 2, cache).read_betas(), whole)


def test_nothing_outlives_a_store_that_is_deleted(experiment: Experiment, cache: Path) -> None:
    responses = prepare(experiment, 2, cache)
    whole = responses.read_betas()
    shutil.rmtree(responses.path)
    assert complete_stores(cache, 2) == []
    np.testing.assert_array_equal(prepare(experiment, 2, cache).read_betas(), whole)


def test_a_store_is_copied_and_moved_whole(experiment: Experiment, cache: Path, tmp_path: Path) -> None:
    made = prepare(experiment, 2, cache)
    shutil.copytree(made.path, tmp_path / "b/responses" / made.path.name)
    copied = prepare(experiment, 2, tmp_path / "b")
    assert len(copied.store.lines(SESSION)) == 3, "nothing was made again"
    np.testing.assert_array_equal(copied.read_betas(), made.read_betas())


def test_missing_betas_are_never_nan(experiment: Experiment, cache: Path) -> None:
    made = prepare(experiment, 2, cache)
    whole = made.read_betas()
    (made.path / "betas/c/1/0/0").unlink()
    for read in (made.read_betas, lambda: made.mean_betas(made.test_images)):
        with pytest.raises(BoldreamsError, match=r"(1/0/0 is missing|is not done).*`boldreams prepare --subject 2`"):
            read()
    with pytest.raises(BoldreamsError, match="session 2 to do"):
        Responses.open(made.path)
    np.testing.assert_array_equal(prepare(experiment, 2, cache).read_betas(), whole)


def test_sessions_that_changed_places_are_found(
    experiment: Experiment, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Betas hardly pack: shards may be of one size and end in one index, as if they were each other's."""
    made = prepare(experiment, 2, cache)
    whole = made.read_betas()
    one, other = (made.path / f"betas/c/{place}/0/0" for place in (0, 1))
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)
    with monkeypatch.context() as patch:
        patch.setattr(ResumableStore, "is_there", lambda self, line: True)
        with pytest.raises(MismatchError, match=r"betas/c/0/0/0 (is damaged|has).*`boldreams prepare --subject 2`"):
            Responses.open(made.path).read_betas()
    assert [found[:2] for found in made.store.verify()] == [(SESSION, 1), (SESSION, 2)]
    np.testing.assert_array_equal(prepare(experiment, 2, cache).read_betas(), whole)


def test_a_store_under_anothers_name_is_refused(experiment: Experiment, cache: Path) -> None:
    made, few = prepare(experiment, 2, cache), prepare(experiment, 2, cache, sessions="1-2")
    shutil.rmtree(made.path)
    few.path.rename(made.path)
    with pytest.raises(MismatchError, match=f"responses that belong in {few.path.name}; rename it"):
        prepare(experiment, 2, cache)


def test_any_bit_is_found_or_harmless(experiment: Experiment, cache: Path) -> None:
    """Flip bits of every file of the store: nothing is silently wrong, and prepare after verify mends betas."""
    made = prepare(experiment, 2, cache)
    whole, rng = made.read_betas(), np.random.default_rng(3)
    everything = [np.array(a) for a in (made.voxels, made.ncsnr, made.trial_images, made.trial_test)]
    files = [f for f in sorted(made.path.rglob("*")) if f.is_file() and "locks" not in f.parts]
    assert len(files) > 20
    for path in files:
        content = path.read_bytes()
        for place in rng.integers(0, len(content), 10):
            damaged = bytearray(content)
            damaged[place] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            try:
                found = Responses.open(made.path)
                betas = found.read_betas()
            except BoldreamsError:
                continue
            np.testing.assert_array_equal(betas, whole)
            there = (found.voxels, found.ncsnr, found.trial_images, found.trial_test)
            for array, expected in zip(there, everything, strict=True):
                np.testing.assert_array_equal(array, expected)
        path.write_bytes(content)
    shard = made.path / "betas/c/2/0/0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)
    assert [found[:3] for found in made.store.verify()] == [("session", 3, "betas/c/2/0/0")]
    np.testing.assert_array_equal(prepare(experiment, 2, cache).read_betas(), whole)


def test_a_damaged_session_keeps_the_others(experiment: Experiment, cache: Path) -> None:
    path = experiment.layout.betas(1, 2, "nii.gz")
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(BoldreamsError, match=r"betas_session02.nii.gz is truncated or damaged.*download"):
        prepare(experiment, 1, cache)
    assert complete_stores(cache, 1) == []
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
    with pytest.raises(MismatchError, match="does not match its seal"):
        Responses.open(path)
    document["attributes"]["format"] = 1
    (path / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(MismatchError, match="has format 1"):
        Responses.open(path)
    assert complete_stores(cache, 1) == []
    with pytest.raises(BoldreamsError, match="no responses in"):
        Responses.open(cache / "elsewhere.zarr")


def test_a_file_that_is_gone_is_found(experiment: Experiment, cache: Path) -> None:
    """Zarr reads missing chunks as the fill value: each missing file of the store must be an error."""
    made = prepare(experiment, 2, cache)
    files = [f for f in sorted(made.path.rglob("*")) if f.is_file() and "locks" not in f.parts]
    for path in files:
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(BoldreamsError):
            Responses.open(made.path)
        path.write_bytes(content)
    Responses.open(made.path)
