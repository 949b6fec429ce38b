"""Finds subjects, files and pictures in a folder; what is not there is said with what was looked for."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from boldreams_cli.console import BoldreamsError, ChoiceError, listing

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
VIDEOS = (".mp4", ".avi", ".mov", ".webm")  # a frame of one bears its name


def need_folder(path: Path, what: str) -> Path:
    """Give a folder back.

    Raises
    ------
    BoldreamsError
        If it is not there.
    """
    if not path.is_dir():
        raise BoldreamsError(f"{path} is not a folder; {what}")
    return path


def need(*paths: Path, what: str = "download it") -> Path:
    """Give the first file of these that is there.

    Raises
    ------
    BoldreamsError
        If none is; the message names all.
    """
    for path in paths:
        if path.is_file():
            return path
    raise BoldreamsError(f"there is no {' and no '.join(map(str, paths))}; {what}")


def find(folders: Iterable[Path], pattern: str) -> Path | None:
    """Give the first file of that name, which may have wildcards, below any of these folders."""
    for folder in folders:
        for path in sorted(folder.rglob(pattern)):
            if path.is_file():
                return path
    return None


def choose_subject(there: Iterable[str], asked: str | None, looked_for: str) -> str:
    """Choose a subject as the data set writes it.

    Parameters
    ----------
    there : names, e.g. ``sub-01``, ``CSI1``.
    asked : one of these, or its number in any form: ``1``, ``01``, ``subj01``; None for the only one.
    looked_for : the files that show that a subject is there.

    Raises
    ------
    ChoiceError
        If none or several match.
    BoldreamsError
        If there is no subject.
    """
    names = sorted(set(there))
    if not names:
        raise BoldreamsError(f"no subject found; looked for {looked_for}")
    if asked is None:
        if len(names) > 1:
            raise ChoiceError(f"choose a subject with --subject; there: {listing(names)}")
        return names[0]
    match = re.fullmatch(r"[A-Za-z-]*0*(\d+)", asked)
    same = [name for name in names if name == asked] or [
        name for name in names if match and (number := re.search(r"\d+", name)) and int(number[0]) == int(match[1])
    ]
    if len(same) != 1:
        raise ChoiceError(f"{'no' if not same else 'several'} subject {asked!r}; there: {listing(same or names)}")
    return same[0]


class Pictures:
    """Files of pictures at any depth of a folder, found by name.

    Parameters
    ----------
    folder : links to other folders in it are not followed.
    prefer, prefix : see `Recording`.
    """

    def __init__(self, folder: Path, prefer: str = "", prefix: str = "") -> None:
        self.folder, self.prefer, self.prefix = folder, prefer, prefix
        self._named: dict[str, list[Path]] = defaultdict(list)
        self._stemmed: dict[str, list[Path]] = defaultdict(list)
        for base, folders, files in os.walk(folder):
            folders.sort()
            for name in sorted(files):
                if name.lower().endswith(PICTURES) and not name.startswith("."):
                    self._named[name.lower()].append(Path(base, name))
                    self._stemmed[stem(name).lower()].append(Path(base, name))

    def __len__(self) -> int:
        return sum(map(len, self._named.values()))

    def stems(self) -> list[str]:
        """All names without their suffixes, in small letters and order."""
        return sorted(self._stemmed)

    def find(self, name: str) -> Path | None:
        """The file of a picture; with the prefix first, and with its suffix before any other, whatever the case.

        Raises
        ------
        ChoiceError
            If there are several.
        """
        named = self._called(self.prefix + name) if self.prefix else None
        return named or self._called(name)

    def _called(self, name: str) -> Path | None:
        found = self._named.get(name.lower()) or self._stemmed.get(stem(name).lower(), [])
        if len(found) > 1:  # names that differ by case alone are told apart where they are written so
            found = [path for path in found if name in (path.name, stem(path.name))] or found
        if len(found) > 1 and self.prefer:
            found = [path for path in found if self.prefer in path.relative_to(self.folder).parts] or found
        if len(found) > 1:
            raise ChoiceError(f"{found[0]} and {found[1]} may both be {name}; give --images the folder that is meant")
        return found[0] if found else None


def stem(name: str) -> str:
    """A picture's or video's name without its suffix; dots of other kinds stay."""
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in PICTURES + VIDEOS else name


def held_out(names: Sequence[str], percent: float) -> set[str]:
    """A share of the images, the same whatever else there is: those whose names hash lowest.

    Parameters
    ----------
    names : of images.
    percent : of them to hold out; at least one image, and never all.
    """
    import hashlib

    order = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).digest())
    count = round(len(order) * percent / 100)
    return set(order[: min(max(count, 1), len(order) - 1)])
