"""The largest response that was ever measured of an area: a dream's prediction above it is beyond all data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, StopFlag, logger
from boldreams_cli.data.responses import Responses
from boldreams_cli.files import fingerprint, read_json
from boldreams_cli.interpret.dreams.natural import KEPT, keep


@dataclass(frozen=True)
class Largest:
    """The image with the largest mean beta.

    Parameters
    ----------
    image : image id.
    beta : measured, mean over the area's voxels and the image's repeats.
    """

    image: int
    beta: float


def largest_measured(voxels: NDArray[np.bool_], responses: Responses, folder: Path, stop: StopFlag) -> Largest:
    """The largest mean beta of an area over all images that the subject saw; read once, then kept.

    Parameters
    ----------
    voxels : (voxels,) bool of the area.
    responses : of the subject.
    folder : of the model, to keep it in.
    stop : looked at between sessions.

    Raises
    ------
    StoppedError
        If a signal came.
    BoldreamsError
        If there is no beta.
    """
    averaged = [] if responses.trial_repeats is None else ["by presentations"]
    name = fingerprint([responses.fingerprint, np.flatnonzero(voxels).tolist(), *averaged])
    path = folder / "dreams" / KEPT / f"measured-{name}.json"
    if path.is_file():
        try:
            return Largest(**read_json(path))
        except (BoldreamsError, TypeError):
            logger.info("%s is damaged: measuring anew", path)
    images, betas = mean_betas(voxels, responses, stop)
    if not np.isfinite(betas).any():
        raise BoldreamsError("the area has no finite beta of any image")
    best = int(np.nanargmax(betas))
    found = Largest(int(images[best]), float(betas[best]))
    keep(folder, path, asdict(found))
    return found


def mean_betas(
    voxels: NDArray[np.bool_], responses: Responses, stop: StopFlag
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Images, and of each the mean beta over an area's voxels and the image's repeats; averages count as many.

    Parameters
    ----------
    voxels : (voxels,) bool of the area; those without a beta in a session do not count in it.
    responses : of the subject; read a session at a time.
    stop : looked at between sessions.

    Returns
    -------
    (images,) image ids in ascending order and (images,) betas.
    """
    places = np.flatnonzero(voxels)
    span = slice(int(places[0]), int(places[-1]) + 1)
    trials = np.empty(len(responses.trial_images), np.float64)
    for session in np.unique(responses.trial_sessions):
        stop.check("the largest measured response was not found yet")
        chosen = responses.trial_sessions == session
        betas = responses.read_betas(chosen, span)[:, places - span.start]
        counts = np.isfinite(betas).sum(1)
        trials[chosen] = np.where(counts > 0, np.nansum(betas, 1, dtype=float), np.nan) / np.maximum(counts, 1)
    images, order = np.unique(responses.trial_images, return_inverse=True)
    repeats = np.ones(len(trials)) if responses.trial_repeats is None else responses.trial_repeats
    return images, np.bincount(order, weights=trials * repeats) / np.bincount(order, weights=repeats)
