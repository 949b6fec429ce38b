"""A tiny experiment in NSD's layout, made with numpy alone; subject 1 has NIfTI betas, subject 2 HDF5."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import scipy.io

from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.data.nsd.maker import NSD

SHAPE = (7, 6, 5)  # all different, so that a swapped axis shows
SESSIONS, TRIALS, REPEATS, IMAGES, TOTAL = 3, 12, 3, 12, 40
SHARED = np.array([4, 17, 21, 33])  # nsdIds, 0-based
CONSTANT = (2, 3, 1)  # a voxel that never changes in session 2
AFFINE = np.diag([1.8, 1.8, 1.8, 1.0])
AFFINE[:3, 3] = (-60, -70, -50)
LABELS = {
    "prf-visualrois": ["V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"],
    "Kastner2015": [
        *["V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4", "VO1", "VO2", "PHC1", "PHC2", "TO2", "TO1"],
        *["LO2", "LO1", "V3B", "V3A", "IPS0", "IPS1", "IPS2", "IPS3", "IPS4", "IPS5", "SPL1", "FEF"],
    ],
    "prf-eccrois": ["ecc0pt5", "ecc1", "ecc2", "ecc4", "ecc4+"],
    "floc-faces": ["OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"],
    "floc-places": ["OPA", "PPA", "RSC"],
    "floc-words": ["OWFA", "VWFA-1", "VWFA-2", "mfs-words", "mTL-words"],
    "floc-bodies": ["EBA", "FBA-1", "FBA-2", "mTL-bodies"],
}


@dataclass
class Experiment:
    """What was written, as numpy arrays, to compare with."""

    root: Path
    betas: dict[int, np.ndarray] = field(default_factory=dict)  # subject -> (trials, X, Y, Z) int16
    trial_images: dict[int, np.ndarray] = field(default_factory=dict)  # 0-based
    rois: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    brain: dict[int, np.ndarray] = field(default_factory=dict)
    ncsnr: dict[int, np.ndarray] = field(default_factory=dict)
    images: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def layout(self) -> Layout:
        return Layout.at(self.root)

    @property
    def dataset(self) -> NSD:
        return NSD(self.root)

    def used(self, subject: int) -> np.ndarray:
        """Voxels (V, 3) that the union of the areas inside the brain has, in C order."""
        inside = np.zeros(SHAPE, bool)
        for volume in self.rois[subject].values():
            inside |= volume > 0
        return np.argwhere(inside & (self.brain[subject] > 0))


def save_nifti(path: Path, data: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(data, AFFINE)
    image.header.set_data_dtype(data.dtype)
    nibabel.save(image, path)


def save_hdf5(path: Path, betas: np.ndarray, chunks: tuple[int, ...] | None = None) -> None:
    """Write betas (trials, X, Y, Z) the way MATLAB does, with reversed axes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    userblock = 512 if path.suffix == ".mat" else 0  # where MATLAB v7.3 puts its own header
    with h5py.File(path, "w", userblock_size=userblock) as file:
        file.create_dataset("betas", data=betas.transpose(0, 3, 2, 1), chunks=chunks)


def save_betas(layout: Layout, subject: int, session: int, form: str, betas: np.ndarray) -> Path:
    path = layout.betas(subject, session, form)
    if form == "nii.gz":
        save_nifti(path, np.ascontiguousarray(np.moveaxis(betas, 0, 3)))
    else:
        save_hdf5(path, betas, chunks=(len(betas), 1, 1, 1) if form == "hdf5" else None)
    return path


