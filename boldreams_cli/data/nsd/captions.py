"""COCO's captions of the images shown (NSD manual, "Experiments": nsd_stim_info_merged.csv)."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path

from boldreams_cli.console import BoldreamsError, listing
from boldreams_cli.data.nsd.layout import Layout

CAPTIONS_PER_IMAGE = 5  # COCO has five or more of an image; the paper uses five
SPLITS = ("train", "val")
COLUMNS = ("nsdId", "cocoId", "cocoSplit")


def read_image_table(path: Path) -> dict[int, tuple[int, str]]:
    """Read which COCO image each NSD image is.

    Returns
    -------
    nsdId (0-based) -> (cocoId, ``"train"`` or ``"val"``).

    Raises
    ------
    BoldreamsError
        If the table is missing, lacks a column, or holds something else than numbers in it.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or [])]:
                raise BoldreamsError(f"{path} lacks the column {listing(missing)}; download it again")
            return {int(row["nsdId"]): (int(row["cocoId"]), row["cocoSplit"].removesuffix("2017")) for row in reader}
    except OSError as error:
        raise BoldreamsError(f"cannot read {path}: {error.strerror}; download it or correct --nsd-root") from error
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise BoldreamsError(f"{path} is not a readable table ({error}); download it again") from error


def read_captions(layout: Layout, nsd_ids: Iterable[int], captions_dir: Path | None = None) -> dict[int, list[str]]:
    """First five captions of each image, in the order of the annotations file.

    Parameters
    ----------
    nsd_ids : 0-based image numbers.
    captions_dir : folder of captions_{train,val}2017.json, in place of those under the root.

    Returns
    -------
    nsdId -> captions, at least one and at most five.

    Raises
    ------
    BoldreamsError
        If a file is missing or damaged, or an image has no caption.
    """
    table = read_image_table(layout.image_table)
    wanted = sorted({int(number) for number in nsd_ids})
    if unknown := [number for number in wanted if number not in table]:
        raise BoldreamsError(f"{layout.image_table} does not list image {listing(unknown)}")
    folders = layout.caption_folders if captions_dir is None else (captions_dir,)
    files = {split: _find(folders, split) for split in SPLITS}
    found: dict[int, list[str]] = {}
    # First the split that the table names, then the other: later COCO releases moved images across.
    for other in (False, True):
        for split, path in files.items():
            ids = {table[n][0] for n in wanted if table[n][0] not in found and (table[n][1] == split) != other}
            if ids and path is not None:
                found.update(_captions_of(path, ids))
    _check_complete([n for n in wanted if table[n][0] not in found], files, folders)
    return {number: list(found[table[number][0]]) for number in wanted}


def _find(folders: Iterable[Path], split: str) -> Path | None:
    paths = (Layout.captions(folder, split) for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def _captions_of(path: Path, coco_ids: set[int]) -> dict[int, list[str]]:
    """First five captions of those of `coco_ids` that the file has."""
    found: dict[int, list[str]] = {}
    try:
        for annotation in json.loads(path.read_text(encoding="utf-8"))["annotations"]:
            number = int(annotation["image_id"])
            if number in coco_ids and len(captions := found.setdefault(number, [])) < CAPTIONS_PER_IMAGE:
                captions.append(str(annotation["caption"]).strip())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BoldreamsError(
            f"{path} is not a readable COCO captions file ({error!r}); download annotations_trainval2017 again"
        ) from error
    return found


def _check_complete(missing: list[int], files: dict[str, Path | None], folders: tuple[Path, ...]) -> None:
    if not missing:
        return
    absent = [Layout.captions(Path(), split).name for split, path in files.items() if path is None]
    if absent:
        places = " or ".join(str(folder) for folder in folders)
        raise BoldreamsError(
            f"no captions of {len(missing)} images ({listing(missing, 5)}): {listing(absent)} not in "
            f"{places}; download COCO's annotations_trainval2017 and give their folder by --captions-dir"
        )
    raise BoldreamsError(
        f"no captions of image {listing(missing, 5)} in {listing(files.values())}; "
        f"give the folder of COCO's complete files by --captions-dir"
    )
