"""Zarr groups whose units of work are resumable: made whole, locked, written beside, in a ledger with checksums."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, MismatchError, StopFlag
from boldreams_cli.files import PARTIAL, checksums, sync, to_json, write_text
from boldreams_cli.locks import Lock
from boldreams_cli.zarr_files import (
    ROOT,
    ZARR,
    ZARRS,
    attributes,
    file_size,
    is_whole,
    metadata_of,
    named_errors,
    open_array,
    remedy,
    tail,
)

Unit = str | int
LEDGER = "ledger.jsonl"
PATIENCE, NAP = 60.0, 0.1  # seconds
STATIC = "static"  # the kind, in what `verify` gives, of files that are no unit's


class ResumableStore:
    """A Zarr group that is written unit by unit, by any number of processes, and can be killed at any moment.

    A unit is done when its last line in the ledger says so *and* its files are there. The ledger lies in the group's
    folder, and its lines name the store's random id, so that neither outlives the other or is taken for another's.

    Parameters
    ----------
    path : of the group.

    Attributes
    ----------
    id : random, of this very store.
    attributes : the group's, sealed by a hash when it was made.

    Raises
    ------
    BoldreamsError
        If there is no such store.
    MismatchError
        If its attributes are damaged or were edited.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / ROOT).is_file():
            raise BoldreamsError(f"{path} is not a store: it has no {ROOT}")
        self.attributes = attributes(path)
        sealed = {key: value for key, value in self.attributes.items() if key != "seal"}
        if self.attributes.get("seal") != _seal(sealed) or not isinstance(sealed.get("store_id"), str):
            raise MismatchError(
                f"{path / ROOT} does not match its seal, it is damaged or was edited; {remedy(path, True)}"
            )
        self.id: str = sealed["store_id"]
        self._known: tuple[tuple[int, ...], list[dict[str, Any]]] = ((), [])  # the ledger when it was last read
        self._compared: dict[tuple[str, Unit], dict[str, Any]] = {}  # lines of units whose files were read whole

    @classmethod
    def create(
        cls,
        path: Path,
        build: Callable[[Path], None],
        attributes: dict[str, Any],
        changing: Iterable[str] = (),
    ) -> ResumableStore:
        """Open the store, made where there is none; whole or not at all, whoever else is making it.

        Parameters
        ----------
        path : of the group.
        build : makes arrays in an empty group at the path that it is given.
        attributes : of the group, sealed for ever; ``store_id``, ``static`` and ``seal`` are added.
        changing : patterns of files, relative to the group, that units will change; `verify` and `check_static`
            compare all others that `build` made.

        Raises
        ------
        BoldreamsError
            If it cannot be written.
        """
        if not is_whole(path):
            with Lock(path.with_name(f"{path.name}.lock"), str(path), wait=True), named_errors(path):
                if not is_whole(path):
                    _make(path, build, attributes, list(changing))
        return cls(path)

    def lines(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Valid lines of the ledger, oldest first; torn, edited and foreign ones are left out."""
        try:
            with (self.path / LEDGER).open("rb") as stream:
                facts = os.fstat(stream.fileno())
                stamp = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
                if stamp != self._known[0]:  # lines are only ever added
                    found = (self._parsed(line) for line in stream.read().split(b"\n") if line)
                    self._known = (stamp, [line for line in found if line is not None])
        except FileNotFoundError:
            return []
        except OSError as error:
            raise BoldreamsError(f"cannot read {self.path / LEDGER}: {error.strerror}") from error
        return [line for line in self._known[1] if kind in (None, line["kind"])]

    def _parsed(self, text: bytes) -> dict[str, Any] | None:
        try:
            line = json.loads(text)
        except ValueError:
            return None
        if not isinstance(line, dict) or line.get("store") != self.id:
            return None
        facts = {key: value for key, value in line.items() if key != "check"}
        return facts if line.get("check") == _seal(facts) else None

    def last(self, kind: str) -> dict[Unit, dict[str, Any]]:
        """Each unit's last line, without those that a later line says are damaged."""
        found = {line["unit"]: line for line in self.lines(kind)}
        return {unit: line for unit, line in found.items() if "damaged" not in line}

    def done(self, kind: str) -> dict[Unit, dict[str, Any]]:
        """Units that are done, with their lines: the ledger says so, and their files are there in their sizes."""
        return {unit: line for unit, line in self.last(kind).items() if self.is_there(line)}

    def done_unit(self, kind: str, unit: Unit) -> dict[str, Any] | None:
        """The line of one unit if it is done; the files of others are not looked at."""
        line = self.last(kind).get(unit)
        return line if line is not None and self.is_there(line) else None

    def is_there(self, line: dict[str, Any]) -> bool:
        """Whether a line's files are there in the sizes that it says, and end as it says.

        Arrays end in a checksum, of a shard's index or of a chunk: a unit's file in place of another's does not pass.
        """
        return all(
            file_size(self.path / name) == facts[0] and (len(facts) < 4 or tail(self.path / name) == facts[3])
            for name, facts in line["files"].items()
        )

    def damaged(self, kind: str, unit: Unit, also: Sequence[str] = ()) -> list[tuple[str, str]]:
        """Read a unit's files whole, once in a process: (file, why) of each that is not as its line says.

        Nothing is written: `verify` notes damage, so that the unit is made again.

        Parameters
        ----------
        kind, unit : to read.
        also : kinds whose units of the same name write these files too.
        """
        line = self.last(kind).get(unit)
        if line is None:
            return [(f"{kind} {unit}", "is not done")]
        if self._compared.get((kind, unit)) == line and self.is_there(line):
            return []
        bad = self._damaged_files(line)
        if bad and self.settled([(each, unit) for each in (kind, *also)]):
            bad = self._damaged_files(self.last(kind).get(unit))
        if not bad:
            self._compared[kind, unit] = line
        return bad

    def settled(self, units: Iterable[tuple[str, Unit]]) -> bool:
        """Wait for whoever makes units now, a while at most; true if somebody did.

        A unit's files are renamed into place before its line is written: in between neither fits the other.
        """
        end, waited = time.monotonic() + PATIENCE, False
        for kind, unit in units:
            while self._in_hand(kind, unit) and time.monotonic() < end:
                waited = True
                time.sleep(NAP)
        return waited

    def _in_hand(self, kind: str, unit: Unit) -> bool:
        lock = self.unit_lock(kind, unit)
        try:
            return not lock.take()
        except BoldreamsError:  # of a store that cannot be written
            return False
        finally:
            lock.release()

    def add(self, kind: str, unit: Unit, files: Iterable[str] = (), **facts: Any) -> None:
        """Note that a unit is done, once all that it wrote is on the disk.

        Parameters
        ----------
        kind, unit : what was done.
        files : that hold it, relative to the store.
        **facts : whatever JSON holds, to be found in its line.

        Raises
        ------
        BoldreamsError
            If a file is missing or the ledger cannot be written.
        """
        with named_errors(self.path):
            written = {}
            for name in sorted(set(files)):
                path = self.path / name
                sync(path)
                written[name] = _facts(path)
            for folder in {parent for name in written for parent in (self.path / name).parents}:
                if folder.is_relative_to(self.path):
                    sync(folder)
            self._append({"store": self.id, "kind": kind, "unit": unit, "files": written, **facts})

    def revoke(self, kind: str, unit: Unit, why: str) -> None:
        """Note that a unit must be done again."""
        with named_errors(self.path):
            self._append({"store": self.id, "kind": kind, "unit": unit, "files": {}, "damaged": why})

    def _append(self, facts: dict[str, Any]) -> None:
        facts = json.loads(json.dumps(to_json(facts)))  # as it will be read, for its checksum
        line = json.dumps(facts | {"check": _seal(facts)}) + "\n"
        with Lock(self.path / "locks" / "ledger.lock", str(self.path), wait=True):
            new = not (self.path / LEDGER).exists()
            with (self.path / LEDGER).open("ab+") as stream:
                if stream.seek(0, os.SEEK_END):
                    stream.seek(-1, os.SEEK_END)
                    line = line if stream.read(1) == b"\n" else "\n" + line  # behind a torn one
                stream.write(line.encode())
                stream.flush()
                os.fsync(stream.fileno())
            if new:
                sync(self.path)

    def unit_lock(self, kind: str, unit: Unit, wait: bool = False, stop: StopFlag | None = None) -> Lock:
        """The lock of one unit, for whoever works on it; ask `done` again when it is held."""
        return Lock(self.path / "locks" / f"{kind}-{unit}.lock", f"{kind} {unit} of {self.path}", wait, stop)

    def lock(self, stop: StopFlag | None = None) -> Lock:
        """The lock for changes of the whole, such as more rows; waits."""
        return Lock(self.path / "locks" / "store.lock", str(self.path), wait=True, stop=stop)

    def write_array(self, name: str, chunk: Sequence[int], data: NDArray[Any]) -> str:
        """Write one chunk (of a sharded array: one shard) beside its place and rename it.

        A chunk of zeros is written as any other, so that a file which is missing is damage.

        Parameters
        ----------
        name : of the array in the group.
        chunk : index of the chunk in the grid.
        data : its values; behind them, up to the chunk's shape, the fill value is written.

        The caller holds the lock of the unit that the chunk belongs to.

        Returns
        -------
        The file's path, relative to the store.

        Raises
        ------
        BoldreamsError
            If the disk is full or cannot be written; what was there before stays.
        """
        target = f"{name}/c/{'/'.join(str(index) for index in chunk)}"
        metadata = metadata_of(self.path / name)
        shape = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
        sharded = any(codec["name"] == "sharding_indexed" for codec in metadata["codecs"])
        # The name is the chunk's, so that whoever writes it after a kill clears what the killed one left.
        beside = self.path / f"{PARTIAL}{target.replace('/', '-')}"
        with named_errors(self.path / target):
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()
            try:
                (beside / ROOT).write_text(json.dumps(metadata | {"shape": shape}), encoding="utf-8")
                file = beside.joinpath("c", *["0"] * len(shape))
                _write_one(beside, shape, data, ZARRS if sharded else ZARR)
                if not file.is_file():  # zarrs leaves out a shard of the fill value
                    _write_one(beside, shape, data, ZARR)
                sync(file)
                (self.path / target).parent.mkdir(parents=True, exist_ok=True)
                file.replace(self.path / target)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
        return target

    def static_damage(self) -> Iterator[tuple[str, str]]:
        """(file, why) of each file that was made with the store, is no unit's, and is not as it was."""
        for name, expected in self.attributes.get("static", {}).items():
            if why := _damage(self.path / name, expected):
                yield name, why

    def check_static(self) -> None:
        """Raise MismatchError if a file that was made with the store is damaged; reads them all."""
        for name, why in self.static_damage():
            raise MismatchError(f"{self.path / name} {why}; {remedy(self.path, True)}")

    def verify(self) -> Iterator[tuple[str, Unit, str, str]]:
        """Read every file that is said to be done, and those made with the store.

        Damaged units are noted in the ledger, where the store can be written, so that only they are made again.

        Yields
        ------
        kind, unit, file, what is wrong with it; `STATIC` and "" for files that are no unit's.
        """
        for name, why in self.static_damage():
            yield STATIC, "", name, why
        units = {(line["kind"], line["unit"]) for line in self.lines()}
        for kind, unit in sorted(units, key=lambda pair: (pair[0], str(pair[1]).zfill(12))):
            bad = self._damaged_files(self.last(kind).get(unit))
            if bad and self.settled(other for other in units if other[1] == unit):
                bad = self._damaged_files(self.last(kind).get(unit))
            if not bad:
                continue
            # Whoever holds the lock is making it anew; of a store that cannot be written, it is said all the same.
            with suppress(BoldreamsError), self.unit_lock(kind, unit):
                bad = self._damaged_files(self.last(kind).get(unit))
                if bad:
                    self.revoke(kind, unit, "; ".join(f"{name} {why}" for name, why in bad))
            for name, why in bad:
                yield kind, unit, name, why

    def _damaged_files(self, line: dict[str, Any] | None) -> list[tuple[str, str]]:
        files = {} if line is None else line["files"]
        return [(name, why) for name, expected in files.items() if (why := _damage(self.path / name, expected))]


def _seal(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _facts(path: Path) -> list[Any]:
    """Size, CRC-32C, CRC-32 and last four bytes of a file; lines of before have the first two."""
    return [path.stat().st_size, *checksums(path), tail(path)]


def _damage(path: Path, expected: Sequence[Any]) -> str:
    """What is wrong with a file of which the facts are known; "" where nothing is."""
    if (size := file_size(path)) != expected[0]:
        return "is missing" if size < 0 else f"has {size} bytes in place of {expected[0]}"
    try:
        same = all(found == known for found, known in zip(checksums(path), expected[1:3], strict=False))
        return "" if same else "is damaged: its checksum is another"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _write_one(folder: Path, shape: tuple[int, ...], data: NDArray[Any], pipeline: str) -> None:
    array = open_array(folder, "r+", pipeline, empty_chunks=True)
    if data.shape != shape:
        whole = np.full(shape, array.fill_value, array.dtype)
        whole[tuple(slice(0, length) for length in data.shape)] = data
        data = whole
    array[:] = data


def _make(path: Path, build: Callable[[Path], None], attributes: dict[str, Any], changing: list[str]) -> None:
    """Make a store beside its place and rename it; the caller holds the lock, so leftovers can be cleared."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f"{PARTIAL}{path.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}{path.name}-", dir=path.parent))
    try:
        new = temporary / path.name
        new.mkdir()
        zarr.open_group(new, mode="w", zarr_format=3)
        build(new)
        made = sorted(file for file in new.rglob("*") if file.is_file() and file != new / ROOT)
        static = {}
        for file in made:
            sync(file)
            name = file.relative_to(new).as_posix()
            if not any(fnmatch(name, pattern) for pattern in changing):
                static[name] = _facts(file)
        made_here = {"static": static, "store_id": os.urandom(32).hex()}
        sealed = json.loads(json.dumps(to_json(attributes | made_here)))
        root = json.loads((new / ROOT).read_text(encoding="utf-8"))
        write_text(new / ROOT, json.dumps(root | {"attributes": sealed | {"seal": _seal(sealed)}}, indent=1))
        for folder in (new, *(entry for entry in new.rglob("*") if entry.is_dir())):
            sync(folder)
        if path.exists():  # it was no store, so it holds nothing that can be read
            path.rename(temporary / "before")
        new.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
