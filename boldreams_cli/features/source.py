"""What is extracted: the images of subjects, or their captions, and what identifies them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError
from boldreams_cli.data.dataset import Dataset

ReadImages = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Source:
    """The images to extract.

    Parameters
    ----------
    images : (images,) ids: shared images first, then subject by subject.
    training : of each subject, sorted nsdIds; only these take part in a ranking.
    read : nsdIds -> (images, height, width, 3) uint8, or of their captions (images, captions, context) tokens.
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


def shown(
    dataset: Dataset, subjects: Sequence[int], sessions: str | None
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
    chosen = sorted(set(subjects)) or dataset.subjects()
    if not chosen:
        raise BoldreamsError(
            f"no subject has betas under {dataset.root}; choose subjects with --subject and --sessions"
        )
    images = [dataset.images(number, sessions) for number in chosen]
    training = [dataset.training_images(number, sessions) for number in chosen]
    tests = [ids[~np.isin(ids, own)] for ids, own in zip(images, training, strict=True)]
    joined = np.concatenate([np.unique(np.concatenate(tests)), *images])
    return joined[np.sort(np.unique(joined, return_index=True)[1])], training
