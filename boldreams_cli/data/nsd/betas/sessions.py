"""Single-trial betas, one session at a time (NSD manual, "Functional data (NSD)")."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, ChoiceError, StopFlag, listing
from boldreams_cli.data.nsd.betas import hemispheres
from boldreams_cli.data.nsd.betas.chunks import (
    BLOCK_BYTES,
    KEPT,
    UNITS_PER_PERCENT,
    check_integers,
    fill_by_chunk,
    opened_betas,
    reading_betas,
)
from boldreams_cli.data.nsd.layout import Files, Layout
from boldreams_cli.data.sessions import parse_sessions
from boldreams_cli.files import check_declared

PAPER_SESSIONS = range(1, 38)
Shape = tuple[int, int, int]
AXES = ("trials", "Z", "Y", "X")  # of betas in HDF5


def _nifti(path: Path) -> Any:
    """Proxy of a 4D NIfTI file, of which only the header has been read."""
    proxy: Any = nibabel.load(path).dataobj
    if len(proxy.shape) != 4:
        raise BoldreamsError(f"{path} has shape {proxy.shape}; betas are (X, Y, Z, trials); download it again")
    check_integers(path, proxy.dtype)
    check_declared(path, math.prod(int(length) for length in proxy.shape) * proxy.dtype.itemsize)
    return proxy


def header(path: Path) -> tuple[Shape, int]:
    """Volume shape (X, Y, Z) and number of trials of a betas file, without reading its data.

    Raises
    ------
    BoldreamsError
        If the file is missing, damaged, or not four-dimensional integers.
    """
    if path.name.endswith(".nii.gz"):
        with reading_betas(path):
            x, y, z, trials = (int(length) for length in _nifti(path).shape)
    else:
        with opened_betas(path, AXES) as dataset:
            trials, z, y, x = (int(length) for length in dataset.shape)
    return (x, y, z), trials


def check_shape(path: Path, shape: Shape) -> int:
    """Check that a betas file has volumes of `shape`; gives its number of trials.

    Raises
    ------
    BoldreamsError
        If it has not, or as `header`.
    """
    found, trials = header(path)
    if found != tuple(shape):
        raise BoldreamsError(
            f"{path} has volumes of {found}, the subject's masks {tuple(shape)}; "
            f"it belongs to another subject or space: download it again"
        )
    return trials


def beta_affine(layout: Layout, subject: int) -> NDArray[np.float64] | None:
    """(4, 4) of the first NIfTI file among a subject's betas; None where there is none."""
    for path in layout.sessions(subject).values():
        if path.name.endswith(".nii.gz"):
            with reading_betas(path):
                image: Any = nibabel.load(path)
                return np.asarray(image.affine, np.float64)
    return None


def trials_in(files: Files) -> int:
    """Count the trials of a session from the headers of its files.

    Raises
    ------
    BoldreamsError
        As `header`, or if two hemispheres have not as many.
    """
    return hemispheres.header(files)[1] if len(files) == 2 else header(files[0])[1]


def read_betas(
    files: Files, voxels: NDArray[np.integer], shape: Shape, stop: StopFlag | None = None
) -> NDArray[np.float32]:
    """Betas of one session, of voxels or vertices.

    Parameters
    ----------
    files : one of a volume, as `read_session`, or two of the hemispheres, as `hemispheres.read_session`.
    voxels : (V, 3) indices x, y, z; of vertices as `VertexUnits` files them.
    shape : (X, Y, Z) of the volume.

    Returns
    -------
    (trials, V) float32, percent signal change.
    """
    if len(files) == 2:
        return hemispheres.read_session(files, voxels, stop)
    return read_session(files[0], voxels, shape, stop)


def read_session(
    path: Path, voxels: NDArray[np.integer], shape: Shape, stop: StopFlag | None = None
) -> NDArray[np.float32]:
    """Betas of one session.

    Reads the file once from start to end, with bounded memory beside the result.

    Parameters
    ----------
    path : ``betas_sessionNN`` as .nii.gz (X, Y, Z, trials), .hdf5 .mat (trials, Z, Y, X; MATLAB v5's are reversed).
    voxels : (V, 3) integer, indices x, y, z.
    shape : (X, Y, Z) that the file must have.
    stop : looked at between blocks.

    Returns
    -------
    (trials, V) float32, percent signal change.

    Raises
    ------
    BoldreamsError
        If the file is missing, truncated or damaged, or its volumes have another shape.
    StoppedError
        If a signal came.
    """
    stop = StopFlag() if stop is None else stop
    trials = check_shape(path, shape)
    betas = np.empty((trials, len(voxels)), np.float32)
    if path.name.endswith(".nii.gz"):
        with reading_betas(path):
            _fill_from_nifti(betas, path, voxels, stop)
    else:
        with opened_betas(path, AXES) as dataset:
            _fill_from_hdf5(betas, dataset, voxels, stop)
    betas /= UNITS_PER_PERCENT
    return betas


