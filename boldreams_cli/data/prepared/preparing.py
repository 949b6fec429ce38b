"""Betas into the cache: one subject's z-scored responses as a resumable store, a session at a time (paper, 2.1)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from boldreams_cli import files
from boldreams_cli.console import BoldreamsError, MismatchError, StopFlag, StoppedError, listing, logger, progress, size
from boldreams_cli.data import identity
from boldreams_cli.data.dataset import Contents
from boldreams_cli.data.prepared.reliability import ncsnr_from_repeats
from boldreams_cli.data.responses import (
    CEILING,
    ESTIMATED_OF,
    FORMAT_VERSION,
    NCSNR,
    PLACE,
    SESSION,
    Responses,
    read_array,
    to_do,
)
from boldreams_cli.data.subjects import Subject, folder_of, store_name, subject_of_store
from boldreams_cli.stores import ResumableStore
from boldreams_cli.zarr_files import attributes, is_whole

if TYPE_CHECKING:
    from boldreams_cli.data.dataset import Dataset

VOXELS_PER_CHUNK = 512
BLOCK_COLUMNS = 256  # whose float64 a core's own cache holds
# Of z-scores it packs more than zstd does, in half the time, and unpacks in a third.
CODECS = (BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"), Crc32cCodec())
SMALL_SESSION = 128_000_000  # bytes of betas: of larger ones one is in memory at a time


def store_path(cache: Path, request: dict[str, Any]) -> Path:
    """Where the store of a request lies in the cache."""
    return cache / "responses" / store_name(request["subject"], files.fingerprint(request))


def create(path: Path, contents: Contents) -> ResumableStore:
    """Make the store with all but the betas, unless it is there.

    Raises
    ------
    BoldreamsError
        If the disk is too small.
    """
    trials, voxels = len(contents.trials.images), len(contents.ncsnr)
    needed, free = trials * voxels * 4, files.free_bytes(path)
    if needed > free:
        raise BoldreamsError(
            f"{path.parent} has {size(free)} free; {trials} trials of {voxels} voxels may take "
            f"{size(needed)}: use --cache DIR on another disk, fewer --sessions or a smaller --mask"
        )
    changing = () if contents.ncsnr_of is None else (f"{NCSNR}/c/*",)
    return ResumableStore.create(path, lambda folder: _build(folder, contents), _attributes(contents), changing)


def _attributes(contents: Contents) -> dict[str, Any]:
    areas, request = contents.areas, contents.request
    # Only where there are any: the attributes of stores without them stay as they were.
    more: dict[str, Any] = {} if contents.file is None else {"file": contents.file}
    if areas.space is not None:
        more |= {"space": areas.space, "vertices": contents.vertices}
    if contents.ncsnr_of is not None:
        more |= {ESTIMATED_OF: contents.ncsnr_of}
    described: dict[str, Any] = files.to_json(
        {
            "format": FORMAT_VERSION,
            "fingerprint": files.fingerprint(request),
            "request": request,
            "subject": request["subject"],
            "sessions": [[session, count] for session, count in contents.trials.counts.items()],
            "mask": contents.mask,
            "shape": areas.shape,
            "affine": areas.affine,
            "labels": [[volume, table] for volume, table in areas.tables.items()],
            "groups": [[name, *group] for name, group in areas.groups.items()],
            "overrides": areas.overrides,
            **more,
        }
    )
    return described


def _build(folder: Path, contents: Contents) -> None:
    areas, trials = contents.areas, contents.trials
    arrays: dict[str, NDArray[Any]] = {
        "trial_images": trials.images,
        "trial_sessions": trials.sessions,
        "trial_test": trials.test,
        "voxels": areas.voxels,
        "ncsnr": contents.ncsnr,
        **{f"rois/{volume}": array for volume, array in areas.labels.items()},
    }
    if trials.repeats is not None:
        arrays["trial_repeats"] = trials.repeats
    rows, voxels = max(trials.counts.values()), len(areas.voxels)
    chunk = min(voxels, VOXELS_PER_CHUNK)
    group = zarr.open_group(folder, mode="a", zarr_format=3)
    for name, array in arrays.items():
        # Empty chunks as well: a file that is missing is damage, not zeros.
        group.create_array(
            name, data=array, chunks=array.shape, compressors=CODECS, config={"write_empty_chunks": True}
        )
    group.create_array(
        "betas",
        shape=(len(trials.counts), rows, voxels),
        chunks=(1, rows, chunk),
        shards=(1, rows, -(-voxels // chunk) * chunk),
        dtype="float32",
        fill_value=np.nan,
        compressors=CODECS,
    )


def prepare(
    dataset: Dataset, subject: Subject, cache: Path, sessions: str | None, mask: str | None, stop: StopFlag
) -> Path:
    """Write a subject's store, or what an earlier run left of it to do; gives its path.

    Nothing is written before all cheap checks have passed. Any number of processes may do so at once.

    Raises
    ------
    ChoiceError
        If the subject, a session or the mask is not there.
    BoldreamsError
        If a file is missing, damaged or of another shape, no voxel, training or test
        image is left, or the disk is full.
    StoppedError
        If a signal came; whole sessions are kept.
    """
    request = dataset.request(subject, sessions, mask)
    path = store_path(cache, request)
    if not is_complete(path):
        contents = dataset.contents(request, mask)
        if not is_whole(path):
            _say_what_differs(cache, request)
        fill(create(path, contents), dataset, stop)
    return path


def is_complete(path: Path) -> bool:
    """Whether a store of this version is there with all of its units."""
    if not is_whole(path) or attributes(path).get("format") != FORMAT_VERSION:
        return False
    return not to_do(ResumableStore(path))


def complete_stores(cache: Path, subject: Subject) -> list[Path]:
    """Complete stores of a subject in the cache, sorted by name; damaged ones are named in the log and left out."""
    found = []
    for path in sorted((cache / "responses").glob(f"{folder_of(subject)}-*.zarr")):
        if subject_of_store(path.name) != subject:  # of another, whose name begins the same
            continue
        try:
            if is_complete(path):
                found.append(path)
        except MismatchError as error:
            logger.warning("%s", error)
    return found


def file_of(path: Path) -> Path | None:
    """Where the data file lies that a store was made from, as `prepare` last saw it; None where there is none."""
    made_from = attributes(path).get("file")
    moved = ResumableStore(path).last(PLACE).get("file")
    said = made_from if moved is None else moved["path"]
    return None if said is None else Path(said)


def _say_what_differs(cache: Path, request: dict[str, Any]) -> None:
    """Log what tells a new store from the most similar one that the cache holds of this subject."""
    known = complete_stores(cache, request["subject"])
    found = [(identity.differences(attributes(path)["request"], request), path) for path in known]
    if found:
        changed, path = min(found, key=lambda pair: (len(pair[0]), pair[1]))
        logger.warning(
            "%s was made from other inputs than those asked for now (%s): preparing anew, beside it",
            path,
            listing(changed),
        )


def fill(store: ResumableStore, dataset: Dataset, stop: StopFlag) -> None:
    """Z-score and write the sessions that are not done, two at once where they are small; then what comes from them.

    Each session has a lock: those that another process has in hand are waited for at the end, and made here if it dies.

    Parameters
    ----------
    store : as `create` makes it.
    dataset : that has the betas.
    stop : looked at between sessions, and between blocks of one.

    Raises
    ------
    MismatchError
        If the store is damaged, or betas are not those that it was begun with.
    BoldreamsError
        If betas are missing, damaged, of another shape, or change while they are read.
    StoppedError
        If a signal came; whole sessions are kept.
    """
    store.check_static()
    places = {session: place for place, (session, _) in enumerate(store.attributes["sessions"])}
    todo = [session for session in places if session not in store.done(SESSION)]
    turn = Lock()  # one is read while another is written; two read at once would wait for each other at every step

    def finish(session: int, wait: bool) -> bool:
        with _in_hand(store, session, wait, stop) as taken:
            if taken and session not in store.done(SESSION):
                _write_session(store, dataset, session, places[session], turn, stop)
        return taken

    pool = ThreadPoolExecutor(2 if _bytes_each(store) <= SMALL_SESSION else 1)
    with progress(f"prepare subject {store.attributes['subject']}", len(todo), "sessions") as shown:
        try:
            for wait in (False, True):
                for session, taken in zip(list(todo), pool.map(finish, todo, repeat(wait)), strict=True):
                    if taken:
                        todo.remove(session)
                        shown.advance(1)
        except StoppedError:
            pool.shutdown(cancel_futures=True)  # what is being written is kept, so it is counted
            stop.check(f"{len(store.done(SESSION))} of {len(places)} sessions are kept in {store.path}")
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    if ESTIMATED_OF in store.attributes:
        _estimate_ncsnr(store, stop)


def _estimate_ncsnr(store: ResumableStore, stop: StopFlag) -> None:
    """Signal-to-noise ratios from the repeats of the betas that were written, the units of a chunk at a time."""
    with store.unit_lock(CEILING, NCSNR, wait=True, stop=stop):
        if NCSNR in store.done(CEILING):
            return
        whole = Responses(store)
        found = np.empty(len(whole.voxels), np.float32)
        for start in range(0, len(found), VOXELS_PER_CHUNK):
            stop.check(f"the sessions are kept in {store.path}")
            part = slice(start, start + VOXELS_PER_CHUNK)
            found[part] = ncsnr_from_repeats(whole.read_betas(voxels=part), whole.trial_images, whole.trial_repeats)
        store.add(CEILING, NCSNR, [store.write_array(NCSNR, (0,), found)])


def _bytes_each(store: ResumableStore) -> int:
    """Of the largest session's betas."""
    return max(count for _, count in store.attributes["sessions"]) * len(read_array(store, "voxels")) * 4


