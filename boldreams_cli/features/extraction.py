"""From images to the feature store, once (paper, section 2.2): one pass of the backbone for all layers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import BoldreamsError, MismatchError, StopFlag, StoppedError, logger, progress, size
from boldreams_cli.features.backbones.registry import Backbone
from boldreams_cli.features.feature_store import CODEC, FeatureStore, shard_rows
from boldreams_cli.features.ranking import filter_count, filter_order, filter_std, joint_order
from boldreams_cli.files import fingerprint, free_bytes, locked

ReadImages = Callable[[NDArray[Any]], NDArray[Any]]
SAMPLE_IMAGES = 8


@dataclass(frozen=True)
class Source:
    """The images to extract.

    Parameters
    ----------
    images : (images,) sorted nsdIds.
    training : of each subject, sorted nsdIds; only these take part in a ranking.
    read : nsdIds -> (images, height, width, 3) uint8, or of their captions (images, captions, context) tokens.
    identity : what identifies the stimulus or captions file.
    """

    images: NDArray[Any]
    training: list[NDArray[Any]]
    read: ReadImages
    identity: dict[str, Any]


@dataclass
class Plan:
    """What a run will write, before it writes anything."""

    spec: dict[str, Any]
    path: Path
    rows: int
    stored: dict[str, int]
    raw_bytes: int
    ratio: float
    free: int
    chunks: dict[str, list[int]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Expected on disk, with a tenth to spare."""
        return int(self.raw_bytes / self.ratio * 1.1)

    def check_disk(self) -> None:
        """Raise BoldreamsError if the run will not fit on the disk."""
        if self.bytes > self.free:
            raise BoldreamsError(
                f"the maps need about {size(self.bytes)} and {self.path.parent.parent} has {size(self.free)} free; "
                "use --keep-percent, --cache DIR on a larger disk, or fewer subjects"
            )


