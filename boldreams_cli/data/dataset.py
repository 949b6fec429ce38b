"""What every data set must offer, and how one is opened; to add a data set, add a package beside `nsd`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import StopFlag
from boldreams_cli.data.areas import Areas
from boldreams_cli.data.outside import OutsideTest


@dataclass(frozen=True)
class Trials:
    """Trials of the sessions chosen, end to end.

    Parameters
    ----------
    counts : session -> its trials, in order.
    images : (T,) int32, the id of the image shown on each trial.
    test : (T,) bool, true for images of the test.
    """

    counts: dict[int, int]
    images: NDArray[np.int32]
    test: NDArray[np.bool_]

    @property
    def sessions(self) -> NDArray[np.int16]:
        """(T,) the session of each trial."""
        return np.repeat(np.array(list(self.counts), np.int16), list(self.counts.values()))


@dataclass(frozen=True)
class Contents:
    """All of a subject's responses but the betas, as a data set gives it.

    Parameters
    ----------
    request : all that decides the numbers.
    mask : as asked for, None for the union of all areas.
    trials : of the sessions chosen.
    areas : over the voxels used.
    ncsnr : (V,) float32, noise-ceiling signal-to-noise ratio; NaN where it is not known.
    """

    request: dict[str, Any]
    mask: str | None
    trials: Trials
    areas: Areas
    ncsnr: NDArray[np.float32]


if TYPE_CHECKING:
    from boldreams_cli.console import StopFlag
    from boldreams_cli.data.areas import Areas
    from boldreams_cli.data.responses import Responses
    from boldreams_cli.data.retinotopy import Retinotopy

CAPTIONS_PER_IMAGE = 5  # COCO has five or more of an image; the paper uses five


class Stimuli(Protocol):
    """Open images, read by id; a context manager."""

    def __enter__(self) -> Stimuli: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def read(self, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
        """(n, height, width, 3) uint8, in the order asked."""
        ...


class Dataset(Protocol):
    """Images shown to subjects and their responses; nothing outside its package knows its files."""

    root: Path

    def subjects(self) -> list[int]:
        """Subjects whose responses are there."""
        ...

    def of_request(self, request: dict[str, Any]) -> Dataset:
        """The same data set, opened for the betas that a request was made of, where it has several."""
        ...

    def preparations(self, subject: int) -> list[str]:
        """Which betas of a subject are there, as ``--betas`` takes them; empty of a data set that has but one."""
        ...

    def background(self, subject: int) -> tuple[NDArray[np.float32], str] | None:
        """(X, Y, Z) volume that the subject's maps may be laid on, and what it is; None where there is none."""
        ...

    def images(self, subject: int, sessions: str | None = None) -> NDArray[np.int32]:
        """Ids of the images shown: those of the test first, then the others, each sorted."""
        ...

    def training_images(self, subject: int, sessions: str | None = None) -> NDArray[np.int32]:
        """Sorted ids of the images that are not of the test."""
        ...

    def stimuli(self) -> Stimuli:
        """Open the images."""
        ...

    def stimuli_identity(self) -> dict[str, Any]:
        """What identifies the images wherever they lie: part of a feature store's fingerprint."""
        ...

    def stimuli_stamp(self) -> dict[str, int]:
        """Size and time of change of their file: unchanged, its content need not be looked at again."""
        ...

    def captions(self, ids: Iterable[int], folder: Path | None = None) -> dict[int, list[str]]:
        """Captions of each image, at least one and at most CAPTIONS_PER_IMAGE; cheap after the first call.

        Parameters
        ----------
        ids : of any images of the data set.
        folder : of the captions files, in place of the data set's own.
        """
        ...

    def captions_identity(self, folder: Path | None = None) -> dict[str, Any]:
        """What identifies the captions: part of a text store's fingerprint."""
        ...

    def areas(self, subject: int) -> Areas:
        """Areas of a subject over the voxels that `prepare` takes when nothing else is asked."""
        ...

    def retinotopy(self, subject: int, areas: Areas) -> Retinotopy | None:
        """Where in the visual field the voxels of these areas were measured to look; None where that is not known."""
        ...

    def outside_test(
        self,
        name: str,
        subject: int,
        voxels: NDArray[np.int32],
        shape: tuple[int, int, int],
        stop: StopFlag | None = None,
    ) -> OutsideTest:
        """A test with images of another kind, at (V, 3) indices of volumes of that shape; ChoiceError without one."""
        ...

    def request(self, subject: int, sessions: str | None = None, mask: str | None = None) -> dict[str, Any]:
        """All that decides the numbers of a subject's prepared responses; its hash is their fingerprint."""
        ...

    def contents(self, request: dict[str, Any], mask: str | None) -> Contents:
        """All of a subject's responses but the betas, for a request that was made with this mask."""
        ...

    def session_files(self, subject: int) -> dict[int, Path]:
        """Session -> the file that holds its betas, for those that are there."""
        ...

    def read_betas(
        self,
        subject: int,
        session: int,
        voxels: NDArray[np.int32],
        shape: tuple[int, int, int],
        stop: StopFlag | None = None,
    ) -> NDArray[np.float32]:
        """(trials, V) betas of one session, not yet z-scored, at (V, 3) indices of volumes of that shape."""
        ...

    def prepare(
        self,
        subject: int,
        cache: Path,
        sessions: str | None = None,
        mask: str | None = None,
        stop: StopFlag | None = None,
    ) -> Responses:
        """Bring a subject's responses into the cache, unless they are there; resumes by session."""
        ...