def write_design(path: Path, ordering: np.ndarray, subject_images: np.ndarray, shared: np.ndarray) -> None:
    """Write 1-based arrays as MATLAB does: doubles, rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(
        path,
        {
            "masterordering": ordering[None].astype(float),
            "subjectim": subject_images.astype(float),
            "sharedix": shared[None].astype(float),
        },
    )


def write_captions(layout: Layout, splits: dict[int, str]) -> None:
    """Six captions of each COCO image (100 + nsdId), in scrambled order; image 4 has seven, image 5 two."""
    annotations: dict[str, list[dict]] = {"train": [], "val": []}
    for turn in range(7):
        for nsd_id, split in splits.items():
            if turn < {4: 7, 5: 2}.get(nsd_id, 6):
                caption = f"image {nsd_id}, caption {turn}\n"
                annotations[split].append({"image_id": 100 + nsd_id, "id": 1000 - turn, "caption": caption})
    for folder, split in zip(layout.caption_folders, ("train", "val"), strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        layout.captions(folder, split).write_text(json.dumps({"annotations": annotations[split]}))


def write_image_table(layout: Layout, splits: dict[int, str]) -> None:
    with layout.image_table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["", "cocoId", "cocoSplit", "nsdId", "shared1000"])
        for nsd_id, split in splits.items():
            writer.writerow([nsd_id, 100 + nsd_id, f"{split}2017", nsd_id, nsd_id in SHARED])


def write_subject(experiment: Experiment, subject: int, form: str, rng: np.random.Generator) -> None:
    layout = experiment.layout
    betas = rng.integers(-900, 900, (SESSIONS * TRIALS, *SHAPE), dtype=np.int16)
    betas[(slice(TRIALS, 2 * TRIALS), *CONSTANT)] = 7
    for session in range(SESSIONS):
        save_betas(layout, subject, session + 1, form, betas[session * TRIALS : (session + 1) * TRIALS])
    experiment.betas[subject] = betas
    experiment.rois[subject] = {}
    cortex = rng.random(SHAPE) < 0.7
    for volume, names in LABELS.items():
        density = 0.9 if volume == "Kastner2015" else 0.3
        labels = rng.integers(1, len(names) + 1, SHAPE) * (cortex & (rng.random(SHAPE) < density))
        labels = np.where((labels == 0) & (rng.random(SHAPE) < 0.3), -1, labels).astype(np.int16)
        if volume == "prf-visualrois":
            labels[CONSTANT] = 1
        if volume == "floc-places" and subject == 2:
            labels[labels == 3] = 0  # no RSC in subject 2
        experiment.rois[subject][volume] = labels
        save_nifti(layout.roi(subject, volume), labels)
        table = layout.label_table(subject, volume)
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text("0 Unknown\n" + "".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    general = (rng.random(SHAPE) < 0.4).astype(np.int16) * 2 - 1
    save_nifti(layout.roi(subject, "nsdgeneral"), general)
    experiment.brain[subject] = (rng.random(SHAPE) < 0.9).astype(np.uint8)
    experiment.brain[subject][CONSTANT] = 1
    save_nifti(layout.brain_masks(subject)[0], experiment.brain[subject])
    experiment.ncsnr[subject] = rng.random(SHAPE, np.float32)
    save_nifti(layout.ncsnr(subject), experiment.ncsnr[subject])


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    rng = np.random.default_rng(5)
    root = tmp_path / "nsd"
    (root / "nsddata").mkdir(parents=True)
    made = Experiment(root)
    layout = made.layout
    own = rng.permutation(np.setdiff1d(np.arange(TOTAL), SHARED)).reshape(2, -1)[:, : IMAGES - len(SHARED)]
    subject_images = np.concatenate([np.stack([SHARED, SHARED]), own], axis=1) + 1
    ordering = rng.permutation(np.repeat(np.arange(IMAGES), REPEATS)) + 1
    write_design(layout.design, ordering, subject_images, SHARED[::-1] + 1)
    for subject, form in ((1, "nii.gz"), (2, "hdf5")):
        made.trial_images[subject] = np.array([subject_images[subject - 1, k - 1] - 1 for k in ordering])
        write_subject(made, subject, form, rng)
    made.images = rng.integers(0, 256, (TOTAL, 9, 9, 3), dtype=np.uint8)
    layout.stimuli.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(layout.stimuli, "w") as file:
        file["imgBrick"] = made.images
    splits = {nsd_id: "val" if nsd_id % 3 == 0 else "train" for nsd_id in range(TOTAL)}
    write_image_table(layout, splits)
    write_captions(layout, splits)
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"
