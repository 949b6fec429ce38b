"""Which voxels of a subject are used, and what is known of each (NSD manual, "ROIs"; paper, section 2.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, ChoiceError, listing, logger
from boldreams_cli.data.areas import Areas
from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.data.nsd.rois import GROUPS, OVERRIDES, VOLUMES, label_tables
from boldreams_cli.data.volumes import read_float_volume, read_mask, read_volume

NSDGENERAL = "nsdgeneral"


@dataclass(frozen=True)
class Anatomy:
    """Voxels used of one subject.

    Parameters
    ----------
    areas : the voxels (V, 3) in C order of their indices, with labels, shape and affine.
    ncsnr : (V,) float32, noise-ceiling signal-to-noise ratio; NaN where it is not known.
    """

    areas: Areas
    ncsnr: NDArray[np.float32]


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

    The voxels are those of `mask` (``nsdgeneral`` or a NIfTI file) or of all areas, inside the brain mask.

    Raises
    ------
    ChoiceError
        If there is no such mask.
    BoldreamsError
        If a volume is damaged, shapes differ, or no voxel is left.
    """
    paths, chosen = roi_files(layout, subject), mask_file(layout, subject, mask)
    volumes = {volume: read_volume(path) for volume, path in paths.items()}
    labels = {volume: array for volume, (array, _) in volumes.items()}
    shapes = {str(paths[volume]): array.shape for volume, array in labels.items()}
    if absent := [volume for volume in VOLUMES if volume not in paths]:
        logger.warning("subject %d has no ROI volume %s: those areas will be empty", subject, listing(absent))
    if chosen is not None:
        inside, affine = read_mask(chosen)
        shapes[str(chosen)] = inside.shape
    elif labels:
        _check_same_shape(shapes)
        inside = np.logical_or.reduce([array > 0 for array in labels.values()])
        affine = volumes[next(iter(volumes))][1]
    else:
        raise BoldreamsError(f"no ROI volume in {layout.roi(subject, '').parent}; download them or use --mask FILE")
    inside = _within_brain(layout, subject, inside, shapes)
    voxels = np.argwhere(inside).astype(np.int32)
    places = tuple(voxels.T)
    x, y, z = inside.shape
    return Anatomy(
        Areas(
            labels={volume: array[places] for volume, array in labels.items()},
            tables=label_tables(layout, subject, labels),
            voxels=voxels,
            shape=(x, y, z),
            affine=affine,
            groups=GROUPS,
            overrides=OVERRIDES,
        ),
        ncsnr=_ncsnr(layout.ncsnr(subject), (x, y, z))[places],
    )


def _within_brain(
    layout: Layout, subject: int, inside: NDArray[np.bool_], shapes: dict[str, tuple[int, ...]]
) -> NDArray[np.bool_]:
    path = brain_mask(layout, subject)
    brain = np.ones(inside.shape, bool) if path is None else read_mask(path)[0]
    _check_same_shape({**shapes, str(path): brain.shape})
    if not (inside & brain).any():
        raise BoldreamsError(f"no voxel of subject {subject} is left inside the masks; see --mask")
    return inside & brain


def _ncsnr(path: Path, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    if not path.is_file():
        logger.warning("no %s: noise ceilings will be unknown (NaN)", path)
        return np.full(shape, np.nan, np.float32)
    values, _ = read_float_volume(path)
    _check_same_shape({str(path): values.shape, "the subject's masks": shape})
    return values


def _check_same_shape(shapes: Mapping[str, tuple[int, ...]]) -> None:
    if len(set(shapes.values())) > 1:
        found = "; ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise BoldreamsError(f"volumes of one subject differ in shape: {found}; all must be in its func1pt8mm space")
