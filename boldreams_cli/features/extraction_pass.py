"""One pass of a backbone over rows that a feature store lacks: units taken, computed, written (paper, section 2.2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import BoldreamsError, Progress, StopFlag, progress
from boldreams_cli.features.store.feature_store import FeatureStore
from boldreams_cli.features.store.store_arrays import ids_hash
from boldreams_cli.locks import Lock
from boldreams_cli.machine import cores, threads
from boldreams_cli.transfers import landing, read_ahead

if TYPE_CHECKING:
    from boldreams_cli.features.backbones import Backbone
    from boldreams_cli.features.source import Source

Arrays = dict[str, NDArray[Any]]
# Batches at a time, where a CPU computes: a core each, of which more than 16 only if all take no more memory than that.
WORKERS, WORKERS_BYTES = 16, 8 * 2**30
PER_MAP = 5  # bytes in work for each of the maps in float32, about (VGG11: 70 MB an image)
RESIZERS = 4  # threads, where a GPU computes
WRITTEN = 4  # units that are written at a time, where a GPU computes; each of some 256 MB (store_arrays.UNIT_BYTES)


class PixelsHash:
    """A hash of images, to find that they were edited: CRC-32C, as SHA-256 takes a tenth of AlexNet's own time."""

    def __init__(self) -> None:
        self._sum = 0

    def update(self, images: NDArray[Any]) -> None:
        """Take in some images, of any shape."""
        self._sum = google_crc32c.extend(self._sum, np.ascontiguousarray(images))  # bytes of it would be a copy

    @property
    def digits(self) -> str:
        """In hex."""
        return f"{self._sum:08x}"


def cast(maps: Tensor, dtype: str, layer: str) -> Tensor:
    """To the store's dtype, refusing what it cannot hold (NaN compares false, so it is refused too)."""
    refuse(float(maps.amin()), float(maps.amax()), dtype, layer)  # aminmax is far slower where channels come last
    return maps.to(getattr(torch, dtype))


def refuse(low: float, high: float, dtype: str, layer: str) -> None:
    """Raise BoldreamsError for maps with values from `low` to `high` that the store's dtype cannot hold."""
    limit = float(np.finfo(dtype).max)
    if not (low >= -limit and high <= limit):
        raise BoldreamsError(
            f"{layer} has values from {low:.4g} to {high:.4g}, which {dtype} cannot hold; "
            + ("use --dtype float32" if dtype == "float16" and abs(high) < np.inf else "check the weights")
        )


