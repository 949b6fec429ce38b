"""Betas into the cache: one subject's z-scored responses as a Zarr store (paper, section 2.1).

A session is done when its line is in the ledger beside the store, never because its chunks exist.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from boldreams_cli import files
from boldreams_cli.console import BoldreamsError, StopFlag, listing, logger, progress, size
from boldreams_cli.data.nsd import betas as beta_files
from boldreams_cli.data.nsd.anatomy import Anatomy, brain_mask, mask_file, read_anatomy, roi_files
from boldreams_cli.data.nsd.design import Design
from boldreams_cli.data.nsd.layout import Layout

FORMAT_VERSION = 1
VOXELS_PER_CHUNK = 512
SAMPLE_BYTES = 65_536
# Named outright: another pipeline may be set for the process, and this store does not depend on it.
PIPELINE = {"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}


@dataclass(frozen=True)
class Trials:
    """Trials of the sessions chosen, end to end.

    Parameters
    ----------
    places : session -> (first row, rows) of the store.
    images : (T,) int32, 0-based nsdId shown on each trial.
    sessions : (T,) int16, 1-based.
    test : (T,) bool, true for the shared images.
    """

    places: dict[int, tuple[int, int]]
    images: NDArray[np.int32]
    sessions: NDArray[np.int16]
    test: NDArray[np.bool_]


def identity(path: Path) -> dict[str, Any]:
    """What tells a file from another of its name: its size and a hash of its start, middle and end.

    Size alone would not do: uncompressed betas have the same one whatever they hold.
    """
    sample = hashlib.sha256()
    try:
        total = path.stat().st_size
        with path.open("rb") as stream:
            for start in sorted({0, max(0, (total - SAMPLE_BYTES) // 2), max(0, total - SAMPLE_BYTES)}):
                stream.seek(start)
                sample.update(stream.read(SAMPLE_BYTES))
    except OSError as error:
        raise BoldreamsError(f"cannot read {path}: {error.strerror}") from error
    return {"name": path.name, "size": total, "sample": sample.hexdigest()[:16]}


def mask_identity(path: Path | None) -> dict[str, Any] | None:
    """Content of the mask file, whatever its name; None for the areas' union."""
    if path is None:
        return None
    found = identity(path)
    return {"size": found["size"], "sample": found["sample"]}


def beta_identities(layout: Layout, subject: int, sessions: list[int]) -> dict[str, Any]:
    """Session (as text, for JSON) -> identity of its betas file, for those that are there."""
    paths = layout.sessions(subject)
    return {str(number): identity(paths[number]) for number in sessions if number in paths}


def request_for(layout: Layout, subject: int, sessions: str | None, mask: str | None) -> dict[str, Any]:
    """All that decides the numbers in a store; its hash is the store's fingerprint.

    Raises
    ------
    ChoiceError
        If the subject, a session or the mask is not there.
    """
    chosen = beta_files.choose_sessions(layout, subject, sessions)
    others = {
        "brain_mask": brain_mask(layout, subject),
        "ncsnr": layout.ncsnr(subject),
        "design": layout.design,
    }
    return {
        "subject": subject,
        "sessions": chosen,
        "mask": mask_identity(mask_file(layout, subject, mask)),
        "betas": beta_identities(layout, subject, chosen),
        "rois": {volume: identity(path) for volume, path in roi_files(layout, subject).items()},
        **{name: identity(path) if path and path.is_file() else None for name, path in others.items()},
    }


def store_path(cache: Path, request: dict[str, Any]) -> Path:
    """Where the store of a request lies in the cache."""
    return cache / "responses" / f"subj{request['subject']:02d}-{files.fingerprint(request)}.zarr"


def ledger_of(store: Path) -> files.Ledger:
    """Ledger of the sessions that a store holds."""
    return files.Ledger(store.with_suffix(".ledger.jsonl"))


def sessions_done(store: Path) -> set[int]:
    """Sessions whose line is in the ledger; none where the store itself is gone."""
    if not (store / "zarr.json").is_file():
        return set()
    return {int(entry["session"]) for entry in ledger_of(store).entries()}


def prepare_store(
    layout: Layout, subject: int, cache: Path, sessions: str | None, mask: str | None, stop: StopFlag
) -> Path:
    """Write a subject's store, or what an earlier run left of it to do.

    Nothing is written before all cheap checks have passed.

    Returns
    -------
    Path of the complete store.

    Raises
    ------
    ChoiceError
        If the subject, a session or the mask is not there.
    BoldreamsError
        If a file is missing, damaged or of another shape, no voxel, training or test image is left, the
        disk is full, or another process is writing the same store.
    StoppedError
        If a signal came; whole sessions are kept.
    """
    request = request_for(layout, subject, sessions, mask)
    store = store_path(cache, request)
    if sessions_done(store) >= set(request["sessions"]):
        return store
    trials = plan_trials(layout, subject, request["sessions"])
    anatomy = read_anatomy(layout, subject, mask)
    _check_shapes(layout, request, anatomy.areas.shape)
    with files.locked(store.with_suffix(".lock"), f"the responses of subject {subject}"):
        if not (store / "zarr.json").is_file():
            _check_space(store, len(trials.images), len(anatomy.ncsnr))
            create_store(store, request, mask, trials, anatomy)
        fill_store(store, layout, subject, trials, anatomy, stop)
    return store


