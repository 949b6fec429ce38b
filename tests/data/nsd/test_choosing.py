"""Which responses are used, and that changed inputs are noticed, with a root and without."""

from __future__ import annotations

import gzip
import itertools
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from boldreams_cli.console import BoldreamsError, ChoiceError, MismatchError
from boldreams_cli.data import identity
from boldreams_cli.data.prepared.checking import check_inputs
from boldreams_cli.data.prepared.choosing import areas_of, responses_for
from boldreams_cli.data.responses import SESSION

from .conftest import LABELS, SHAPE, TRIALS, Experiment, save_betas, save_nifti


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("boldreams"), "propagate", True)
    caplog.set_level(logging.INFO, "boldreams")
    return caplog


def test_cached_responses_need_no_root(experiment: Experiment, cache: Path, log: pytest.LogCaptureFixture) -> None:
    with pytest.raises(BoldreamsError, match="no NSD root given"):
        responses_for(cache, 1, None)
    made = responses_for(cache, 1, experiment.root, sessions="1-2")
    log.clear()
    assert responses_for(cache, 1, None).path == made.path
    assert "no betas are at hand to compare with" in log.text
    whole = responses_for(cache, 1, experiment.root, sessions="1-3")
    with pytest.raises(ChoiceError, match=r"several .*sessions 1-2\).*--sessions"):
        responses_for(cache, 1, None)
    assert responses_for(cache, 1, None, sessions="1,2").path == made.path
    general = responses_for(cache, 1, experiment.root, mask="nsdgeneral")
    assert responses_for(cache, 1, None, mask="nsdgeneral").path == general.path
    with pytest.raises(BoldreamsError, match="no NSD root given"):
        responses_for(cache, 1, None, sessions="3")
    shutil.rmtree(experiment.layout.betas_folder(1))  # betas may go once they are prepared
    assert responses_for(cache, 1, experiment.root, mask="nsdgeneral").path == general.path
    with pytest.raises(ChoiceError, match=r"no betas of subject 1 under .*; subjects under the root: 2"):
        responses_for(cache, 1, experiment.root, sessions="3")
    assert responses_for(cache, 1, None, sessions="1-3", mask="nsdgeneral").path == general.path
    assert whole.path != general.path


def test_a_store_of_a_trial_is_not_everybodys_default(
    experiment: Experiment, cache: Path, log: pytest.LogCaptureFixture
) -> None:
    trial = responses_for(cache, 1, experiment.root, sessions="1-2", mask="nsdgeneral")
    log.clear()
    default = responses_for(cache, 1, experiment.root)
    assert default.path != trial.path
    assert default.sessions == [1, 2, 3]
    assert f"{trial.path} was made from other inputs than those asked for now (sessions, mask)" in log.text


def test_one_more_session_is_a_new_default(experiment: Experiment, cache: Path, log: pytest.LogCaptureFixture) -> None:
    path = experiment.layout.betas(1, 3, "nii.gz")
    kept = path.read_bytes()
    path.unlink()
    few = responses_for(cache, 1, experiment.root)
    path.write_bytes(kept)
    more = responses_for(cache, 1, experiment.root)
    assert (few.sessions, more.sessions) == ([1, 2], [1, 2, 3])
    assert "(sessions): preparing anew, beside it" in log.text
    path.unlink()
    shutil.rmtree(few.path)
    with pytest.raises(MismatchError, match=r"made from sessions 1-3, of which 3 are no longer .*--sessions"):
        responses_for(cache, 1, experiment.root)


def change_mask(experiment: Experiment) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:6, 1:, 1:] = 1
    mask[2, 2, 3] = 0
    save_nifti(experiment.root.parent / "mask.nii.gz", mask)


def change_roi(experiment: Experiment) -> None:
    labels = experiment.rois[1]["floc-faces"].copy()
    labels[labels == 2] = 3
    save_nifti(experiment.layout.roi(1, "floc-faces"), labels)


def change_brain(experiment: Experiment) -> None:
    brain = experiment.brain[1].copy()
    brain[3] = 1 - brain[3]
    save_nifti(experiment.layout.brain_masks(1)[0], brain)


def change_ncsnr(experiment: Experiment) -> None:
    save_nifti(experiment.layout.ncsnr(1), experiment.ncsnr[1] + np.float32(1e-3))