@contextmanager
def _in_hand(store: ResumableStore, session: int, wait: bool, stop: StopFlag) -> Iterator[bool]:
    """Hold the lock of a session; false where another process does and `wait` is not set."""
    lock = store.unit_lock(SESSION, session, wait, stop)
    if wait:
        with lock:
            yield True
        return
    taken = lock.take()
    try:
        yield taken
    finally:
        lock.release()


def _write_session(
    store: ResumableStore, dataset: Dataset, session: int, place: int, turn: Lock, stop: StopFlag
) -> None:
    start = time.monotonic()
    paths = dataset.session_files(store.attributes["subject"])[session]
    with turn:
        stop.check("whole sessions are kept")
        source = identity.stamps(paths)
        betas = dataset.read_betas(
            store.attributes["subject"], session, read_array(store, "voxels"), tuple(store.attributes["shape"]), stop
        )
    content = identity.content(betas)
    if identity.stamps(paths) != source:
        raise BoldreamsError(f"{listing(paths)} changed while it was read; run the same command again when it is whole")
    before = {line["content"] for line in store.lines(SESSION) if line["unit"] == session and "content" in line}
    if before - {content}:
        raise MismatchError(f"{listing(paths)} holds other betas than those that {store.path} was begun with")
    scores = scaled(betas, store)
    unknown = np.isnan(scores[:1]).any(axis=0)
    constant = int(np.isnan(scores[:, unknown]).all(axis=0).sum())
    if constant:
        logger.info("session %d: %d voxels are constant and become NaN", session, constant)
    written = store.write_array("betas", (place, 0, 0), scores[None])
    seconds = round(time.monotonic() - start, 3)
    facts = {"trials": len(scores), "constant": constant, "seconds": seconds}
    store.add(SESSION, session, [written], source=source, content=content, **facts)


