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
from boldreams_cli.data.nsd.matlab import is_v5, read_arrays
from boldreams_cli.files import check_declared, reading

UNITS_PER_PERCENT = 300  # NSD stores percent signal change x 300 as int16
BLOCK_BYTES = 64_000_000  # what reading a session takes beside its result
CHUNKS_TOGETHER, COLUMNS_TOGETHER = 64, 512  # chunks that are read, and columns that are filled, before the next are
KEPT = "finished sessions are kept"


def reading_betas(path: Path) -> AbstractContextManager[None]:
    """Turn what libraries raise while they read betas into one error that names the file."""
    return reading(path, "delete it and download it again", "download it from NSD")


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
    """The dataset ``betas`` of an HDF5 or MATLAB v7.3 file, or the array of a MATLAB v5 file, whose axes are reversed.

    Parameters
    ----------
    path : of the file.
    axes : what each axis is.

    Raises
    ------
    BoldreamsError
        If there is no such dataset, it has other axes, holds no integers or more than the file, or is damaged.
    """
    if path.suffix == ".mat" and is_v5(path):
        array = read_arrays(path, ("betas",), "download it from NSD").get("betas")
        if array is None or array.ndim != len(axes):
            raise BoldreamsError(f"{path} has no array betas ({', '.join(reversed(axes))}); download it again")
        check_integers(path, array.dtype)
        yield array.T
        return
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

    They are read in the order of the file, whose index is a tree: in another, each is looked for from its root.

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
    dtype, trials = dataset.dtype, len(betas)  # h5py makes a dtype anew at each asking
    together = max(1, BLOCK_BYTES // (trials * dtype.itemsize))
    for start in range(0, len(offsets), together):
        stop.check(KEPT)
        some = offsets[start : start + together]
        rows = _read_chunks(dataset, some, np.empty((len(some), trials), dtype))
        if rows is None:
            return False
        for first in range(0, len(rows), COLUMNS_TOGETHER):
            columns = rows[first : first + COLUMNS_TOGETHER]
            betas[:, start + first : start + first + len(columns)] = columns.T
    return True


def _read_chunks(dataset: Any, offsets: NDArray[np.integer], rows: NDArray[Any]) -> NDArray[Any] | None:
    """Fill (chunks, trials) with chunks at offsets; None where one cannot be read so."""
    order = np.lexsort(offsets.T[::-1])
    places = [tuple(offset) for offset in offsets[order].tolist()]
    read = dataset.id.read_direct_chunk
    try:
        for first in range(0, len(places), CHUNKS_TOGETHER):
            data = b"".join([read(place)[1] for place in places[first : first + CHUNKS_TOGETHER]])
            rows[order[first : first + CHUNKS_TOGETHER]] = np.frombuffer(data, rows.dtype).reshape(-1, rows.shape[1])
    except (OSError, RuntimeError, ValueError):  # reading by slabs knows holes, and names what is damaged
        return None
    return rows
