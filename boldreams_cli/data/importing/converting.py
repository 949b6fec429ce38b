"""From a data set's own files to one neutral file (docs/importing.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, ChoiceError, listing, logger, progress
from boldreams_cli.data import importers
from boldreams_cli.data.importing.finding import Pictures
from boldreams_cli.data.importing.recording import Asked, Importer, Recording
from boldreams_cli.data.neutral.writing import write
from boldreams_cli.data.pictures import check_picture


def convert(
    name: str,
    asked: Asked,
    output: Path,
    *,
    rename: str | None = None,
    skip_missing: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write one subject of a data set into a neutral file.

    Parameters
    ----------
    name : of the importer.
    asked : what to read.
    output : the new file, written whole or not at all.
    rename : the subject's name in it, in place of the importer's.
    skip_missing : leave out trials whose pictures are not there, rather than stop.
    overwrite : whether a file that is there may be replaced.

    Returns
    -------
    What `boldreams import --json` prints.

    Raises
    ------
    ChoiceError
        If the output is there, or a choice was wrong.
    BoldreamsError
        If a file is missing or damaged, or pictures are not found.
    """
    if output.is_dir() or (output.exists() and not overwrite):
        raise ChoiceError(f"{output} is there already; give another --output, or --overwrite")
    importer, found = _found(name, asked)
    if rename is not None:
        found = replace(found, subject=rename)
    shown, paths, keep = _pictures(found, skip_missing)
    names, index = np.unique(np.array(shown)[keep], return_inverse=True)
    test = _test(found, keep)
    with progress(f"import {name}", int(keep.sum()), "trials") as state:
        write(
            output,
            subject=found.subject,
            betas=_kept(found, keep, state.advance),
            trial_image=index,
            image_names=names.tolist(),
            image_paths=[_beside(paths[image], output) for image in names.tolist()],
            zscored=found.zscored,
            sessions=None if found.sessions is None else found.sessions[keep],
            test=test,
            units=found.units,
            areas=found.areas,
            ceiling=found.ceiling,
            ceiling_kind=found.ceiling_kind,
            degrees=found.degrees,
            source=f"{importer.title}: {found.source}",
        )
    return _said(output, found, index, test, int((~keep).sum()))


def _said(
    output: Path, found: Recording, index: NDArray[np.integer], test: NDArray[np.bool_], pictureless: int
) -> dict[str, Any]:
    left_out = {**found.left_out, "trials without a picture": pictureless}
    return {
        "file": output,
        "subject": found.subject,
        "train": {"images": len(np.unique(index[~test])), "trials": int((~test).sum())},
        "test": {"images": len(np.unique(index[test])), "trials": int(test.sum())},
        "units": len(found.units),
        "rois": {area: int(mask.sum()) for area, mask in found.areas.items()},
        "ceiling": found.ceiling_kind,
        "left_out": {what: count for what, count in left_out.items() if count},
    }


def _found(name: str, asked: Asked) -> tuple[Importer, Recording]:
    """The importer, and what it finds."""
    importer = importers.load(name)
    for option in ("hold_out", "template"):
        if getattr(asked, option) is not None and option not in importer.takes:
            raise ChoiceError(f"{name} takes no --{option.replace('_', '-')}; leave it out")
    return importer, importer.read(asked)


def _pictures(found: Recording, skip_missing: bool) -> tuple[list[str], dict[str, Path], NDArray[np.bool_]]:
    """Name of the picture of each trial, the file of each, and which trials have one."""
    pictures = Pictures(found.pictures, found.prefer, found.prefix)
    paths = {name: path for name in dict.fromkeys(found.shown) if (path := pictures.find(name)) is not None}
    missing = [name for name in dict.fromkeys(found.shown) if name not in paths]
    said = f"{len(missing)} of {len(missing) + len(paths)} pictures are not in {found.pictures}: {listing(missing, 3)}"
    if missing and not (skip_missing and paths):
        more = "" if not paths else ", or leave their trials out with --skip-missing"
        raise BoldreamsError(f"{said}; give the folder that holds them with --images{more}")
    if missing:
        logger.warning("%s; their trials are left out", said)
    oblong = [path for path in paths.values() if len(set(check_picture(path))) > 1] if found.square else []
    if oblong:
        raise BoldreamsError(
            f"{len(oblong)} of {len(paths)} pictures are not square, as all were that were shown: {oblong[0]}; "
            "give the folder that holds them as they were cropped with --images"
        )
    first: dict[Path, str] = {}  # of names that mean one file, the first one is its picture's
    for name, path in paths.items():
        first.setdefault(path, name)
    shown = [first[paths[name]] if name in paths else name for name in found.shown]
    return shown, paths, np.array([name in paths for name in found.shown])


def _test(found: Recording, keep: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(trials kept,) whether of the test; BoldreamsError where there is no test, or nothing else."""
    test = found.test[keep]
    if test.all() or not test.any():
        what = "training" if test.all() else "test"
        raise BoldreamsError(
            f"{found.source}: none of its {len(test)} trials is of the data set's {what}; it needs more of the files"
        )
    return test


def _kept(found: Recording, keep: NDArray[np.bool_], advance: Any) -> Iterator[NDArray[np.float32]]:
    """The betas of the trials kept, block by block."""
    first = 0
    for block in found.betas():
        chosen = block[keep[first : first + len(block)]]
        first += len(block)
        if len(chosen):
            yield chosen
            advance(len(chosen))
    if first != len(keep):
        raise BoldreamsError(f"{found.source} holds betas of {first} trials, but names {len(keep)}; download it again")


def _beside(path: Path, output: Path) -> Path:
    """A picture's path from the new file's folder where it lies below, so that both can move together; else whole."""
    whole, folder = path.absolute(), output.absolute().parent
    return whole.relative_to(folder) if whole.is_relative_to(folder) else whole
