"""From images to the feature store, once (paper, section 2.2): one pass of the backbone for all layers."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import BoldreamsError, MismatchError, StopFlag, StoppedError, logger, progress, size
from boldreams_cli.features.backbones import Backbone
from boldreams_cli.features.extraction_pass import Pass, PixelsHash, cast
from boldreams_cli.features.ranking import filter_count, filter_order, filter_std, joint_order
from boldreams_cli.features.source import Source
from boldreams_cli.features.store.feature_store import KINDS, FeatureStore
from boldreams_cli.features.store.store_arrays import CODEC, OTHER_STIMULI, shard_rows
from boldreams_cli.files import fingerprint, free_bytes
from boldreams_cli.machine import float32_products

SAMPLE_IMAGES = 8
STIMULI_AT_ONCE = 32


@dataclass
class Plan:
    """What a run will write, before it writes anything.

    Parameters
    ----------
    spec, path : of the store.
    rows : to compute.
    best : layer -> filters that are kept as the best of each subject.
    stored : layer -> fewest and most filters that all subjects' best are together; equal where that is known.
    ratio : how many times smaller the maps become.
    free : bytes on the disk.
    chunks : layer -> shape of a chunk.
    """

    spec: dict[str, Any]
    path: Path
    rows: int
    best: dict[str, int]
    stored: dict[str, tuple[int, int]]
    ratio: float
    free: int
    chunks: dict[str, list[int]] = field(default_factory=dict)

    @property
    def raw_bytes(self) -> int:
        """Of all maps, at most."""
        return self.rows * image_bytes(self.spec, {name: most for name, (_, most) in self.stored.items()})

    @property
    def bytes(self) -> int:
        """Expected on disk at most, with a tenth to spare."""
        return self._on_disk(self.raw_bytes)

    def check_disk(self) -> None:
        """Raise BoldreamsError if the run will not fit on the disk, however few filters are stored."""
        least = self.rows * image_bytes(self.spec, {name: fewest for name, (fewest, _) in self.stored.items()})
        if self._on_disk(least) > self.free:
            raise BoldreamsError(
                f"the maps need about {size(self._on_disk(least))} and {self.path.parent.parent} has "
                f"{size(self.free)} free; use --keep-percent, --cache DIR on a larger disk, or fewer subjects"
            )

    def _on_disk(self, raw: int) -> int:
        return int(raw / self.ratio * 1.1)


def image_bytes(spec: dict[str, Any], stored: dict[str, int]) -> int:
    """Bytes of one image's maps of so many filters of each layer."""
    item = np.dtype(spec["dtype"]).itemsize
    return sum(stored[name] * height * width * item for name, (_, height, width) in spec["layers"].items())


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
    signed = any(float(value.min()) < 0 for value in maps.values())
    keep = None
    if keep_percent is not None:
        chosen_by = fingerprint(source.training)
        keep = {"percent": keep_percent, "training_images": chosen_by}
    best = {
        name: filter_count(shape[0], keep_percent if keep_percent is not None else 100)
        for name, shape in layers.items()
    }
    # A part of the fingerprint: of one subject's filters, whatever several keep together.
    shard = shard_rows(image_bytes({"dtype": dtype, "layers": layers}, best))
    spec = {
        "backbone": backbone.entry.name,
        "weights_digest": backbone.digest,
        "layers": layers,
        "preprocessing": backbone.reading(),
        "dtype": dtype,
        "stimuli": source.identity,
        "keep": keep,
        "shard_rows": shard,
        **({"signed": True} if signed and backbone.entry.library else {}),
    }
    path = FeatureStore.path_for(cache, spec)
    store = FeatureStore(path) if (path / "zarr.json").exists() else None
    return Plan(
        spec=spec,
        path=path,
        rows=len(source.images) if store is None else _rows_to_compute(store, source),
        best=best,
        stored=_stored(spec, best, len(source.training), store),
        ratio=_ratio(maps),
        free=free_bytes(path),
        chunks={name: [shard, 1, *shape[1:]] for name, shape in layers.items()},
    )


def _stored(
    spec: dict[str, Any], best: dict[str, int], subjects: int, store: FeatureStore | None
) -> dict[str, tuple[int, int]]:
    """Layer -> fewest and most filters that are stored: of several subjects those that are among the best of any."""
    if store is not None and store.has_maps:
        counts = {name: len(store.filters(name)) for name in best}
        return {name: (count, count) for name, count in counts.items()}
    return {name: (count, min(spec["layers"][name][0], count * subjects)) for name, count in best.items()}