def plan_trials(layout: Layout, subject: int, sessions: list[int]) -> Trials:
    """Images and split of the trials of `sessions`, from the design and the files' headers.

    Raises
    ------
    BoldreamsError
        If the design is unreadable or too short, or there is no training or no test image.
    """
    design = Design.read(layout.design)
    every = design.trial_images(subject)
    spans = beta_files.session_trials(layout, subject, sessions)
    places, row = {}, 0
    for session, (first, count) in spans.items():
        if first + count > len(every):
            raise BoldreamsError(
                f"session {session} of subject {subject} ends at trial {first + count}, "
                f"but {layout.design} has {len(every)} trials; one of them is not NSD's"
            )
        places[session] = (row, count)
        row += count
    images = np.concatenate([every[first : first + count] for first, count in spans.values()])
    numbers = np.repeat(np.array(list(spans), np.int16), [count for _, count in spans.values()])
    test = np.isin(images, design.shared)
    for kind, there in (("training", not test.all()), ("test (shared)", test.any())):
        if not there:
            raise BoldreamsError(
                f"no {kind} image in session {listing(sessions)} of subject {subject}; take more (--sessions)"
            )
    return Trials(places, images, numbers, test)


def _check_shapes(layout: Layout, request: dict[str, Any], shape: tuple[int, int, int]) -> None:
    paths = layout.sessions(request["subject"])
    for number in request["sessions"]:
        if (found := beta_files.header(paths[number])[0]) != shape:
            raise BoldreamsError(
                f"{paths[number]} has volumes of {found}, the subject's masks {shape}; "
                f"it belongs to another subject or space: download it again"
            )


def _check_space(store: Path, trials: int, voxels: int) -> None:
    needed, free = trials * voxels * 4, files.free_bytes(store)
    if needed > free:
        raise BoldreamsError(
            f"{store.parent} has {size(free)} free; {trials} trials of {voxels} voxels may take "
            f"{size(needed)}: use --cache DIR on another disk, fewer --sessions or a smaller --mask"
        )


def create_store(store: Path, request: dict[str, Any], mask: str | None, trials: Trials, anatomy: Anatomy) -> None:
    """Make the store with all but the betas, whole or not at all.

    The caller holds the lock, so leftovers of killed runs can be cleared.
    """
    store.parent.mkdir(parents=True, exist_ok=True)
    ledger_of(store).path.unlink(missing_ok=True)  # it may outlive a store that was deleted by hand
    for leftover in store.parent.glob(f".partial-{store.stem}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".partial-{store.stem}-", dir=store.parent))
    try:
        with zarr.config.set(PIPELINE):
            _write_all_but_betas(temporary / store.name, request, mask, trials, anatomy)
        if store.exists():  # it had no zarr.json, so it holds nothing that can be read
            shutil.rmtree(store)
        (temporary / store.name).rename(store)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_all_but_betas(
    path: Path, request: dict[str, Any], mask: str | None, trials: Trials, anatomy: Anatomy
) -> None:
    areas = anatomy.areas
    group = zarr.open_group(path, mode="w-", zarr_format=3)
    arrays: dict[str, NDArray[Any]] = {
        "trial_images": trials.images,
        "trial_sessions": trials.sessions,
        "trial_test": trials.test,
        "voxels": areas.voxels,
        "ncsnr": anatomy.ncsnr,
        **{f"rois/{volume}": array for volume, array in areas.labels.items()},
    }
    for name, array in arrays.items():
        group.create_array(name, data=array, chunks=array.shape)
    rows = max(count for _, count in trials.places.values())
    voxels = len(areas.voxels)
    group.create_array(
        "betas",
        shape=(len(trials.images), voxels),
        chunks=(rows, min(voxels, VOXELS_PER_CHUNK)),
        dtype="float32",
        fill_value=np.nan,
    )
    group.update_attributes(
        files.to_json(
            {
                "format": FORMAT_VERSION,
                "fingerprint": files.fingerprint(request),
                "request": request,
                "subject": request["subject"],
                "sessions": request["sessions"],
                "mask": mask,
                "shape": areas.shape,
                "affine": areas.affine,
                "labels": areas.tables,
            }
        )
    )


def fill_store(store: Path, layout: Layout, subject: int, trials: Trials, anatomy: Anatomy, stop: StopFlag) -> None:
    """Z-score and write the sessions that the ledger lacks, one in memory at a time."""
    done, ledger = sessions_done(store), ledger_of(store)
    todo = [session for session in trials.places if session not in done]
    paths = layout.sessions(subject)
    with zarr.config.set(PIPELINE):
        betas: Any = zarr.open_group(store, mode="r+", zarr_format=3)["betas"]
    with progress(f"prepare subject {subject}", len(todo), "sessions") as shown:
        for session in todo:
            start = time.monotonic()
            first, count = trials.places[session]
            scores = beta_files.zscore(
                beta_files.read_session(paths[session], anatomy.areas.voxels, anatomy.areas.shape)
            )
            betas[first : first + count] = scores
            constant = int(np.isnan(scores[0]).sum())
            if constant:
                logger.info("session %d: %d voxels are constant and become NaN", session, constant)
            seconds = round(time.monotonic() - start, 3)
            ledger.add({"session": session, "trials": count, "constant": constant, "seconds": seconds})
            shown.advance(1)
            if session != todo[-1]:
                stop.check(f"{len(sessions_done(store))} of {len(trials.places)} sessions are kept in {store}")
