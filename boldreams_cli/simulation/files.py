"""The files of a made-up experiment, as NSD has them (NSD manual, "Data files")."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import scipy.io
from numpy.typing import NDArray
from scipy import ndimage

from boldreams_cli.data.nsd.anatomy.retinotopy import MAPS
from boldreams_cli.data.nsd.anatomy.rois import ATLAS, ECCENTRICITY, GROUPS, RETINOTOPY, STANDARD_LABELS
from boldreams_cli.data.nsd.anatomy.volume import NSDGENERAL
from boldreams_cli.data.nsd.betas.sessions import UNITS_PER_PERCENT
from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.simulation.brain import DEGREES, Voxels

SUBJECTS = 8
MILLIMETRES = 1.8
MATLAB_TEXT = 116  # bytes of free text at the start of a MATLAB v5 file


@dataclass(frozen=True)
class Anatomy:
    """Where one subject's voxels lie.

    Parameters
    ----------
    voxels : V of them, in C order of their positions.
    positions : (V, 3) int32.
    brain, cortex : (X, Y, Z) bool.
    """

    voxels: Voxels
    positions: NDArray[np.int32]
    brain: NDArray[np.bool_]
    cortex: NDArray[np.bool_]

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel indices to mm, with the origin in the middle of the volume."""
        shape = np.array(self.brain.shape)
        return np.block([[np.eye(3) * MILLIMETRES, -MILLIMETRES * (shape[:, None] - 1) / 2], [0, 0, 0, 1]])


def place_voxels(voxels: Voxels, shape: tuple[int, int, int], rng: np.random.Generator) -> Anatomy:
    """Put areas one before another into the cortex of an egg-shaped brain, from the back to the front."""
    coordinates = [np.linspace(-1.1, 1.1, length) for length in shape]
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(*coordinates, indexing="ij")))
    brain, cortex = radius <= 1, (radius <= 1) & (radius > 0.7)
    places = np.argwhere(cortex)
    if len(places) < len(voxels.area):
        raise ValueError(f"a grid of {shape} has room for {len(places)} voxels, not {len(voxels.area)}")
    back = np.argsort(places[:, 1] + rng.uniform(0, 0.5, len(places)), kind="stable")[: len(voxels.area)]
    order = np.argsort(np.ravel_multi_index(tuple(places[back].T), shape))
    return Anatomy(voxels.ordered(order), places[back][order].astype(np.int32), brain, cortex)


def write_anatomy(layout: Layout, subject: int, anatomy: Anatomy) -> None:
    """Write the seven ROI volumes, their label tables, nsdgeneral, and maps of the brain, ncsnr and fields."""
    for volume, numbers in _roi_labels(anatomy.voxels).items():
        _save_volume(layout.roi(subject, volume), _with_cortex(anatomy, numbers), anatomy)
        table = layout.label_table(subject, volume)
        table.parent.mkdir(parents=True, exist_ok=True)
        names = ("Unknown", *STANDARD_LABELS[volume])
        table.write_text("".join(f"{number} {name}\n" for number, name in enumerate(names)), encoding="utf-8")
    every = np.ones(len(anatomy.positions), np.int16)
    _save_volume(layout.roi(subject, NSDGENERAL), _with_cortex(anatomy, every), anatomy)
    _save_volume(layout.brain_masks(subject)[0], anatomy.brain.astype(np.int16), anatomy)
    ncsnr = np.zeros(anatomy.brain.shape, np.float32)
    ncsnr[tuple(anatomy.positions.T)] = anatomy.voxels.ncsnr
    _save_volume(layout.ncsnr(subject), ncsnr, anatomy)
    for name, values in measured_fields(anatomy.voxels).items():
        fields = np.full(anatomy.brain.shape, np.nan, np.float32)
        fields[tuple(anatomy.positions.T)] = values
        _save_volume(layout.functional(subject, MAPS[name]), fields, anatomy)
    _save_volume(layout.functional(subject, "mean"), mean_epi(anatomy), anatomy)


