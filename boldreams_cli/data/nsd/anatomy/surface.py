"""Which vertices of a subject's surface are used, and what is known of each (NSD manual, "ROIs").

NSD has all areas on each subject's own surface, and those that were drawn on FreeSurfer's average brain there too. What
was mapped in the subject comes to the average brain as NSD's betas do: each of its vertices takes the value of the
nearest vertex of the subject (``white-to-fsaverage``, nsdcode).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, ChoiceError, listing, logger
from boldreams_cli.data.areas import Areas
from boldreams_cli.data.nsd.anatomy.rois import ATLAS, GROUPS, OVERRIDES, VOLUMES, label_tables
from boldreams_cli.data.nsd.anatomy.volume import NSDGENERAL, Anatomy
from boldreams_cli.data.nsd.betas.choice import AVERAGE, NATIVE
from boldreams_cli.data.nsd.betas.hemispheres import Vertices, read_labels, read_nearest, read_values
from boldreams_cli.data.nsd.layout import Files, Layout
from boldreams_cli.data.units import VertexUnits

DRAWN_ON_AVERAGE = (ATLAS, NSDGENERAL)
Scalar = TypeVar("Scalar", bound=np.generic)


def sources(layout: Layout, subject: int, name: str) -> Files:
    """Files that a map is made of: of two hemispheres, and two more where those must come to the average brain."""
    if layout.choice.space == NATIVE:
        return layout.surface_map(subject, name)
    if name in DRAWN_ON_AVERAGE:
        return layout.surface_map(None, name)
    return layout.surface_map(subject, name) + layout.to_average(subject)


def label_files(layout: Layout, subject: int) -> dict[str, Files]:
    """ROI volume -> files of its labels on the surface, for those that are all there."""
    files = {volume: sources(layout, subject, volume) for volume in VOLUMES}
    return {volume: paths for volume, paths in files.items() if all(path.is_file() for path in paths)}


def mask_files(layout: Layout, subject: int, mask: str | None) -> Files:
    """Where the mask that ``--mask`` names lies; none when the areas' union is used.

    Raises
    ------
    ChoiceError
        If it is another than ``nsdgeneral``.
    BoldreamsError
        If the subject has no nsdgeneral on this surface.
    """
    if mask is None:
        return ()
    if mask != NSDGENERAL:
        raise ChoiceError(f"--mask {mask}: on a surface it is {NSDGENERAL}; leave it out for the union of all areas")
    files = sources(layout, subject, NSDGENERAL)
    if missing := [path for path in files if not path.is_file()]:
        raise BoldreamsError(f"no {missing[0]}; download it or leave out --mask")
    return files


def read_both(files: Files, read: Callable[..., NDArray[Scalar]]) -> tuple[NDArray[Scalar], NDArray[Scalar]]:
    """Values of the left and the right hemisphere's vertices, of files as `sources` gives them."""
    left, right = (read(path) for path in files[:2])
    if len(files) == 4:
        left, right = left[read_nearest(files[2], len(left))], right[read_nearest(files[3], len(right))]
    return left, right


def at_vertices(
    places: NDArray[np.integer], left: NDArray[np.floating], right: NDArray[np.floating]
) -> NDArray[np.floating]:
    """(V,) values at vertices as `VertexUnits` files them."""
    values = np.empty(len(places), left.dtype)
    for side, part in enumerate((left, right)):
        mine = places[:, 1] == side
        values[mine] = part[places[mine, 0]]
    return values


class Meshes:
    """Vertices that all maps of a subject must have: as many as the first that is checked."""

    def __init__(self, subject: int, vertices: Vertices | None = None) -> None:
        self.subject, self.first, self.vertices = subject, "", vertices

    def check(self, files: Files, left: NDArray[Scalar], right: NDArray[Scalar]) -> None:
        """Raise BoldreamsError if a map has other numbers of vertices."""
        found = len(left), len(right)
        if self.vertices is None:
            self.first, self.vertices = str(files[0]), found
        if found != self.vertices:
            raise BoldreamsError(
                f"surfaces of subject {self.subject} differ in vertices, left and right: {self.first or 'its betas'} "
                f"{self.vertices}; {files[0]} {found}; download them again"
            )


def read_surface(layout: Layout, subject: int, mask: str | None = None) -> Anatomy:
    """Vertices used, their labels and ncsnr: those of `mask` (``nsdgeneral``) or of all areas, the left ones first.

    Raises
    ------
    ChoiceError
        If there is no such mask.
    BoldreamsError
        If a file is damaged, numbers of vertices differ, or no vertex is left.
    """
    paths, chosen = label_files(layout, subject), mask_files(layout, subject, mask)
    _say_absent(layout, subject, paths)
    if not paths and not chosen:
        raise BoldreamsError(
            f"no areas of subject {subject} on {layout.choice.space}: there is no "
            f"{sources(layout, subject, ATLAS)[0]}; download them or use --mask {NSDGENERAL}"
        )
    meshes = Meshes(subject)
    labels = {volume: read_both(files, read_labels) for volume, files in paths.items()}
    for volume, parts in labels.items():
        meshes.check(paths[volume], *parts)
    inside: list[NDArray[np.bool_]]
    if chosen:
        general = read_both(chosen, read_labels)
        meshes.check(chosen, *general)
        inside = [part > 0 for part in general]
    else:
        inside = [np.logical_or.reduce([parts[side] > 0 for parts in labels.values()]) for side in (0, 1)]
    if not any(part.any() for part in inside):
        raise BoldreamsError(f"no vertex of subject {subject} is left inside the masks; see --mask")
    vertices = len(inside[0]), len(inside[1])
    vertex = [np.flatnonzero(part) for part in inside]
    space = AVERAGE if layout.choice.space == AVERAGE else f"subj{subject:02d}"
    sides = np.repeat(["L", "R"], [len(part) for part in vertex])
    units = VertexUnits(space, sides, np.concatenate(vertex).astype(np.int32), vertices)
    areas = Areas(
        labels={
            volume: np.concatenate([part[there] for part, there in zip(parts, inside, strict=True)])
            for volume, parts in labels.items()
        },
        tables=label_tables(layout, subject, labels),
        voxels=units.ijk,
        shape=units.shape,
        affine=units.affine,
        groups=GROUPS,
        overrides=OVERRIDES,
        space=space,
    )
    return Anatomy(areas, _ncsnr(layout, subject, meshes, units), vertices)


def _ncsnr(layout: Layout, subject: int, meshes: Meshes, units: VertexUnits) -> NDArray[np.float32]:
    files = layout.surface_ncsnr(subject)
    if missing := [path for path in files if not path.is_file()]:
        logger.warning("no %s: noise ceilings will be unknown (NaN)", missing[0])
        return np.full(len(units), np.nan, np.float32)
    left, right = read_both(files, read_values)
    meshes.check(files, left, right)
    return at_vertices(units.ijk, left, right).astype(np.float32)


def _say_absent(layout: Layout, subject: int, there: dict[str, Files]) -> None:
    absent = {volume: sources(layout, subject, volume) for volume in VOLUMES if volume not in there}
    if absent:
        missing = next(path for files in absent.values() for path in files if not path.is_file())
        logger.warning(
            "subject %d has no areas %s on %s, as there is no %s: they will be empty",
            subject,
            listing(absent),
            layout.choice.space,
            missing,
        )
