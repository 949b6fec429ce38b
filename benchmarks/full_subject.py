"""A subject of NSD's real shapes, made cheaply, for the rehearsal at full size (full_size.py).

Images are 73,000 virtual ones, each put together of the upper half of one crop of a photograph and the lower half of
another. Subjects 1 and 3 are for `prepare` alone: three sessions of noise in HDF5 and in NIfTI, and links to them.
Subject 2 is for all that follows: its voxels read maps of the feature store through Gaussian fields, and only their
betas are written; the rest of its volumes are holes. All see the same images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import progress
from boldreams_cli.data.nsd.betas.sessions import UNITS_PER_PERCENT
from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.data.nsd.stimuli import DATASET
from boldreams_cli.features.store.feature_store import FeatureStore
from boldreams_cli.simulation.brain import Voxels, draw_voxels, gaussian_fields
from boldreams_cli.simulation.files import Anatomy, place_voxels, write_anatomy, write_betas, write_design
from boldreams_cli.simulation.photographs import SIDE, Crops

HDF5, FITTED, NIFTI = 1, 2, 3  # subjects
SESSIONS, WRITTEN = 37, 3
STIMULI, CROPS = 73_000, 2_000
GROUPS = 18  # shares of the voxels: fifteen areas, of which three have two
FILTERS = 20  # that a voxel reads
SIZES = (0.08, 0.2)  # of fields


@dataclass(frozen=True)
class Size:
    """How large the experiment is.

    Parameters
    ----------
    scale : 1 is NSD's: 37 sessions of 750 trials, 8,859 training and 982 test images, 20,000 voxels of
        81 x 104 x 83. Smaller ones have fewer images, trials of a session and voxels.
    """

    scale: float = 1.0

    @property
    def trials(self) -> int:
        """Of a session."""
        return max(12, round(750 * self.scale))

    @property
    def shared(self) -> int:
        """Test images."""
        return max(12, round(982 * self.scale))

    @property
    def images(self) -> int:
        """All that the subjects see."""
        return self.shared + max(120, round(8859 * self.scale))

    @property
    def voxels(self) -> int:
        """Of each area."""
        return max(8, round(20_000 * self.scale / GROUPS))

    @property
    def grid(self) -> tuple[int, int, int]:
        """Of the volumes."""
        side = max(0.25, self.scale ** (1 / 3))
        return round(81 * side), round(104 * side), round(83 * side)

    @property
    def crops(self) -> int:
        """Of photographs."""
        return max(100, round(CROPS * self.scale))

    def rng(self, *purpose: int) -> np.random.Generator:
        """Random numbers of one purpose."""
        return np.random.default_rng([round(1e6 * self.scale), *purpose])

    def anatomy(self) -> Anatomy:
        """The same brain for all subjects."""
        return place_voxels(self.drawn(), self.grid, self.rng(2))

    def drawn(self) -> Voxels:
        """Voxels, before they have a place."""
        return draw_voxels(self.voxels, (0.15, 0.9), self.rng(1))

    def seen(self) -> NDArray[np.int32]:
        """(images,) nsdIds, the shared ones first, each part sorted."""
        ids = self.rng(3).permutation(STIMULI)[: self.images]
        return np.concatenate([np.sort(ids[: self.shared]), np.sort(ids[self.shared :])]).astype(np.int32)

    def order(self) -> NDArray[np.int64]:
        """(trials,) index into `seen` of each trial: every image at least once and at most three times."""
        rng, total = self.rng(4), SESSIONS * self.trials
        again = rng.permutation(np.repeat(np.arange(self.images), 2))[: total - self.images]
        return rng.permutation(np.concatenate([np.arange(self.images), again]))


def make(root: Path, size: Size) -> None:
    """Write images, design, anatomies, and the betas of the subjects that are prepared only."""
    layout, anatomy, seen = Layout(root), size.anatomy(), size.seen()
    write_stimuli(layout, size.crops)
    write_design(layout, size.order(), seen[None], seen[: size.shared])
    for subject in (HDF5, FITTED, NIFTI):
        write_anatomy(layout, subject, anatomy)
    for subject, form in ((HDF5, "hdf5"), (NIFTI, "nii.gz")):
        rng = size.rng(5, subject)
        signals = (rng.standard_normal((size.trials, len(anatomy.positions)), np.float32) for _ in range(WRITTEN))
        write_betas(layout, subject, anatomy, signals, form, rng)
        for session in range(WRITTEN + 1, SESSIONS + 1):
            link = layout.betas(subject, session, form)
            link.unlink(missing_ok=True)
            link.hardlink_to(layout.betas(subject, (session - 1) % WRITTEN + 1, form))


def write_stimuli(layout: Layout, crops: int) -> None:
    """Write a few images, and a virtual data set that takes each one's upper and lower half from two of them."""
    layout.stimuli.parent.mkdir(parents=True, exist_ok=True)
    made, shape, half = Crops(0), (SIDE, SIDE, 3), SIDE // 2
    virtual = h5py.VirtualLayout((STIMULI, *shape), np.uint8)
    source = h5py.VirtualSource(".", "crops", (crops, *shape), np.uint8)
    for number, start in enumerate(range(0, STIMULI, crops)):
        stop = min(start + crops, STIMULI)
        virtual[start:stop, :half] = source[: stop - start, :half]
        shift = number * 53 % crops
        first = min(crops - shift, stop - start)
        virtual[start : start + first, half:] = source[shift : shift + first, half:]
        if start + first < stop:
            virtual[start + first : stop, half:] = source[: stop - start - first, half:]
    with h5py.File(layout.stimuli, "w", libver="latest") as file, progress("photographs", crops, "crops") as shown:
        images = file.create_dataset("crops", (crops, *shape), np.uint8, chunks=(1, *shape))
        for number in range(crops):
            images[number] = made.image(number)
            shown.advance()
        file.create_virtual_dataset(DATASET, virtual)


