"""COCO's captions of the images shown (NSD manual, "Experiments": nsd_stim_info_merged.csv)."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from boldreams_cli.console import BoldreamsError, listing
from boldreams_cli.data.dataset import CAPTIONS_PER_IMAGE
from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.files import digest, reading

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
    with (
        reading(path, "it must be a readable table; download it again", "download it or correct --nsd-root"),
        path.open(newline="", encoding="utf-8-sig") as stream,
    ):
        reader = csv.DictReader(stream)
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or [])]:
            raise BoldreamsError(f"{path} lacks the column {listing(missing)}; download it again")
        return {int(row["nsdId"]): (int(row["cocoId"]), row["cocoSplit"].removesuffix("2017")) for row in reader}


class Captions:
    """First five captions of each image, in the order of the annotations file; each file is read once.

    Parameters
    ----------
    layout : of the NSD root.
    folder : of captions_{train,val}2017.json, in place of those under the root.

    Raises
    ------
    BoldreamsError
        If the table of images is missing or damaged.
    """

    def __init__(self, layout: Layout, folder: Path | None = None) -> None:
        self._path = layout.image_table
        self._table = read_image_table(self._path)
        self._folders = _folders(layout, folder)
        self._files = {split: _find(self._folders, split) for split in SPLITS}
        self._ids = {coco for coco, _ in self._table.values()}
        self._read: dict[str, dict[int, list[str]]] = {}

    def of(self, ids: Iterable[int]) -> dict[int, list[str]]:
        """Captions of each image.

        Parameters
        ----------
        ids : 0-based image numbers.

        Returns
        -------
        nsdId -> captions, at least one and at most five.

        Raises
        ------
        BoldreamsError
            If a file is missing or damaged, or an image has no caption.
        """
        wanted = sorted({int(number) for number in ids})
        if unknown := [number for number in wanted if number not in self._table]:
            raise BoldreamsError(f"{self._path} does not list image {listing(unknown)}")
        found: dict[int, list[str]] = {}
        # First the split that the table names, then the other: later COCO releases moved images across.
        for other in (False, True):
            for split in SPLITS:
                asked = {n for n in wanted if n not in found and (self._table[n][1] == split) != other}
                there = self._split(split) if asked else {}
                found |= {n: there[self._table[n][0]] for n in asked if self._table[n][0] in there}
        _check_complete([n for n in wanted if n not in found], self._files, self._folders)
        return {number: list(found[number]) for number in wanted}

    def _split(self, split: str) -> dict[int, list[str]]:
        path = self._files[split]
        if path is None:
            return {}
        if split not in self._read:
            self._read[split] = _captions_of(path, self._ids)
        return self._read[split]


def identity(layout: Layout, folder: Path | None = None) -> dict[str, Any]:
    """Hashes of the captions files that are there and of the table of images."""
    paths = {split: _find(_folders(layout, folder), split) for split in SPLITS}
    found = {split: digest(path) for split, path in paths.items() if path is not None}
    return {"captions": found, "image_table": digest(layout.image_table)}


def _folders(layout: Layout, folder: Path | None) -> tuple[Path, ...]:
    return layout.caption_folders if folder is None else (folder,)


def _find(folders: Iterable[Path], split: str) -> Path | None:
    paths = (Layout.captions(folder, split) for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def _captions_of(path: Path, coco_ids: set[int]) -> dict[int, list[str]]:
    """First five captions of those of `coco_ids` that the file has."""
    found: dict[int, list[str]] = {}
    with reading(path, "it must be a COCO captions file; download annotations_trainval2017 again"):
        for annotation in json.loads(path.read_text(encoding="utf-8"))["annotations"]:
            number = int(annotation["image_id"])
            if number in coco_ids and len(captions := found.setdefault(number, [])) < CAPTIONS_PER_IMAGE:
                captions.append(str(annotation["caption"]).strip())
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
