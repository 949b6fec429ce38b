"""A small made-up experiment in NSD's own layout, of a brain whose encoding is known.

Photographs are crops of those that ship inside installed packages; every voxel reads a few filters of a pretrained
network through a Gaussian receptive field, and noise of known size is added. Nothing is downloaded.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, logger, progress
from boldreams_cli.data.nsd.layout import BETA_FORMATS, Layout
from boldreams_cli.data.nsd.stimuli import DATASET, Stimuli
from boldreams_cli.data.nsd.synthetic import SyntheticStimuli
from boldreams_cli.features import backbones
from boldreams_cli.files import PARTIAL, fingerprint, locked, read_json, write_json, written_whole
from boldreams_cli.simulation import synthetic
from boldreams_cli.simulation.brain import (
    Floats,
    Voxels,
    draw_voxels,
    draw_weights,
    field_distance,
    responses,
    spatial_means,
)
from boldreams_cli.simulation.files import Anatomy, place_voxels, write_anatomy, write_betas, write_design
from boldreams_cli.simulation.files import write_captions as _write_captions
from boldreams_cli.simulation.photographs import SIDE, Crops

__all__ = [
    "Experiment",
    "SubjectTruth",
    "Truth",
    "field_distance",
    "write",
]

MARKER = "simulated.json"
VERSION = 3  # 1: without measured fields and mean EPI; 2: without NSD-synthetic; all else is the same


@dataclass(frozen=True)
class Experiment:
    """Parameters of a made-up experiment.

    Parameters
    ----------
    subjects : number of them.
    sessions : of each subject.
    images : distinct images that each subject sees, the shared ones included.
    shared : images that all subjects see: the test images.
    repeats : how often each image is shown.
    voxels : of each group of areas; V1, V2 and V3 have twice as many.
    grids : (X, Y, Z) of the subjects' volumes, in turn.
    forms : of the subjects' betas files, in turn.
    ncsnr : lowest and highest ratio of signal to noise, standard deviation by standard deviation.
    sample : images by which filters are ranked, to choose those that voxels read.
    backbone, weights : of the network that the brain consists of.
    seed : of everything.
    """

    subjects: int = 2
    sessions: int = 3
    images: int = 480
    shared: int = 60
    repeats: int = 3
    voxels: int = 24
    grids: tuple[tuple[int, int, int], ...] = ((24, 20, 18), (22, 23, 19))
    forms: tuple[str, ...] = ("nii.gz", "hdf5")
    ncsnr: tuple[float, float] = (0.4, 1.2)
    sample: int = 120
    backbone: str = "efficientnet_lite0"
    weights: str = "pretrained"
    seed: int = 0

    @classmethod
    def small(cls, **changes: Any) -> Experiment:
        """One for tests, written in seconds; `changes` replace some of its parameters."""
        few = cls(images=45, shared=15, voxels=8, grids=((14, 12, 11), (13, 14, 10)), sample=30)
        return replace(few, **changes)

    def __post_init__(self) -> None:
        if not 1 <= self.subjects <= 8:
            raise BoldreamsError(f"NSD's layout has 1 to 8 subjects, not {self.subjects}")
        if not 0 < self.shared < self.images:
            raise BoldreamsError(f"{self.shared} shared images of {self.images} leave none to train or to test on")
        if self.images * self.repeats % self.sessions:
            raise BoldreamsError(f"{self.images * self.repeats} trials do not make {self.sessions} equal sessions")
        if unknown := set(self.forms) - set(BETA_FORMATS):
            raise BoldreamsError(f"no betas format {sorted(unknown)[0]}; choose from {BETA_FORMATS}")

    @property
    def session_trials(self) -> int:
        """Trials of one session."""
        return self.images * self.repeats // self.sessions

    @property
    def distinct_images(self) -> int:
        """Images of the whole experiment."""
        return self.shared + self.subjects * (self.images - self.shared)

    def rng(self, *purpose: int) -> np.random.Generator:
        """Random numbers of one purpose, whatever was drawn for others."""
        return np.random.default_rng([self.seed, *purpose])


@dataclass(frozen=True)
class SubjectTruth:
    """What is known of one subject's voxels.

    Parameters
    ----------
    positions : (V, 3) int32 voxel indices, in the order that `prepare` gives them.
    area, label : (V,) names of the group and of the single area.
    band : (V,) eccentricity band 1 to 5; 0 outside V1 to V3.
    centre : (V, 2) of the receptive field, x to the right and y down, in fractions of the image.
    size : (V,) its standard deviation, in fractions of the image.
    ncsnr : (V,).
    images : (n,) int32 sorted nsdIds that the subject sees.
    test : (n,) bool, the shared ones.
    signal : (n, V) float32 noise-free responses, mean 0 and variance 1 over the images.
    weights : layer -> (V, filters) float32, which give `signal` with fields that sum to 1.
    bias : (V,) float64.
    """

    positions: NDArray[np.int32]
    area: NDArray[np.str_]
    label: NDArray[np.str_]
    band: NDArray[np.int16]
    centre: NDArray[np.float64]
    size: NDArray[np.float64]
    ncsnr: NDArray[np.float64]
    images: NDArray[np.int32]
    test: NDArray[np.bool_]
    signal: NDArray[np.float32]
    weights: dict[str, NDArray[np.float32]]
    bias: NDArray[np.float64]

    def layer(self) -> NDArray[np.str_]:
        """(V,) the first layer that each voxel reads."""
        names = list(self.weights)
        reads = np.stack([value.any(1) for value in self.weights.values()], 1)
        return np.array(names)[reads.argmax(1)]

    def expected_zscore(self) -> NDArray[np.float64]:
        """(n, V) expectation of the z-scored beta of one trial; the variance around it is 1 / (1 + ncsnr²)."""
        return self.signal * self.ncsnr / np.sqrt(1 + self.ncsnr**2)


@dataclass(frozen=True)
class Truth:
    """What is known of the whole experiment: subject number -> its voxels."""

    subjects: dict[int, SubjectTruth]

    def save(self, path: Path) -> None:
        """Write an .npz file without pickled objects."""
        arrays: dict[str, Any] = {}
        for number, truth in self.subjects.items():
            for field in fields(truth):
                value = getattr(truth, field.name)
                named = {f"{field.name}/{key}": item for key, item in value.items()} if field.name == "weights" else {}
                arrays |= {f"{number}/{key}": item for key, item in (named or {field.name: value}).items()}
        with written_whole(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)

    @classmethod
    def load(cls, path: Path) -> Truth:
        """Read what `save` wrote."""
        found: dict[int, dict[str, Any]] = {}
        try:
            with np.load(path, allow_pickle=False) as arrays:
                for key in arrays.files:
                    number, name, *layer = key.split("/", 2)
                    subject = found.setdefault(int(number), {"weights": {}})
                    if layer:
                        subject["weights"][layer[0]] = arrays[key]
                    else:
                        subject[name] = arrays[key]
            return cls({number: SubjectTruth(**values) for number, values in found.items()})
        except (OSError, ValueError, TypeError) as error:
            raise BoldreamsError(
                f"cannot read {path} ({error}); delete it and the experiment, and write it again"
            ) from error


def write(experiment: Experiment, root: Path, truth: Path | None = None) -> Truth:
    """Write an experiment under `root`, whole or not at all, unless the very same one is there.

    Another process that writes to `root` is waited for.

    Parameters
    ----------
    experiment : what to write.
    root : the NSD root to make.
    truth : file for what is known of it (default: ``ROOT-truth.npz`` beside the root).

    Raises
    ------
    BoldreamsError
        If something else lies at `root`.
    """
    truth = truth or root.with_name(f"{root.name}-truth.npz")
    if not (_is_there(experiment, root) and truth.is_file()):
        with locked(root.with_name(f".{root.name}.lock"), str(root), wait=True):
            if not (_is_there(experiment, root) and truth.is_file()):  # another may have written it meanwhile
                return _write_whole(experiment, root, truth)
    return Truth.load(truth)


def _write_whole(experiment: Experiment, root: Path, truth: Path) -> Truth:
    """Write beside and rename; call this while the lock is held."""
    if (root / MARKER).is_file() and read_json(root / MARKER)["fingerprint"] != _marker(experiment)["fingerprint"]:
        logger.info("%s is this experiment as an earlier version wrote it: written anew", root)
    partial = root.with_name(f"{PARTIAL}{root.name}")
    shutil.rmtree(partial, ignore_errors=True)
    known = _write_into(experiment, Layout(partial))
    write_json(partial / MARKER, _marker(experiment))
    if root.exists():
        shutil.rmtree(root)
    known.save(truth)
    partial.rename(root)
    return known


def _marker(experiment: Experiment, version: int = VERSION) -> dict[str, Any]:
    described = {"version": version, "experiment": asdict(experiment)}
    return described | {"fingerprint": fingerprint(described)}


def _is_there(experiment: Experiment, root: Path) -> bool:
    """Whether this experiment lies at `root`; anything else there is the user's own and must stay."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    if (root / MARKER).is_file():
        found = read_json(root / MARKER).get("fingerprint")
        if found == _marker(experiment)["fingerprint"]:
            return True
        if found in [_marker(experiment, version)["fingerprint"] for version in range(1, VERSION)]:
            return False
    raise BoldreamsError(f"{root} holds something else; remove it or write the experiment to another folder")


