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
from boldreams_cli.data.subjects import Subject


@dataclass(frozen=True)
class Trials:
    """Trials of the sessions chosen, end to end.

    Parameters
    ----------
    counts : session -> its trials, in order.
    images : (T,) int32, the id of the image shown on each trial.
    test : (T,) bool, true for images of the test.
    repeats : (T,) presentations that the betas of a trial are the average of; None where each is one.
    """

    counts: dict[int, int]
    images: NDArray[np.int32]
    test: NDArray[np.bool_]
    repeats: NDArray[np.int32] | None = None

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
    ncsnr_of : images whose repeats it is estimated from once the betas are prepared; None where it is as given.
    file : that all was read from, to find it again; None where a root is given with every command.
    vertices : of the left and the right mesh, where units are vertices and that is known.
    """

    request: dict[str, Any]
    mask: str | None
    trials: Trials
    areas: Areas
    ncsnr: NDArray[np.float32]
    file: Path | None = None
    vertices: tuple[int, int] | None = None
    ncsnr_of: int | None = None


if TYPE_CHECKING:
    from boldreams_cli.data.responses import Responses
    from boldreams_cli.data.retinotopy import Retinotopy

Pictures = NDArray[np.uint8] | list[NDArray[np.uint8]]

CAPTIONS_PER_IMAGE = 5  # COCO has five or more of an image; the paper uses five


class Stimuli(Protocol):
    """Open images, read by id; a context manager."""

    def __enter__(self) -> Stimuli: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def read(self, ids: Sequence[int] | NDArray[np.integer]) -> Pictures:
        """In the order asked: (n, height, width, 3) uint8, or if sizes may differ a list of (height, width, 3)."""
        ...


class Dataset(Protocol):
    """Images shown to subjects and their responses; nothing outside its package knows its files.

    A `subject` is a number or a name, as this very data set calls its own.
    """

    root: Path

    def subjects(self) -> Sequence[Subject]:
        """Subjects whose responses are there."""
        ...

    def lacking(self, subject: Any) -> str:
        """What is not there of all that a request of this subject is made of, for people; empty if nothing."""
        ...

    def of_request(self, request: dict[str, Any]) -> Dataset:
        """The same data set, opened for the betas that a request was made of, where it has several."""
        ...

    def preparations(self, subject: Any) -> list[str]:
        """Which betas of a subject are there, as ``--betas`` takes them; empty of a data set that has but one."""
        ...

    def background(self, subject: Any) -> tuple[NDArray[np.float32], str] | None:
        """(X, Y, Z) volume that the subject's maps may be laid on, and what it is; None where there is none."""
        ...

    def images(self, subject: Any, sessions: str | None = None) -> NDArray[np.int32]:
        """Ids of the images shown: those of the test first, then the others, each sorted."""
        ...

    def training_images(self, subject: Any, sessions: str | None = None) -> NDArray[np.int32]:
        """Sorted ids of the images that are not of the test."""
        ...

    def image_named(self, name: str) -> int | None:
        """Id of the image of this name; None where images have no names, or none has this one."""
        ...

    def image_label(self, image: int) -> str:
        """What people call an image: its name, or its number where images have no names."""
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

    def areas(self, subject: Any) -> Areas:
        """Areas of a subject over the voxels that `prepare` takes when nothing else is asked."""
        ...

    def retinotopy(self, subject: Any, areas: Areas) -> Retinotopy | None:
        """Where in the visual field the voxels of these areas were measured to look; None where that is not known."""
        ...

    def outside_test(
        self,
        name: str,
        subject: Any,
        voxels: NDArray[np.int32],
        shape: tuple[int, int, int],
        stop: StopFlag | None = None,
    ) -> OutsideTest:
        """A test with images of another kind, at (V, 3) indices of volumes of that shape; ChoiceError without one."""
        ...

    def request(self, subject: Any, sessions: str | None = None, mask: str | None = None) -> dict[str, Any]:
        """All that decides the numbers of a subject's prepared responses; its hash is their fingerprint."""
        ...

    def contents(self, request: dict[str, Any], mask: str | None) -> Contents:
        """All of a subject's responses but the betas, for a request that was made with this mask."""
        ...

    def session_files(self, subject: Any) -> dict[int, tuple[Path, ...]]:
        """Session -> the files that hold its betas, for those that are there."""
        ...

    def read_betas(
        self,
        subject: Any,
        session: int,
        voxels: NDArray[np.int32],
        shape: tuple[int, int, int],
        stop: StopFlag | None = None,
    ) -> NDArray[np.float32]:
        """(trials, V) betas of one session, not yet z-scored, at (V, 3) indices of volumes of that shape."""
        ...

    def prepare(
        self,
        subject: Any,
        cache: Path,
        sessions: str | None = None,
        mask: str | None = None,
        stop: StopFlag | None = None,
    ) -> Responses:
        """Bring a subject's responses into the cache, unless they are there; resumes by session."""
        ...
