"""One way to keep a product: a dream, an attribution, a word cloud, a prediction (cache/README.md, "products").

A product has a canonical name (what it is of, then the options that are not the defaults), a key (the hash of all
that decides it) and a provenance file, ``<stem>.json``, that names both and lists its files with their checksums.

- Equal key and whole: it is done, and nothing is computed.
- Another key under the same name: both stay; the newcomer's name gets six digits of its key. So nothing that was made
  with other settings, weights or versions is ever replaced. Only in a place that the user chose (``--output``) is
  there no other name to take: there it is refused, or replaces the other with ``--overwrite``.
- Stopped: in ``.stopped/`` beside, under its key, until it is finished.
- Files that no provenance file lists are somebody else's: never deleted, never written over.

A product's files are made in ``.making-<stem>/``, synced, and renamed into place, the provenance file last; a kill in
between is made good by the next who holds the lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from boldreams_cli.console import BoldreamsError, ChoiceError, StopFlag
from boldreams_cli.encoding.model.folder import check_there, is_there
from boldreams_cli.encoding.model.spec import FittedModel, versions
from boldreams_cli.files import digest, fingerprint, sync, write_json
from boldreams_cli.locks import vanishing

FORMAT = 1
LONGEST = 100  # characters of a name; file systems take 255 bytes, and suffixes come after it
STOPPED, MAKING = ".stopped", ".making-"
FOLDERS = ("dreams", "attributions", "words", "predictions")
Description = dict[str, Any]
Make = Callable[[Path, str], Description]


def spelled(*parts: object) -> str:
    """Make a file's name of what a person would say, without what a path or a shell trips over.

    A long name is cut and ends in a hash of the whole.
    """
    text = "-".join(str(part) for part in parts if str(part))
    name = re.sub(r"[^\w.,+-]+", "_", text).lstrip(".") or "unnamed"
    if len(name.encode()) <= LONGEST:
        return name
    tail = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{name.encode()[: LONGEST - 9].decode(errors='ignore')}-{tail}"


def of_model(model: FittedModel) -> dict[str, Any]:
    """What of a model decides what is made with it."""
    spec = model.spec
    return {
        "weights": spec.weights_digest,
        "backbone": spec.backbone_weights["digest"],
        "layers": fingerprint(spec.layers),
        "preprocessing": spec.preprocessing,
    }


def said_of_model(model: FittedModel) -> dict[str, Any]:
    """What people know a model by, for a provenance file."""
    spec = model.spec
    return {
        "model": str(model.folder),
        "model_weights": spec.weights_digest,
        "subject": spec.subject,
        "backbone": spec.backbone,
        "percent": spec.percent,
        "readout": spec.readout,
        "recipe": spec.recipe,
        "finetuned": spec.finetuned,
    }


def title_of_model(model: FittedModel) -> str:
    """For the title of a figure."""
    spec = model.spec
    kind = spec.recipe or spec.readout
    return f"subject {spec.subject}, {spec.backbone} {spec.percent:g} %, {kind}{', finetuned' * spec.finetuned}"


def versions_that_matter() -> dict[str, str]:
    """Of the software that decides a product's numbers."""
    return {name: version for name, version in versions().items() if name in ("boldreams", "torch")}