def write_fitted(root: Path, store: FeatureStore, size: Size) -> None:
    """Write the betas of the subject that models are fitted to."""
    layout, anatomy, order = Layout(root), size.anatomy(), size.order()
    signal = read_signal(store, store.rows(size.seen()), anatomy.voxels, size.rng(6))
    rng, places = size.rng(7), anatomy.positions[:, ::-1].tolist()
    shape = (size.trials, *anatomy.brain.shape[::-1])
    with progress("betas", SESSIONS, "sessions") as shown:
        for session, rows in enumerate(np.split(order, SESSIONS), start=1):
            percent = signal[rows] * anatomy.voxels.ncsnr.astype(np.float32)
            percent += rng.standard_normal(percent.shape, np.float32)
            betas = np.ascontiguousarray(np.rint(percent * UNITS_PER_PERCENT).astype(np.int16).T)
            path = layout.betas(FITTED, session, "hdf5")
            with h5py.File(path, "w") as file:
                # As NSD's files: a chunk a voxel. Chunks that are not there are 0.
                data = file.create_dataset("betas", shape, np.int16, chunks=(size.trials, 1, 1, 1))
                for place, values in zip(places, betas, strict=True):
                    data.id.write_direct_chunk((0, *place), values.tobytes())
            shown.advance()


def read_signal(
    store: FeatureStore, rows: NDArray[np.int64], voxels: Voxels, rng: np.random.Generator
) -> NDArray[np.float32]:
    """(rows, V) of unit variance: each voxel reads filters of one layer through one of fifty Gaussian fields."""
    count, centres = len(voxels.area), (np.arange(5) + 0.5) / 5
    fields = np.array([(x, y, size) for size in SIZES for y in centres for x in centres])
    layer, field = rng.integers(len(store.layers), size=count), rng.integers(len(fields), size=count)
    signal = np.empty((len(rows), count), np.float32)
    for number, (name, (filters, height, width)) in enumerate(store.layers.items()):
        mine = np.flatnonzero(layer == number)
        weights = np.zeros((filters, len(mine)), np.float32)
        for column in weights.T:
            some = rng.permutation(filters)[:FILTERS]
            column[some] = rng.standard_normal(len(some))
        shapes = gaussian_fields(fields[:, :2], fields[:, 2], (height, width)).reshape(len(fields), -1).T
        for part, block in _blocks(store, name, rows, filters):
            pooled = block.reshape(len(part), filters, -1) @ shapes.astype(np.float32)
            for one in range(len(fields)):
                reads = field[mine] == one
                signal[np.ix_(part, mine[reads])] = pooled[:, :, one] @ weights[:, reads]
    signal -= signal.mean(0)
    signal /= np.maximum(signal.std(0), 1e-6)
    return signal


def _blocks(
    store: FeatureStore, name: str, rows: NDArray[np.int64], filters: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield places among `rows` and their maps, a shard's at a time."""
    by_row = np.argsort(rows, kind="stable")
    edges = np.flatnonzero(np.diff(rows[by_row] // store.rows_per_shard, prepend=-1))
    for part in np.split(by_row, edges[1:]):
        yield part, store.read_maps(name, rows[part], np.arange(filters)).astype(np.float32)