def _rows_to_compute(store: FeatureStore, source: Source) -> int:
    """Rows that an extraction computes: a unit's unfinished ones together, so those of another source as well."""
    new = np.setdiff1d(source.images, store.images)
    done = np.append(_finished(store), np.zeros(len(new), dtype=bool))
    units = np.arange(len(done)) // store.rows_per_shard
    wanted = np.isin(np.append(store.images, new), source.images) & ~done
    return int(np.count_nonzero(~done & np.isin(units, units[wanted])))


def _finished(store: FeatureStore) -> NDArray[np.bool_]:
    """(rows,) whether nothing of a row is to be computed."""
    return store.done() & store.done("mean")


def _ratio(maps: dict[str, NDArray[Any]]) -> float:
    """How many times smaller the maps become, measured chunk by chunk as they will be written."""
    raw = sum(value.nbytes for value in maps.values())
    packed = sum(len(CODEC.encode(np.ascontiguousarray(v.swapaxes(0, 1)))) for v in maps.values())
    return raw / packed


def _maps(backbone: Backbone, images: NDArray[Any], dtype: str) -> dict[str, Tensor]:
    with torch.inference_mode():
        found = backbone.maps_of(torch.from_numpy(images))
        return {name: cast(value, dtype, name) for name, value in found.items()}


@dataclass
class Result:
    """What an extraction did.

    Parameters
    ----------
    store : that it filled.
    computed : images that this run computed, in two passes or one; those of others among them that lay unfinished in
        the same units.
    skipped : of the images that were asked for, those that were done before.
    seconds : it took.
    """

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
    stop : looked at after each batch.
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
    store.add_images(source.images, stop)
    check_stimuli(store, source, stop)
    skipped = int(np.isin(source.images, store.images[_finished(store)]).sum())
    computed = 0
    with float32_products("fp32", backbone.device):
        if plan.spec["keep"] is not None and not store.has_maps:
            computed += Pass(backbone, source, store, batch_size, shard, "mean", stop).run()
            _keep_best(store, source, plan)
        computed = max(computed, Pass(backbone, source, store, batch_size, shard, "maps", stop).run())
    done = int(np.isin(store.images[store.done()], source.images).sum())
    if done < len(source.images):
        logger.info("%d of %d images are done; other tasks of the array have the rest", done, len(source.images))
    return Result(store, computed, skipped, time.monotonic() - start)


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
    for name, count in plan.best.items():
        orders = [filter_order(filter_std(store.means(name, subject))) for subject in rows]
        wanted = np.unique(np.concatenate([order[:count] for order in orders]))
        joint = joint_order(orders)
        kept[name] = joint[np.isin(joint, wanted)]
    # Several subjects' best filters may be more than the fewest, for which there was room.
    replace(plan, stored={name: (len(filters), len(filters)) for name, filters in kept.items()}).check_disk()
    store.keep_filters(kept)


def check_stimuli(store: FeatureStore, source: Source, stop: StopFlag) -> None:
    """Compare the stimuli with what was read of them, where their file has been touched since.

    Units whose stimuli are others now are done no longer.

    Raises
    ------
    StoppedError
        If a signal came.
    """
    units = store.writable
    last = units.last("stimuli").get("file")
    if source.stamp is None or (last is not None and last["stamp"] == source.stamp):
        return
    lines = [(kind, number, line) for kind in KINDS for number, line in units.done(kind).items()]
    changed = set()
    if lines:
        logger.info("the stimulus file was touched since it was read: its images are compared with what was read")
        with progress("compare stimuli", len(lines), "units") as shown:
            for _, number, line in lines:
                if not _read_again(store, source, int(number), line, stop):
                    changed.add(int(number))
                shown.advance()
        for kind, number, _ in lines:
            if int(number) in changed:
                units.revoke(kind, number, OTHER_STIMULI)
        if changed:
            logger.warning("the stimuli of %d units are others now; these are computed anew", len(changed))
    units.add("stimuli", "file", stamp=source.stamp)


def _read_again(store: FeatureStore, source: Source, number: int, line: dict[str, Any], stop: StopFlag) -> bool:
    """Whether the stimuli of a unit are those that its line says."""
    begin = number * store.rows_per_shard
    for start, end, _, pixels in line["read"]:
        hashed = PixelsHash()
        for first in range(begin + start, begin + end, STIMULI_AT_ONCE):
            stop.check("nothing was changed")
            hashed.update(source.read(store.images[first : min(first + STIMULI_AT_ONCE, begin + end)]))
        if hashed.digits != pixels:
            return False
    return True
