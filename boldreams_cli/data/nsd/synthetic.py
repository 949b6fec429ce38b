"""NSD-synthetic: the same subjects look at 284 images that are no photographs (NSD manual, "nsdsynthetic").

One session more: noise, scenes upright, upside down and as drawings, words, gratings at several contrasts. The first
220 images are the same for all subjects; 64 coloured ones are calibrated to each. All subjects see them in one order,
93 trials in each of 8 runs; a one-back repetition is a presentation like any other here.

Pixels are the light that the display gave, while NSD's photographs were shown by a display that squares: the square
root makes them what the photographs are (so do the authors, github.com/gifale95/NSD-synthetic). Images are oblong; the
middle square is what photographs filled, 8.4 degrees, and what networks see. Words far aside lie outside of it.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, ChoiceError, StopFlag, listing
from boldreams_cli.data import identity
from boldreams_cli.data.nsd.betas.sessions import read_betas, trials_in
from boldreams_cli.data.nsd.layout import Files, Layout
from boldreams_cli.data.nsd.matlab import read_arrays
from boldreams_cli.data.nsd.stimuli import Stimuli
from boldreams_cli.data.outside import OutsideTest
from boldreams_cli.data.prepared.preparing import zscore
from boldreams_cli.files import reading

NAME = "synthetic"
ORDER = "masterordering"
LIGHT = np.rint(np.sqrt(np.arange(256) / 255) * 255).astype(np.uint8)  # of a pixel, as photographs are stored
KIND, NUMBER = "Image class", "Image number"  # columns of the table of images


def synthetic_test(
    layout: Layout, subject: int, voxels: NDArray[np.int32], shape: tuple[int, int, int], stop: StopFlag | None = None
) -> OutsideTest:
    """One subject's NSD-synthetic; betas and pixels are read when they are asked for.

    Parameters
    ----------
    layout : with the choice of betas that the model's responses were made of.
    voxels, shape : (V, 3) and (X, Y, Z) of those responses.
    stop : looked at while betas are read.

    Raises
    ------
    ChoiceError
        If there are no such betas; the message says which there are.
    BoldreamsError
        If a file is missing or damaged, or trials, betas and images do not fit together.
    """
    files = betas_files(layout, subject)
    order = read_order(layout.synthetic_design)
    shown = order > 0
    count = trials_in(files)
    if count not in (len(order), int(shown.sum())):
        raise BoldreamsError(
            f"{files[0]} has {count} trials, {layout.synthetic_design} {int(shown.sum())} with an image; "
            f"one is not NSD's"
        )
    images = SyntheticStimuli(layout, subject)
    trials = (order[shown] - 1).astype(np.int32)
    if trials.max() >= len(images):
        raise BoldreamsError(
            f"{layout.synthetic_design} shows image {trials.max() + 1}, but {images.said} have {len(images)}; "
            f"download nsdsynthetic_colorstimuli_subj{subject:02d}.hdf5"
        )

    found = [identity.sampled(path) for path in files]

    def load() -> NDArray[np.float32]:
        betas = zscore(read_betas(files, voxels, shape, stop))
        return betas[shown] if len(betas) == len(order) else betas

    return OutsideTest(
        NAME,
        trials,
        read_kinds(layout.synthetic_table),
        {
            "test": NAME,
            "betas": found[0] if len(found) == 1 else found,
            "design": identity.whole(layout.synthetic_design),
            "stimuli": images.identity(),
        },
        images.read,
        load,
    )


def betas_files(layout: Layout, subject: int) -> Files:
    """The betas of the session, in the fastest format present; on a surface both hemispheres.

    Raises
    ------
    ChoiceError
        If there are none; the message says of which preparations there are.
    """
    known = layout.synthetic_betas(subject)
    there = tuple(path for path in known if path.is_file())
    if there and not layout.choice.on_surface:
        return there[:1]
    if len(there) == len(known):
        return there
    folder, both = known[0].parent, " of both hemispheres" if layout.choice.on_surface else ""
    others = sorted(path.name for path in folder.parent.glob("nsdsyntheticbetas_*") if path.is_dir())
    raise ChoiceError(
        f"no betas_nsdsynthetic{both} in {folder}; download it"
        + (f" (there are {listing(others)}: fit to those with --betas)" if others else "")
    )


def read_order(path: Path) -> NDArray[np.int64]:
    """(T,) number of the image of each trial, from 1; 0 where a trial shows none.

    Raises
    ------
    BoldreamsError
        If the file is missing or damaged, lacks the order, or holds other than whole numbers.
    """
    download = "download nsddata/experiments/nsdsynthetic/nsdsynthetic_expdesign.mat from NSD"
    found = read_arrays(path, (ORDER,), download).get(ORDER)
    if found is None:
        raise BoldreamsError(f"{path} lacks {ORDER}; {download}")
    order = np.where(np.isfinite(found), found, 0).ravel()
    if order.dtype.kind not in "iuf" or not len(order) or (order != np.rint(order)).any() or order.max() < 1:
        raise BoldreamsError(f"{path}: {ORDER} must hold whole numbers, from 1 where an image is shown; {download}")
    return np.maximum(order, 0).astype(np.int64)


def read_kinds(path: Path) -> dict[int, str]:
    """0-based id -> kind of image, of the table that NSD has of them; empty where it is not there.

    Raises
    ------
    BoldreamsError
        If it cannot be read.
    """
    if not path.is_file():
        return {}
    with reading(path), path.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
        return {int(float(row[NUMBER])) - 1: row[KIND] for row in rows if row.get(NUMBER) and row.get(KIND)}


class SyntheticStimuli:
    """The images that one subject saw: those of all subjects, then its own coloured ones.

    Raises
    ------
    BoldreamsError
        If the first file is missing, or one is damaged.
    """

    def __init__(self, layout: Layout, subject: int) -> None:
        shared, own = layout.synthetic_stimuli(subject)
        self.paths = [shared, own] if own.is_file() else [shared]
        self.counts = []
        for path in self.paths:
            with Stimuli(path) as stimuli:
                self.counts.append(len(stimuli))

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def said(self) -> str:
        """The files, for messages."""
        return listing(self.paths)

    def read(self, ids: NDArray[np.integer]) -> NDArray[np.uint8]:
        """(n, height, width, 3) uint8 of 0-based ids, of the brightness that photographs are stored with."""
        parts: dict[int, NDArray[np.uint8]] = {}
        first = 0
        for path, count in zip(self.paths, self.counts, strict=True):
            mine = [int(number) for number in np.unique(ids) if first <= number < first + count]
            if mine:
                with Stimuli(path) as stimuli:
                    parts |= dict(zip(mine, stimuli.read([number - first for number in mine]), strict=True))
            first += count
        return LIGHT[np.stack([parts[int(number)] for number in ids])]

    def identity(self) -> list[dict[str, object]]:
        """What identifies the images wherever they lie."""
        found = []
        for path in self.paths:
            with Stimuli(path) as stimuli:
                found.append(stimuli.identity())
        return found
