"""NSD's ROI volumes, their labels, and the groups that the paper makes of them (NSD manual, "ROIs")."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from boldreams_cli.console import BoldreamsError, logger
from boldreams_cli.data.areas import Group
from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.files import reading

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
GROUPS: dict[str, Group] = {
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
# Mapped in this very subject, so it overrides the atlas (paper, section 2.1).
OVERRIDES = {ATLAS: RETINOTOPY}


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
    with reading(path):
        lines = path.read_text(encoding="utf-8").splitlines()
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
