"""Small files of two hemispheres in NSD's layout, on a subject's own surface and on the average brain."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import h5py
import nibabel
import numpy as np

from boldreams_cli.data.nsd.layout import Layout

from .conftest import LABELS, SESSIONS, TRIALS, Experiment

NATIVE, AVERAGE = "nativesurface/betas_fithrf_GLMdenoise_RR", "fsaverage/betas_fithrf"
OWN, MEAN = (40, 36), (50, 44)  # vertices of the hemispheres
SILENT = 3  # vertex of the left hemisphere of the average brain, NaN in the second session


@dataclass
class Surfaces:
    """What was written of subject 1, a pair of hemispheres each."""

    betas: list[np.ndarray] = field(default_factory=list)  # (trials, own vertices) int16
    nearest: list[np.ndarray] = field(default_factory=list)  # (average vertices,) from 0
    own: dict[str, list[np.ndarray]] = field(default_factory=dict)
    drawn: dict[str, list[np.ndarray]] = field(default_factory=dict)  # on the average brain
    ncsnr: dict[str, list[np.ndarray]] = field(default_factory=dict)


def save_mgh(path: Path, values: np.ndarray) -> None:
    """Write (N,) or (N, trials) as FreeSurfer has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(values), 1, 1, *values.shape[1:])
    nibabel.save(nibabel.MGHImage(values.reshape(shape), np.eye(4)), path)


def save_vertex_betas(path: Path, betas: np.ndarray, **how: object) -> None:
    """Write (trials, vertices) int16, a chunk a vertex, as NSD's files on own surfaces."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("betas", data=betas, **({"chunks": (len(betas), 1)} | how))  # type: ignore[arg-type]


def add_surfaces(experiment: Experiment) -> Surfaces:
    """Write subject 1 on both surfaces."""
    rng, made = np.random.default_rng(11), Surfaces()
    native, average = (Layout.at(experiment.root, choice) for choice in (NATIVE, AVERAGE))
    made.betas = [rng.integers(-900, 900, (SESSIONS * TRIALS, count), dtype=np.int16) for count in OWN]
    made.nearest = [rng.permutation(np.arange(mean) % own) for mean, own in zip(MEAN, OWN, strict=True)]
    for path, nearest in zip(average.to_average(1), made.nearest, strict=True):
        save_mgh(path, (nearest + 1).astype(np.int32))
    for volume, names in LABELS.items():
        made.own[volume] = [_labels(rng, count, len(names)) for count in OWN]
        for path, labels in zip(native.surface_map(1, volume), made.own[volume], strict=True):
            save_mgh(path, labels)
    for name, most in (("Kastner2015", 25), ("nsdgeneral", 1)):
        made.drawn[name] = [_labels(rng, count, most) for count in MEAN]
        for path, labels in zip(average.surface_map(None, name), made.drawn[name], strict=True):
            save_mgh(path, labels)
    for layout, counts, name in ((native, OWN, NATIVE), (average, MEAN, AVERAGE)):
        made.ncsnr[name] = [rng.random(count, np.float32) for count in counts]
        for path, values in zip(layout.surface_ncsnr(1), made.ncsnr[name], strict=True):
            save_mgh(path, values)
    for session in range(SESSIONS):
        rows = slice(session * TRIALS, (session + 1) * TRIALS)
        for side in (0, 1):
            save_vertex_betas(native.surface_betas(1, session + 1)[side], made.betas[side][rows])
            percent = (made.betas[side][rows][:, made.nearest[side]] / np.float32(300)).astype(np.float32)
            if session == 1 and side == 0:
                percent[:, SILENT] = np.nan
            save_mgh(average.surface_betas(1, session + 1)[side], percent.T)
    return made


def _labels(rng: np.random.Generator, count: int, most: int) -> np.ndarray:
    return (rng.integers(1, most + 1, count) * (rng.random(count) < 0.3)).astype(np.float32)
