"""What a subject's responses are made from under an NSD root: their identity, trials, voxels and betas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from boldreams_cli.console import BoldreamsError, listing
from boldreams_cli.data import identity
from boldreams_cli.data.dataset import Contents, Trials
from boldreams_cli.data.nsd import betas as beta_files
from boldreams_cli.data.nsd.anatomy import brain_mask, mask_file, read_anatomy, roi_files
from boldreams_cli.data.nsd.design import Design
from boldreams_cli.data.nsd.layout import Layout


def request_for(layout: Layout, subject: int, sessions: str | None, mask: str | None) -> dict[str, Any]:
    """All that decides the numbers in a store; its hash is the store's fingerprint.

    Content alone: a root that is moved or copied is the same data.

    Raises
    ------
    ChoiceError
        If the subject, a session or the mask is not there.
    BoldreamsError
        If a file cannot be read.
    """
    chosen = beta_files.choose_sessions(layout, subject, sessions)
    betas, rois = layout.sessions(subject), roi_files(layout, subject)
    tables = {volume: layout.label_table(subject, volume) for volume in rois}
    return {
        "dataset": "nsd",
        "subject": subject,
        "sessions": chosen,
        "mask": _whole(mask_file(layout, subject, mask)),
        "brain_mask": _whole(brain_mask(layout, subject)),
        "ncsnr": _whole(layout.ncsnr(subject)),
        "design": _whole(layout.design),
        "rois": {volume: identity.whole(path) for volume, path in rois.items()},
        "labels": {volume: _whole(path) for volume, path in tables.items()},
        "betas": {str(number): identity.sampled(betas[number]) for number in chosen},
        **({"preparation": layout.choice.named} if layout.choice.named else {}),
    }


def _whole(path: Path | None) -> dict[str, Any] | None:
    return identity.whole(path) if path is not None and path.is_file() else None


def contents(layout: Layout, request: dict[str, Any], mask: str | None) -> Contents:
    """All of a subject's responses but the betas.

    Parameters
    ----------
    request, mask : as for `request_for`.

    Raises
    ------
    ChoiceError, BoldreamsError
        If a file is missing, damaged or of another shape, or no voxel, training or test image is left.
    """
    subject = int(request["subject"])
    trials = plan_trials(layout, subject, request["sessions"])
    anatomy = read_anatomy(layout, subject, mask)
    paths = layout.sessions(subject)
    for number in request["sessions"]:
        beta_files.check_shape(paths[number], anatomy.areas.shape)
    return Contents(request, mask_name(layout, subject, mask), trials, anatomy.areas, anatomy.ncsnr)


def mask_name(layout: Layout, subject: int, mask: str | None) -> str | None:
    """The mask so that the same words find it from any folder."""
    path = mask_file(layout, subject, mask)
    return mask if path is None or path == layout.roi(subject, str(mask)) else str(path.resolve())


def plan_trials(layout: Layout, subject: int, sessions: list[int]) -> Trials:
    """Images and split of the trials of `sessions`, from the design and the files' headers.

    Raises
    ------
    BoldreamsError
        If the design is unreadable or too short, or there is no training or no test image.
    """
    design = Design.read(layout.design)
    every = design.trial_images(subject)
    spans = beta_files.session_trials(layout, subject, sessions)
    for session, (first, count) in spans.items():
        if first + count > len(every):
            raise BoldreamsError(
                f"session {session} of subject {subject} ends at trial {first + count}, "
                f"but {layout.design} has {len(every)} trials; one of them is not NSD's"
            )
    images = np.concatenate([every[first : first + count] for first, count in spans.values()])
    test = np.isin(images, design.shared)
    for kind, there in (("training", not test.all()), ("test (shared)", test.any())):
        if not there:
            raise BoldreamsError(
                f"no {kind} image in session {listing(sessions)} of subject {subject}; take more (--sessions)"
            )
    return Trials({session: count for session, (_, count) in spans.items()}, images, test)