def _write_into(experiment: Experiment, layout: Layout) -> Truth:
    crops = Crops(experiment.seed)
    order = experiment.rng(1).permutation(experiment.distinct_images)
    own = experiment.images - experiment.shared
    shared = np.sort(order[: experiment.shared])
    unique = order[experiment.shared :].reshape(experiment.subjects, own)
    seen = np.concatenate([np.tile(shared, (experiment.subjects, 1)), unique], 1).astype(np.int32)
    _write_stimuli(layout, crops, experiment.distinct_images)
    trials = experiment.rng(2).permutation(np.repeat(np.arange(experiment.images), experiment.repeats))
    write_design(layout, trials, seen, shared)
    _write_captions(
        layout, [crops.captions(number) for number in range(experiment.distinct_images)], trials, seen, shared
    )
    anatomies = {}
    for subject in range(1, experiment.subjects + 1):
        rng = experiment.rng(3, subject)
        voxels = draw_voxels(experiment.voxels, experiment.ncsnr, rng)
        grid = experiment.grids[(subject - 1) % len(experiment.grids)]
        anatomies[subject] = place_voxels(voxels, grid, rng)
        write_anatomy(layout, subject, anatomies[subject])
    backbone = backbones.load(experiment.backbone, experiment.weights, experiment.seed)
    known = _encode(experiment, backbone, layout, crops, anatomies, seen)
    for subject, truth in known.subjects.items():
        form = experiment.forms[(subject - 1) % len(experiment.forms)]
        shown = np.searchsorted(truth.images, seen[subject - 1][trials])
        sessions = (truth.signal[rows] for rows in np.split(shown, experiment.sessions))
        write_betas(layout, subject, anatomies[subject], sessions, form, experiment.rng(4, subject))
    _write_synthetic(experiment, backbone, layout, anatomies, known, crops)
    return known


