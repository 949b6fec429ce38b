"""Responses of one subject, as fitting and scoring read them (paper, section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from boldreams_cli import files
from boldreams_cli.console import BoldreamsError, ChoiceError, MismatchError, StopFlag, listing, logger
from boldreams_cli.data.areas import Areas
from boldreams_cli.data.dataset import open_dataset
from boldreams_cli.data.nsd.anatomy import NSDGENERAL
from boldreams_cli.data.nsd.betas import parse_sessions
from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.data.nsd.preparation import (
    FORMAT_VERSION,
    PIPELINE,
    beta_identities,
    mask_identity,
    request_for,
    sessions_done,
    store_path,
)
from boldreams_cli.data.nsd.rois import GROUPS, OVERRIDES

IntArray = NDArray[np.integer]
Images = Sequence[int] | IntArray


class Responses:
    """A complete store of one subject's betas, read-only; made by `Responses.open`.

    Attributes
    ----------
    path, fingerprint, subject, sessions : what it is.
    shape : (X, Y, Z) of the subject's volumes.
    affine : (4, 4) float64, voxel indices to mm.
    voxels : (V, 3) int32, indices x, y, z.
    ncsnr : (V,) float32, NaN where unknown.
    trial_images : (T,) int32, 0-based nsdIds.
    trial_sessions : (T,) int16.
    trial_test : (T,) bool, true for trials of shared images.
    areas : labels of the voxels.
    """

    def __init__(self, path: Path, group: zarr.Group) -> None:
        attrs: dict[str, Any] = dict(group.attrs)
        self.path = path
        self.fingerprint = str(attrs["fingerprint"])
        self.request: dict[str, Any] = attrs["request"]
        self.subject = int(attrs["subject"])
        self.sessions = [int(session) for session in attrs["sessions"]]
        x, y, z = attrs["shape"]
        self.shape: tuple[int, int, int] = (x, y, z)
        self.affine = np.array(attrs["affine"], np.float64)
        self._betas: Any = group["betas"]
        self.voxels: NDArray[np.int32] = _whole(group, "voxels")
        self.ncsnr: NDArray[np.float32] = _whole(group, "ncsnr")
        self.trial_images: NDArray[np.int32] = _whole(group, "trial_images")
        self.trial_sessions: NDArray[np.int16] = _whole(group, "trial_sessions")
        self.trial_test: NDArray[np.bool_] = _whole(group, "trial_test")
        tables = {name: {int(k): v for k, v in table.items()} for name, table in attrs["labels"].items()}
        labels = {name: _whole(group, f"rois/{name}") for name in tables}
        self.areas = Areas(labels, tables, self.voxels, self.shape, self.affine, GROUPS, OVERRIDES)

    @classmethod
    def open(cls, path: Path) -> Responses:
        """Open a complete store.

        Raises
        ------
        MismatchError
            If its format is not this version's or its fingerprint does not fit its request.
        BoldreamsError
            If it is missing, damaged or incomplete.
        """
        attrs = _attributes(path)
        if attrs.get("format") != FORMAT_VERSION:
            raise MismatchError(
                f"{path} has format {attrs.get('format')}, this version reads {FORMAT_VERSION}; "
                f"delete it and run `boldreams prepare` again"
            )
        if files.fingerprint(attrs["request"]) != attrs["fingerprint"]:
            raise MismatchError(
                f"{path} does not match its fingerprint {attrs['fingerprint']}: it was changed by hand; "
                f"delete it and run `boldreams prepare --subject {attrs['subject']}`"
            )
        if missing := sorted(set(attrs["sessions"]) - sessions_done(path)):
            raise BoldreamsError(
                f"{path} is incomplete: session {listing(missing)} to do; "
                f"run `boldreams prepare --subject {attrs['subject']}`"
            )
        try:
            with zarr.config.set(PIPELINE):
                return cls(path, zarr.open_group(path, mode="r"))
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise _damaged(path, error) from error

    @cached_property
    def train_images(self) -> NDArray[np.int32]:
        """Sorted nsdIds of the training images."""
        return np.unique(self.trial_images[~self.trial_test])

    @cached_property
    def test_images(self) -> NDArray[np.int32]:
        """Sorted nsdIds of the test (shared) images."""
        return np.unique(self.trial_images[self.trial_test])

    def read_betas(
        self, trials: slice | NDArray[np.bool_] = slice(None), voxels: slice = slice(None)
    ) -> NDArray[np.float32]:
        """Z-scored betas of some trials, in their order.

        Parameters
        ----------
        trials : slice, or (T,) bool.
        voxels : slice; 512 voxels share a chunk.

        Returns
        -------
        (trials, voxels) float32, NaN where a voxel was constant in its session.

        Raises
        ------
        BoldreamsError
            If the store is damaged.
        """
        if isinstance(trials, slice):
            return self._read(trials, voxels)
        mask = np.asarray(trials)
        if mask.dtype != bool or mask.shape != self.trial_images.shape:
            raise ValueError(
                f"trials must be a slice or ({len(self.trial_images)},) bool, not {mask.shape} {mask.dtype}"
            )
        columns = len(range(*voxels.indices(len(self.voxels))))
        betas = np.empty((int(mask.sum()), columns), np.float32)
        row = 0
        for part in self._session_rows():  # a session at a time: its chunks are read once, memory stays bounded
            if count := int(mask[part].sum()):
                betas[row : row + count] = self._read(part, voxels)[mask[part]]
                row += count
        return betas

    def _read(self, trials: slice, voxels: slice) -> NDArray[np.float32]:
        try:
            return np.asarray(self._betas[trials, voxels])
        except (OSError, ValueError, RuntimeError) as error:
            raise _damaged(self.path, error) from error

    def _session_rows(self) -> list[slice]:
        edges = [0, *(np.flatnonzero(np.diff(self.trial_sessions)) + 1).tolist(), len(self.trial_sessions)]
        return [slice(a, b) for a, b in pairwise(edges)]

    def repeats(self, images: Images) -> NDArray[np.int64]:
        """How often each image was shown in the sessions of this store.

        Returns
        -------
        (n,) int64; 0 for an image that was not shown.
        """
        shown, counts = np.unique(self.trial_images, return_counts=True)
        asked = np.asarray(images)
        places = np.minimum(np.searchsorted(shown, asked), len(shown) - 1)
        return np.where(shown[places] == asked, counts[places], 0)

    def mean_betas(self, images: Images, voxels: slice = slice(None)) -> NDArray[np.float32]:
        """Betas averaged over the repeats of each image, in the order given.

        Returns
        -------
        (n, voxels) float32; sums in float64; NaN where any repeat is.

        Raises
        ------
        ChoiceError
            If an image was not shown.
        """
        asked = np.asarray(images)
        repeats = self.repeats(asked)
        if (repeats == 0).any():
            raise ChoiceError(
                f"image {listing(asked[repeats == 0].tolist())} was not shown to subject {self.subject} "
                f"in session {listing(self.sessions, 40)}"
            )
        unique, inverse = np.unique(asked, return_inverse=True)
        sums = np.zeros((len(unique), len(range(*voxels.indices(len(self.voxels))))), np.float64)
        wanted = np.isin(self.trial_images, unique)
        for part in self._session_rows():
            rows = np.flatnonzero(wanted[part])
            if len(rows):
                places = np.searchsorted(unique, self.trial_images[part][rows])
                for place, trial in zip(places, self._read(part, voxels)[rows], strict=True):
                    sums[place] += trial
        return (sums[inverse] / repeats[:, None]).astype(np.float32)

    def summary(self) -> dict[str, Any]:
        """What ``boldreams prepare --json`` prints."""
        test = int(self.trial_test.sum())
        return {
            "subject": self.subject,
            "voxels": len(self.voxels),
            "sessions": self.sessions,
            "train": {"images": len(self.train_images), "trials": len(self.trial_test) - test},
            "test": {"images": len(self.test_images), "trials": test},
            "rois": self.areas.counts(),
            "responses": str(self.path),
        }

    def log_counts(self) -> None:
        """Log how many voxels, images and trials there are."""
        counts = self.summary()
        logger.info(
            "subject %d: %d voxels; %d train images, %d trials; %d test images, %d trials",
            self.subject,
            counts["voxels"],
            *counts["train"].values(),
            *counts["test"].values(),
        )


def _whole(group: zarr.Group, name: str) -> Any:
    array: Any = group[name]
    return array[:]


def _damaged(path: Path, error: Exception) -> BoldreamsError:
    return BoldreamsError(f"{path} is damaged ({error}); delete it and run `boldreams prepare` again")


def _attributes(path: Path) -> dict[str, Any]:
    if not (path / "zarr.json").is_file():
        raise BoldreamsError(f"no responses in {path}; run `boldreams prepare`")
    try:
        attrs = dict(files.read_json(path / "zarr.json")["attributes"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    if missing := {"format", "fingerprint", "request", "subject", "sessions", "mask"} - attrs.keys():
        raise BoldreamsError(f"{path} is no responses store (its attributes lack {listing(sorted(missing))})")
    return attrs


def find(cache: Path, subject: int) -> list[Path]:
    """Complete stores of a subject in the cache, sorted by name."""
    found = []
    for path in sorted((cache / "responses").glob(f"subj{subject:02d}-*.zarr")):
        if (path / "zarr.json").is_file() and set(_attributes(path)["sessions"]) <= sessions_done(path):
            found.append(path)
    return found


def responses_for(
    cache: Path,
    subject: int,
    nsd_root: Path | None,
    sessions: str | None = None,
    mask: str | None = None,
    stop: StopFlag | None = None,
) -> Responses:
    """Responses that fitting and scoring use: cached ones where they are unambiguous, else prepared.

    Raises
    ------
    MismatchError
        If the cached ones were made from other betas than those under the root.
    ChoiceError
        If several are cached and nothing says which.
    BoldreamsError
        If they must be prepared and there is no root, or as `prepare`.
    """
    layout = Layout.at(nsd_root) if nsd_root is not None and nsd_root.exists() else None
    if layout is not None and not layout.sessions(subject):
        layout = None  # betas may be deleted once they are prepared
    cached = find(cache, subject)
    if sessions is not None or mask is not None:
        cached = [path for path in cached if layout is None and _matches(path, sessions, mask)]
    if len(cached) == 1:
        responses = Responses.open(cached[0])
        if layout is not None:
            check_betas(responses, layout)
        responses.log_counts()
        return responses
    if cached:
        return _default_of(cached, layout, subject)
    return open_dataset(nsd_root).prepare(subject, cache, sessions, mask, stop)


def _matches(path: Path, sessions: str | None, mask: str | None) -> bool:
    """Whether a store is what was asked, as far as that can be told without the root."""
    attrs = _attributes(path)
    if sessions is not None and attrs["sessions"] != parse_sessions(sessions):
        return False
    if mask is None or mask == NSDGENERAL:
        return attrs["mask"] == mask
    return Path(mask).is_file() and attrs["request"]["mask"] == mask_identity(Path(mask))


def _default_of(cached: list[Path], layout: Layout | None, subject: int) -> Responses:
    """Among several stores, the one that `prepare` without options would make."""
    if layout is not None:
        default = store_path(cached[0].parents[1], request_for(layout, subject, None, None))
        if default in cached:
            return Responses.open(default)
    known = "; ".join(f"{path} (sessions {_ranges(_attributes(path)['sessions'])})" for path in cached)
    raise ChoiceError(
        f"several responses of subject {subject} are cached: {known}; "
        f"choose with --sessions or --mask, or delete those that are out of date"
    )


def _ranges(sessions: Sequence[int]) -> str:
    """Write session numbers as ``--sessions`` takes them: ``1-3,5``."""
    parts: list[list[int]] = []
    for session in sessions:
        if parts and session == parts[-1][-1] + 1:
            parts[-1].append(session)
        else:
            parts.append([session])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def areas_of(subject: int, cache: Path, nsd_root: Path | None) -> Areas:
    """Areas of a subject: of its cached responses where there is one set of them, else read from the root.

    Raises
    ------
    BoldreamsError
        If there is neither.
    """
    cached = find(cache, subject)
    if len(cached) == 1:
        return Responses.open(cached[0]).areas
    return open_dataset(nsd_root).areas(subject)


def check_betas(responses: Responses, layout: Layout) -> None:
    """Check that the betas under the root are still those that the store was made from.

    Raises
    ------
    MismatchError
        If a file is missing or has changed; the message names it.
    """
    there = beta_identities(layout, responses.subject, responses.sessions)
    made_from = responses.request["betas"]
    changed = [made_from[key]["name"] for key in made_from if there.get(key) != made_from[key]]
    if changed:
        raise MismatchError(
            f"{responses.path} was made from other betas than those in "
            f"{layout.betas_folder(responses.subject)} ({listing(changed, 3)}); "
            f"run `boldreams prepare --subject {responses.subject}`, "
            f"or correct --nsd-root or --cache"
        )