@dataclass(frozen=True)
class Product:
    """One product, made or not.

    Parameters
    ----------
    kind : ``dream``, ``attribution``, ``words``, ``prediction``.
    folder : where it belongs.
    stem : of its provenance file.
    files : names of its files, with ``{stem}`` where they hold it.
    decides : all that decides it, JSON-like.
    own_folder : whether the folder holds this product only, so that its name is the folder's.
    chosen : whether the user named the place.
    home : folder of the model that makes it; where the product lies in it, it is not written once the model is gone.
    """

    kind: str
    folder: Path
    stem: str
    files: tuple[str, ...]
    decides: Mapping[str, Any]
    own_folder: bool = False
    chosen: bool = False
    home: Path | None = None

    @cached_property
    def key(self) -> str:
        """Hash of all that decides it."""
        return fingerprint({"format": FORMAT, "kind": self.kind, "decides": self.decides})

    @property
    def stopped(self) -> Path:
        """Folder of what there is of it before it is finished."""
        return self.folder / STOPPED / f"{self.stem}-{self.key[:6]}"

    @contextmanager
    def held(self, stop: StopFlag) -> Iterator[None]:
        """Be the only one that makes it; another process that does is waited for.

        Raises
        ------
        StoppedError
            If a signal came while waiting.
        BoldreamsError
            If its model was removed since it was opened.
        """
        self._check_home()
        try:
            with vanishing(self.folder / f".{self.stem}.lock", f"{self.kind} {self.folder}", stop):
                for folder, stem in self._places():
                    _into_place(folder, stem)
                yield
        finally:
            self._leave_nothing()

    def found(self) -> Description | None:
        """Its description if it is done, with ``files`` as paths; a product that lost a file is not."""
        for folder, stem in self._places():
            there = described(folder, stem)
            if there is not None and there["key"] == self.key and not damage(folder, there):
                return there | {"files": [folder / name for name in there["checksums"]]}
        return None

    def place(self, overwrite: bool = False) -> tuple[Path, str]:
        """Folder and stem that it is, or would be, written to.

        Raises
        ------
        ChoiceError
            If the user chose the place, and there is another product or are files that are not ours.
        """
        for folder, stem in self._places():
            there = described(folder, stem)
            foreign = self._foreign(folder, stem, there)
            same = there is None or there["key"] == self.key
            if not foreign and (same or (self.chosen and overwrite)):
                return folder, stem
            if self.chosen and foreign:
                raise ChoiceError(
                    f"{folder / foreign[0]} was not made by boldreams as part of this; move it, or choose another "
                    "place with --output"
                )
            if self.chosen:
                raise ChoiceError(
                    f"{folder} holds {stem} of another {self.kind} (see {folder / stem}.json); choose another place "
                    "with --output, or replace it with --overwrite"
                )
        raise BoldreamsError(f"{self.folder} holds files in the way of {self.stem}; move them, or give --output")

    def write(self, make: Make, overwrite: bool = False) -> Description:
        """Make it; call this while it is `held`.

        Parameters
        ----------
        make : writes the files into a folder, with the stem given, and returns what else to say of them.
        overwrite : whether to replace another product in a place that the user chose.

        Returns
        -------
        As `found`.
        """
        self._check_home()
        folder, stem = self.place(overwrite)
        making = folder / f"{MAKING}{stem}"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        try:
            said = make(making, stem)
            self._check_home()
            self._describe(making, stem, folder.name if self.own_folder else stem, said, "done")
            for path in making.iterdir():
                sync(path)
            self.place(overwrite)  # nobody put a file in the way in the meantime
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            self._check_home()  # rather than that a folder is gone
            raise
        _into_place(folder, stem)
        self.forget_stopped()
        found = self.found()
        if found is None:
            raise BoldreamsError(f"{folder} was changed while {stem} was written to it; run the command again")
        return found

    def write_stopped(self, make: Make) -> None:
        """Keep what there is of it, apart from what is finished; call this while it is `held`."""
        self._check_home()
        self.stopped.mkdir(parents=True, exist_ok=True)
        name = self.folder.name if self.own_folder else self.stem
        self._describe(self.stopped, self.stem, name, make(self.stopped, self.stem), "stopped")

    def forget_stopped(self) -> None:
        """It is finished: what was kept to go on with is not needed."""
        shutil.rmtree(self.stopped, ignore_errors=True)
        if self.stopped.parent.is_dir() and not any(self.stopped.parent.iterdir()):
            self.stopped.parent.rmdir()

    def _check_home(self) -> None:
        if self._homes:
            check_there(self._homes[-1])

    @property
    def _homes(self) -> list[Path]:
        """Its folder and those above it, up to the model's; none where it lies elsewhere."""
        return [path for path in (self.folder, *self.folder.parents) if self.home and path.is_relative_to(self.home)]

    def _leave_nothing(self) -> None:
        """Where the model was removed meanwhile, take away the folders that locks and files have made anew."""
        if self._homes and not is_there(self._homes[-1]):
            with suppress(OSError):  # something else lies there
                for folder in self._homes:
                    folder.rmdir()

    def _describe(self, folder: Path, stem: str, name: str, said: Description, state: str) -> None:
        names = self._named(stem) if state == "done" else []
        facts = {
            "format": FORMAT,
            "kind": self.kind,
            "name": name,
            "key": self.key,
            "state": state,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "decides": self.decides,
            "versions": versions(),
            "checksums": {name: digest(folder / name) for name in names},
        }
        write_json(folder / f"{stem}.json", said | facts)

    def _named(self, stem: str) -> list[str]:
        return [name.format(stem=stem) for name in self.files]

    def _places(self) -> list[tuple[Path, str]]:
        """The canonical place, and the one to go to if that is taken."""
        first, tail = (self.folder, self.stem), self.key[:6]
        if self.chosen:
            return [first]
        if self.own_folder:
            return [first, (self.folder.with_name(f"{self.folder.name}-{tail}"), self.stem)]
        return [first, (self.folder, f"{self.stem}-{tail}")]

    def _foreign(self, folder: Path, stem: str, there: Description | None) -> list[str]:
        """Names that the product needs and that somebody else has taken."""
        ours = set(there["checksums"]) | {f"{stem}.json"} if there is not None else set()
        return [name for name in [*self._named(stem), f"{stem}.json"] if (folder / name).exists() and name not in ours]