def change_design(experiment: Experiment) -> None:
    import scipy.io

    design = scipy.io.loadmat(experiment.layout.design)
    order = design["masterordering"][0].astype(float)
    design["masterordering"] = order[[1, 0, *range(2, len(order))]][None]
    scipy.io.savemat(experiment.layout.design, {key: design[key] for key in design if not key.startswith("_")})


def change_table(experiment: Experiment) -> None:
    names = LABELS["floc-faces"][::-1]
    text = "0 Unknown\n" + "".join(f"{i} {name}\n" for i, name in enumerate(names, 1))
    experiment.layout.label_table(1, "floc-faces").write_text(text)


def remove_brain(experiment: Experiment) -> None:
    experiment.layout.brain_masks(1)[0].unlink()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_mask, "mask"),
        (change_roi, "ROI volume floc-faces"),
        (change_brain, "brain mask"),
        (remove_brain, "brain mask"),
        (change_ncsnr, "ncsnr"),
        (change_design, "design"),
        (change_table, "label table floc-faces"),
    ],
)
def test_changed_inputs_are_noticed(
    experiment: Experiment,
    cache: Path,
    log: pytest.LogCaptureFixture,
    change: Callable[[Experiment], None],
    named: str,
) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:6, 1:, 1:] = 1
    file = experiment.root.parent / "mask.nii.gz"
    save_nifti(file, mask)
    made = responses_for(cache, 1, experiment.root, mask=str(file))
    check_inputs(made, experiment.dataset)
    change(experiment)
    with pytest.raises(MismatchError, match=rf"other inputs than those under .*\({named}\).*prepare --subject 1"):
        check_inputs(made, experiment.dataset)
    with pytest.raises(MismatchError, match=named):
        areas_of(1, cache, experiment.root)
    log.clear()
    again = responses_for(cache, 1, experiment.root, mask=str(file))
    assert again.path != made.path
    assert f"({named}): preparing anew, beside it" in log.text
    check_inputs(again, experiment.dataset)
    assert responses_for(cache, 1, experiment.root, mask=str(file)).path == again.path


