"""A study on disk: its manifest, and of each cell a log, a lock and what is known of it (cache/README.md, "studies").

The cache is the truth: what is noted of a cell spares work, and counts only while the files that it names are the same.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from boldreams_cli import __version__
from boldreams_cli.console import BoldreamsError, ChoiceError, MismatchError, StopFlag, listing, logger
from boldreams_cli.files import digest, read_json, write_json
from boldreams_cli.locks import Lock
from boldreams_cli.study.cells.grid import Cell, Grid

FORMAT = 1
MANIFEST = "manifest.json"
DONE, FAILED, RUNNING, MISSING = "done", "failed", "running", "missing"
STARTED, STOPPED = "started", "stopped"
NAME = re.compile(r"\w[\w.+-]*")  # of a study: of a folder, and of jobs
OTHERS = ("compare", "minimal", "report")  # folders beside those of studies
Stamp = list[Any]  # size, time of change in ns, digest


@dataclass(frozen=True)
class Study:
    """The cells of a sweep, and where what is known of them lies.

    Parameters
    ----------
    folder : ``cache/studies/NAME``.
    key : hash of the grid.
    cells : in order; their numbers are those of the job array.
    settings : of all fits.
    data_root : of the data; None where the cache holds all that is needed.
    device, memory : as typed.
    """

    folder: Path
    key: str
    cells: tuple[Cell, ...]
    settings: dict[str, Any]
    data_root: Path | None
    device: str
    memory: int

    @property
    def name(self) -> str:
        """Of the study."""
        return self.folder.name

    @property
    def cache(self) -> Path:
        """That the study lies in."""
        return self.folder.parent.parent

    @property
    def path(self) -> Path:
        """Of the manifest."""
        return self.folder / MANIFEST

    @classmethod
    def make(
        cls,
        cache: Path,
        name: str | None,
        grid: Grid,
        data_root: Path | None,
        device: str,
        memory: int,
        defaults: Collection[str] = (),
    ) -> Study:
        """The study of a grid; nothing is written.

        Parameters
        ----------
        cache, name, grid : of the study.
        data_root, device, memory : as in `Study`.
        defaults : those of device and memory that nobody gave. Where the study is there already, its own stay, as
            does its root where none was given: cells that wait in a queue read them when they start.

        Raises
        ------
        ChoiceError
            If the name is no folder's, or another grid has it.
        """
        name = name or f"sweep-{grid.key[:6]}"
        if not NAME.fullmatch(name):
            raise ChoiceError(f"{name!r} is no name of a study; write letters, digits, dots, - and _ (--name)")
        if name in OTHERS:
            raise ChoiceError(f"studies/{name} is where `boldreams {name}` writes; choose another name (--name)")
        folder = cache / "studies" / name
        made = cls(folder, grid.key, tuple(grid.cells()), grid.settings, data_root, device, memory)
        if not made.path.exists():
            return made
        there = cls.load(made.path)
        if there.key != grid.key:
            raise ChoiceError(
                f"the study {name} is of another grid, of {len(there.cells)} cells; choose another --name (what is "
                "fitted counts in any study)"
            )
        return replace(
            made,
            data_root=there.data_root if data_root is None else data_root,
            device=there.device if "device" in defaults else device,
            memory=there.memory if "memory" in defaults else memory,
        )

    @classmethod
    def find(cls, cache: Path, named: Path) -> Study:
        """Read the manifest that is meant: a file, the folder that it lies in, or the name of a study of the cache.

        Raises
        ------
        ChoiceError
            If there is none of that name, or the file is another; the message lists those there.
        MismatchError
            If this version does not read it.
        """
        for path in (named, cache / "studies" / named):
            if (path.name == MANIFEST and path.is_file()) or (path / MANIFEST).is_file():
                return cls.load(path)
        there = sorted(path.parent.name for path in (cache / "studies").glob(f"*/{MANIFEST}"))
        if named.is_file():
            raise ChoiceError(
                f"{named} is no manifest of a study; give the {MANIFEST} that the sweep wrote, its folder, or the "
                f"study's name; in {cache / 'studies'}: {listing(there)}"
            )
        raise ChoiceError(f"no study {str(named)!r} in {cache / 'studies'}; there: {listing(there)}")

    @classmethod
    def load(cls, path: Path) -> Study:
        """Read a manifest; `path` may be its folder.

        Raises
        ------
        BoldreamsError
            If there is none.
        MismatchError
            If this version does not read it.
        """
        path = path / MANIFEST if path.is_dir() else path
        found = read_json(path)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise MismatchError(f"{path} is no manifest of this version; make it again with the sweep's own command")
        root = found["nsd_root"]
        return cls(
            folder=path.absolute().parent,
            key=found["key"],
            cells=tuple(Cell(**cell) for cell in found["cells"]),
            settings=found["settings"],
            data_root=None if root is None else Path(root),
            device=found["device"],
            memory=found["memory"],
        )

    def save(self) -> None:
        """Write the manifest, unless it is there as it is."""
        content = {
            "format": FORMAT,
            "study": self.name,
            "key": self.key,
            "nsd_root": None if self.data_root is None else str(self.data_root.absolute()),
            "device": self.device,
            "memory": self.memory,
            "settings": self.settings,
            "cells": [asdict(cell) for cell in self.cells],
        }
        if not self.path.exists() or read_json(self.path) != content:
            write_json(self.path, content)

    def log(self, number: int) -> Path:
        """The log of a cell; a job array writes to the same."""
        return self.folder / "logs" / f"cell-{number:04d}.log"

    def lock(self, number: int, wait: bool = False, stop: StopFlag | None = None) -> Lock:
        """Held by the process that runs a cell."""
        return Lock(self.folder / "locks" / f"cell-{number:04d}.lock", f"{self.name}, cell {number}", wait, stop)

    def table_lock(self) -> Lock:
        """Held by the process that looks how far the study is and writes its table."""
        return Lock(self.folder / "locks" / "table.lock", f"the table of {self.name}", wait=True)

    def is_running(self, number: int) -> bool:
        """Whether some process runs a cell now; nothing is written."""
        return self.lock(number).is_held()

    def note(self, number: int, outcome: str, **facts: Any) -> None:
        """Write what is known of a cell."""
        write_json(self._note(number), facts | {"version": __version__, "outcome": outcome})

    def noted(self, number: int) -> dict[str, Any]:
        """What was noted of a cell by this version, empty where nothing was."""
        try:
            found = read_json(self._note(number))
        except BoldreamsError:
            return {}
        return found if isinstance(found, dict) and found.get("version") == __version__ else {}

    def _note(self, number: int) -> Path:
        return self.folder / "cells" / f"{number:04d}.json"

    def last_line(self, number: int) -> str:
        """The last line of a cell's log."""
        try:
            text = self.log(number).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        lines = [line for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    @contextmanager
    def logged(self, number: int) -> Iterator[None]:
        """Write what is logged to the cell's log as well, where stderr is not that very file."""
        path = self.log(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        mine = threading.get_ident()
        handler.addFilter(lambda record: record.thread == mine)  # another thread has another cell in hand
        if _is_stderr(path):
            handler.close()
            yield
            return
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            handler.close()


def _is_stderr(path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(2), path.stat())
    except OSError:
        return False


def stamps(files: list[Path], cache: Path) -> dict[str, Stamp]:
    """Size, time of change and digest of files, by their names in the cache."""
    found: dict[str, Stamp] = {}
    for path in files:
        there = path.stat()
        found[path.relative_to(cache).as_posix()] = [there.st_size, there.st_mtime_ns, digest(path)]
    return found


def of_other_pixels(noted: dict[str, Any], cache: Path) -> bool:
    """Whether the images that a finetuned model was trained on were made anew of others since.

    Like maps, they may be deleted for room.
    """
    try:
        known = read_json(cache / "stimuli" / f"{noted.get('stimuli')}.json")
    except BoldreamsError:
        return False
    return isinstance(known, dict) and known.get("content") != noted["pixels"]


def edition_of(cache: Path, store: str) -> str | None:
    """The edition of a store of maps, as models have it in their spec; None where the maps were deleted since."""
    from boldreams_cli.features.store.store_arrays import edition
    from boldreams_cli.stores import ResumableStore

    path = cache / "features" / store
    return edition(ResumableStore(path)) if path.is_dir() else None


def unchanged(known: dict[str, Stamp], cache: Path) -> bool:
    """Whether all files are as they were: read only where their time is another, as in a cache that was copied."""
    try:
        return all(_same(cache / name, stamp) for name, stamp in known.items())
    except OSError:
        return False


def retimed(known: dict[str, Stamp], cache: Path) -> dict[str, Stamp]:
    """The stamps of files that are as they were, with their times of now."""
    return {name: [size, (cache / name).stat().st_mtime_ns, *more] for name, (size, _, *more) in known.items()}


def _same(path: Path, stamp: Stamp) -> bool:
    there, (size, changed, *known) = path.stat(), stamp
    if there.st_size != size:
        return False
    return bool(there.st_mtime_ns == changed) or (bool(known) and digest(path) == known[0])
