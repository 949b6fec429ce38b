"""The feature store: maps of many images on disk, read a filter at a time (cache/README.md, "features").

A chunk holds one filter of all the rows of a shard, so a readout that takes any tenth of the filters reads a
tenth of the bytes, whatever their order. A shard is one file, written by one writer, and the unit of resumption.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, MismatchError, StopFlag, listing
from boldreams_cli.features.store import made_with, shards, store_arrays
from boldreams_cli.features.store.older_store import FORMAT as OLDER
from boldreams_cli.features.store.older_store import older_done
from boldreams_cli.files import fingerprint
from boldreams_cli.stores import ResumableStore
from boldreams_cli.zarr_files import ZARR, ZARRS, attributes, is_whole, open_array, remedy

FORMAT = 2
IMAGES = "images"
KINDS = ("mean", "maps")


class FeatureStore:
    """One backbone's maps.

    Parameters
    ----------
    path : of the Zarr group.

    Raises
    ------
    BoldreamsError
        If there is none.
    MismatchError
        If its fingerprint does not belong to its spec, its format is not known, or its metadata was changed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filters: dict[str, NDArray[np.int32]] = {}
        if not path.is_dir() or not (path / "zarr.json").is_file():
            raise BoldreamsError(f"{path} is not a feature store; make it with boldreams extract")
        found = attributes(path)
        self.format = found.get("format")
        if self.format not in (OLDER, FORMAT):
            raise MismatchError(f"{path} has format {self.format}, this version reads {OLDER} and {FORMAT}")
        self.spec: dict[str, Any] = found.get("spec", {})
        self.fingerprint: str = found.get("fingerprint", "")
        self.weights: str = str(found.get("weights", ""))
        if fingerprint(self.spec) != self.fingerprint or not path.stem.endswith(f"-{self.fingerprint}"):
            raise MismatchError(
                f"{path}: the fingerprint {self.fingerprint or '(none)'} does not belong to the spec, which hashes to "
                f"{fingerprint(self.spec)}; its maps cannot be trusted, delete it and run boldreams extract again"
            )
        self.store = ResumableStore(path) if self.format == FORMAT else None
        if self.store is not None:
            store_arrays.check(self.store, self.spec)

    @staticmethod
    def path_for(cache: Path, spec: dict[str, Any]) -> Path:
        """Where a store of that spec lies."""
        return store_path(cache, spec["backbone"], fingerprint(spec))

    @classmethod
    def create(cls, cache: Path, spec: dict[str, Any], weights: str) -> FeatureStore:
        """Open the store of that spec, made empty where there is none.

        Raises
        ------
        MismatchError
            If an earlier version made it: it is read as it is, but takes no more images.
        """
        path = cls.path_for(cache, spec)
        if not is_whole(path):
            about = {"format": FORMAT, "fingerprint": fingerprint(spec), "spec": spec, "weights": weights}
            ResumableStore.create(
                path, lambda new: store_arrays.build(new, spec), about, [f"{IMAGES}/*", "layers/*/*/*"]
            )
        return cls(path)

    @property
    def writable(self) -> ResumableStore:
        """The units of a store of this version.

        Raises
        ------
        MismatchError
            If an earlier version made the store.
        """
        if self.store is None:
            raise MismatchError(
                f"{self.path} was made by an earlier version, whose stores are read as they are but take no more "
                "images; move it away and run boldreams extract again"
            )
        return self.store

    def keep_filters(self, filters: dict[str, NDArray[Any]]) -> None:
        """Make the arrays of the kept filters, once the first pass has ranked them."""
        with self.writable.lock():
            for name, indices in filters.items():
                store_arrays.add_maps(self.writable, self.spec, name, indices, len(self.images))
        self._filters.clear()

    @property
    def layers(self) -> dict[str, tuple[int, int, int]]:
        """Layer -> (filters of the backbone, height, width)."""
        return {name: (shape[0], shape[1], shape[2]) for name, shape in self.spec["layers"].items()}

    @property
    def has_maps(self) -> bool:
        """False only between the two passes of ``--keep-percent``."""
        if self.spec["keep"] is None or self.store is None:
            return all((self.path / "layers" / name / "maps" / "zarr.json").is_file() for name in self.layers)
        return set(self.store.done(store_arrays.KEPT)) == set(self.layers)

    @property
    def rows_per_shard(self) -> int:
        """Rows of a unit of work."""
        return int(self.spec["shard_rows"])

    @property
    def edition(self) -> str:
        """Hash of what was made anew of other stimuli than at first; "" where nothing was."""
        return "" if self.store is None else store_arrays.edition(self.store)

    @cached_property
    def images(self) -> NDArray[np.int32]:
        """(rows,) id of each row."""
        found = self.array(IMAGES)[:]
        return found[: store_arrays.known(found)] if self.store is not None else found

    def filters(self, layer: str) -> NDArray[np.int32]:
        """(stored,) the backbone's filter at each position of the layer's maps.

        Raises
        ------
        MismatchError
            If they are damaged, or not chosen yet.
        """
        if layer not in self._filters:
            found = self.array(f"layers/{layer}/filters")[:]
            expected = np.arange(self.layers[layer][0])
            if self.spec["keep"] is not None and self.store is not None:
                line = self.store.done_unit(store_arrays.KEPT, layer)
                expected = np.array(line["filters"]) if line else expected[:0]
            if self.store is not None and not np.array_equal(found, expected):
                path = self.path / "layers" / layer / "filters"
                raise MismatchError(f"{path} is damaged or not written yet; {remedy(path, True)}")
            self._filters[layer] = found
        return self._filters[layer]

    def array(self, name: str, pipeline: str = ZARR) -> Any:
        """Open one of the group's arrays for reading."""
        return _Checked(open_array(self.path / name, pipeline=pipeline), self.path / name)

    def add_images(self, ids: Sequence[int] | NDArray[Any], stop: StopFlag | None = None) -> int:
        """Give rows to images that have none, in the order given; not done until computed. Returns how many."""
        with self.writable.lock(stop):
            added = store_arrays.add_rows(self.writable, self.spec, np.asarray(ids, dtype=np.int32))
        self.refresh()
        return added

    def refresh(self) -> None:
        """Look at the rows again: another process may have added some."""
        self.__dict__.pop("images", None)

    def done(self, kind: str = "maps") -> NDArray[np.bool_]:
        """(rows,) whether each row is finished, by ledger and disk; `kind` is ``maps`` or ``mean``."""
        if self.store is None:
            return older_done(self.path, self.spec, len(self.images), kind)
        finished = np.zeros(len(self.images), dtype=bool)
        filters = self.filters_hash() if kind == "maps" and self.has_maps else None
        for number, line in self.store.done(kind).items():
            finished[int(number) * self.rows_per_shard :][: self.rows_of(line, filters)] = True
        return finished

    def rows_of(self, line: dict[str, Any], filters: str | None) -> int:
        """How many rows of its shard a unit's line vouches for: those with the same images, and the same filters."""
        if line.get("filters") != filters:
            return 0
        begin, count = int(line["unit"]) * self.rows_per_shard, 0
        for start, stop, ids, _ in line["read"]:
            rows = self.images[begin + start : begin + stop]
            if start != count or len(rows) != stop - start or store_arrays.ids_hash(rows) != ids:
                break
            count = stop
        return count

    def write(self, kind: str, number: int, values: Mapping[str, NDArray[Any]], read: list[list[Any]]) -> None:
        """Write one unit's maps or means and note that they are done; the caller holds the unit's lock.

        Parameters
        ----------
        kind : ``maps`` or ``mean``.
        number : of the unit.
        values : layer -> (rows, stored filters, height, width), or (rows, filters).
        read : of what the rows were made: (first, end, hash of their ids, hash of their stimuli), rows counted from
            the unit's first.
        """
        place = (number, 0, 0, 0) if kind == "maps" else (number, 0)
        files = [self.writable.write_array(f"layers/{name}/{kind}", place, rows) for name, rows in values.items()]
        self.writable.add(kind, number, files, read=read, filters=self.filters_hash() if kind == "maps" else None)

    def filters_hash(self) -> str:
        """What the maps' lines note of the filters that are stored."""
        return fingerprint({name: self.filters(name) for name in self.layers})

    def rows(self, ids: Sequence[int] | NDArray[Any], kind: str = "maps") -> NDArray[np.int64]:
        """Find the rows of images, in the order given.

        Raises
        ------
        MismatchError
            If images are missing or unfinished.
        """
        wanted = np.asarray(ids)
        rows, there = self._find(wanted, kind)
        if not there.all() and self._settled(kind, rows[~there]):
            rows, there = self._find(wanted, kind)
        if not there.all():
            raise MismatchError(
                f"{self.path.name} lacks {np.count_nonzero(~there)} of {len(wanted)} images "
                f"(id {listing(wanted[~there], 3)}); run "
                f"{made_with.command(self.spec, self.weights, self.layers)} for that subject and those sessions"
            )
        return rows

    def _find(self, wanted: NDArray[Any], kind: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Row of each image, and whether it is there and finished."""
        self.refresh()
        order = np.argsort(self.images, kind="stable")
        if not len(order):
            return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=bool)
        place = np.searchsorted(self.images, wanted, sorter=order)
        rows = order[np.minimum(place, len(order) - 1)]
        return rows, (self.images[rows] == wanted) & self.done(kind)[rows]

    def _settled(self, kind: str, rows: NDArray[np.int64]) -> bool:
        """Wait for whoever writes units of some rows now; false if there is nothing to wait for."""
        if self.store is None:
            return False
        lines = self.store.last(kind)
        units = [unit for unit in np.unique(rows // self.rows_per_shard).tolist() if unit in lines]
        written = [unit for unit in units if not self.store.is_there(lines[unit])]
        self.store.settled([(each, unit) for unit in written for each in KINDS])
        return bool(written)

    def means(self, layer: str, rows: NDArray[Any]) -> NDArray[np.float32]:
        """(rows, filters of the backbone) spatial means; reads the chunks of those rows only."""
        name, size = f"layers/{layer}/mean", self.rows_per_shard
        asked = np.asarray(rows)
        found = np.empty((len(asked), self.layers[layer][0]), np.float32)
        numbers = np.unique(asked // size)
        self._check_means(numbers)
        full = len(self.images) // size  # chunks; zarrs, several times faster, checks no checksum of one read in part
        for some, pipeline in ((numbers[numbers < full], ZARRS), (numbers[numbers >= full], ZARR)):
            array = self.array(name, pipeline) if len(some) else None
            for first, last in pairwise([0, *(np.flatnonzero(np.diff(some) != 1) + 1).tolist(), len(some)]):
                if array is not None:
                    start, stop = int(some[first]) * size, (int(some[last - 1]) + 1) * size
                    inside = shards.as_slice(np.flatnonzero((asked >= start) & (asked < stop)))
                    rows_there, wanted = array[start:stop], asked[inside] - start
                    if wanted.max() >= len(rows_there):
                        path = self.path / name / "zarr.json"
                        raise MismatchError(f"{path} has too few rows; {remedy(path, True)}")
                    found[inside] = rows_there[shards.as_slice(wanted)]
        return found

    def _check_means(self, numbers: NDArray[Any]) -> None:
        """Compare units' means with the ledger: a chunk of another unit has a checksum that fits it as well."""
        for number in numbers.tolist() if self.store is not None else []:
            for name, why in self.writable.damaged("mean", number, KINDS):
                raise MismatchError(f"{self.path / name} {why}; {remedy(self.path)}")

    def positions(self, layer: str, filters: NDArray[Any]) -> NDArray[np.int64]:
        """Where filters of the backbone lie in the layer's maps.

        Raises
        ------
        MismatchError
            If some were not kept.
        """
        stored = {int(index): position for position, index in enumerate(self.filters(layer))}
        if gone := [int(index) for index in filters if int(index) not in stored]:
            raise MismatchError(
                f"{self.path.name} keeps {len(stored)} filters of {layer} and not {listing(gone, 4)}; "
                "run boldreams extract with a larger --keep-percent, or for this subject alone"
            )
        return np.array([stored[int(index)] for index in filters], dtype=np.int64)

    def read_maps(
        self, layer: str, rows: NDArray[Any], filters: NDArray[Any], out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Read the maps of some images and filters, and only the chunks that hold them.

        Parameters
        ----------
        layer : canonical name.
        rows : (images,) rows of the store.
        filters : (n,) filters of the backbone.
        out : where to put them, (images, n, height, width), any layout.

        Returns
        -------
        (images, n, height, width) in the store's dtype.
        """
        if out is None:
            shape = (len(rows), len(filters), *self.layers[layer][1:])
            out = np.empty(shape, np.dtype(self.spec["dtype"]))
        self.read_layers([(layer, filters, out)], rows)
        return out

    def read_layers(self, wanted: Sequence[tuple[str, NDArray[Any], NDArray[Any]]], rows: NDArray[Any]) -> None:
        """Read the maps of some images and of filters of several layers.

        Parameters
        ----------
        wanted : (layer, filters, out) as in `read_maps`.
        rows : (images,) rows of the store.

        Raises
        ------
        MismatchError
            If a shard is missing or damaged.
        """
        root, size = self.path / "layers", self.rows_per_shard
        shards.read(
            [
                shards.Wanted(
                    root / layer / "maps",
                    len(self.filters(layer)),
                    (size, *self.layers[layer][1:]),
                    self.positions(layer, filters).tolist(),
                    out,
                    self.store is not None,
                )
                for layer, filters, out in wanted
            ],
            rows,
        )


class _Checked:
    """A Zarr array whose errors of reading name it and say what to do."""

    def __init__(self, array: Any, path: Path) -> None:
        self.array, self.path = array, path

    def __getitem__(self, selection: Any) -> NDArray[Any]:
        try:
            return np.asarray(self.array[selection])
        except Exception as error:
            raise MismatchError(f"{self.path} is damaged ({error}); {remedy(self.path)}") from error


def stores(cache: Path, backbone: str | None = None) -> list[FeatureStore]:
    """All feature stores of a cache, or those of one backbone."""
    return [FeatureStore(path) for path in paths(cache, backbone)]


def paths(cache: Path, backbone: str | None = None) -> Iterator[Path]:
    """Where feature stores lie in a cache."""
    name = "*" if backbone is None else folder_name(backbone)
    yield from sorted((cache / "features").glob(f"{name}-????????????.zarr"))


def store_path(cache: Path, backbone: str, digits: str) -> Path:
    """Where the store of a fingerprint lies."""
    return cache / "features" / f"{folder_name(backbone)}-{digits}.zarr"


def folder_name(backbone: str) -> str:
    """A backbone's name as a part of a path: ``open_clip:ViT-B-32/openai`` is ``open_clip-ViT-B-32-openai``."""
    return backbone.replace(":", "-").replace("/", "-")
