"""What is extracted: the images of subjects, or their captions, and what identifies them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError
from boldreams_cli.data.dataset import Dataset, Stimuli
from boldreams_cli.data.subjects import Subject, in_order
from boldreams_cli.features.preprocessing import Preprocessing

ReadImages = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Source:
    """The images to extract.

    Parameters
    ----------
    images : (images,) ids: those of all tests first, then subject by subject.
    training : of each subject, sorted ids; only these take part in a ranking.
    read : ids -> (images, height, width, 3) uint8, or of their captions (images, captions, context) tokens.
    identity : what identifies the stimulus or captions file.
    stamp : size and time of change of that file, None where there is none.
    """

    images: NDArray[Any]
    training: list[NDArray[Any]]
    read: ReadImages
    identity: dict[str, Any]
    stamp: dict[str, int] | None = None

    def __post_init__(self) -> None:
        # The order in which subjects were asked for decides nothing.
        unique = {tuple(np.asarray(ids).tolist()): np.asarray(ids) for ids in self.training}
        object.__setattr__(self, "training", [unique[key] for key in sorted(unique)])


def of_images(
    dataset: Dataset,
    stimuli: Stimuli,
    images: NDArray[Any],
    training: list[NDArray[np.int32]],
    preprocessing: Preprocessing,
) -> Source:
    """The pixels of images: as the data set has them, or if their sizes may differ as the network reads them.

    Parameters
    ----------
    dataset : of the images.
    stimuli : they, open.
    images, training : as `shown` gives them.
    preprocessing : of the network.
    """

    one_by_one = isinstance(stimuli.read(images[:1]), list)  # of a camera's pictures a batch takes gigabytes

    def read(ids: NDArray[Any]) -> NDArray[np.uint8]:
        if not one_by_one:
            return np.asarray(stimuli.read(ids))
        resized = torch.cat([preprocessing.resize_all(stimuli.read([number])) for number in ids])
        return resized.permute(0, 2, 3, 1).contiguous().numpy()

    return Source(images, training, read, dataset.stimuli_identity(), dataset.stimuli_stamp())


def shown(
    dataset: Dataset, subjects: Sequence[Subject], sessions: str | None
) -> tuple[NDArray[np.int32], list[NDArray[np.int32]]]:
    """Images of some subjects together, and the training images of each.

    Parameters
    ----------
    dataset : that has them.
    subjects : in any order; none for all.
    sessions : as ``--sessions``.

    Returns
    -------
    ids, those of all tests first, then subject by subject, so that one subject's lie together; and of each subject
    its training images, sorted.

    Raises
    ------
    BoldreamsError
        If there is no subject.
    """
    chosen = sorted(set(subjects), key=in_order) or dataset.subjects()
    if not chosen:
        raise BoldreamsError(
            f"no subject has betas under {dataset.root}; choose subjects with --subject and --sessions"
        )
    images = [dataset.images(number, sessions) for number in chosen]
    training = [dataset.training_images(number, sessions) for number in chosen]
    tests = [ids[~np.isin(ids, own)] for ids, own in zip(images, training, strict=True)]
    joined = np.concatenate([np.unique(np.concatenate(tests)), *images])
    return joined[np.sort(np.unique(joined, return_index=True)[1])], training