def make_plan(backbone: Backbone, source: Source, cache: Path, dtype: str, keep_percent: float | None) -> Plan:
    """Work out the store's spec and size; runs the backbone on a few images to measure how they compress.

    Parameters
    ----------
    backbone : with weights.
    source : of the images.
    cache : its folder.
    dtype : of the stored maps, ``float16`` or ``float32``.
    keep_percent : of the filters of each layer, or None for all.
    """
    sample = source.read(source.images[:: max(1, len(source.images) // SAMPLE_IMAGES)][:SAMPLE_IMAGES])
    maps = {name: value.numpy(force=True) for name, value in _maps(backbone, sample, dtype).items()}
    layers = {name: list(value.shape[1:]) for name, value in maps.items()}
    keep = None
    if keep_percent is not None:
        chosen_by = fingerprint(source.training)
        keep = {"percent": keep_percent, "training_images": chosen_by}
    stored = {
        name: filter_count(shape[0], keep_percent if keep_percent is not None else 100)
        for name, shape in layers.items()
    }
    item = np.dtype(dtype).itemsize
    image_bytes = sum(stored[name] * shape[1] * shape[2] * item for name, shape in layers.items())
    spec = {
        "backbone": backbone.entry.name,
        "weights_digest": backbone.digest,
        "layers": layers,
        "preprocessing": backbone.reading(),
        "dtype": dtype,
        "stimuli": source.identity,
        "keep": keep,
        "shard_rows": shard_rows(image_bytes),
    }
    path = FeatureStore.path_for(cache, spec)
    rows = len(source.images)
    if (path / "zarr.json").exists():
        store = FeatureStore(path)
        rows = len(np.setdiff1d(source.images, store.images[store.done()]))
    return Plan(
        spec=spec,
        path=path,
        rows=rows,
        stored=stored,
        raw_bytes=image_bytes * rows,
        ratio=_ratio(maps),
        free=free_bytes(cache),
        chunks={name: [shard_rows(image_bytes), 1, *shape[1:]] for name, shape in layers.items()},
    )


def _ratio(maps: dict[str, NDArray[Any]]) -> float:
    """How many times smaller the maps become, measured chunk by chunk as they will be written."""
    raw = sum(value.nbytes for value in maps.values())
    packed = sum(len(CODEC.encode(np.ascontiguousarray(v.swapaxes(0, 1)))) for v in maps.values())
    return raw / packed


def _maps(backbone: Backbone, images: NDArray[Any], dtype: str) -> dict[str, Tensor]:
    with torch.inference_mode():
        found = backbone.maps_of(torch.from_numpy(images))
        return {name: _cast(value, dtype, name) for name, value in found.items()}


def _cast(maps: Tensor, dtype: str, layer: str) -> Tensor:
    """To the store's dtype, refusing what it cannot hold (NaN compares false, so it is refused too)."""
    low, high = float(maps.amin()), float(maps.amax())  # aminmax is far slower where channels come last
    limit = float(np.finfo(dtype).max)
    if not (low >= -limit and high <= limit):
        raise BoldreamsError(
            f"{layer} has values from {low:.4g} to {high:.4g}, which {dtype} cannot hold; "
            + ("use --dtype float32" if dtype == "float16" and abs(high) < np.inf else "check the weights")
        )
    return maps.to(getattr(torch, dtype))


@dataclass
class Result:
    """What an extraction did."""

    store: FeatureStore
    computed: int
    skipped: int
    seconds: float

    def summary(self) -> dict[str, Any]:
        """The JSON object of ``extract``."""
        return {
            "store": str(self.store.path),
            "fingerprint": self.store.fingerprint,
            "rows": len(self.store.images),
            "computed": self.computed,
            "skipped": self.skipped,
            "layers": {
                name: [len(self.store.filters(name)), shape[1], shape[2]] for name, shape in self.store.layers.items()
            },
            "seconds": self.seconds,
            "images_per_second": self.computed / self.seconds if self.computed else 0.0,
        }


def extract(
    backbone: Backbone,
    source: Source,
    plan: Plan,
    cache: Path,
    stop: StopFlag,
    batch_size: int,
    shard: tuple[int, int] = (0, 1),
) -> Result:
    """Compute the maps that the store lacks.

    Parameters
    ----------
    backbone, source : as for `make_plan`.
    plan : from `make_plan`.
    cache : its folder.
    stop : looked at after each unit.
    batch_size : images in one pass of the backbone.
    shard : (index, count) of this task in a job array.

    Raises
    ------
    StoppedError
        If a signal came, or the other tasks of the array must first finish the ranking pass.
    """
    start = time.monotonic()
    plan.check_disk()
    store = FeatureStore.create(cache, plan.spec, backbone.weights)
    store.add_images(source.images)
    part = f"{shard[0]}-of-{shard[1]}"
    computed = 0
    with locked(store.path.with_suffix(".ledger") / f"{part}.lock", str(store.path)):
        if plan.spec["keep"] is not None and not store.has_maps:
            computed += _Pass(backbone, source, store, batch_size, shard, "mean", stop).run()
            _keep_best(store, source, plan)
        last = _Pass(backbone, source, store, batch_size, shard, "maps", stop)
        computed = max(computed, last.run())
    done = int(np.isin(store.images[store.done()], source.images).sum())
    if done < len(source.images):
        logger.info("%d of %d images are done; other tasks of the array have the rest", done, len(source.images))
    return Result(store, computed, len(source.images) - computed, time.monotonic() - start)


def _keep_best(store: FeatureStore, source: Source, plan: Plan) -> None:
    """Rank by the means of the training images and make room for the best filters."""
    try:
        rows = [store.rows(ids, "mean") for ids in source.training]
    except MismatchError as error:
        raise StoppedError(
            "this task's share of the ranking pass is done; run the same command again when the other tasks of "
            "the array have finished theirs"
        ) from error
    kept = {}
    for name, count in plan.stored.items():
        orders = [filter_order(filter_std(store.means(name, subject))) for subject in rows]
        wanted = np.unique(np.concatenate([order[:count] for order in orders]))
        joint = joint_order(orders)
        kept[name] = joint[np.isin(joint, wanted)]
    store.keep_filters(kept)


class _Pass:
    """One pass over the unfinished rows: kind ``mean`` writes spatial means only, ``maps`` both."""

    def __init__(
        self,
        backbone: Backbone,
        source: Source,
        store: FeatureStore,
        batch_size: int,
        shard: tuple[int, int],
        kind: str,
        stop: StopFlag,
    ) -> None:
        self.backbone, self.source, self.store, self.kind, self.stop = backbone, source, store, kind, stop
        self.batch_size, self.shard = batch_size, shard
        self.dtype = store.spec["dtype"]
        self.ledger = store.ledger(f"{shard[0]}-of-{shard[1]}")
        self.done = store.done(kind)

    def units(self) -> list[tuple[int, int, int]]:
        """List this task's unfinished shards: (first row of the shard, first row to compute, end)."""
        rows = self.store.rows_per_shard
        wanted = np.isin(self.store.images, self.source.images) & ~self.done
        found = []
        for number, begin in enumerate(range(0, len(wanted), rows)):
            end = min(begin + rows, len(wanted))
            if number % self.shard[1] == self.shard[0] and wanted[begin:end].any():
                # Finished rows are a prefix: they were there before the shard was added to.
                first = begin + int(self.done[begin:end].argmin())
                found.append((begin, first, end))
        return found

    def run(self) -> int:
        """Compute, write in another thread, note in the ledger. Returns the images computed."""
        units = self.units()
        total = sum(end - first for _, first, end in units)
        what = f"{'extract' if self.kind == 'maps' else 'rank'} {self.backbone.entry.name}"
        writing: Future[None] | None = None
        with ThreadPoolExecutor(1) as writer, progress(what, total, "images") as shown:
            for begin, first, end in units:
                maps, means = self._compute(first, end, shown.advance)
                if writing is not None:
                    writing.result()
                writing = writer.submit(self._write, begin, first, end, maps, means)
                if self.stop:
                    break
            if writing is not None:
                writing.result()
        self.done = self.store.done(self.kind)
        if self.units():
            self.stop.check(f"{int(self.done.sum())} images are done")
        return total

    def _compute(
        self, first: int, end: int, advance: Callable[[int], None]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        maps: dict[str, NDArray[Any]] = {}
        means: dict[str, NDArray[Any]] = {}
        filters = {}
        if self.kind == "maps":
            for name in self.store.layers:
                filters[name] = torch.from_numpy(self.store.filters(name).astype(np.int64))
        for start, stop, batch in self._batches(first, end):
            place = slice(start - first, stop - first)
            for name, value in batch.items():
                if name not in means:
                    means[name] = np.empty((end - first, value.shape[1]), dtype=np.float32)
                means[name][place] = value.mean((2, 3)).numpy(force=True)
                if self.kind == "maps":
                    chosen = filters[name].to(value.device)
                    kept = value if len(chosen) == value.shape[1] and self._natural(chosen) else value[:, chosen]
                    stored = _cast(kept, self.dtype, name)
                    if name not in maps:
                        maps[name] = np.empty((end - first, *stored.shape[1:]), dtype=self.dtype)
                    torch.from_numpy(maps[name][place]).copy_(stored)
            advance(stop - start)
        return maps, means

    @staticmethod
    def _natural(filters: Tensor) -> bool:
        return bool((filters.diff() == 1).all())

    def _batches(self, first: int, end: int) -> Iterator[tuple[int, int, dict[str, Tensor]]]:
        """Rows and maps of each batch; the next images are read while these go through the network."""
        starts = range(first, end, self.batch_size)

        def read(start: int) -> Tensor:
            return torch.from_numpy(self.source.read(self.store.images[start : min(start + self.batch_size, end)]))

        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(read, first)
            for start in starts:
                images = coming.result()
                if start != starts[-1]:
                    coming = reader.submit(read, start + self.batch_size)
                with torch.inference_mode():
                    yield start, start + len(images), self.backbone.maps_of(images)

    def _write(
        self, begin: int, first: int, end: int, maps: dict[str, NDArray[Any]], means: dict[str, NDArray[Any]]
    ) -> None:
        # A shard that holds finished rows is written beside and renamed, so that a kill cannot take them.
        pipeline = "fast" if begin == first else "atomic"
        for name in self.store.layers:
            if name in maps:
                array = self.store.array(f"layers/{name}/maps", pipeline)
                before = array[begin:first] if begin < first else None
                array[begin:end] = maps[name] if before is None else np.concatenate([before, maps[name]])
            self.store.array(f"layers/{name}/mean", "atomic")[first:end] = means[name]
        self.ledger.add({"kind": self.kind, "start": first, "stop": end})
