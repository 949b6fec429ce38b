"""A data file as a data set of one subject; see `dataset.Dataset` for what each function gives."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, ChoiceError, StopFlag, logger
from boldreams_cli.data.areas import Areas
from boldreams_cli.data.dataset import Contents
from boldreams_cli.data.neutral import betas, contents, images
from boldreams_cli.data.neutral.ceilings import unlikely
from boldreams_cli.data.neutral.images import FileStimuli
from boldreams_cli.data.neutral.reading import DataFile, open_file, subject_of
from boldreams_cli.data.neutral.writing import write
from boldreams_cli.data.outside import OutsideTest
from boldreams_cli.data.prepared import preparing
from boldreams_cli.data.prepared.checking import check_betas
from boldreams_cli.data.responses import PLACE, Responses
from boldreams_cli.data.retinotopy import Retinotopy
from boldreams_cli.data.subjects import Subject

SCALED = {
    "given": "betas are taken as they are, z-scored already",
    "session": "betas are z-scored by session",
    "training": "betas are z-scored by mean and deviation over the training trials: there are no sessions",
}


class DataFiles:
    """Images and responses of one subject in a file of ours (docs/data-format.md).

    Parameters
    ----------
    root : the file; only read.
    """

    write = staticmethod(write)

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def data(self) -> DataFile:
        """All but betas and pixels; BoldreamsError, a line for each mistake, where something is wrong."""
        return open_file(self.root)

    def _of(self, subject: Subject) -> DataFile:
        """The file, if it is this subject's."""
        if subject != self.data.subject:
            raise ChoiceError(f"{self.root} is of subject {self.data.subject}, not {subject} (--subject, --data)")
        return self.data

    def subjects(self) -> list[Subject]:
        """The one subject."""
        return [subject_of(self.root)]

    def lacking(self, subject: Subject) -> str:
        """The file, where it is another's, or pictures, where their files are gone."""
        if subject != subject_of(self.root):
            return f"{self.root} is not of subject {subject}"
        return images.missing(self.data)

    def of_request(self, request: dict[str, Any]) -> DataFiles:
        """Itself: there is one kind of betas."""
        return self

    def preparations(self, subject: Subject) -> list[str]:
        """None to choose from."""
        return []

    def outside_test(
        self,
        name: str,
        subject: Subject,
        voxels: NDArray[np.int32],
        shape: tuple[int, int, int],
        stop: StopFlag | None = None,
    ) -> OutsideTest:
        """There is none: ChoiceError."""
        raise ChoiceError(f"{self.root} has no test {name}; leave out --test")

    def background(self, subject: Subject) -> tuple[NDArray[np.float32], str] | None:
        """None: such files hold no anatomy."""
        return None

    def images(self, subject: Subject, sessions: str | None = None) -> NDArray[np.int32]:
        """Places in ``images/name`` of the images shown: those of the test first, then the others, each sorted."""
        trials = self._trials(subject, sessions)
        return np.concatenate([np.unique(trials.images[trials.test]), np.unique(trials.images[~trials.test])])

    def training_images(self, subject: Subject, sessions: str | None = None) -> NDArray[np.int32]:
        """Those that are not of the test, sorted."""
        trials = self._trials(subject, sessions)
        return np.unique(trials.images[~trials.test])

    def _trials(self, subject: Subject, sessions: str | None) -> contents.Trials:
        data = self._of(subject)
        return contents.plan_trials(data, contents.choose_sessions(data, sessions))

    def image_named(self, name: str) -> int | None:
        """Place in ``images/name`` of this name."""
        names = self.data.images.names
        return names.index(name) if name in names else None

    def image_label(self, image: int) -> str:
        """Its name."""
        names = self.data.images.names
        return names[image] if 0 <= image < len(names) else str(image)

    def stimuli(self) -> FileStimuli:
        """Open the images."""
        return FileStimuli(self.data)

    def stimuli_identity(self) -> dict[str, Any]:
        """Names, sizes and a hash of a sample."""
        return contents.images_identity(self.data)

    def images_at_hand(self) -> dict[str, Any]:
        """As `stimuli_identity`; of a file whose pictures are gone, the names alone."""
        return images.names_identity(self.data.images) if images.missing(self.data) else self.stimuli_identity()

    def stimuli_stamp(self) -> dict[str, int]:
        """Size and time of change of all that holds the images."""
        with self.stimuli():  # its errors, where something is missing
            return images.stamp(self.data)

    def captions(self, ids: Iterable[int], folder: Path | None = None) -> dict[int, list[str]]:
        """There are none: BoldreamsError."""
        raise BoldreamsError(f"{self.root} has no captions, so there is nothing for clip-text to read")

    def captions_identity(self, folder: Path | None = None) -> dict[str, Any]:
        """There are none: BoldreamsError."""
        raise BoldreamsError(f"{self.root} has no captions, so there is nothing for clip-text to read")

    def areas(self, subject: Subject) -> Areas:
        """Areas over all units."""
        return contents.areas_of(self._of(subject))

    def retinotopy(self, subject: Subject, areas: Areas) -> Retinotopy | None:
        """None: such files hold no measured fields."""
        return None

    def request(self, subject: Subject, sessions: str | None = None, mask: str | None = None) -> dict[str, Any]:
        """All that decides the numbers of the prepared responses."""
        return contents.request_for(self._of(subject), sessions, mask)

    def contents(self, request: dict[str, Any], mask: str | None) -> Contents:
        """All of the subject's responses but the betas."""
        return contents.contents(self._of(request["subject"]), request, mask)

    def session_files(self, subject: Subject) -> dict[int, tuple[Path, ...]]:
        """Session -> the file, for all sessions."""
        return dict.fromkeys(contents.choose_sessions(self._of(subject), None), (self.root,))

    def read_betas(
        self,
        subject: Subject,
        session: int,
        voxels: NDArray[np.int32],
        shape: tuple[int, int, int],
        stop: StopFlag | None = None,
    ) -> NDArray[np.float32]:
        """(trials, V) betas of one session."""
        return betas.read_betas(self._of(subject), session, voxels, stop)

    def prepare(
        self,
        subject: Subject,
        cache: Path,
        sessions: str | None = None,
        mask: str | None = None,
        stop: StopFlag | None = None,
    ) -> Responses:
        """Write the responses into the cache, unless they are there; errors as `preparing.prepare`.

        Raises
        ------
        BoldreamsError
            Also if a picture's file is missing: a study of images that are gone is found out now, not at the end.
        """
        stop = StopFlag() if stop is None else stop
        data = self._of(subject)
        responses = Responses.open(preparing.prepare(self, subject, cache, sessions, mask, stop))
        check_betas(responses, self, stop)
        logger.info("%s", SCALED[contents.zscoring(data)])
        if data.trials.test is None:
            logger.info("no trial is marked as test: %d images are held out", len(responses.test_images))
        if len(responses.test_images) < contents.LEAST_TEST:
            logger.warning("%d images are the test: a correlation over so few says nothing", len(responses.test_images))
        if data.ceiling is not None and (odd := unlikely(data.ceiling.values, data.ceiling.kind)):
            logger.warning("%s: ceiling: %s", self.root, odd)
        self._note_place(responses)
        responses.log_counts()
        return responses

    def _note_place(self, responses: Responses) -> None:
        """Note where the file lies now, so that it is found there from now on."""
        place = self.root.absolute()
        if preparing.file_of(responses.path) != place:
            try:
                responses.store.add(PLACE, "file", path=str(place))
            except BoldreamsError as error:  # a cache that is only read
                logger.debug("%s", error)
