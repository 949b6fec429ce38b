"""The Natural Scenes Dataset as a data set: the only way into this package from outside of `data`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, StopFlag
from boldreams_cli.data.areas import Areas
from boldreams_cli.data.dataset import Contents
from boldreams_cli.data.nsd import captions as caption_files
from boldreams_cli.data.nsd.anatomy.retinotopy import read_retinotopy
from boldreams_cli.data.nsd.betas.sessions import choose_sessions, read_betas
from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.data.nsd.preparation import anatomy_of, contents, plan_trials, request_for
from boldreams_cli.data.nsd.stimuli import Stimuli
from boldreams_cli.data.nsd.synthetic import NAME, synthetic_test
from boldreams_cli.data.outside import OutsideTest
from boldreams_cli.data.prepared import preparing
from boldreams_cli.data.prepared.checking import check_betas
from boldreams_cli.data.responses import Responses
from boldreams_cli.data.retinotopy import Retinotopy
from boldreams_cli.data.volumes import read_float_volume


class NSD:
    """Images, captions and responses under an NSD root; see `dataset.Dataset` for what each function gives.

    Parameters
    ----------
    root : the folder that holds ``nsddata``, ``nsddata_betas`` and ``nsddata_stimuli``; only read.
    betas : as ``--betas``; None for the default.

    Raises
    ------
    ChoiceError
        If there are no such betas.
    BoldreamsError
        If no root was given, or it is missing or holds no ``nsddata``.
    """

    def __init__(self, root: Path | None, betas: str | None = None) -> None:
        self.layout = Layout.at(root, betas)
        self.root = self.layout.root
        self._captions: dict[Path | None, caption_files.Captions] = {}

    def lacking(self, subject: int) -> str:
        """Its betas, where there are none."""
        return "" if subject in self.subjects() else f"no betas of subject {subject} under {self.root}"

    def of_request(self, request: dict[str, Any]) -> NSD:
        """The same root, opened for the betas that a request was made of."""
        if request.get("preparation") == self.layout.choice.named:
            return self
        return NSD(self.root, request.get("preparation"))

    def preparations(self, subject: int) -> list[str]:
        """Which betas of a subject lie under the root, as ``--betas`` takes them."""
        return self.layout.choices(subject)

    def background(self, subject: int) -> tuple[NDArray[np.float32], str] | None:
        """The first volume there is among those that maps may be laid on."""
        for name, path in self.layout.backgrounds(subject).items():
            if path.is_file():
                return read_float_volume(path)[0], name
        return None

    def subjects(self) -> list[int]:
        """Subjects whose betas lie under the root."""
        return self.layout.subjects()

    def images(self, subject: int, sessions: str | None = None) -> NDArray[np.int32]:
        """(n,) nsdIds shown: the shared ones first, then the others, each sorted; reads headers, no betas."""
        trials = plan_trials(self.layout, subject, choose_sessions(self.layout, subject, sessions))
        return np.concatenate([np.unique(trials.images[trials.test]), np.unique(trials.images[~trials.test])])

    def training_images(self, subject: int, sessions: str | None = None) -> NDArray[np.int32]:
        """(n,) sorted nsdIds shown that are not shared."""
        trials = plan_trials(self.layout, subject, choose_sessions(self.layout, subject, sessions))
        return np.unique(trials.images[~trials.test])

    def image_named(self, name: str) -> int | None:
        """None: images have numbers only."""
        return None

    def image_label(self, image: int) -> str:
        """Its number."""
        return str(image)

    def stimuli(self) -> Stimuli:
        """Open the images."""
        return Stimuli(self.layout.stimuli)

    def stimuli_identity(self) -> dict[str, Any]:
        """Shape, type and a hash of a sample."""
        with self.stimuli() as stimuli:
            return stimuli.identity()

    def stimuli_stamp(self) -> dict[str, int]:
        """Size and time of change of the stimulus file."""
        with self.stimuli():  # its errors, where it is missing
            found = self.layout.stimuli.stat()
        return {"size": found.st_size, "mtime_ns": found.st_mtime_ns}

    def captions(self, ids: Iterable[int], folder: Path | None = None) -> dict[int, list[str]]:
        """At most five captions of each image; the files are read once."""
        if folder not in self._captions:
            self._captions[folder] = caption_files.Captions(self.layout, folder)
        return self._captions[folder].of(ids)

    def captions_identity(self, folder: Path | None = None) -> dict[str, Any]:
        """Hashes of the captions files and of the table of images."""
        return caption_files.identity(self.layout, folder)

    def areas(self, subject: int) -> Areas:
        """Areas over the voxels that `prepare` takes without a mask."""
        self.layout.check_subject(subject)
        return anatomy_of(self.layout, subject).areas

    def retinotopy(self, subject: int, areas: Areas) -> Retinotopy | None:
        """Fields that NSD's prf experiment gave, where its volumes are there."""
        return read_retinotopy(self.layout, subject, areas.voxels, areas.shape, areas.affine)

    def outside_test(
        self,
        name: str,
        subject: int,
        voxels: NDArray[np.int32],
        shape: tuple[int, int, int],
        stop: StopFlag | None = None,
    ) -> OutsideTest:
        """NSD-synthetic, the only one that there is."""
        assert name == NAME
        return synthetic_test(self.layout, subject, voxels, shape, stop)

    def request(self, subject: int, sessions: str | None = None, mask: str | None = None) -> dict[str, Any]:
        """All that decides the numbers of the prepared responses."""
        return request_for(self.layout, subject, sessions, mask)

    def contents(self, request: dict[str, Any], mask: str | None) -> Contents:
        """All of a subject's responses but the betas."""
        return contents(self.layout, request, mask)

    def session_files(self, subject: int) -> dict[int, tuple[Path, ...]]:
        """Session -> its betas file, or those of both hemispheres."""
        return self.layout.session_files(subject)

    def read_betas(
        self,
        subject: int,
        session: int,
        voxels: NDArray[np.int32],
        shape: tuple[int, int, int],
        stop: StopFlag | None = None,
    ) -> NDArray[np.float32]:
        """(trials, V) percent signal change of one session."""
        files = self.layout.session_files(subject)
        if session not in files:
            raise BoldreamsError(f"no betas of session {session} in {self.layout.betas_folder(subject)}; download them")
        return read_betas(files[session], voxels, shape, stop)

    def prepare(
        self,
        subject: int,
        cache: Path,
        sessions: str | None = None,
        mask: str | None = None,
        stop: StopFlag | None = None,
    ) -> Responses:
        """Write the responses into the cache, unless they are there; errors as `preparing.prepare`."""
        stop = StopFlag() if stop is None else stop
        responses = Responses.open(preparing.prepare(self, subject, cache, sessions, mask, stop))
        check_betas(responses, self, stop)
        responses.log_counts()
        return responses
