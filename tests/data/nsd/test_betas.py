"""NSD's betas in every format of its releases, read and z-scored as numpy and scipy do; damage is named."""

from __future__ import annotations

import gzip
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import scipy.io
import scipy.stats

from boldreams_cli.console import BoldreamsError, ChoiceError
from boldreams_cli.data.nsd import matlab
from boldreams_cli.data.nsd.betas import chunks
from boldreams_cli.data.nsd.betas import sessions as betas
from boldreams_cli.data.nsd.betas.sessions import (
    choose_sessions,
    default_sessions,
    header,
    read_session,
    session_trials,
    trials_in,
)
from boldreams_cli.data.prepared import preparing
from boldreams_cli.data.prepared.preparing import zscore
from boldreams_cli.data.sessions import parse_sessions

from .conftest import SHAPE, TRIALS, Experiment, save_betas, save_hdf5

FORMS = ["nii.gz", "hdf5", "mat"]
RNG = np.random.default_rng(3)
VOXELS = np.argwhere(RNG.random(SHAPE) < 0.3)


@pytest.mark.parametrize("form", FORMS)
def test_all_formats_give_the_same_voxels(experiment: Experiment, form: str) -> None:
    raw = experiment.betas[1][:TRIALS]
    path = save_betas(experiment.layout, 1, 9, form, raw)
    found = read_session(path, VOXELS, SHAPE)
    assert found.dtype == np.float32
    expected = np.array([[trial[x, y, z] / 300 for x, y, z in VOXELS] for trial in raw])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert trials_in((path,)) == TRIALS
    assert header(path) == (SHAPE, TRIALS)


@pytest.mark.parametrize("chunks", [None, (12, 1, 1, 1), (12, 2, 6, 3), (5, 5, 6, 7), (1, 5, 6, 7)])
@pytest.mark.parametrize("block", [1, 400, betas.BLOCK_BYTES])
def test_hdf5_whatever_its_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: tuple[int, ...] | None, block: int
) -> None:
    monkeypatch.setattr(betas, "BLOCK_BYTES", block)
    raw = RNG.integers(-900, 900, (TRIALS, *SHAPE), dtype=np.int16)
    path = tmp_path / "betas_session01.hdf5"
    save_hdf5(path, raw, chunks)
    corner = VOXELS[(VOXELS > 1).all(axis=1)]
    for voxels in (VOXELS, corner, corner[::-1]):
        np.testing.assert_allclose(read_session(path, voxels, SHAPE), raw[:, *voxels.T] / 300, rtol=1e-6)


@pytest.mark.parametrize(("kind", "direct"), [("<i2", True), (">i2", True), ("packed", False), ("holes", False)])
def test_chunks_of_voxels_are_read_as_they_lie_where_they_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, direct: bool
) -> None:
    monkeypatch.setattr(chunks, "CHUNKS_TOGETHER", 7)
    monkeypatch.setattr(chunks, "COLUMNS_TOGETHER", 5)
    monkeypatch.setattr(chunks, "BLOCK_BYTES", 11 * TRIALS * 2)  # of eleven voxels
    raw = RNG.integers(-900, 900, (TRIALS, *SHAPE)).astype(kind if direct else "<i2")
    with h5py.File(tmp_path / "betas_session01.hdf5", "w") as file:
        how = {"compression": "gzip"} if kind == "packed" else {}
        shape = (TRIALS, *SHAPE[::-1])
        data = file.create_dataset("betas", shape, raw.dtype, chunks=(TRIALS, 1, 1, 1), **how)
        if kind == "holes":
            raw[:, *VOXELS[3]] = 0
        for x, y, z in np.ndindex(SHAPE):
            if raw[:, x, y, z].any():
                data[:, z, y, x] = raw[:, x, y, z]
    found: list[bool] = []
    fill = betas.fill_by_chunk
    monkeypatch.setattr(betas, "fill_by_chunk", lambda *given: found.append(fill(*given)) or found[-1])
    read = read_session(tmp_path / "betas_session01.hdf5", VOXELS, SHAPE)
    np.testing.assert_allclose(read, raw[:, *VOXELS.T] / 300, rtol=1e-6)
    assert found == [direct]


def test_nifti_scaling_and_byte_order(tmp_path: Path) -> None:
    raw = RNG.integers(-900, 900, (*SHAPE, 4)).astype(">i2")
    image = nibabel.Nifti1Image(raw, np.eye(4), nibabel.Nifti1Header(endianness=">"))
    image.header.set_data_dtype(">i2")
    image.header.set_slope_inter(2.0, 30.0)
    nibabel.save(image, tmp_path / "betas_session01.nii.gz")
    expected = nibabel.load(tmp_path / "betas_session01.nii.gz").get_fdata()[tuple(VOXELS.T)].T / 300
    found = read_session(tmp_path / "betas_session01.nii.gz", VOXELS, SHAPE)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_truncated_file_is_named(experiment: Experiment, form: str, share: float) -> None:
    path = save_betas(experiment.layout, 1, 9, form, experiment.betas[1][:TRIALS])
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BoldreamsError, match=rf"betas_session09.{form} .*download it again") as caught:
        read_session(path, VOXELS, SHAPE)
    assert caught.value.exit_code == 1


