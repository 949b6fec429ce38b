"""What a subject's responses are made from under an NSD root: their identity, trials, voxels and betas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from boldreams_cli.console import BoldreamsError, listing
from boldreams_cli.data import identity
from boldreams_cli.data.dataset import Contents, Trials
from boldreams_cli.data.nsd.anatomy.surface import label_files, mask_files, read_surface
from boldreams_cli.data.nsd.anatomy.volume import Anatomy, brain_mask, mask_file, read_anatomy, roi_files
from boldreams_cli.data.nsd.betas import sessions as beta_files
from boldreams_cli.data.nsd.betas.hemispheres import check_vertices
from boldreams_cli.data.nsd.design import Design
from boldreams_cli.data.nsd.layout import Files, Layout


@dataclass(frozen=True)
class Sources:
    """Files that decide which voxels or vertices are used and what is known of each; those of what lacks are empty."""

    mask: Files
    brain_mask: Files
    ncsnr: Files
    rois: dict[str, Files]

    @classmethod
    def of(cls, layout: Layout, subject: int, mask: str | None) -> Sources:
        """Those of a subject; errors as `mask_file` and `mask_files`."""
        if layout.choice.on_surface:
            chosen = mask_files(layout, subject, mask)
            return cls(chosen, (), layout.surface_ncsnr(subject), label_files(layout, subject))
        chosen_file, brain = mask_file(layout, subject, mask), brain_mask(layout, subject)
        rois: dict[str, Files] = {volume: (path,) for volume, path in roi_files(layout, subject).items()}
        return cls((chosen_file,) if chosen_file else (), (brain,) if brain else (), (layout.ncsnr(subject),), rois)


def anatomy_of(layout: Layout, subject: int, mask: str | None = None) -> Anatomy:
    """Voxels or vertices used, as the choice of betas has them; errors as `read_anatomy` and `read_surface`."""
    return (read_surface if layout.choice.on_surface else read_anatomy)(layout, subject, mask)


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
    betas, sources = layout.session_files(subject), Sources.of(layout, subject, mask)
    tables = {volume: layout.label_table(subject, volume) for volume in sources.rois}
    return {
        "dataset": "nsd",
        "subject": subject,
        "sessions": chosen,
        "mask": _identity(sources.mask),
        "brain_mask": _identity(sources.brain_mask),
        "ncsnr": _identity(sources.ncsnr),
        "design": _identity((layout.design,)),
        "rois": {volume: _identity(files) for volume, files in sources.rois.items()},
        "labels": {volume: _identity((path,)) for volume, path in tables.items()},
        "betas": {str(number): _identity(betas[number], identity.sampled) for number in chosen},
        **({"preparation": layout.choice.named} if layout.choice.named else {}),
    }


def _identity(files: Files, read: Callable[[Path], dict[str, Any]] = identity.whole) -> Any:
    """Of one file itself, of several a list; None where one is not there."""
    if not files or not all(path.is_file() for path in files):
        return None
    found = [read(path) for path in files]
    return found[0] if len(found) == 1 else found


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
    anatomy = anatomy_of(layout, subject, mask)
    files = layout.session_files(subject)
    for number in request["sessions"]:
        if anatomy.vertices is None:
            beta_files.check_shape(files[number][0], anatomy.areas.shape)
        else:
            check_vertices(files[number], anatomy.vertices)
    return Contents(
        request,
        mask_name(layout, subject, mask),
        trials,
        anatomy.areas,
        anatomy.ncsnr,
        vertices=anatomy.vertices,
    )


def mask_name(layout: Layout, subject: int, mask: str | None) -> str | None:
    """The mask so that the same words find it from any folder."""
    if layout.choice.on_surface:
        return mask
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
