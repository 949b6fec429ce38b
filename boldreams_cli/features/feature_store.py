"""The feature store: maps of many images on disk, read a filter at a time (cache/README.md, "features").

A chunk holds one filter of all the rows of a shard, so a readout that takes any tenth of the filters reads a
tenth of the bytes, whatever their order. A shard is one file, written by one writer, and the unit of resumption.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from boldreams_cli.console import BoldreamsError, MismatchError, listing
from boldreams_cli.features import shards
from boldreams_cli.files import Ledger, fingerprint, locked

FORMAT = 1
UNIT_BYTES = 256 * 2**20  # maps of one shard of rows, all layers, before compression
PIPELINES = {
    # Written with 2.5 to 8 times the speed of zarr's own pipeline (make bench), but straight into place.
    "fast": "zarrs.ZarrsCodecPipeline",
    # Written beside and renamed: for shards that already hold finished rows.
    "atomic": "zarr.core.codec_pipeline.BatchedCodecPipeline",
}


@contextmanager
def _pipeline(name: str) -> Iterator[None]:
    with zarr.config.set({"codec_pipeline.path": PIPELINES[name]}):
        yield


# No shuffling: it would part the runs of zeros that a ReLU leaves. Zstandard packs tighter, but takes about three times
# as long to pack and four to unpack (make bench, "store").
CODEC = Blosc(cname="lz4", clevel=9, shuffle=Blosc.NOSHUFFLE)


def compressor() -> BloscCodec:
    """CODEC in Zarr's words."""
    return BloscCodec(cname=CODEC.cname, clevel=CODEC.clevel, shuffle="noshuffle")


def shard_rows(image_bytes: int) -> int:
    """Rows of a shard, a power of two from 16 to 256, such that a unit of work stays below UNIT_BYTES."""
    rows = 256
    while rows > 16 and rows * image_bytes > UNIT_BYTES:
        rows //= 2
    return rows


