"""Responses of one subject, as fitting and scoring read them (paper, section 2.1), and whether their inputs changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli import files
from boldreams_cli.console import BoldreamsError, ChoiceError, MismatchError, listing, logger
from boldreams_cli.data.areas import Areas
from boldreams_cli.data.prepared.reliability import ESTIMATED
from boldreams_cli.data.subjects import Subject, store_name
from boldreams_cli.data.units import Units, VertexUnits, VoxelUnits
from boldreams_cli.stores import ResumableStore
from boldreams_cli.zarr_files import attributes, is_whole, open_array

FORMAT_VERSION = 2


SESSION = "session"  # the kind of unit


SOURCE = "source"  # the kind of line that notes a new time of change of a session's file, found to be the same betas
PLACE = "place"  # the kind of line that notes where the file lies now that the store was made from
CEILING, NCSNR = "ceiling", "ncsnr"  # kind and unit of signal-to-noise ratios that are estimated from the betas
ESTIMATED_OF = "ncsnr_of"  # the attribute of a store whose ratios are: images whose repeats they come from
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
    trial_images : (T,) int32, 0-based ids, as the data set numbers its images.
    trial_sessions : (T,) int16.
    trial_test : (T,) bool, true for trials of test images, which no fit looks at.
    trial_repeats : (T,) int32 presentations that each trial is the average of; None where each is one.
    file : that it was made from; None where that lies under a root.
    areas : labels of the voxels.
    ceiling_source : what the noise ceilings come from; None where there are none.
    ceiling_images : of which images' repeats; None where they are not estimated.
    """

    def __init__(self, store: ResumableStore) -> None:
        attrs = store.attributes
        self.store, self.path = store, store.path
        self.fingerprint = str(attrs["fingerprint"])
        self.request: dict[str, Any] = attrs["request"]
        self.mask: str | None = attrs["mask"]
        self.subject: Subject = attrs["subject"]
        self.file = Path(attrs["file"]) if "file" in attrs else None
        self.sessions = [int(session) for session, _ in attrs["sessions"]]
        self.ceiling_source, self.ceiling_images = _ceiling_source(attrs)
        x, y, z = attrs["shape"]
        self.shape: tuple[int, int, int] = (x, y, z)
        self.affine = np.array(attrs["affine"], np.float64)
        self._betas: Any = open_array(store.path / "betas")
        self.voxels: NDArray[np.int32] = read_array(store, "voxels")
        self.trial_images: NDArray[np.int32] = read_array(store, "trial_images")
        self.trial_sessions: NDArray[np.int16] = read_array(store, "trial_sessions")
        self.trial_test: NDArray[np.bool_] = read_array(store, "trial_test")
        averaged = (store.path / "trial_repeats").is_dir()
        self.trial_repeats: NDArray[np.int32] | None = read_array(store, "trial_repeats") if averaged else None
        tables = {volume: {int(k): v for k, v in table.items()} for volume, table in attrs["labels"]}
        self.areas = Areas(
            labels={volume: read_array(store, f"rois/{volume}") for volume in tables},
            tables=tables,
            voxels=self.voxels,
            shape=self.shape,
            affine=self.affine,
            groups={name: (volume, tuple(labels)) for name, volume, labels in attrs["groups"]},
            overrides=attrs["overrides"],
            space=attrs.get("space"),
        )

    @cached_property
    def ncsnr(self) -> NDArray[np.float32]:
        """(V,) float32, NaN where unknown; read when it is asked for, since it may be made of the betas."""
        with _named_damage(self.path):
            found: NDArray[np.float32] = read_array(self.store, NCSNR)
        return found

    @cached_property
    def units(self) -> Units:
        """What betas are of, and where each lies."""
        if self.areas.space is None:
            return VoxelUnits(self.voxels, self.affine, self.shape)
        meshes = self.store.attributes["vertices"]
        return VertexUnits.filed(self.voxels, self.areas.space, None if meshes is None else (meshes[0], meshes[1]))

    @classmethod
    def open(cls, path: Path) -> Responses:
        """Open a complete store; all but its betas is compared with its checksums.

        Raises
        ------
        MismatchError
            If its format is not this version's, it does not fit its fingerprint, or it is damaged.
        BoldreamsError
            If it is missing or incomplete.
        """
        if not is_whole(path):
            raise BoldreamsError(f"no responses in {path}; run `boldreams prepare`")
        found = attributes(path).get("format")
        if found != FORMAT_VERSION:
            raise MismatchError(
                f"{path} has format {found}, this version reads {FORMAT_VERSION}; run `boldreams prepare` again"
            )
        store = ResumableStore(path)
        attrs = store.attributes
        if path.name != store_name(attrs["subject"], attrs["fingerprint"]):
            raise MismatchError(
                f"{path} holds the responses that belong in {store_name(attrs['subject'], attrs['fingerprint'])}; "
                "rename it, or delete it and run `boldreams prepare` again"
            )
        again = f"run `boldreams prepare --subject {attrs['subject']}`"
        if files.fingerprint(attrs["request"]) != attrs["fingerprint"]:
            raise MismatchError(f"{path} does not match its fingerprint {attrs['fingerprint']}; delete it and {again}")
        if missing := to_do(store):
            raise BoldreamsError(f"{path} is incomplete: {missing} to do; {again}")
        store.check_static()
        with _named_damage(path):
            return cls(store)

    @cached_property
    def train_images(self) -> NDArray[np.int32]:
        """Sorted ids of the training images."""
        return np.unique(self.trial_images[~self.trial_test])

    @cached_property
    def test_images(self) -> NDArray[np.int32]:
        """Sorted ids of the test images."""
        return np.unique(self.trial_images[self.trial_test])

    def leaving_out(self, images: Images) -> Responses:
        """The same responses with some training images counted among those of the test: no fit looks at them.

        Their fingerprint is another, so that what is fitted to them is taken for no fit to all training images.
        """
        other = Responses(self.store)
        other.trial_test = self.trial_test | np.isin(self.trial_images, images)
        other.fingerprint = files.fingerprint([self.fingerprint, "leaving out", np.unique(images)])
        return other

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
        count = len(self.trial_images)
        if isinstance(trials, slice):
            wanted = np.zeros(count, bool)
            wanted[trials] = True
        else:
            wanted = np.asarray(trials)
            if wanted.dtype != bool or wanted.shape != (count,):
                raise ValueError(f"trials must be a slice or ({count},) bool, not {wanted.shape} {wanted.dtype}")
        betas = np.empty((int(wanted.sum()), len(range(*voxels.indices(len(self.voxels))))), np.float32)
        row = 0
        for place, part in enumerate(self._session_rows()):  # a session at a time: memory stays bounded
            rows = np.flatnonzero(wanted[part])
            if len(rows):
                betas[row : row + len(rows)] = self._session(place, voxels)[rows]
                row += len(rows)
        return betas

    def _session(self, place: int, voxels: slice) -> NDArray[np.float32]:
        """Betas of one session, (its rows, voxels); its file must be that which its line in the ledger knows.

        Zarr reads a missing one as NaN, and that of another session as if it were this one's.
        """
        for name, why in self.store.damaged(SESSION, self.sessions[place]):
            raise MismatchError(
                f"{self.path} is damaged: {name} {why}; run `boldreams info --verify`, which notes it, and "
                f"`boldreams prepare --subject {self.subject}`, which makes it again"
            )
        with _named_damage(self.path):
            return np.asarray(self._betas[place, :, voxels])

    def _weights(self, part: slice) -> NDArray[np.integer]:
        """Presentations that each trial of a session stands for."""
        if self.trial_repeats is not None:
            return self.trial_repeats[part]
        return np.ones(len(self.trial_images[part]), np.int64)

    def _session_rows(self) -> list[slice]:
        edges = [0, *(np.flatnonzero(np.diff(self.trial_sessions)) + 1).tolist(), len(self.trial_sessions)]
        return [slice(a, b) for a, b in pairwise(edges)]

    def repeats(self, images: Images) -> NDArray[np.int64]:
        """How often each image was shown in the sessions of this store, presentations that were averaged counted.

        Returns
        -------
        (n,) int64; 0 for an image that was not shown.
        """
        shown, first = np.unique(self.trial_images, return_inverse=True)
        counts = np.bincount(first, weights=self.trial_repeats).astype(np.int64)
        asked = np.asarray(images)
        places = np.minimum(np.searchsorted(shown, asked), len(shown) - 1)
        return np.where(shown[places] == asked, counts[places], 0)

    def mean_betas(self, images: Images, voxels: slice = slice(None)) -> NDArray[np.float32]:
        """Betas averaged over the repeats of each image, in the order given; averages count as often as they stand for.

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
        for session, part in enumerate(self._session_rows()):
            rows = np.flatnonzero(wanted[part])
            if len(rows):
                places = np.searchsorted(unique, self.trial_images[part][rows])
                betas, weights = self._session(session, voxels)[rows], self._weights(part)[rows]
                for place, trial, weight in zip(places, betas, weights, strict=True):
                    sums[place] += trial if weight == 1 else weight * trial
        return (sums[inverse] / repeats[:, None]).astype(np.float32)

    def summary(self) -> dict[str, Any]:
        """What ``boldreams prepare --json`` prints."""
        test, preparation = int(self.trial_test.sum()), self.request.get("preparation")
        return {
            "subject": self.subject,
            "voxels": len(self.voxels),
            "sessions": self.sessions,
            "train": {"images": len(self.train_images), "trials": len(self.trial_test) - test},
            "test": {"images": len(self.test_images), "trials": test},
            "rois": self.areas.counts(),
            "ceiling_source": self.ceiling_source,
            "ceiling_images": self.ceiling_images,
            "responses": str(self.path),
            **({"preparation": preparation} if preparation else {}),
        }

    def log_counts(self) -> None:
        """Log how many voxels, images and trials there are."""
        counts = self.summary()
        logger.info(
            "subject %s: %d %s; %d train images, %d trials; %d test images, %d trials",
            self.subject,
            counts["voxels"],
            self.units.plural,
            *counts["train"].values(),
            *counts["test"].values(),
        )


def to_do(store: ResumableStore) -> str:
    """Say which sessions are not done, or that ceilings are to be estimated from them; empty where all is."""
    done = store.done(SESSION)
    if missing := [session for session, _ in store.attributes["sessions"] if session not in done]:
        return f"session {listing(missing)}"
    waits = ESTIMATED_OF in store.attributes and NCSNR not in store.done(CEILING)
    return "noise ceilings" if waits else ""


def _ceiling_source(attrs: dict[str, Any]) -> tuple[str | None, int | None]:
    """What noise ceilings come from, and of how many images' repeats where they are estimated."""
    if (images := attrs.get(ESTIMATED_OF)) is not None:
        return ESTIMATED, int(images)
    request = attrs["request"]
    if (said := request.get("ceiling")) is not None:
        return str(said[0]), None
    return (NCSNR if request.get("ncsnr") is not None else None), None


@contextmanager
def _named_damage(path: Path) -> Iterator[None]:
    """Turn what Zarr and its codecs raise on damaged chunks into one error."""
    try:
        yield
    except (BoldreamsError, MemoryError):
        raise
    except Exception as error:
        raise MismatchError(
            f"{path} is damaged ({str(error)[:200]}); `boldreams info --verify` says where, and `boldreams prepare` "
            f"makes that again"
        ) from error


def read_array(store: ResumableStore, name: str) -> Any:
    """All of one of the store's small arrays."""
    return open_array(store.path / name)[:]
