"""Extraction against a bare forward pass; bytes and time of reading; ranking."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import numpy as np
import torch
from numcodecs import Blosc

from benchmarks.brain import Brain
from benchmarks.fitting import CPU, synchronize
from boldreams_cli.console import StopFlag
from boldreams_cli.encoding.inputs.layout import MapLayout, make_groups, read_groups
from boldreams_cli.encoding.inputs.ranking import rank_filters
from boldreams_cli.features import backbones, extraction
from boldreams_cli.features.ranking import filter_count
from boldreams_cli.features.store.feature_store import FeatureStore
from boldreams_cli.features.store.store_arrays import CODEC, ids_hash

# Several units of work, as in use.
IMAGES = {"alexnet": 1024, "vgg11": 160, "efficientnet_lite0": 256, "rn50x4": 64}
TARGETS = {"alexnet": 0.85, "vgg11": 0.85, "efficientnet_lite0": 0.85}
WEIGHTS = {"efficientnet_lite0": "pretrained"}


def extraction_rates(
    brain: Brain, name: str, images: int, batch: int | None = None, device: torch.device = CPU
) -> tuple[float, float, float]:
    """Images/s of extraction, of our network alone, and of its library's in inference mode with the same batch."""
    backbone = brain.backbone if name == "alexnet" else backbones.load(name, WEIGHTS.get(name, "random"))
    backbone, ids = copy.deepcopy(backbone).to(device), np.arange(images)
    available = len(brain.stimuli)
    source = extraction.Source(ids, [ids], lambda some: brain.stimuli.read(some % available), {"bench": name})
    batch = batch or backbone.entry.batch_size
    size = backbone.entry.preprocessing.size
    # As its library builds it: no layer replaced, channels first. Weights do not change its speed.
    plain = backbones.load(name, "random", trainable=True).network.to(device, memory_format=torch.contiguous_format)
    pixels = torch.rand(batch, 3, size, size, device=device)
    rates = []
    with torch.inference_mode():
        for network in (backbone, plain):
            network(pixels)
            synchronize(device)
            start = time.perf_counter()
            for _ in range(len(ids) // batch):
                network(pixels)
            synchronize(device)
            rates.append(len(ids) / (time.perf_counter() - start))
    cache = brain.folder / f"bench-{name}"
    plan = extraction.make_plan(backbone, source, cache, "float16", None)
    start = time.perf_counter()
    extraction.extract(backbone, source, plan, cache, StopFlag(), batch)
    return len(ids) / (time.perf_counter() - start), rates[0], rates[1]


def extract(brain: Brain) -> list[dict[str, object]]:
    """Two rows a backbone."""
    rows = []
    for name in IMAGES:
        stored, network, bare = extraction_rates(brain, name, IMAGES[name])
        rows += [
            _rates(f"{name}: our network's images/s against a bare forward pass", network, bare, "/s", "-"),
            _rates(f"extract {name}: the same, and stored", stored, bare, "/s", TARGETS.get(name, "-")),
        ]
    return rows


def bytes_read() -> int:
    """Bytes that this process has read so far (Linux)."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def reading(brain: Brain) -> list[dict[str, object]]:
    """Bytes that 10 % of the filters cost, and the time of reading them against a bare read and decompression."""
    store, responses = brain.store, brain.responses
    ranked = rank_filters(store, responses.train_images)
    best = {n: ranked[n][0][: filter_count(s[0], 10)] for n, s in store.layers.items()}
    rows = np.sort(store.rows(responses.train_images))[:1000]
    before = bytes_read()
    for name, filters in best.items():
        store.read_maps(name, rows, filters)
    some = bytes_read() - before
    before = bytes_read()
    for name, shape in store.layers.items():
        store.read_maps(name, rows, np.arange(shape[0]))
    everything = bytes_read() - before
    return [
        _rates("store: MB read for 10 % of the filters against all", some / 1e6, everything / 1e6, " MB", "to 0.15"),
        _loading(store, rows, best, brain.folder),
        *_codecs(store, rows, best),
    ]


ZSTD = Blosc(cname="zstd", clevel=1, shuffle=Blosc.SHUFFLE)


def _chunks(store: FeatureStore, rows: np.ndarray, best: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Maps in the pieces in which they are stored."""
    chunks = []
    for name, filters in best.items():
        maps = store.read_maps(name, rows, filters)
        for start in range(0, len(rows), store.rows_per_shard):
            block = maps[start : start + store.rows_per_shard]
            chunks += [np.ascontiguousarray(block[:, k]) for k in range(len(filters))]
    return chunks


def _codecs(store: FeatureStore, rows: np.ndarray, best: dict[str, np.ndarray]) -> list[dict[str, object]]:
    """The store's codec against Zstandard: bytes, and rates of packing and unpacking."""
    chunks = _chunks(store, rows, best)
    total = sum(chunk.nbytes for chunk in chunks) / 1e6
    figures = []
    for codec in (CODEC, ZSTD):
        start = time.perf_counter()
        packed = [codec.encode(chunk) for chunk in chunks]
        middle = time.perf_counter()
        for part in packed:
            codec.decode(part)
        end = time.perf_counter()
        figures.append((sum(map(len, packed)) / 1e6, total / (middle - start), total / (end - middle)))
    (size, pack, unpack), (other_size, other_pack, other_unpack) = figures
    return [
        _rates("store: MB packed by lz4 against zstd", size, other_size, " MB", "-"),
        _rates("store: rate of packing, lz4 against zstd", pack, other_pack, " MB/s", "-"),
        _rates("store: rate of unpacking, lz4 against zstd", unpack, other_unpack, " MB/s", "-"),
    ]


def _loading(store: FeatureStore, rows: np.ndarray, best: dict[str, np.ndarray], folder: Path) -> dict[str, object]:
    layers = {name: filters.tolist() for name, filters in best.items()}
    groups = make_groups({name: store.layers[name][1:] for name in layers}, "shared")
    layouts = [MapLayout(group, layers) for group in groups]
    # The same bytes: chunks hold all rows of a shard, those of test images too.
    whole = np.flatnonzero(np.isin(np.arange(len(store.images)) // store.rows_per_shard, rows // store.rows_per_shard))
    packed = [CODEC.encode(chunk) for chunk in _chunks(store, whole, best)]
    path = folder / "raw.bin"
    path.write_bytes(b"".join(packed))
    lengths = [len(part) for part in packed]
    ours, bare = [], []
    for _ in range(25):  # of some hundredths of a second
        start = time.perf_counter()
        read_groups(store, rows, layouts)  # as `fit` does
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        with path.open("rb") as stream:
            kept = [CODEC.decode(stream.read(length)) for length in lengths]  # as maps are, to be fitted to
        bare.append(time.perf_counter() - start)
        del kept
    return _rates("store: rate of loading 10 % against read and decompress", 1 / min(ours), 1 / min(bare), "/s", 0.7)


def ranking(brain: Brain) -> list[dict[str, object]]:
    """Seconds to rank AlexNet's filters over 10,000 images."""
    spec = brain.store.spec | {"stimuli": {"bench": "rank"}}
    store = FeatureStore.create(brain.folder / "bench-rank", spec, "none")
    store.add_images(range(10_000))
    rng = np.random.default_rng(0)
    size = store.rows_per_shard
    for number in range(-(-10_000 // size)):
        rows = store.images[number * size : (number + 1) * size]
        means = {name: rng.random((len(rows), shape[0]), dtype=np.float32) for name, shape in store.layers.items()}
        store.write("mean", number, means, [[0, len(rows), ids_hash(rows), ""]])
    start = time.perf_counter()
    rank_filters(FeatureStore(store.path), np.arange(10_000))
    seconds = time.perf_counter() - start
    return [_rates("rank: seconds for 10,000 images", seconds, 1.0, " s", "under 1")]


def _rates(what: str, value: float, baseline: float, unit: str, target: object) -> dict[str, object]:
    return {
        "what": what,
        "measured": f"{value:.3g}{unit}",
        "baseline": f"{baseline:.3g}{unit}",
        "ratio": value / baseline,
        "target": str(target),
    }