class FeatureStore:
    """One backbone's maps.

    Parameters
    ----------
    path : of the Zarr group.

    Raises
    ------
    MismatchError
        If its fingerprint does not belong to its spec, or its format is not known.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filters: dict[str, NDArray[np.int32]] = {}
        try:
            self.group = zarr.open_group(path, mode="r+")
        except (FileNotFoundError, ValueError) as error:
            raise BoldreamsError(f"{path} is not a feature store ({error}); make it with boldreams extract") from error
        attributes: dict[str, Any] = dict(self.group.attrs.asdict())
        self.spec: dict[str, Any] = attributes.get("spec", {})
        self.fingerprint: str = attributes.get("fingerprint", "")
        if attributes.get("format") != FORMAT:
            raise MismatchError(f"{path} has format {attributes.get('format')}, this version reads {FORMAT}")
        if fingerprint(self.spec) != self.fingerprint or not path.stem.endswith(f"-{self.fingerprint}"):
            raise MismatchError(
                f"{path}: the fingerprint {self.fingerprint or '(none)'} does not belong to the spec, which hashes to "
                f"{fingerprint(self.spec)}; its maps cannot be trusted, delete it and run boldreams extract again"
            )

    @staticmethod
    def path_for(cache: Path, spec: dict[str, Any]) -> Path:
        """Where a store of that spec lies."""
        return cache / "features" / f"{spec['backbone']}-{fingerprint(spec)}.zarr"

    @classmethod
    def create(cls, cache: Path, spec: dict[str, Any], weights: str) -> FeatureStore:
        """Open the store of that spec, made empty where there is none."""
        path = cls.path_for(cache, spec)
        if not (path / "zarr.json").exists():
            with locked(path.with_suffix(".lock"), str(path), wait=True):
                group = zarr.open_group(path, mode="a")
                if "images" not in group:
                    group.create_array("images", shape=(0,), chunks=(65536,), dtype="i4")
                for name, (filters, _, _) in spec["layers"].items():
                    if f"layers/{name}/mean" not in group:
                        rows = (cls._shard_rows(spec), filters)
                        group.create_array(f"layers/{name}/mean", shape=(0, filters), chunks=rows, dtype="f4")
                if spec["keep"] is None:
                    for name, (filters, _, _) in spec["layers"].items():
                        cls._create_maps(group, spec, name, np.arange(filters))
                group.attrs.update(
                    {"format": FORMAT, "fingerprint": fingerprint(spec), "spec": spec, "weights": weights}
                )
        return cls(path)

    @staticmethod
    def _shard_rows(spec: dict[str, Any]) -> int:
        return int(spec["shard_rows"])

    @classmethod
    def _create_maps(cls, group: zarr.Group, spec: dict[str, Any], name: str, filters: NDArray[Any]) -> None:
        if f"layers/{name}/maps" in group:
            return
        _, height, width = spec["layers"][name]
        rows = cls._shard_rows(spec)
        indices = group.create_array(f"layers/{name}/filters", shape=(len(filters),), dtype="i4", overwrite=True)
        indices[:] = filters
        images = group["images"]
        assert isinstance(images, zarr.Array)
        group.create_array(
            f"layers/{name}/maps",
            shape=(images.shape[0], len(filters), height, width),
            chunks=(rows, 1, height, width),
            shards=(rows, len(filters), height, width),
            dtype=spec["dtype"],
            compressors=compressor(),
            fill_value=0,
        )

    def keep_filters(self, filters: dict[str, NDArray[Any]]) -> None:
        """Make the arrays of the kept filters, once the first pass has ranked them."""
        with locked(self.path.with_suffix(".lock"), str(self.path), wait=True):
            for name, indices in filters.items():
                self._create_maps(self.group, self.spec, name, indices)

    @property
    def layers(self) -> dict[str, tuple[int, int, int]]:
        """Layer -> (filters of the backbone, height, width)."""
        return {name: (shape[0], shape[1], shape[2]) for name, shape in self.spec["layers"].items()}

    @property
    def has_maps(self) -> bool:
        """False only between the two passes of ``--keep-percent``."""
        return all(f"layers/{name}/maps" in self.group for name in self.layers)

    @property
    def rows_per_shard(self) -> int:
        """Rows of a unit of work."""
        return self._shard_rows(self.spec)

    @cached_property
    def images(self) -> NDArray[np.int32]:
        """(rows,) nsdId of each row."""
        return self.array("images")[:]

    def filters(self, layer: str) -> NDArray[np.int32]:
        """(stored,) the backbone's filter at each position of the layer's maps."""
        if layer not in self._filters:
            self._filters[layer] = self.array(f"layers/{layer}/filters")[:]
        return self._filters[layer]

    def array(self, name: str, pipeline: str = "fast") -> Any:
        """Open one of the group's arrays with a codec pipeline of PIPELINES."""
        with _pipeline(pipeline):
            return zarr.open_array(self.path / name, mode="r+")

    def add_images(self, nsd_ids: Sequence[int] | NDArray[Any]) -> int:
        """Give rows to images that have none; they are not done until computed. Returns how many were added."""
        with locked(self.path.with_suffix(".lock"), str(self.path), wait=True):
            images = self.array("images", "atomic")
            before = images[:]
            new = np.setdiff1d(np.asarray(nsd_ids, dtype=np.int32), before)
            rows = len(before) + len(new)
            # Layers first: rows count from the moment that `images` has them.
            for name in self.layers:
                for kind in ("maps", "mean"):
                    if f"layers/{name}/{kind}" in self.group:
                        array = self.array(f"layers/{name}/{kind}")
                        if array.shape[0] != rows:
                            array.resize((rows, *array.shape[1:]))
            if len(new):
                images.resize((rows,))
                images[:] = np.concatenate([before, new])
        self.__dict__.pop("images", None)
        return len(new)

    def ledger(self, part: str = "0-of-1") -> Ledger:
        """The ledger of one writer (a task of a job array)."""
        return Ledger(self.path.with_suffix(".ledger") / f"{part}.jsonl")

    def done(self, kind: str = "maps") -> NDArray[np.bool_]:
        """(rows,) whether each row is finished, by the ledgers; `kind` is ``maps`` or ``mean``."""
        finished = np.zeros(len(self.images), dtype=bool)
        for path in sorted(self.path.with_suffix(".ledger").glob("*.jsonl")):
            for entry in Ledger(path).entries():
                if entry["kind"] == kind or entry["kind"] == "maps":
                    finished[entry["start"] : entry["stop"]] = True
        return finished

    def rows(self, nsd_ids: Sequence[int] | NDArray[Any], kind: str = "maps") -> NDArray[np.int64]:
        """Find the rows of images, in the order given.

        Raises
        ------
        MismatchError
            If images are missing or unfinished.
        """
        wanted = np.asarray(nsd_ids)
        order = np.argsort(self.images, kind="stable")
        place = np.searchsorted(self.images, wanted, sorter=order)
        rows = order[np.minimum(place, len(order) - 1)] if len(order) else np.zeros(len(wanted), dtype=np.int64)
        there = np.zeros(len(wanted), dtype=bool)
        if len(order):
            there = (self.images[rows] == wanted) & self.done(kind)[rows]
        if not there.all():
            raise MismatchError(
                f"{self.path.name} lacks {np.count_nonzero(~there)} of {len(wanted)} images "
                f"(nsdId {listing(wanted[~there], 3)}); run boldreams extract --backbone {self.spec['backbone']} "
                "for that subject and those sessions"
            )
        return rows

    def means(self, layer: str, rows: NDArray[Any]) -> NDArray[np.float32]:
        """(rows, filters of the backbone) spatial means."""
        return self.array(f"layers/{layer}/mean")[:][rows]

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
                )
                for layer, filters, out in wanted
            ],
            rows,
        )


def stores(cache: Path, backbone: str | None = None) -> list[FeatureStore]:
    """All feature stores of a cache, or those of one backbone."""
    return [FeatureStore(path) for path in sorted((cache / "features").glob(f"{backbone or '*'}-????????????.zarr"))]
