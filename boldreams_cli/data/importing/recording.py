"""What an importer is asked and what it gives: one subject's trials, whose betas stay in their files until written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.data.units import VertexUnits, VoxelUnits

BLOCK_BYTES = 2**28  # of betas that are in memory at a time

CeilingKind = Literal["ncsnr", "single-trial", "test-set"]


@dataclass(frozen=True)
class Asked:
    """What was typed.

    Parameters
    ----------
    source : the folder or file of the data set.
    subject : whose data, as the data set names them; None for the only one there is.
    images : a folder with the pictures shown, at any depth; None for the places where the data set has them.
    hold_out : percent of the images to mark as test where the data set has no test; None for the importer's own.
    template : a file that says where units lie, where the data do not.
    """

    source: Path
    subject: str | None = None
    images: Path | None = None
    hold_out: float | None = None
    template: Path | None = None


@dataclass(frozen=True)
class Recording:
    """One subject's trials as an importer found them.

    Parameters
    ----------
    subject : its name in the new file.
    shown : (trials,) name of the picture of each trial, with or without a suffix.
    test : (trials,) bool.
    betas : gives (trials, units) in blocks of trials, one after another, each time it is called.
    units : where each column of the betas lies.
    zscored : whether the betas are z-scored already.
    source : what was read, for people.
    pictures : the folder to look for pictures in.
    prefer : name of a folder whose pictures are meant where several have the name of one shown.
    prefix : of the names of some pictures' files, which are looked for first.
    square : whether all pictures shown were square, so that others of the same names are not those.
    sessions : (trials,), from 1.
    areas : name -> (units,) bool.
    ceiling : (units,) in percent, with its kind.
    degrees : of visual angle that the pictures spanned, where the data set says so.
    left_out : what was not taken -> how many.
    """

    subject: str
    shown: Sequence[str]
    test: NDArray[np.bool_]
    betas: Callable[[], Iterable[NDArray[np.float32]]]
    units: VoxelUnits | VertexUnits
    zscored: bool
    source: str
    pictures: Path
    prefer: str = ""
    prefix: str = ""
    square: bool = False
    sessions: NDArray[np.integer] | None = None
    areas: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    ceiling: NDArray[np.floating] | None = None
    ceiling_kind: CeilingKind | None = None
    degrees: float | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Importer:
    """A way into one data set; each is one file of the room `importers`, as ``IMPORTER``.

    Parameters
    ----------
    title : the data set's own name.
    read : finds all but the betas; raises BoldreamsError that names what it looked for.
    takes : options of `Asked` that not all importers take: ``hold_out``, ``template``.
    """

    title: str
    read: Callable[[Asked], Recording]
    takes: frozenset[str] = frozenset()


def rows_in_memory(units: int, itemsize: int = 4) -> int:
    """How many trials of so many units a block has."""
    return max(1, BLOCK_BYTES // max(1, units * itemsize))


def text(value: Any) -> str:
    """A string of an HDF5 file, which may come as bytes."""
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