def measured_fields(voxels: Voxels) -> dict[str, NDArray[np.float64]]:
    """What a mapping experiment without noise would find of each voxel's field, (V,) each, in NSD's units."""
    right, up = (voxels.centre[:, 0] - 0.5) * DEGREES, (0.5 - voxels.centre[:, 1]) * DEGREES
    return {
        "eccentricity": np.hypot(right, up),
        "angle": np.degrees(np.arctan2(up, right)) % 360,
        "size": voxels.size * DEGREES,
        "r2": 100 * voxels.ncsnr**2 / (1 + voxels.ncsnr**2),
    }


def mean_epi(anatomy: Anatomy) -> NDArray[np.float32]:
    """A picture of the brain as the scanner sees it: bright fluid around cortex, darker inside, none outside."""
    depth = ndimage.distance_transform_edt(anatomy.brain)
    image = np.select([~anatomy.brain, depth <= 1, anatomy.cortex], [30.0, 1400.0, 1100.0], 850.0)
    # Fainter towards the front, as the coil behind the head hears it.
    fading = np.linspace(1.1, 0.8, anatomy.brain.shape[1])[:, None]
    return (ndimage.gaussian_filter(image, 0.6) * fading).astype(np.float32)


def _roi_labels(voxels: Voxels) -> dict[str, NDArray[np.int16]]:
    """Label number of every voxel in each ROI volume."""
    labels = {volume: np.zeros(len(voxels.area), np.int16) for volume in STANDARD_LABELS}
    for group in np.unique(voxels.area):
        inside = voxels.area == group
        home = GROUPS[str(group)][0]
        # The atlas covers what was mapped in the subject as well.
        for volume in {home, ATLAS} if home == RETINOTOPY else {home}:
            names = STANDARD_LABELS[volume]
            labels[volume][inside] = [names.index(name) + 1 for name in voxels.label[inside]]
    labels[ECCENTRICITY] = voxels.band.astype(np.int16)
    # An atlas fits no subject exactly: here it calls some of V3 by a neighbour's name, which must not count.
    labels[ATLAS][np.flatnonzero(voxels.area == "V3")[::8]] = STANDARD_LABELS[ATLAS].index("V3A") + 1
    return labels


def _with_cortex(anatomy: Anatomy, numbers: NDArray[np.int16]) -> NDArray[np.int16]:
    volume = np.where(anatomy.cortex, 0, -1).astype(np.int16)
    volume[tuple(anatomy.positions.T)] = numbers
    return volume


def _save_volume(path: Path, data: NDArray[np.generic], anatomy: Anatomy) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(data, anatomy.affine)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)


def write_betas(
    layout: Layout,
    subject: int,
    anatomy: Anatomy,
    sessions: Iterable[NDArray[np.float32]],
    form: str,
    rng: np.random.Generator,
    path: Path | None = None,
) -> None:
    """Add noise to the signals of each session, and what differs between sessions; write percent x 300.

    Parameters
    ----------
    sessions : of each, (trials, V) signals of unit variance.
    form : of the files, one of BETA_FORMATS.
    path : of the only session, where it is none of NSD's own.
    """
    places = np.nonzero(anatomy.brain)
    shape = anatomy.brain.shape
    ncsnr = np.zeros(shape, np.float32)
    ncsnr[tuple(anatomy.positions.T)] = anatomy.voxels.ncsnr
    row: NDArray[np.int64] = np.full(shape, -1)
    row[tuple(anatomy.positions.T)] = np.arange(len(anatomy.positions))
    ncsnr, row = ncsnr[places], row[places]
    noise = rng.uniform(0.8, 2.0, len(row)).astype(np.float32)  # percent signal change
    for number, signal in enumerate(sessions, start=1):
        percent = rng.standard_normal((len(signal), len(row)), np.float32)
        percent[:, row >= 0] += (signal * anatomy.voxels.ncsnr)[:, row[row >= 0]]
        # The scanner's state and the subject's: what z-scoring by session takes out.
        gain, offset = rng.uniform(0.85, 1.15), rng.normal(0.3, 0.4, len(row)).astype(np.float32)
        percent = (percent * gain + offset) * noise
        betas = np.zeros((len(signal), *shape), np.int16)
        betas[:, anatomy.brain] = np.rint(percent * UNITS_PER_PERCENT)
        _save_betas(path or layout.betas(subject, number, form), betas, anatomy)


