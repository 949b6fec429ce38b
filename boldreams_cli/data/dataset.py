"""What every data set must offer, and how one is opened; to add a data set, add a package beside `nsd`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from boldreams_cli.console import StopFlag
    from boldreams_cli.data.areas import Areas
    from boldreams_cli.data.preparing import Contents
    from boldreams_cli.data.responses import Responses

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


def open_dataset(root: Path | None) -> Dataset:
    """Open the data set whose files lie under `root`.

    Raises
    ------
    BoldreamsError
        If no root was given, or it is missing or holds no data set that is known.
    """
    from boldreams_cli.data.nsd.maker import NSD

    return NSD(root)
