"""Files of the two hemispheres' vertices: single-trial betas, labels and maps (NSD manual, "nativesurface format").

On FreeSurfer's average brain (``fsaverage``) betas are .mgh files of (vertices, 1, 1, trials) float32, percent signal
change as it is, NaN where data are missing. On a subject's own surface (``nativesurface``) they are HDF5 files of
(trials, vertices) int16, percent signal change x 300, 0 throughout where data are missing.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, StopFlag
from boldreams_cli.data.nsd.betas.chunks import (
    BLOCK_BYTES,
    KEPT,
    UNITS_PER_PERCENT,
    fill_by_chunk,
    opened_betas,
    reading_betas,
)
from boldreams_cli.data.nsd.layout import Files
from boldreams_cli.files import check_declared, reading

AXES = ("trials", "vertices")  # of betas in HDF5
Vertices = tuple[int, int]  # of the left and the right hemisphere
LABELS = np.iinfo(np.int16)


def header(files: Files) -> tuple[Vertices, int]:
    """Vertices of the hemispheres and trials of a session, without reading its betas.

    Raises
    ------
    BoldreamsError
        If a file is missing, damaged or of another form, or the two have not as many trials.
    """
    (left, trials), (right, others) = (_header(path) for path in files)
    if trials != others:
        raise BoldreamsError(f"{files[0]} has {trials} trials, {files[1]} {others}; download them again")
    return (left, right), trials


def check_vertices(files: Files, vertices: Vertices) -> None:
    """Check that betas are of the same meshes as labels.

    Raises
    ------
    BoldreamsError
        If they are not, or as `header`.
    """
    found = header(files)[0]
    if found != vertices:
        raise BoldreamsError(
            f"{files[0]} and {files[1].name} have {found[0]} and {found[1]} vertices, the subject's labels "
            f"{vertices[0]} and {vertices[1]}; they belong to another subject or surface: download them again"
        )


def _header(path: Path) -> tuple[int, int]:
    if path.suffix == ".mgh":
        with reading_betas(path):
            vertices, _, _, trials = (int(length) for length in _mgh(path).shape)
    else:
        with opened_betas(path, AXES) as dataset:
            trials, vertices = (int(length) for length in dataset.shape)
    return vertices, trials


def _mgh(path: Path) -> Any:
    """Proxy of betas, of which only the header has been read."""
    image: Any = nibabel.load(path)
    proxy = image.dataobj
    if len(proxy.shape) != 4 or proxy.shape[1:3] != (1, 1):
        raise BoldreamsError(f"{path} has shape {proxy.shape}; betas are (vertices, 1, 1, trials); download it again")
    if not np.issubdtype(proxy.dtype, np.floating):
        raise BoldreamsError(f"{path} holds {proxy.dtype} betas; NSD's are floats (percent signal change)")
    check_declared(path, math.prod(int(length) for length in proxy.shape) * proxy.dtype.itemsize)
    return proxy


def read_session(files: Files, places: NDArray[np.integer], stop: StopFlag | None = None) -> NDArray[np.float32]:
    """Betas of one session.

    Parameters
    ----------
    files : of the left and the right hemisphere.
    places : (V, 3) vertices as `VertexUnits` files them: number, 0 or 1 for left or right, 0.
    stop : looked at between blocks.

    Returns
    -------
    (trials, V) float32, percent signal change.

    Raises
    ------
    BoldreamsError
        If a file is missing, truncated or damaged, or has too few vertices.
    StoppedError
        If a signal came.
    """
    stop = StopFlag() if stop is None else stop
    counts, trials = header(files)
    betas = np.empty((trials, len(places)), np.float32)
    for side, (path, count) in enumerate(zip(files, counts, strict=True)):
        mine = np.flatnonzero(places[:, 1] == side)
        vertex = places[mine, 0]
        if len(vertex) and vertex.max() >= count:
            raise BoldreamsError(f"{path} has {count} vertices, asked for is vertex {vertex.max()}; download it again")
        if len(vertex):
            betas[:, mine] = (_read_mgh if path.suffix == ".mgh" else _read_hdf5)(path, vertex, stop)
    return betas


def _read_mgh(path: Path, vertex: NDArray[np.integer], stop: StopFlag) -> NDArray[np.float32]:
    """All vertices of a trial lie together: block by block of trials."""
    with reading_betas(path):
        proxy = _mgh(path)
        trials = proxy.shape[3]
        betas = np.empty((trials, len(vertex)), np.float32)
        step = max(1, BLOCK_BYTES // (proxy.shape[0] * proxy.dtype.itemsize))
        for start in range(0, trials, step):
            betas[start : start + step] = np.asarray(proxy[:, 0, 0, start : start + step])[vertex].T
            stop.check(KEPT)
    return betas


def _read_hdf5(path: Path, vertex: NDArray[np.integer], stop: StopFlag) -> NDArray[np.float32]:
    """All trials of a vertex lie together: chunk by chunk, or where that cannot be, block by block of vertices."""
    with opened_betas(path, AXES) as dataset:
        trials = dataset.shape[0]
        betas = np.empty((trials, len(vertex)), np.float32)
        offsets = np.stack([np.zeros_like(vertex), vertex], axis=1)
        if dataset.chunks != (trials, 1) or not fill_by_chunk(betas, dataset, offsets, stop):
            step = max(1, BLOCK_BYTES // (trials * dataset.dtype.itemsize))
            for start in range(0, dataset.shape[1], step):
                inside = (vertex >= start) & (vertex < start + step)
                if inside.any():
                    betas[:, inside] = dataset[:, start : start + step][:, vertex[inside] - start]
                    stop.check(KEPT)
    betas /= UNITS_PER_PERCENT
    return betas


def read_values(path: Path) -> NDArray[np.float32]:
    """One value a vertex, (N,), of an .mgh or .mgz file.

    Raises
    ------
    BoldreamsError
        If it is missing, damaged or of another shape.
    """
    return _read(path).astype(np.float32)


def read_labels(path: Path) -> NDArray[np.int16]:
    """One label a vertex, (N,), 0 and below for none.

    Raises
    ------
    BoldreamsError
        If the file is missing or damaged, or holds other than whole numbers.
    """
    values = _read(path)
    if not np.all((values >= LABELS.min) & (values <= LABELS.max) & (values == np.rint(values))):
        raise BoldreamsError(f"{path} holds values that are no labels (whole numbers)")
    return values.astype(np.int16)


def _read(path: Path) -> NDArray[Any]:
    with reading(path, "it must be an .mgh or .mgz file; download it again", "download it"):
        image: Any = nibabel.load(path)
        shape = tuple(int(length) for length in image.shape)
        if math.prod(shape) != shape[0]:
            raise BoldreamsError(f"{path} has shape {shape}; one value a vertex is needed; download it again")
        check_declared(path, shape[0] * image.get_data_dtype().itemsize)
        return np.asarray(image.dataobj).reshape(-1)


def read_nearest(path: Path, count: int) -> NDArray[np.int64]:
    """(N,) for each vertex of another surface the nearest of `count` of the subject's own, from 0; from 1 in the file.

    Raises
    ------
    BoldreamsError
        If the file is missing or damaged, or points nowhere.
    """
    values = _read(path)
    if not len(values) or not np.all((values >= 1) & (values <= count) & (values == np.rint(values))):
        raise BoldreamsError(
            f"{path} must hold numbers of vertices from 1 to {count}, as many as the subject's labels have; "
            "download it again"
        )
    return values.astype(np.int64) - 1