def scaled(betas: NDArray[np.float32], store: ResumableStore) -> NDArray[np.float32]:
    """Betas of one session as fits read them: z-scored, in their own place, in the way that the store's request names.

    Parameters
    ----------
    betas : (trials, V) of the session.
    store : theirs.
    """
    how = store.attributes["request"].get("zscore", "session")
    if how == "given":
        return betas
    if how == "training":  # one session that stands for all trials
        return zscore(betas, ~read_array(store, "trial_test"), betas)
    return zscore(betas, out=betas)


def zscore(
    betas: NDArray[np.float32],
    over: NDArray[np.bool_] | slice = slice(None),
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Centre and scale each voxel over the trials of one session (paper, section 2.1).

    Parameters
    ----------
    betas : (trials, V) float32.
    over : the trials that mean and deviation are taken of; all by default.
    out : where to put the scores, `betas` itself may be; a new array by default.

    Returns
    -------
    (trials, V) float32 with mean 0 and standard deviation 1 (ddof 0, as scipy.stats.zscore; sums in
    float64) over those; a column that is constant there, or not finite throughout, becomes all NaN.
    """
    scores = np.empty(betas.shape, np.float32) if out is None else out
    if not len(betas):
        return scores
    for start in range(0, betas.shape[1], BLOCK_COLUMNS):
        part = slice(start, start + BLOCK_COLUMNS)
        block = betas[:, part].astype(np.float64)
        # Compared by value: the rounded deviation of a constant need not be exactly 0.
        some = block[over]
        good = np.isfinite(block).all(axis=0) & (some.max(axis=0) > some.min(axis=0))
        block[:, ~good] = np.nan
        block -= block[over].mean(axis=0)
        scores[:, part] = block / np.sqrt((block[over] ** 2).mean(axis=0))
    return scores