def test_flipped_bit_fails_the_checksum(experiment: Experiment) -> None:
    path = experiment.layout.betas(1, 1, "nii.gz")
    raw = gzip.decompress(path.read_bytes())
    # Stored rather than compressed, so that the flip leaves a valid stream of wrong values.
    stored = bytearray(gzip.compress(raw, compresslevel=0))
    stored[len(stored) // 2] ^= 4
    path.write_bytes(stored)
    with pytest.raises(BoldreamsError, match="CRC check failed"):
        read_session(path, VOXELS, SHAPE)


def test_wrong_shape_dataset_or_type(experiment: Experiment, tmp_path: Path) -> None:
    with pytest.raises(BoldreamsError, match=r"volumes of \(7, 6, 5\), the subject's masks \(5, 6, 7\)"):
        read_session(experiment.layout.betas(2, 1, "hdf5"), VOXELS, (5, 6, 7))
    path = tmp_path / "betas_session01.hdf5"
    with h5py.File(path, "w") as file:
        file["responses"] = np.zeros((2, 5, 6, 7), np.int16)
    with pytest.raises(BoldreamsError, match=r"no dataset betas .* it holds responses \(2, 5, 6, 7\)"):
        header(path)
    with h5py.File(path, "w") as file:
        file["betas"] = np.zeros((2, 5, 6, 7), np.float32)
    with pytest.raises(BoldreamsError, match="float32 betas; NSD's are int16"):
        header(path)
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4)), tmp_path / "b.nii.gz")
    with pytest.raises(BoldreamsError, match=r"shape \(7, 6, 5\); betas are"):
        header(tmp_path / "b.nii.gz")
    with pytest.raises(BoldreamsError, match=r"there is no .*from NSD"):
        header(tmp_path / "absent.hdf5")


@pytest.mark.parametrize("packed", [False, True])
def test_matlab_v5_is_read_with_its_own_order_of_axes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    path, raw = tmp_path / "betas_session01.mat", RNG.integers(-900, 900, (*SHAPE, TRIALS)).astype(np.int16)
    scipy.io.savemat(path, {"other": np.ones(3), "betas": raw}, do_compression=packed)
    assert header(path) == (SHAPE, TRIALS)
    np.testing.assert_allclose(read_session(path, VOXELS, SHAPE), raw[tuple(VOXELS.T)].T / 300, rtol=1e-6)
    for wrong, said in (
        ({"beta": raw}, r"no array betas \(X, Y, Z, trials\)"),
        ({"betas": raw / 300}, "float64 betas"),
    ):
        scipy.io.savemat(path, wrong)
        with pytest.raises(BoldreamsError, match=said):
            header(path)
    scipy.io.savemat(path, {"betas": raw}, do_compression=packed)
    with monkeypatch.context() as patch:
        patch.setattr(matlab, "LARGEST", raw.nbytes // 2)
        with pytest.raises(BoldreamsError, match=r"betas takes .* in memory.* save it with -v7\.3"):
            header(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(BoldreamsError, match="truncated or damaged"):
        header(path)


def test_zscore_agrees_with_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "BLOCK_COLUMNS", 4)
    values = RNG.normal(3, 10, (50, 11)).astype(np.float32)
    values[:, 2] += 1e4  # a large offset, where float32 sums would fail
    before = values.copy()
    expected = scipy.stats.zscore(values.astype(np.float64), axis=0)
    np.testing.assert_allclose(zscore(values), expected, atol=2e-6)
    np.testing.assert_array_equal(values, before)
    test = np.arange(50) % 3 > 0
    for over in (slice(None), test):  # in its own place as well
        given = values.copy()
        assert zscore(given, over, given) is given
        np.testing.assert_array_equal(given, zscore(values, over))


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e6 + 0.1])
def test_constant_or_broken_columns_become_nan(value: float) -> None:
    values = RNG.normal(size=(30, 5)).astype(np.float32)
    values[:, 1] = value
    values[3, 2] = np.nan
    values[4, 3] = np.inf
    scores = zscore(values)
    assert np.isnan(scores[:, 1:4]).all()
    assert np.isfinite(scores[:, [0, 4]]).all()


def test_parse_sessions() -> None:
    assert parse_sessions("1-37") == list(range(1, 38))
    assert parse_sessions("7, 1,5-7") == [1, 5, 6, 7]
    for text in ("", "1-", "5-3", "0-2", "a", "1,,2", "1.5", "-3", "1-9999"):
        with pytest.raises(ChoiceError, match="--sessions 1-37"):
            parse_sessions(text)


def test_default_and_chosen_sessions(experiment: Experiment) -> None:
    assert default_sessions(range(1, 41)) == list(range(1, 38))
    assert default_sessions([2, 1, 40]) == [1, 2]
    assert choose_sessions(experiment.layout, 1, None) == [1, 2, 3]
    save_betas(experiment.layout, 7, 40, "mat", experiment.betas[1][:2])
    with pytest.raises(ChoiceError, match="no betas of session 1-37; there are 40"):
        choose_sessions(experiment.layout, 7, None)


def test_offsets_come_from_the_files_before(experiment: Experiment) -> None:
    layout = experiment.layout
    save_betas(layout, 1, 2, "nii.gz", experiment.betas[1][:5])
    assert session_trials(layout, 1, [3, 1]) == {1: (0, 12), 3: (17, 12)}
    with pytest.raises(ChoiceError, match="session 5; there are 1, 2, 3"):
        session_trials(layout, 1, [1, 5])


def test_offsets_across_a_missing_session(experiment: Experiment) -> None:
    layout = experiment.layout
    layout.betas(2, 1, "hdf5").unlink()
    assert session_trials(layout, 2, [2, 3]) == {2: (12, 12), 3: (24, 12)}
    save_betas(layout, 2, 2, "hdf5", experiment.betas[2][:5])
    with pytest.raises(BoldreamsError, match=r"session 1 .* differ in length \(5, 12 trials\)"):
        session_trials(layout, 2, [3])
