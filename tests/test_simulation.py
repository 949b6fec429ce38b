"""The made-up experiment: readable as NSD, and its betas are what its truth says."""

from __future__ import annotations

import hashlib
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import nibabel
import numpy as np
import pytest
import torch

from boldreams_cli.console import BoldreamsError
from boldreams_cli.data.nsd.anatomy.rois import GROUPS
from boldreams_cli.data.nsd.captions import Captions
from boldreams_cli.data.nsd.design import Design
from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.data.nsd.stimuli import Stimuli
from boldreams_cli.data.opening import open_dataset
from boldreams_cli.data.responses import Responses
from boldreams_cli.features import backbones
from boldreams_cli.files import write_json
from boldreams_cli.simulation import experiment as simulated
from boldreams_cli.simulation.brain import gaussian_fields
from boldreams_cli.simulation.experiment import MARKER, Experiment, Truth, _marker, field_distance, write
from boldreams_cli.simulation.photographs import PHOTOGRAPHS, Crops

SMALL = Experiment.small()


FEW = Experiment.small(subjects=1, images=16, shared=6, sample=8)


@pytest.fixture(scope="module")
def folder(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment of all tests, which is SMALL, in a place of its own."""
    folder = tmp_path_factory.mktemp("simulation")
    shutil.copytree(experiment.parent, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def truth(folder: Path) -> Truth:
    return write(SMALL, folder / "nsd")


@pytest.fixture(scope="module")
def layout(folder: Path, truth: Truth) -> Layout:
    return Layout.at(folder / "nsd")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    """A smaller experiment and what is known of it, which lies beside it too."""
    root = tmp_path_factory.mktemp("few") / "nsd"
    return root, write(FEW, root)


@pytest.fixture(scope="module")
def prepared(folder: Path, layout: Layout) -> dict[int, Responses]:
    return {subject: open_dataset(layout.root).prepare(subject, folder / "cache") for subject in layout.subjects()}


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_layout_is_nsd_s(layout: Layout) -> None:
    assert layout.subjects() == [1, 2]
    assert {path.name for path in layout.sessions(1).values()} == {f"betas_session0{n}.nii.gz" for n in (1, 2, 3)}
    assert {path.name for path in layout.sessions(2).values()} == {f"betas_session0{n}.hdf5" for n in (1, 2, 3)}
    with Stimuli(layout.stimuli) as stimuli:
        assert len(stimuli) == SMALL.distinct_images
        images = stimuli.read(range(len(stimuli)))
    assert images.shape[1:] == (425, 425, 3)
    assert len({image.tobytes() for image in images}) == len(images)


def test_shared_images_are_test_images_seen_three_times(layout: Layout, prepared: dict[int, Responses]) -> None:
    design = Design.read(layout.design)
    assert design.subject_images.shape == (8, SMALL.images)
    assert len(design.shared) == SMALL.shared
    for responses in prepared.values():
        assert np.array_equal(responses.test_images, design.shared)
        assert len(responses.train_images) == SMALL.images - SMALL.shared
        assert (responses.repeats(np.concatenate([responses.test_images, responses.train_images])) == 3).all()
    trained = [set(responses.train_images) for responses in prepared.values()]
    assert not trained[0] & trained[1]


def test_images_have_captions_in_both_splits(layout: Layout) -> None:
    captions = Captions(layout).of(range(SMALL.distinct_images))
    crops = Crops(SMALL.seed)
    for number, sentences in captions.items():
        assert len(sentences) == 5
        assert all(crops.shown(number)[0].what in sentence.lower() for sentence in sentences)


@pytest.mark.parametrize("subject", [1, 2])
def test_areas_are_those_of_the_truth(subject: int, truth: Truth, prepared: dict[int, Responses]) -> None:
    responses, known = prepared[subject], truth.subjects[subject]
    assert np.array_equal(responses.voxels, known.positions)
    assert set(responses.areas.counts()) == set(GROUPS)
    assert min(responses.areas.counts().values()) >= 8
    for group in np.unique(known.area):
        # V3's voxels that the atlas gives to V3A are V3's, for the subject's own map overrides it.
        assert np.array_equal(responses.areas.select(str(group)), known.area == group)
    eccentricity = np.hypot(*(known.centre - 0.5).T) * 8.4
    for band, (low, high) in enumerate([(0, 0.5), (0.5, 1), (1, 2), (2, 4), (4, 6)], start=1):
        inside = responses.areas.select(f"ecc_{band}")
        assert np.array_equal(inside, known.band == band)
        assert ((eccentricity[inside] >= low) & (eccentricity[inside] <= high)).all()
    assert (abs(known.centre - 0.5) < 0.5).all()
    np.testing.assert_allclose(responses.ncsnr, known.ncsnr, rtol=1e-6)
    np.testing.assert_allclose(abs(np.linalg.det(responses.affine)), 1.8**3)


@pytest.mark.parametrize("subject", [1, 2])
def test_measured_fields_and_a_picture_of_the_brain_are_there(subject: int, layout: Layout, truth: Truth) -> None:
    known = truth.subjects[subject]
    places = tuple(known.positions.T)
    volume = {
        name: nibabel.load(layout.anatomy_folder(subject) / f"{name}.nii.gz")
        for name in ("prf_eccentricity", "prf_angle", "prf_size", "prf_R2", "mean", "roi/nsdgeneral", "brainmask")
    }
    data = {name: image.get_fdata() for name, image in volume.items()}
    for name, image in volume.items():
        np.testing.assert_array_equal(image.affine, volume["brainmask"].affine, name)
    angle, eccentricity = np.radians(data["prf_angle"][places]), data["prf_eccentricity"][places]
    right, down = np.cos(angle) * eccentricity, -np.sin(angle) * eccentricity
    np.testing.assert_allclose(np.stack([right, down], 1) / 8.4 + 0.5, known.centre, atol=1e-6)
    np.testing.assert_allclose(data["prf_size"][places] / 8.4, known.size, rtol=1e-6)
    assert ((data["prf_angle"][places] >= 0) & (data["prf_angle"][places] <= 360)).all()
    assert ((data["prf_R2"][places] > 5) & (data["prf_R2"][places] < 100)).all(), "percent"
    outside = np.ones(data["brainmask"].shape, dtype=bool)
    outside[places] = False
    assert np.isnan(data["prf_eccentricity"][outside]).all()
    inside = data["brainmask"] > 0
    assert data["mean"][inside].min() > data["mean"][~inside].mean()
    assert data["mean"][inside].std() > 50, "something to see"


@pytest.mark.parametrize("subject", [1, 2])
def test_betas_are_the_signal_and_noise_of_stated_size(
    subject: int, truth: Truth, prepared: dict[int, Responses]
) -> None:
    responses, known = prepared[subject], truth.subjects[subject]
    betas = responses.read_betas().astype(np.float64)
    signal = known.signal[np.searchsorted(known.images, responses.trial_images)]
    np.testing.assert_allclose(known.signal.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(known.signal.std(0), 1, rtol=1e-5)
    # One voxel has few trials; over many voxels the errors average out.
    slope = (betas * signal).mean(0) / (signal**2).mean(0)
    expected = known.ncsnr / np.sqrt(1 + known.ncsnr**2)
    assert abs((slope - expected).mean()) < 0.02
    # 135 trials give each slope an error of about 0.08, a third of how much voxels differ.
    assert np.corrcoef(slope, expected)[0, 1] > 0.75
    # ncsnr as NSD estimates it, from repeats alone, without the truth.
    repeats = np.stack([betas[responses.trial_images == image] for image in known.images])
    noise = repeats.var(1, ddof=1).mean(0)
    ratio = np.sqrt((1 - noise).clip(0) / noise)
    # 45 images share their chance differences between sessions over all voxels; one voxel's error is about 0.14.
    assert abs(np.median(ratio - known.ncsnr)) < 0.08
    assert np.std(ratio - known.ncsnr) < 0.2
    residual = betas - known.expected_zscore()[np.searchsorted(known.images, responses.trial_images)]
    np.testing.assert_allclose(residual.var(), (1 / (1 + known.ncsnr**2)).mean(), rtol=0.05)


def test_sessions_differ_before_they_are_scored(layout: Layout, truth: Truth) -> None:
    from boldreams_cli.data.nsd.betas.sessions import read_session

    known = truth.subjects[1]
    means = [read_session(path, known.positions, SMALL.grids[0]).mean(0) for path in layout.sessions(1).values()]
    assert np.std(means, axis=0).mean() > 0.2  # percent signal change; noise alone would give about 0.1


def test_truth_gives_the_signal(layout: Layout, truth: Truth) -> None:
    backbone = backbones.load(SMALL.backbone)
    known = truth.subjects[2]
    images = known.images[:3]
    with Stimuli(layout.stimuli) as stimuli:
        maps = backbone.maps_of(torch.from_numpy(stimuli.read(images)))
    signal = np.tile(known.bias, (3, 1))
    for name, weights in known.weights.items():
        values = maps[name].numpy()
        fields = gaussian_fields(known.centre, known.size, values.shape[2:])
        signal += np.einsum("ikyx,vyx,vk->iv", values, fields, weights, optimize=True)
    np.testing.assert_allclose(signal, known.signal[:3], atol=2e-3)


def test_truth_survives_saving(few: tuple[Path, Truth]) -> None:
    root, truth = few
    loaded = Truth.load(root.with_name("nsd-truth.npz"))
    for subject, known in truth.subjects.items():
        for name, value in vars(known).items():
            other = getattr(loaded.subjects[subject], name)
            if name == "weights":
                assert list(other) == list(value)
                assert all(np.array_equal(other[layer], value[layer]) for layer in value)
            else:
                assert np.array_equal(other, value), name


def test_same_seed_same_files_other_seed_other_files(few: tuple[Path, Truth], tmp_path: Path) -> None:
    write(FEW, tmp_path / "nsd")
    one, two = digests(few[0]), digests(tmp_path / "nsd")
    assert one == two, "bit for bit: what is made from them has the same fingerprint"
    assert not np.array_equal(Crops(0).image(3), Crops(1).image(3))


def test_writing_again_does_nothing_and_other_things_stay(folder: Path, truth: Truth, tmp_path: Path) -> None:
    before = digests(folder / "nsd")
    again = write(SMALL, folder / "nsd")
    assert np.array_equal(again.subjects[1].signal, truth.subjects[1].signal)
    assert digests(folder / "nsd") == before
    (tmp_path / "nsddata").mkdir()
    for root, experiment in ((tmp_path, SMALL), (folder / "nsd", Experiment.small(seed=1))):
        with pytest.raises(BoldreamsError, match="holds something else"):
            write(experiment, root)
    assert digests(folder / "nsd") == before


def test_an_experiment_of_an_earlier_version_is_written_anew(few: tuple[Path, Truth], tmp_path: Path) -> None:
    root = tmp_path / "nsd"
    shutil.copytree(few[0].parent, tmp_path, dirs_exist_ok=True)
    write_json(root / MARKER, _marker(FEW, 1))
    before = digests(root)
    Layout(root).functional(1, "prf_angle").unlink()
    with pytest.raises(BoldreamsError, match="holds something else"):
        write(replace(FEW, seed=1), root)
    write(FEW, root)
    after = digests(root)
    assert Layout(root).functional(1, "prf_angle").is_file()
    assert {name for name in before if before[name] != after[name]} == {"simulated.json"}


def test_of_two_at_once_one_writes_and_the_other_waits(
    few: tuple[Path, Truth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two demos into one folder: both would write in the folder that is renamed when it is whole."""
    write_stimuli, root, met = simulated._write_stimuli, tmp_path / "nsd", Event()
    writers: list[Layout] = []
    others: list[Future[Truth]] = []

    def meeting(layout: Layout, crops: Crops, count: int) -> None:
        writers.append(layout)
        if len(writers) == 1:
            others.append(pool.submit(write, FEW, root))
            met.wait(0.5)
        else:
            met.set()
        write_stimuli(layout, crops, count)

    monkeypatch.setattr(simulated, "_write_stimuli", meeting)
    with ThreadPoolExecutor(1) as pool:
        mine = write(FEW, root)
        theirs = others[0].result()
    assert len(writers) == 1
    assert np.array_equal(mine.subjects[1].signal, theirs.subjects[1].signal)
    assert digests(root) == digests(few[0])
    assert {path.name for path in tmp_path.iterdir()} == {"nsd", "nsd-truth.npz", ".nsd.lock"}


def test_impossible_experiments_are_refused() -> None:
    for wrong in ({"subjects": 9}, {"shared": 45}, {"sessions": 4}, {"forms": ("nii",)}):
        with pytest.raises(BoldreamsError):
            Experiment.small(**wrong)


def test_too_few_photographs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boldreams_cli.simulation.photographs.PHOTOGRAPHS", PHOTOGRAPHS[:4])
    with pytest.raises(BoldreamsError, match="reinstall"):
        Crops(0)


def test_distance_of_fields_is_euclid_s() -> None:
    assert field_distance(np.array([[0.0, 0.0]]), np.array([[0.3, 0.4]])) == pytest.approx(0.5)