def test_a_copied_root_is_the_same_data(
    experiment: Experiment, cache: Path, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    made = responses_for(cache, 1, experiment.root)
    shutil.copytree(experiment.root, tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("betas_session*"):
        os.utime(path, (1e9, 1e9))
    log.clear()
    assert responses_for(cache, 1, tmp_path / "copy").path == made.path
    assert log.text.count("comparing its betas") == 3
    log.clear()
    for root in (tmp_path / "copy", tmp_path / "copy"):  # the new times were noted
        assert responses_for(cache, 1, root).path == made.path
    assert "comparing" not in log.text
    assert len(made.store.lines(SESSION)) == 3


@pytest.fixture
def large(experiment: Experiment) -> Path:
    """A session's betas that are larger than what samples cover; the last trials lie in no sample of the file."""
    path = experiment.layout.betas(2, 2, "hdf5")
    betas = np.random.default_rng(9).integers(-900, 900, (4000, *SHAPE), dtype=np.int16)
    betas[:TRIALS] = experiment.betas[2][TRIALS : 2 * TRIALS]
    with h5py.File(path, "w") as file:
        file["betas"] = betas.transpose(0, 3, 2, 1)
    assert path.stat().st_size > 1.3 * identity.SAMPLES * identity.SAMPLE_BYTES
    return path


def changed_outside_samples(path: Path) -> None:
    """Flip one beta of the file that is in no sample."""
    total = path.stat().st_size
    starts = np.unique(np.linspace(0, total - identity.SAMPLE_BYTES, identity.SAMPLES).astype(int))
    place = next(int(a) + identity.SAMPLE_BYTES + 64 for a, b in itertools.pairwise(starts) if b - a > 20_000)
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def longer_design(experiment: Experiment, trials: int) -> None:
    from .conftest import write_design

    ids = np.arange(1, 13)
    write_design(experiment.layout.design, np.resize(ids, trials), np.stack([ids, ids]), ids[:3])


def test_betas_changed_between_samples(experiment: Experiment, cache: Path, large: Path) -> None:
    longer_design(experiment, 5000)
    made = responses_for(cache, 2, experiment.root)
    before = experiment.dataset.request(2)
    changed_outside_samples(large)
    assert experiment.dataset.request(2) == before, "the samples do not see it"
    for use in (lambda: responses_for(cache, 2, experiment.root), lambda: check_inputs(made, experiment.dataset)):
        with pytest.raises(MismatchError, match=r"betas_session02.hdf5 holds other betas than those that .*restore it"):
            use()


def test_samples_lie_in_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    size = 40 * identity.SAMPLE_BYTES * identity.SAMPLES
    content = np.zeros(size, np.uint8)
    content.tofile(path)
    first = identity.sampled(path)
    found = 0
    for part in range(20):  # a changed twentieth is seen, wherever it lies
        changed = content.copy()
        changed[part * size // 20 : (part + 1) * size // 20] = 1
        changed.tofile(path)
        found += identity.sampled(path) != first
    assert found == 20


def test_small_files_are_known_by_every_byte_and_not_by_name(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(300_000)
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b").write_bytes(content)
    assert identity.whole(tmp_path / "a") == identity.whole(tmp_path / "b")
    for place in (70_000, 140_000, 299_999):
        (tmp_path / "b").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert identity.whole(tmp_path / "a") != identity.whole(tmp_path / "b")


def test_other_betas_under_the_root_are_refused(experiment: Experiment, cache: Path) -> None:
    made = responses_for(cache, 2, experiment.root)
    # Same size, other values: a size alone would not tell them apart.
    save_betas(experiment.layout, 2, 2, "hdf5", experiment.betas[2][:TRIALS])
    with pytest.raises(MismatchError, match=r"\(betas of session 2\); run `boldreams prepare --subject 2`"):
        responses_for(cache, 2, experiment.root)
    again = experiment.dataset.prepare(2, cache)
    assert again.path != made.path
    assert responses_for(cache, 2, experiment.root).path == again.path
    with pytest.raises(MismatchError, match="betas of session 2"):
        check_inputs(made, experiment.dataset)
    shutil.rmtree(experiment.layout.betas_folder(2))
    with pytest.raises(ChoiceError, match=r"several .*or delete"):
        responses_for(cache, 2, experiment.root)
    check_inputs(made, experiment.dataset)  # nothing to compare with
    shutil.rmtree(made.path)
    assert responses_for(cache, 2, experiment.root).path == again.path


def test_betas_that_change_while_they_are_read_are_refused(experiment: Experiment, cache: Path) -> None:
    dataset = experiment.dataset
    read = dataset.read_betas

    def touched(subject: int, session: int, *more: object) -> np.ndarray:
        betas = read(subject, session, *more)  # type: ignore[arg-type]
        os.utime(dataset.session_files(subject)[session][0], (1e9, 1e9))
        return betas

    dataset.read_betas = touched  # type: ignore[method-assign,assignment]
    with pytest.raises(BoldreamsError, match=r"betas_session01.nii.gz changed while it was read"):
        dataset.prepare(1, cache)


def test_the_same_mask_by_another_name_or_compression_level(experiment: Experiment, cache: Path) -> None:
    general = experiment.layout.roi(1, "nsdgeneral")
    copy = experiment.root.parent / "mine.nii.gz"
    shutil.copy(general, copy)
    made = responses_for(cache, 1, experiment.root, mask="nsdgeneral")
    assert responses_for(cache, 1, experiment.root, mask=str(copy)).path == made.path
    copy.write_bytes(gzip.compress(gzip.decompress(copy.read_bytes()), 1, mtime=1))
    assert responses_for(cache, 1, experiment.root, mask=str(copy)).path != made.path  # bytes differ: prepared anew


def test_commands_on_a_model_compare_its_inputs(experiment: Experiment, cache: Path) -> None:
    from types import SimpleNamespace

    from boldreams_cli.commands.options import responses_of

    made = responses_for(cache, 1, experiment.root)
    spec = SimpleNamespace(subject=1, responses=made.fingerprint)
    model = SimpleNamespace(spec=spec, folder="m")
    assert responses_of(model, cache, experiment.root).path == made.path  # type: ignore[arg-type]
    change_ncsnr(experiment)
    assert responses_of(model, cache, None).path == made.path  # type: ignore[arg-type]
    with pytest.raises(MismatchError, match=r"other inputs than those under .*\(ncsnr\)") as caught:
        responses_of(model, cache, experiment.root)  # type: ignore[arg-type]
    assert caught.value.exit_code == 3