def described(folder: Path, stem: str) -> Description | None:
    """What a provenance file says; None where there is none of ours."""
    try:
        said = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(said, dict) and all(key in said for key in ("kind", "key", "state", "made"))
    names = said.get("checksums") if whole else None
    if not isinstance(names, dict) or any(Path(name).name != name for name in names):
        return None
    return said


def damage(folder: Path, said: Description) -> list[str]:
    """Files of a product that are missing or changed."""
    return [name for name, sum_ in said["checksums"].items() if not _is(folder / name, sum_)]


@dataclass(frozen=True)
class Kept:
    """A product on disk.

    Parameters
    ----------
    kind, name, key, state, date : see `Product`; the state is ``done``, ``stopped`` or ``damaged``.
    place : its folder, or among others of one folder the path that its files' names begin with.
    files : paths.
    description : all that the provenance file says.
    """

    kind: str
    name: str
    key: str
    state: str
    date: str
    place: Path
    files: Sequence[Path]
    description: Description

    @property
    def is_photograph(self) -> bool:
        """Whether it is a dream that began as a photograph, which does not stand for what an area wants."""
        return self.kind == "dream" and self.description.get("start") is not None

    def is_of(self, weights: str) -> bool:
        """Whether a model of such weights made it, not one that was fitted again since; unsaid, it counts as such."""
        return self.description.get("model_weights", weights) == weights


def find_products(folder: Path, checked: bool = False) -> list[Kept]:
    """All products of a model (or, of words without one, of a cache), by kind and name.

    Parameters
    ----------
    folder : of the model.
    checked : whether to read the files and compare checksums too, rather than look whether they are there.
    """
    found = []
    for wing in FOLDERS:
        # Folders come and go while products are made, which os.walk passes over.
        for base, folders, names in os.walk(folder / wing):
            folders[:] = [name for name in folders if not name.startswith(MAKING)]
            paths = [Path(base, name) for name in names if name.endswith(".json")]
            found += [kept for path in paths if (kept := _kept(path, checked)) is not None]
    return sorted(found, key=lambda item: (item.kind, item.name, item.date, item.place))


def _kept(path: Path, checked: bool) -> Kept | None:
    """The product of a provenance file; None where it is none of ours, or is gone since it was listed."""
    folder, said = path.parent, described(path.parent, path.stem)
    while said is not None:
        if said["state"] == "done":
            files = [folder / name for name in said["checksums"]]
            whole = not damage(folder, said) if checked else all(file.is_file() for file in files)
        else:
            names = next(os.walk(folder), ("", [], []))[2]
            files, whole = sorted(folder / name for name in names if name != path.name), True
        state = said["state"] if whole else "damaged"
        place = folder if folder.name == said["name"] else folder / said["name"]
        kept = Kept(said["kind"], said["name"], said["key"], state, said["made"], place, files, said)
        now = said if whole else described(folder, path.stem)
        if now == said:
            return kept
        said = now  # it was made anew, or removed, while its files were looked at
    return None


def _is(path: Path, checksum: str) -> bool:
    try:
        return digest(path) == checksum
    except OSError:
        return False


def _into_place(folder: Path, stem: str) -> None:
    """Rename a product that was made whole into its place; go on where a kill ended that; drop what is half made."""
    making = folder / f"{MAKING}{stem}"
    if not making.is_dir():
        return
    new = described(making, stem)
    if new is not None:
        old = described(folder, stem)
        for name in set(old["checksums"] if old else ()) - set(new["checksums"]):
            (folder / name).unlink(missing_ok=True)
        for name in [*new["checksums"], f"{stem}.json"]:
            if (making / name).exists():
                (making / name).replace(folder / name)
        sync(folder)
    shutil.rmtree(making)


def hashed(array: Any) -> str:
    """Hash of an array's type, shape and bytes."""
    head = f"{array.dtype.str} {array.shape} ".encode()
    return hashlib.sha256(head + array.tobytes()).hexdigest()[:16]
