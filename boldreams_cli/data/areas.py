"""Brain areas: label volumes, their names, and the groups of the paper (NSD manual, "ROIs")."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, ChoiceError, listing, logger
from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.data.nsd.volumes import read_float_volume, read_mask, read_volume

__all__ = [
    "GROUPS",
    "STANDARD_LABELS",
    "VOLUMES",
    "Areas",
    "label_tables",
    "read_float_volume",
    "read_label_table",
    "read_mask",
    "read_volume",
]

RETINOTOPY, ATLAS, ECCENTRICITY = "prf-visualrois", "Kastner2015", "prf-eccrois"

# Names in the order of the labels 1, 2, ..., as in NSD's .ctab files, for when those are missing.
STANDARD_LABELS: dict[str, tuple[str, ...]] = {
    RETINOTOPY: ("V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"),
    ATLAS: (
        *("V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4", "VO1", "VO2", "PHC1", "PHC2", "TO2", "TO1"),
        *("LO2", "LO1", "V3B", "V3A", "IPS0", "IPS1", "IPS2", "IPS3", "IPS4", "IPS5", "SPL1", "FEF"),
    ),
    ECCENTRICITY: ("ecc0pt5", "ecc1", "ecc2", "ecc4", "ecc4+"),
    "floc-faces": ("OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"),
    "floc-places": ("OPA", "PPA", "RSC"),
    "floc-words": ("OWFA", "VWFA-1", "VWFA-2", "mfs-words", "mTL-words"),
    "floc-bodies": ("EBA", "FBA-1", "FBA-2", "mTL-bodies"),
}
VOLUMES = tuple(STANDARD_LABELS)

# Group -> volume and its labels: names, or label numbers where NSD's names say something else.
GROUPS: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "V1": (RETINOTOPY, ("V1v", "V1d")),
    "V2": (RETINOTOPY, ("V2v", "V2d")),
    "V3": (RETINOTOPY, ("V3v", "V3d")),
    "hV4": (RETINOTOPY, ("hV4",)),
    "V3ab": (ATLAS, ("V3A", "V3B")),
    "LO": (ATLAS, ("LO1", "LO2")),
    "VO": (ATLAS, ("VO1", "VO2")),
    "PHC": (ATLAS, ("PHC1", "PHC2")),
    "IPS": (ATLAS, ("IPS0", "IPS1", "IPS2", "IPS3", "IPS4", "IPS5")),
    "MT": (ATLAS, ("TO1",)),
    "MST": (ATLAS, ("TO2",)),
    **{f"ecc_{number}": (ECCENTRICITY, (number,)) for number in range(1, 6)},
    **{name.removeprefix("floc-"): (name, STANDARD_LABELS[name]) for name in VOLUMES if name.startswith("floc-")},
}


def read_label_table(path: Path) -> dict[int, str]:
    """Names of labels from a FreeSurfer colour table; label 0 (Unknown) is left out.

    Parameters
    ----------
    path : lines ``index name``, colours after them ignored, as are comments and empty lines.

    Raises
    ------
    BoldreamsError
        If it cannot be read or a line is no such pair.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BoldreamsError(f"cannot read the label table {path} ({error}); download it again") from error
    table: dict[int, str] = {}
    for line in lines:
        fields = line.split("#")[0].split()
        if not fields:
            continue
        if len(fields) < 2 or not fields[0].lstrip("-").isdigit():
            raise BoldreamsError(f"{path}: {line!r} is not a label's index and name; download it again")
        if int(fields[0]) > 0:
            table[int(fields[0])] = fields[1]
    return table


def label_tables(layout: Layout, subject: int, volumes: Mapping[str, object]) -> dict[str, dict[int, str]]:
    """Names of the labels of each of `volumes`, with NSD's standard order where a table is missing."""
    tables = {}
    for volume in volumes:
        path = layout.label_table(subject, volume)
        if path.is_file():
            tables[volume] = read_label_table(path)
        else:
            logger.warning("no label table %s: taking NSD's standard names", path)
            tables[volume] = dict(enumerate(STANDARD_LABELS[volume], start=1))
    return tables


@dataclass(frozen=True)
class Areas:
    """Areas of one subject, over the voxels used.

    Parameters
    ----------
    labels : ROI volume -> (V,) int16; 0 and below are no area.
    tables : ROI volume -> label -> name.
    voxels : (V, 3) integer, indices x, y, z.
    shape : (X, Y, Z) of the subject's volumes.
    affine : (4, 4) float64, voxel indices to mm.
    """

    labels: dict[str, NDArray[np.int16]]
    tables: dict[str, dict[int, str]]
    voxels: NDArray[np.int32]
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

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
        BoldreamsError
            If none of the voxels used lies in it, or a mask file is damaged or of another shape.
        """
        chosen = np.zeros(len(self.voxels), bool)
        for part in [name] if Path(name).is_file() else name.split(","):
            chosen |= self._one(part.strip())
        if not chosen.any():
            raise BoldreamsError(
                f"the area {name} has no voxels in this subject; areas that have: {listing(self.counts(), 30)}"
            )
        return chosen

    def counts(self) -> dict[str, int]:
        """Voxels of each group that has any, in the order of the paper."""
        return self._counted(GROUPS)

    def label_counts(self) -> dict[str, int]:
        """Voxels of each single label that has any, volume by volume."""
        return self._counted(name for volume in VOLUMES for name in self.tables.get(volume, {}).values())

    def _counted(self, names: Iterator[str] | Mapping[str, object]) -> dict[str, int]:
        counts = {name: int(self._one(name).sum()) for name in names}
        return {name: count for name, count in counts.items() if count}

    def _one(self, name: str) -> NDArray[np.bool_]:
        if name.endswith((".nii", ".nii.gz")):
            return self._from_file(Path(name))
        for fold in (str, str.casefold):  # as written first, then whatever the case
            if found := [group for group in GROUPS if fold(group) == fold(name)]:
                return self._labelled(*GROUPS[found[0]])
            for volume in VOLUMES:
                for number, label in self.tables.get(volume, {}).items():
                    if fold(label) == fold(name):
                        return self._labelled(volume, (number,))
        raise ChoiceError(
            f"no area {name!r}; groups are {listing(GROUPS, 30)}; single labels "
            f"(`boldreams info --rois SUBJECT` lists them), comma-joined unions and NIfTI mask "
            f"files work too (--roi)"
        )

    def _labelled(self, volume: str, wanted: tuple[str | int, ...]) -> NDArray[np.bool_]:
        """Voxels whose label in `volume` is among `wanted`, names or numbers."""
        if volume not in self.labels:
            return np.zeros(len(self.voxels), bool)
        folded = {item.casefold() for item in wanted if isinstance(item, str)}
        numbers = [n for n, label in self.tables[volume].items() if n in wanted or label.casefold() in folded]
        numbers += [item for item in wanted if isinstance(item, int)]
        chosen = np.isin(self.labels[volume], numbers)
        if volume == ATLAS and RETINOTOPY in self.labels:
            # Mapped in this very subject, so it overrides the atlas (paper, section 2.1).
            chosen &= self.labels[RETINOTOPY] <= 0
        return chosen

    def _from_file(self, path: Path) -> NDArray[np.bool_]:
        mask, _ = read_mask(path)
        if mask.shape != tuple(self.shape):
            raise BoldreamsError(
                f"the mask {path} has shape {mask.shape}, this subject's volumes {tuple(self.shape)}; "
                f"give one in the subject's func1pt8mm space"
            )
        return mask[tuple(self.voxels.T)]