def _workers(store: FeatureStore, batch_size: int) -> int:
    """How many batches a CPU computes at a time."""
    image = PER_MAP * 4 * sum(filters * height * width for filters, height, width in store.layers.values())
    return min(torch.get_num_threads(), max(WORKERS, WORKERS_BYTES // (image * batch_size)))


@dataclass
class _Unit:
    """A shard's rows: the first one, the first to compute, and the end; what was read before them."""

    number: int
    begin: int
    first: int
    end: int
    read: list[list[Any]]


class Pass:
    """One pass over the unfinished rows: kind ``mean`` writes spatial means only, ``maps`` both.

    Several processes may work on one store: a unit is locked while it is made, and what is done is read again then.
    On a CPU each core computes batches of its own: together on one, cores wait for each other at every layer, and for
    those that read and write. So maps have the same bits whatever the number of cores.

    Parameters
    ----------
    backbone, source, store : from where to where.
    batch_size : images in one pass of the backbone.
    shard : (index, count) of this task in a job array: its share of the units.
    kind : of the pass.
    stop : looked at after each batch.
    """

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
        self.units = store.writable
        self.dtype = store.spec["dtype"]
        self.filters = store.filters_hash() if kind == "maps" else None
        there = backbone.device.type == "cuda"
        self._workers = 0 if there else _workers(store, batch_size)  # a GPU is asked from this thread
        # A GPU is faster than one thread packs and a disk syncs; a CPU has no core left for more. Where a unit has few
        # batches, as many units are in hand as keep all workers at work.
        self._together = WRITTEN if there else 1 + self._workers * batch_size // store.rows_per_shard

    def share(self) -> list[int]:
        """Numbers of this task's units in which images of the source are not done."""
        rows, images = self.store.rows_per_shard, self.store.images
        wanted = np.isin(images, self.source.images) & ~(self.store.done(self.kind) & self.store.done("mean"))
        numbers = np.unique(np.flatnonzero(wanted) // rows)
        return [int(number) for number in numbers if number % self.shard[1] == self.shard[0]]

    def run(self) -> int:
        """Compute, write in another thread, note in the ledger. Returns the images computed.

        Raises
        ------
        StoppedError
            If a signal came.
        """
        share = self.share()
        total = sum(unit.end - unit.first for number in share if (unit := self._todo(number)) is not None)
        what = f"{'extract' if self.kind == 'maps' else 'rank'} {self.backbone.entry.name}"
        with (
            threads(1) if self._workers else nullcontext(),
            ThreadPoolExecutor(max(1, self._workers)) as self._pool,
            ThreadPoolExecutor(self._together) as writer,
            progress(what, total, "images") as shown,
        ):
            self._writing: deque[Future[None]] = deque()
            self._computing: deque[tuple[int, Future[None]]] = deque()
            computed, held = self._round(share, writer, shown, wait=False)
            self._settle()
            if held and not self.stop:  # by other processes: what they leave undone is done here
                computed += self._round(held, writer, shown, wait=True)[0]
                self._settle()
        if self.share():
            self.stop.check(f"{int(self.store.done(self.kind).sum())} images are done")
        return computed

    def _round(
        self, numbers: list[int], writer: ThreadPoolExecutor, shown: Progress, wait: bool
    ) -> tuple[int, list[int]]:
        """Make units; the images computed, and the units that others hold."""
        computed, held = 0, []
        for number in numbers:
            if self.stop:
                break
            lock = self.units.unit_lock(self.kind, number, wait, self.stop)
            if wait:
                lock.__enter__()
            elif not lock.take():
                held.append(number)
                continue
            unit = self._todo(number)
            made = None
            try:
                made = self._compute(unit, shown.advance) if unit is not None else None
                self._settle(self._together - 1)
            finally:
                if made is None:
                    lock.release()
            if unit is not None and made is not None:
                self._writing.append(writer.submit(self._write, unit, made, lock))
                computed += unit.end - unit.first
        self._wait(0, shown.advance)
        return computed, held

    def _settle(self, left: int = 0) -> None:
        """Wait until so many units at most are being written."""
        while len(self._writing) > left:
            self._writing.popleft().result()

    def _todo(self, number: int) -> _Unit | None:
        """What is to be done of a unit now, None for nothing: finished rows are a prefix, the others follow.

        The unit is locked, so what it holds and which rows there are is read again: others may have added to both.
        """
        self.store.refresh()
        begin = number * self.store.rows_per_shard
        end = min(begin + self.store.rows_per_shard, len(self.store.images))
        line = self.units.done_unit(self.kind, number)
        rows = self.store.rows_of(line, self.filters) if line is not None else 0
        if self.kind == "maps":
            rows = min(rows, self._mean_rows(number))
        if begin + rows >= end:
            return None
        return _Unit(number, begin, begin + rows, end, line["read"] if line is not None and rows else [])

    def _mean_rows(self, number: int) -> int:
        line = self.units.done_unit("mean", number)
        return self.store.rows_of(line, None) if line is not None else 0

    def _compute(self, unit: _Unit, advance: Callable[[int], None]) -> _Made | None:
        """Have a unit's batches computed; None where a signal came first.

        On a CPU the last ones still are when this ends. What a GPU computes is copied while it goes on; only at the end
        it is waited for.
        """
        stored = {name: len(self.store.filters(name)) if self.kind == "maps" else 0 for name in self.store.layers}
        sizes = {name: (shape[0], stored[name], *shape[1:]) for name, shape in self.store.layers.items()}
        made = _Made(_Found(unit.end - unit.first, sizes, self.dtype, self.backbone.device), PixelsHash(), [])
        filters = {name: self._some(name) for name in self.store.layers} if self.kind == "maps" else {}
        for start, stop, images in self._batches(unit.first, unit.end, made.read):
            place = slice(start - unit.first, stop - unit.first)
            if self._workers:
                self._wait(self._workers, advance)  # one more than are computed, so that none waits for this thread
                made.batches.append(self._pool.submit(self._keep, made.found, place, images, filters))
                self._computing.append((stop - start, made.batches[-1]))
            else:
                self._keep(made.found, place, images, filters)
                advance(stop - start)
            if self.stop and stop < unit.end:
                return None
        made.found.wait()
        return made

    def _wait(self, left: int, advance: Callable[[int], None]) -> None:
        """Wait until so many batches at most are being computed."""
        while len(self._computing) > left:
            rows, batch = self._computing.popleft()
            batch.result()
            advance(rows)

    def _keep(self, found: _Found, place: slice, images: Tensor, filters: dict[str, Tensor | None]) -> None:
        """Compute a batch and keep what is stored of it."""
        with torch.inference_mode():
            maps_of = self.backbone.maps_of if self._workers else self.backbone.maps_of_ready
            for name, maps in maps_of(images).items():
                value = maps[: place.stop - place.start]
                found.keep_means(name, place, value)
                if self.kind == "maps":
                    chosen = filters[name]
                    found.keep_maps(name, place, value if chosen is None else value[:, chosen])

    def _some(self, layer: str) -> Tensor | None:
        """Filters of a layer that are stored, on the device; None for all of them as they come."""
        filters = self.store.filters(layer).astype(np.int64)
        if np.array_equal(filters, np.arange(self.store.layers[layer][0])):
            return None
        return torch.from_numpy(filters).to(self.backbone.device)

    def _batches(self, first: int, end: int, hashed: PixelsHash) -> Iterator[tuple[int, int, Tensor]]:
        """Rows and images of each batch; the next ones are read, and for a GPU resized, while these are computed on.

        Libraries choose their way by the size of a batch, and round differently: a smaller one is filled up, so that
        an image's maps are the same bits in whatever company it comes.
        """
        starts = range(first, end, self.batch_size)

        def read(start: int) -> tuple[Tensor]:
            ids = self.store.images[start : min(start + self.batch_size, end)]
            images = self.source.read(ids)
            hashed.update(images)
            if len(images) < self.batch_size:
                images = np.resize(images, (self.batch_size, *images.shape[1:]))
            return (torch.from_numpy(images),)

        stimuli = read_ahead(read, starts, torch.device("cpu"))
        if not self._workers:
            stimuli = self._ready(stimuli, starts)
        for start, (images,) in zip(starts, stimuli, strict=True):
            yield start, min(start + self.batch_size, end), images

    def _ready(self, stimuli: Iterator[tuple[Tensor]], starts: Sequence[int]) -> Iterator[tuple[Tensor]]:
        """Batches as a GPU takes them: resized in threads, as torch does it in one, while the next are read."""

        def resize(_: int) -> tuple[Tensor]:
            (images,) = next(stimuli)
            return (torch.cat([*resizers.map(self.backbone.ready, images.chunk(count))]),)

        count = min(RESIZERS, cores())
        with ThreadPoolExecutor(count) as resizers:
            yield from read_ahead(resize, starts, self.backbone.device)

    def _write(self, unit: _Unit, made: _Made, lock: Lock) -> None:
        """Write a unit's files, then its lines; finished rows before it are written again with it, means are not."""
        try:
            for batch in made.batches:
                batch.result()
            maps, means = made.found.arrays()
            ids = ids_hash(self.store.images[unit.first : unit.end])
            segments = [*unit.read, [unit.first - unit.begin, unit.end - unit.begin, ids, made.read.digits]]
            self._write_means(unit, means, segments)
            if self.kind == "maps":
                before = np.arange(unit.begin, unit.first)
                if len(before):
                    maps = {
                        name: np.concatenate([self.store.read_maps(name, before, self.store.filters(name)), values])
                        for name, values in maps.items()
                    }
                self.store.write("maps", unit.number, maps, segments)
        finally:
            lock.release()

    def _write_means(self, unit: _Unit, means: Arrays, segments: list[list[Any]]) -> None:
        there = self._mean_rows(unit.number)  # these are what filters were chosen by: they stay
        if unit.begin + there >= unit.end:
            return
        rows, new = np.arange(unit.begin, unit.begin + there), slice(unit.begin + there - unit.first, None)
        whole = {name: np.concatenate([self.store.means(name, rows), values[new]]) for name, values in means.items()}
        self.store.write("mean", unit.number, whole, segments)


class _Found:
    """Means and maps of a unit's rows on the host, and the limits of the maps on the device.

    Parameters
    ----------
    rows : of the unit.
    sizes : layer -> (filters of which there are means, filters of which there are maps, height, width).
    dtype : of the store.
    device : of what is kept.
    """

    def __init__(
        self, rows: int, sizes: dict[str, tuple[int, int, int, int]], dtype: str, device: torch.device
    ) -> None:
        self.dtype, self.device = dtype, device
        kind = getattr(torch, dtype)
        self.means = {name: landing((rows, size[0]), torch.float32, device) for name, size in sizes.items()}
        self.maps = {name: landing((rows, *size[1:]), kind, device) for name, size in sizes.items() if size[1]}
        self._limits: dict[str, list[Tensor]] = {name: [] for name in self.maps}

    def keep_means(self, layer: str, place: slice, maps: Tensor) -> None:
        """Spatial means of some rows."""
        self.means[layer][place].copy_(maps.mean((2, 3)), non_blocking=True)

    def keep_maps(self, layer: str, place: slice, maps: Tensor) -> None:
        """Maps of some rows, in the store's dtype."""
        self._limits[layer].append(torch.stack([maps.amin(), maps.amax()]))
        self.maps[layer][place].copy_(maps.to(self.maps[layer].dtype), non_blocking=True)

    def wait(self) -> None:
        """Wait until all that was kept is there, where a GPU copies it."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def arrays(self) -> tuple[Arrays, Arrays]:
        """Maps and means.

        Raises
        ------
        BoldreamsError
            If there are values that the store's dtype cannot hold.
        """
        for layer, limits in self._limits.items():
            low, high = torch.stack(limits, 1)
            refuse(float(low.amin()), float(high.amax()), self.dtype, layer)
        maps, means = ({name: value.numpy() for name, value in kind.items()} for kind in (self.maps, self.means))
        return maps, means


@dataclass
class _Made:
    """What was made of a unit: maps and means, the hash of what was read, and what still computes."""

    found: _Found
    read: PixelsHash
    batches: list[Future[None]]
