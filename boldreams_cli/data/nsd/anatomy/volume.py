"""Which voxels of a subject are used, and what is known of each (NSD manual, "ROIs"; paper, section 2.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, ChoiceError, MismatchError, listing, logger
from boldreams_cli.data.areas import Areas
from boldreams_cli.data.nsd.anatomy.rois import GROUPS, OVERRIDES, VOLUMES, label_tables
from boldreams_cli.data.nsd.betas.sessions import beta_affine
from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.data.volumes import affine_difference, read_float_volume, read_mask, read_volume

NSDGENERAL = "nsdgeneral"
Scalar = TypeVar("Scalar", bound=np.generic)
Reader = Callable[[Path], tuple[NDArray[Scalar], NDArray[np.float64]]]


@dataclass(frozen=True)
class Anatomy:
    """Voxels or vertices used of one subject.

    Parameters
    ----------
    areas : the voxels (V, 3) in C order of their indices, with labels, shape and affine.
    ncsnr : (V,) float32, noise-ceiling signal-to-noise ratio; NaN where it is not known.
    vertices : of the left and the right hemisphere's mesh, on a surface.
    """

    areas: Areas
    ncsnr: NDArray[np.float32]
    vertices: tuple[int, int] | None = None


def mask_file(layout: Layout, subject: int, mask: str | None) -> Path | None:
    """Where the mask that ``--mask`` names lies; None when the areas' union is used.

    Raises
    ------
    ChoiceError
        If it is neither ``nsdgeneral`` nor a file.
    BoldreamsError
        If the subject has no nsdgeneral volume.
    """
    if mask is None:
        return None
    path = layout.roi(subject, NSDGENERAL) if mask == NSDGENERAL else Path(mask)
    if not path.is_file():
        if mask == NSDGENERAL:
            raise BoldreamsError(f"no {path}; download it or use --mask FILE.nii.gz")
        raise ChoiceError(f"--mask {mask} is neither {NSDGENERAL} nor a NIfTI file")
    return path


def brain_mask(layout: Layout, subject: int) -> Path | None:
    """The subject's brain mask, if there is one."""
    return next((path for path in layout.brain_masks(subject) if path.is_file()), None)


def roi_files(layout: Layout, subject: int) -> dict[str, Path]:
    """ROI volume -> file, for those that are there."""
    paths = {volume: layout.roi(subject, volume) for volume in VOLUMES}
    return {volume: path for volume, path in paths.items() if path.is_file()}


def read_anatomy(layout: Layout, subject: int, mask: str | None = None) -> Anatomy:
    """Voxels used, their labels and ncsnr.

    The voxels are those of `mask` (``nsdgeneral`` or a NIfTI file) or of all areas, inside the brain mask. Places in
    mm are those of the first ROI volume; without one, of the betas or whatever NSD file there is.

    Raises
    ------
    ChoiceError
        If there is no such mask.
    MismatchError
        If a mask file has another affine than the subject's volumes.
    BoldreamsError
        If a volume is damaged, shapes differ, or no voxel is left.
    """
    paths, chosen = roi_files(layout, subject), mask_file(layout, subject, mask)
    volumes = {volume: read_volume(path) for volume, path in paths.items()}
    labels = {volume: array for volume, (array, _) in volumes.items()}
    if absent := [volume for volume in VOLUMES if volume not in paths]:
        logger.warning("subject %d has no ROI volume %s: those areas will be empty", subject, listing(absent))
    if chosen is None and not labels:
        raise BoldreamsError(f"no ROI volume in {layout.roi(subject, '').parent}; download them or use --mask FILE")
    space = Space(subject, name=layout.choice.space)
    for volume, (array, affine) in volumes.items():
        space.check(paths[volume], array, affine)
    betas = beta_affine(layout, subject)
    if betas is not None and space.shape:
        space.compare(layout.betas_folder(subject), betas)
    ncsnr = _optional(layout.ncsnr(subject), read_float_volume, space)
    brain = _optional(brain_mask(layout, subject), read_mask, space)
    if chosen is None:
        inside: NDArray[np.bool_] = np.logical_or.reduce([array > 0 for array in labels.values()])
    else:
        space.affine = betas if space.affine is None else space.affine
        inside, affine = read_mask(chosen)
        space.check(chosen, inside, affine, own=chosen == layout.roi(subject, NSDGENERAL))
    if brain is not None:
        inside = inside & brain
    if not inside.any():
        raise BoldreamsError(f"no voxel of subject {subject} is left inside the masks; see --mask")
    if ncsnr is None:
        logger.warning("no %s: noise ceilings will be unknown (NaN)", layout.ncsnr(subject))
        ncsnr = np.full(inside.shape, np.nan, np.float32)
    assert space.affine is not None
    voxels = np.argwhere(inside).astype(np.int32)
    places = tuple(voxels.T)
    x, y, z = inside.shape
    areas = Areas(
        labels={volume: array[places] for volume, array in labels.items()},
        tables=label_tables(layout, subject, labels),
        voxels=voxels,
        shape=(x, y, z),
        affine=space.affine,
        groups=GROUPS,
        overrides=OVERRIDES,
    )
    return Anatomy(areas, ncsnr[places])


class Space:
    """Shape and affine that all volumes of one subject must share: those given, or of the first one that is checked."""

    def __init__(
        self, subject: int, shape: tuple[int, ...] = (), affine: NDArray[np.float64] | None = None, name: str = ""
    ) -> None:
        self.subject, self.name = subject, name or "functional"
        self.first = "its prepared responses" if shape else ""
        self.shape, self.affine = tuple(shape), affine

    def check(self, path: Path, data: NDArray[Any], affine: NDArray[np.float64], own: bool = True) -> None:
        """Compare a volume; `own` is one of NSD's files, whose affine may differ: it is said and passed over."""
        if not self.first:
            self.first, self.shape = str(path), data.shape
        if data.shape != self.shape:
            raise BoldreamsError(
                f"volumes of subject {self.subject} differ in shape: {self.first} {self.shape}; {path} {data.shape}; "
                f"all must be in its {self.name} space"
            )
        self.compare(path, affine, own)

    def compare(self, path: Path, affine: NDArray[np.float64], own: bool = True) -> None:
        """Compare an affine alone."""
        if self.affine is None:
            self.affine = affine
        if difference := affine_difference(affine, self.affine, self.shape):
            found = f"{path} has another affine than the other volumes of subject {self.subject}: {difference}"
            if not own:
                raise MismatchError(f"{found}; resample it to their space (--mask)")
            logger.warning("%s; its voxels are taken by their indices", found)


def _optional(path: Path | None, read: Reader[Scalar], space: Space) -> NDArray[Scalar] | None:
    if path is None or not path.is_file():
        return None
    data, affine = read(path)
    space.check(path, data, affine)
    return data
