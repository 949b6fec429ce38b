"""One pass of a backbone over rows that a feature store lacks: units taken, computed, written (paper, section 2.2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
from boldreams_cli.machine import cores
from boldreams_cli.transfers import landing, read_ahead

if TYPE_CHECKING:
    from boldreams_cli.features.backbones import Backbone
    from boldreams_cli.features.source import Source

Arrays = dict[str, NDArray[Any]]
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
        # A GPU is faster than one thread packs and a disk syncs; a CPU has no core left for more.
        self._together = WRITTEN if backbone.device.type == "cuda" else 1

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
        with ThreadPoolExecutor(self._together) as writer, progress(what, total, "images") as shown:
            self._writing: deque[Future[None]] = deque()
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
                self._writing.append(writer.submit(self._write, unit, *made, lock))
                computed += unit.end - unit.first
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

    def _compute(self, unit: _Unit, advance: Callable[[int], None]) -> tuple[Arrays, Arrays, str] | None:
        """Maps, means and the hash of what was read; None where a signal came first.

        What a GPU computes is copied while it goes on; only at the end it is waited for.
        """
        found = _Found(unit.end - unit.first, self.dtype, self.backbone.device)
        filters = {name: self._some(name) for name in self.store.layers} if self.kind == "maps" else {}
        read = PixelsHash()
        for start, stop, batch in self._batches(unit.first, unit.end, read):
            place = slice(start - unit.first, stop - unit.first)
            for name, value in batch.items():
                found.keep_means(name, place, value)
                if self.kind == "maps":
                    chosen = filters[name]
                    found.keep_maps(name, place, value if chosen is None else value[:, chosen])
            advance(stop - start)
            if self.stop and stop < unit.end:
                return None
        return *found.arrays(), read.digits

    def _some(self, layer: str) -> Tensor | None:
        """Filters of a layer that are stored, on the device; None for all of them as they come."""
        filters = self.store.filters(layer).astype(np.int64)
        if np.array_equal(filters, np.arange(self.store.layers[layer][0])):
            return None
        return torch.from_numpy(filters).to(self.backbone.device)

    def _batches(self, first: int, end: int, hashed: PixelsHash) -> Iterator[tuple[int, int, dict[str, Tensor]]]:
        """Rows and maps of each batch; the next images are read, and for a GPU resized, while these are computed on.

        Libraries choose their way by the size of a batch, and round differently: a smaller one is filled up, so that
        an image's maps are the same bits in whatever company it comes.
        """
        starts = range(first, end, self.batch_size)
        device = self.backbone.device

        def read(start: int) -> tuple[Tensor]:
            ids = self.store.images[start : min(start + self.batch_size, end)]
            images = self.source.read(ids)
            hashed.update(images)
            if len(images) < self.batch_size:
                images = np.resize(images, (self.batch_size, *images.shape[1:]))
            return (torch.from_numpy(images),)

        maps_of = self.backbone.maps_of
        stimuli = read_ahead(read, starts, torch.device("cpu"))
        if device.type == "cuda":
            maps_of, stimuli = self.backbone.maps_of_ready, self._ready(stimuli, starts)
        for start, (images,) in zip(starts, stimuli, strict=True):
            rows = min(self.batch_size, end - start)
            with torch.inference_mode():
                found = maps_of(images)
            yield start, start + rows, {name: maps[:rows] for name, maps in found.items()}

    def _ready(self, stimuli: Iterator[tuple[Tensor]], starts: Sequence[int]) -> Iterator[tuple[Tensor]]:
        """Batches as a GPU takes them: resized in threads, as torch does it in one, while the next are read."""

        def resize(_: int) -> tuple[Tensor]:
            (images,) = next(stimuli)
            return (torch.cat([*resizers.map(self.backbone.ready, images.chunk(threads))]),)

        threads = min(RESIZERS, cores())
        with ThreadPoolExecutor(threads) as resizers:
            yield from read_ahead(resize, starts, self.backbone.device)

    def _write(self, unit: _Unit, maps: Arrays, means: Arrays, read: str, lock: Lock) -> None:
        """Write a unit's files, then its lines; finished rows before it are written again with it, means are not."""
        try:
            ids = ids_hash(self.store.images[unit.first : unit.end])
            segments = [*unit.read, [unit.first - unit.begin, unit.end - unit.begin, ids, read]]
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
    dtype : of the store.
    device : of what is kept.
    """

    def __init__(self, rows: int, dtype: str, device: torch.device) -> None:
        self.rows, self.dtype, self.device = rows, dtype, device
        self.means: dict[str, Tensor] = {}
        self.maps: dict[str, Tensor] = {}
        self._limits: dict[str, list[Tensor]] = {}

    def keep_means(self, layer: str, place: slice, maps: Tensor) -> None:
        """Spatial means of some rows."""
        means = maps.mean((2, 3))
        if layer not in self.means:
            self.means[layer] = landing((self.rows, means.shape[1]), torch.float32, self.device)
        self.means[layer][place].copy_(means, non_blocking=True)

    def keep_maps(self, layer: str, place: slice, maps: Tensor) -> None:
        """Maps of some rows, in the store's dtype."""
        self._limits.setdefault(layer, []).append(torch.stack([maps.amin(), maps.amax()]))
        if layer not in self.maps:
            self.maps[layer] = landing((self.rows, *maps.shape[1:]), getattr(torch, self.dtype), self.device)
        self.maps[layer][place].copy_(maps.to(self.maps[layer].dtype), non_blocking=True)

    def arrays(self) -> tuple[Arrays, Arrays]:
        """Maps and means, once all of them are there.

        Raises
        ------
        BoldreamsError
            If there are values that the store's dtype cannot hold.
        """
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        for layer, limits in self._limits.items():
            low, high = torch.stack(limits, 1)
            refuse(float(low.amin()), float(high.amax()), self.dtype, layer)
        maps, means = ({name: value.numpy() for name, value in kind.items()} for kind in (self.maps, self.means))
        return maps, means