def _save_betas(path: Path, betas: NDArray[np.int16], anatomy: Anatomy) -> None:
    """Write (trials, X, Y, Z) betas; the form follows from the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".nii.gz"):
        _save_volume(path, np.moveaxis(betas, 0, -1), anatomy)
        return
    with h5py.File(path, "w") as file:
        # One chunk per voxel, with all its trials, as in NSD's files.
        file.create_dataset("betas", data=betas.transpose(0, 3, 2, 1), chunks=(len(betas), 1, 1, 1))


def write_design(
    layout: Layout, trials: NDArray[np.integer], seen: NDArray[np.int32], shared: NDArray[np.integer]
) -> None:
    """Write the design file, where numbers count from 1.

    Parameters
    ----------
    trials : (T,) index into a subject's images, the same for all subjects.
    seen : (subjects, images) nsdIds, the shared ones first.
    shared : (shared,) sorted nsdIds.
    """
    design = {
        "masterordering": trials[None] + 1.0,
        "subjectim": np.resize(seen, (SUBJECTS, seen.shape[1])) + 1.0,  # rows of absent subjects repeat
        "sharedix": shared[None] + 1.0,
    }
    save_matlab(layout.design, design)


def save_matlab(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write arrays as MATLAB v5; the same arrays give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, arrays, do_compression=True)
    with path.open("r+b") as stream:  # in place of scipy's text, which says when it was written
        stream.write(b"MATLAB 5.0 MAT-file, a made-up experiment".ljust(MATLAB_TEXT))


def write_captions(
    layout: Layout,
    captions: list[list[str]],
    trials: NDArray[np.integer],
    seen: NDArray[np.int32],
    shared: NDArray[np.integer],
) -> None:
    """Write the table of images and their captions; every fourth image is of COCO's validation split.

    Parameters
    ----------
    captions : of each nsdId.
    trials, seen, shared : as for `write_design`.
    """
    coco = [100_000 + 7 * number for number in range(len(captions))]
    splits = ["val" if number % 4 == 3 else "train" for number in range(len(captions))]
    with layout.image_table.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        people = [f"subject{number}" for number in range(1, SUBJECTS + 1)]
        table.writerow(
            [
                "",
                "cocoId",
                "cocoSplit",
                "cropBox",
                "loss",
                "nsdId",
                "flagged",
                "BOLD5000",
                "shared1000",
                *people,
            ]
        )
        for number, (image, split) in enumerate(zip(coco, splits, strict=True)):
            sees = [int(subject < len(seen) and number in seen[subject]) for subject in range(SUBJECTS)]
            row = [
                number,
                image,
                f"{split}2017",
                "(0, 0, 0, 0)",
                0.0,
                number,
                False,
                False,
                number in shared,
                *sees,
            ]
            table.writerow(row)
    folder = layout.caption_folders[0]
    folder.mkdir(parents=True)
    for split in ("train", "val"):
        rows = [number for number, name in enumerate(splits) if name == split]
        annotations = [{"image_id": coco[n], "caption": text} for n in rows for text in captions[n]]
        numbered = [{"id": index, **annotation} for index, annotation in enumerate(annotations, start=1)]
        images = [{"id": coco[number], "file_name": f"{coco[number]:012d}.jpg"} for number in rows]
        text = json.dumps({"images": images, "annotations": numbered})
        layout.captions(folder, split).write_text(text, encoding="utf-8")
