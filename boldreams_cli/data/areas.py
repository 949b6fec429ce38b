"""Brain areas of one subject: groups and labels, as its data set names them, over the voxels used."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, ChoiceError, MismatchError, listing, meant
from boldreams_cli.data.volumes import affine_difference, read_mask

# A label volume, and those of its labels that make the group: names, or numbers where the names say something else.
Group = tuple[str, tuple[str | int, ...]]
MASK_SUFFIXES = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Areas:
    """Areas of one subject, over the voxels used.

    Parameters
    ----------
    labels : ROI volume -> (V,) int16; 0 and below are no area.
    tables : ROI volume -> label -> name; of labels that share a name, the first volume's is meant.
    voxels : (V, 3) integer, indices x, y, z.
    shape : (X, Y, Z) of the subject's volumes.
    affine : (4, 4) float64, voxel indices to mm.
    groups : name -> what it is made of, in the order to list them.
    overrides : ROI volume -> another whose labels replace those of the first, wherever it has any.
    space : the meshes whose vertices `voxels` files; None where these are voxels of a volume.
    """

    labels: dict[str, NDArray[np.int16]]
    tables: dict[str, dict[int, str]]
    voxels: NDArray[np.int32]
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    groups: dict[str, Group] = field(default_factory=dict)
    overrides: dict[str, str] = field(default_factory=dict)
    space: str | None = None

    def select(self, name: str) -> NDArray[np.bool_]:
        """Voxels of an area.

        Parameters
        ----------
        name : a group (``faces``), a single label (``FFA-1``), a comma-joined union of those, or the
            path of a NIfTI mask file, whose voxels above 0 are taken.

        Returns
        -------
        (V,) bool, with at least one voxel.

        Raises
        ------
        ChoiceError
            If there is no such area.
        MismatchError
            If a mask file has another affine than the subject's volumes.
        BoldreamsError
            If none of the voxels used lies in it, or a mask file is damaged or of another shape.
        """
        chosen = np.zeros(len(self.voxels), bool)
        for part in parts_of(name):
            chosen |= self._one(part)
        if not chosen.any():
            raise BoldreamsError(
                f"the area {name} has no voxels in this subject; areas that have: {listing(self.counts(), 30)}"
            )
        return chosen

    def canonical(self, name: str) -> str:
        """The area's name as the program spells it, the same for all ways to write it.

        Parameters
        ----------
        name : as for `select`.

        Returns
        -------
        Groups and labels in the data set's spelling; masks as ``mask-`` and 8 hex digits of their content; the
        parts of a union each once, in the order given.

        Raises
        ------
        ChoiceError, MismatchError, BoldreamsError
            As `select`.
        """
        found = []
        for part in parts_of(name):
            if _is_mask(part):
                found.append("mask-" + hashlib.sha256(np.packbits(self._mask(part)).tobytes()).hexdigest()[:8])
            else:
                found.append(self._named(part)[0])
        return ",".join(dict.fromkeys(found))

    def counts(self) -> dict[str, int]:
        """Voxels of each group that has any, in the order of the data set."""
        return self._counted(self.groups)

    def label_counts(self) -> dict[str, int]:
        """Voxels of each single label that has any, volume by volume."""
        return self._counted(name for table in self.tables.values() for name in table.values())

    def _counted(self, names: Iterable[str]) -> dict[str, int]:
        counts = {name: int(self._one(name).sum()) for name in names}
        return {name: count for name, count in counts.items() if count}

    def _one(self, name: str) -> NDArray[np.bool_]:
        if _is_mask(name):
            return self._mask(name)[tuple(self.voxels.T)]
        return self._labelled(*self._named(name)[1])

    def _named(self, name: str) -> tuple[str, Group]:
        """The spelling of a group or label, and what it is made of."""
        for fold in (str, str.casefold):  # as written first, then whatever the case
            for known, group in self._known():
                if fold(known) == fold(name):
                    return known, group
        near = meant(name, [*self.groups, *(known for known, _ in self._known())])
        raise ChoiceError(
            f"no area {name!r}{near}; groups are {listing(self.groups, 30)}; single labels "
            f"(`boldreams info --rois SUBJECT` lists them), comma-joined unions and NIfTI mask "
            f"files work too (--roi)"
        )

    def _known(self) -> Iterator[tuple[str, Group]]:
        yield from self.groups.items()
        for volume, table in self.tables.items():
            for number, label in table.items():
                yield label, (volume, (number,))

    def _labelled(self, volume: str, wanted: tuple[str | int, ...]) -> NDArray[np.bool_]:
        """Voxels whose label in `volume` is among `wanted`, names or numbers."""
        if volume not in self.labels:
            return np.zeros(len(self.voxels), bool)
        folded = {item.casefold() for item in wanted if isinstance(item, str)}
        numbers = [n for n, label in self.tables[volume].items() if n in wanted or label.casefold() in folded]
        numbers += [item for item in wanted if isinstance(item, int)]
        chosen = np.isin(self.labels[volume], numbers)
        if (other := self.overrides.get(volume)) in self.labels:
            chosen &= self.labels[other] <= 0
        return chosen

    def _mask(self, name: str) -> NDArray[np.bool_]:
        """(X, Y, Z) of a mask file in this subject's space."""
        if self.space is not None:
            raise ChoiceError(f"{name} is a volume, this subject's units are vertices of {self.space}; name an area")
        mask, affine = read_mask(Path(name))
        if mask.shape != tuple(self.shape):
            raise BoldreamsError(
                f"the mask {name} has shape {mask.shape}, this subject's volumes {tuple(self.shape)}; "
                f"give one in the subject's own functional space"
            )
        if difference := affine_difference(affine, self.affine, self.shape):
            raise MismatchError(
                f"the mask {name} has another affine than this subject's volumes: {difference}; "
                f"resample it to their space"
            )
        return mask


def parts_of(name: str) -> list[str]:
    """Areas of a comma-joined union."""
    # Not Path.is_file, which raises on names longer than a file's may be.
    return [name] if os.path.isfile(name) else [part.strip() for part in name.split(",")]  # noqa: PTH113


def from_anywhere(name: str) -> str:
    """An area's name with the paths of its mask files whole: the same words find them from any folder."""
    return ",".join(str(Path(part).resolve()) if _is_mask(part) else part for part in parts_of(name))


def _is_mask(name: str) -> bool:
    return name.endswith(MASK_SUFFIXES)
