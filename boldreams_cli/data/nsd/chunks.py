"""What all files of betas share: their unit, what is said when one is damaged, and reading by chunks (NSD manual)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, StopFlag, listing
from boldreams_cli.files import check_declared, reading

UNITS_PER_PERCENT = 300  # NSD stores percent signal change x 300 as int16
BLOCK_BYTES = 64_000_000  # what reading a session takes beside its result
CHUNKS_TOGETHER = 1024  # that are read before they are turned into columns
KEPT = "finished sessions are kept"


def reading_betas(path: Path) -> AbstractContextManager[None]:
    """Turn what libraries raise while they read betas into one error that names the file."""
    hint = "betas in .mat form must be MATLAB v7.3, that is HDF5; " if path.suffix == ".mat" else ""
    return reading(path, f"{hint}delete it and download it again", "download it from NSD")


def check_integers(path: Path, dtype: np.dtype[Any]) -> None:
    """Refuse betas that are not integers.

    Floats would already be in percent: dividing them by 300 as well would go unnoticed after z-scoring, but not in a
    mean or a figure.
    """
    if not np.issubdtype(dtype, np.integer):
        raise BoldreamsError(
            f"{path} holds {dtype} betas; NSD's are int16 (percent signal change x 300); download it again"
        )


@contextmanager
def opened_betas(path: Path, axes: tuple[str, ...]) -> Iterator[Any]:
    """The dataset ``betas`` of an HDF5 or MATLAB v7.3 file.

    Parameters
    ----------
    path : of the file.
    axes : what each axis is.

    Raises
    ------
    BoldreamsError
        If there is no such dataset, it has other axes, holds no integers or more than the file, or is damaged.
    """
    with reading_betas(path), h5py.File(path, "r") as file:
        dataset = file.get("betas")
        if not isinstance(dataset, h5py.Dataset) or dataset.ndim != len(axes):
            there = listing(f"{name} {getattr(item, 'shape', '')}".strip() for name, item in file.items())
            raise BoldreamsError(
                f"{path} has no dataset betas ({', '.join(axes)}); it holds {there}; download it again"
            )
        check_integers(path, dataset.dtype)
        check_declared(path, dataset.size * dataset.dtype.itemsize)
        yield dataset


def fill_by_chunk(betas: NDArray[np.float32], dataset: Any, offsets: NDArray[np.integer], stop: StopFlag) -> bool:
    """Read the chunk of each voxel or vertex, which holds all its trials, as it lies in the file.

    Parameters
    ----------
    betas : (trials, V) to fill.
    dataset : whose first axis is the trials, in chunks of all trials of one voxel.
    offsets : (V, axes) of the chunks.

    Returns
    -------
    False where a chunk is packed, or was never written: then `betas` holds nothing of use.
    """
    if dataset.id.get_create_plist().get_nfilters():
        return False
    dtype = dataset.dtype  # h5py makes it anew at each asking
    for start in range(0, len(offsets), CHUNKS_TOGETHER):
        stop.check(KEPT)
        some = offsets[start : start + CHUNKS_TOGETHER].tolist()
        block = np.empty((len(some), len(betas)), dtype)
        try:
            for row, offset in zip(block, some, strict=True):
                row[:] = np.frombuffer(dataset.id.read_direct_chunk(tuple(offset))[1], dtype)
        except (OSError, RuntimeError, ValueError):  # reading by slabs knows holes, and names what is damaged
            return False
        betas[:, start : start + len(some)] = block.T
    return True