def _write_synthetic(
    experiment: Experiment,
    backbone: backbones.Backbone,
    layout: Layout,
    anatomies: dict[int, Anatomy],
    known: Truth,
    crops: Crops,
) -> None:
    """NSD-synthetic: images that are no photographs, seen by the same voxels."""
    order = synthetic.write_design(layout, experiment.rng(7))
    synthetic.write_shared(layout, crops)
    for subject, truth in known.subjects.items():
        synthetic.write_own(layout, subject, experiment.rng(8, subject))
        stimuli, anatomy = SyntheticStimuli(layout, subject), anatomies[subject]
        raw = responses(backbone, stimuli.read, np.arange(len(stimuli)), anatomy.voxels, truth.weights)
        signal = (raw + truth.bias).astype(np.float32)[order]
        form = experiment.forms[(subject - 1) % len(experiment.forms)]
        path = layout.synthetic_betas(subject)[BETA_FORMATS.index(form)]
        write_betas(layout, subject, anatomy, [signal], form, experiment.rng(9, subject), path)


def _write_stimuli(layout: Layout, crops: Crops, count: int) -> None:
    layout.stimuli.parent.mkdir(parents=True)
    with h5py.File(layout.stimuli, "w") as file, progress("photographs", count, "images") as shown:
        shape = (SIDE, SIDE, 3)
        images = file.create_dataset(DATASET, (count, *shape), np.uint8, chunks=(1, *shape))
        for number in range(count):
            images[number] = crops.image(number)
            shown.advance()


def _encode(
    experiment: Experiment,
    backbone: backbones.Backbone,
    layout: Layout,
    crops: Crops,
    anatomies: dict[int, Anatomy],
    seen: NDArray[np.int32],
) -> Truth:
    """Choose filters for all voxels and run the network over all images, once for all subjects."""
    count = experiment.distinct_images
    sample = np.sort(experiment.rng(5).permutation(count)[: experiment.sample])
    kinds = [{item.kind for item in crops.shown(int(number))} for number in sample]
    voxels = Voxels.joined([anatomy.voxels for anatomy in anatomies.values()])
    with Stimuli(layout.stimuli) as stimuli, progress("brain", count + len(sample), "images") as shown:

        def read(numbers: NDArray[np.integer]) -> NDArray[np.uint8]:
            shown.advance(len(numbers))
            return stimuli.read(numbers)

        means = spatial_means(backbone, read, sample)
        weights = draw_weights(voxels, means, kinds, experiment.rng(6))
        raw = responses(backbone, read, np.arange(count), voxels, weights)
    known, first = {}, 0
    for subject, anatomy in anatomies.items():
        part = slice(first, first := first + len(anatomy.voxels.area))
        mine = {name: value[part] for name, value in weights.items()}
        known[subject] = _truth(anatomy, np.sort(seen[subject - 1]), seen[0, : experiment.shared], raw[:, part], mine)
    return Truth(known)


def _truth(
    anatomy: Anatomy,
    images: NDArray[np.int32],
    shared: NDArray[np.int32],
    raw: Floats,
    weights: dict[str, Floats],
) -> SubjectTruth:
    """Scale one subject's voxels such that their signal has mean 0 and variance 1 over the images seen."""
    mean, std = raw[images].mean(0), raw[images].std(0)
    return SubjectTruth(
        positions=anatomy.positions,
        images=images,
        test=np.isin(images, shared),
        signal=((raw[images] - mean) / std).astype(np.float32),
        weights={name: (value / std[:, None]).astype(np.float32) for name, value in weights.items()},
        bias=-mean / std,
        **vars(anatomy.voxels),
    )