def _fill_from_nifti(betas: NDArray[np.float32], path: Path, voxels: NDArray[np.integer], stop: StopFlag) -> None:
    """Stream the file volume by volume: gzip cannot seek, so each byte is decompressed once."""
    proxy = _nifti(path)
    shape, dtype = proxy.shape[:3], proxy.dtype
    places = np.ravel_multi_index(tuple(voxels.T), shape, order="F")
    bytes_each = int(np.prod(shape)) * dtype.itemsize
    with gzip.open(path) as stream:
        stream.seek(proxy.offset)
        for row in betas:
            volume = stream.read(bytes_each)
            if len(volume) < bytes_each:
                raise EOFError("the data end too early")
            row[:] = np.frombuffer(volume, dtype)[places]
            stop.check(KEPT)
        while stream.read(1 << 20):  # to the end, where gzip compares its checksum
            pass
    if (proxy.slope, proxy.inter) != (1, 0):
        betas *= proxy.slope
        betas += proxy.inter


def _fill_from_hdf5(betas: NDArray[np.float32], dataset: Any, voxels: NDArray[np.integer], stop: StopFlag) -> None:
    """Read blocks that follow the file's chunks, so that each chunk is read once.

    NSD's own files have one chunk per voxel with all its trials: reading those trial by trial would
    touch the whole file each time, so only the voxels' own are read, or where that cannot be slabs of z.
    """
    trials, chunks = len(betas), getattr(dataset, "chunks", None) or (1, 1, 1, 1)
    offsets = np.insert(voxels[:, ::-1], 0, 0, axis=1)  # trial, z, y, x
    if chunks == (trials, 1, 1, 1) and fill_by_chunk(betas, dataset, offsets, stop):
        return
    low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
    x, y, z = (voxels - low).T
    box = tuple(slice(int(a), int(b)) for a, b in zip(low[::-1], high[::-1], strict=True))
    if chunks[0] > 1 and chunks[0] * 2 > trials:
        depth = chunks[1]
        for start in range(int(low[2]) // depth * depth, int(high[2]), depth):
            inside = (voxels[:, 2] >= start) & (voxels[:, 2] < start + depth)
            if inside.any():
                block = dataset[:, start : min(start + depth, dataset.shape[1]), box[1], box[2]]
                betas[:, inside] = block[:, voxels[inside, 2] - start, y[inside], x[inside]]
                stop.check(KEPT)
        return
    bytes_each = int(np.prod(high - low)) * dataset.dtype.itemsize
    step = max(1, BLOCK_BYTES // bytes_each // chunks[0]) * chunks[0]
    for start in range(0, trials, step):
        block = dataset[(slice(start, start + step), *box)]
        betas[start : start + step] = block[:, z, y, x]
        stop.check(KEPT)


def default_sessions(available: Iterable[int]) -> list[int]:
    """The paper's sessions 1-37, as far as they are there."""
    return sorted(set(PAPER_SESSIONS).intersection(available))


def choose_sessions(layout: Layout, subject: int, sessions: str | None) -> list[int]:
    """Sessions asked for (`sessions` as for `parse_sessions`) or the default ones.

    Raises
    ------
    ChoiceError
        If the subject has no betas or a session is not there; the message lists those that are.
    """
    layout.check_subject(subject)
    available, lone = layout.sessions(subject), layout.lone_hemispheres(subject)
    chosen = default_sessions([*available, *lone]) if sessions is None else parse_sessions(sessions)
    if halves := [number for number in chosen if number in lone]:
        raise BoldreamsError(
            f"{lone[halves[0]]} is there, its other hemisphere is not; download it, or say which sessions to use with "
            "--sessions"
        )
    missing = [number for number in chosen if number not in available]
    if missing or not chosen:
        lacking = listing(missing) if missing else f"{PAPER_SESSIONS[0]}-{PAPER_SESSIONS[-1]}"
        raise ChoiceError(
            f"subject {subject} has no betas of session {lacking}; "
            f"there are {listing(available, limit=50)} (--sessions)"
        )
    return chosen


def session_trials(layout: Layout, subject: int, sessions: list[int]) -> dict[int, tuple[int, int]]:
    """Place of each session in the subject's whole sequence of trials, from the files' headers.

    Returns
    -------
    session -> (first trial, trials), 0-based.

    Raises
    ------
    ChoiceError
        If a session asked for is not there.
    BoldreamsError
        If an earlier session is missing and the others differ in length, so that its length is unknown.
    """
    files = layout.session_files(subject)
    if missing := [number for number in sessions if number not in files]:
        raise ChoiceError(f"no betas of session {listing(missing)}; there are {listing(files, limit=50)} (--sessions)")
    last = max(sessions)
    known = {number: trials_in(parts) for number, parts in files.items() if number <= last}
    absent = [number for number in range(1, last) if number not in known]
    usual = set(known.values())
    if absent and len(usual) > 1:
        raise BoldreamsError(
            f"the betas of session {listing(absent)} of subject {subject} are missing and sessions differ in "
            f"length ({listing(sorted(usual))} trials), so later trials cannot be placed; "
            f"download the missing ones"
        )
    places, first = {}, 0
    for number in range(1, last + 1):
        count = known.get(number, max(usual))
        places[number] = (first, count)
        first += count
    return {number: places[number] for number in sorted(sessions)}
