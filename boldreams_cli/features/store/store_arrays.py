"""The arrays of a feature store: how they are made, grow, and are checked (cache/README.md, "features")."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from boldreams_cli.console import MismatchError
from boldreams_cli.files import PARTIAL, fingerprint, write_text
from boldreams_cli.stores import ResumableStore
from boldreams_cli.zarr_files import metadata_of, open_array, remedy

UNIT_BYTES = 256 * 2**20  # maps of one shard of rows, all layers, before compression
IDS_CHUNK = 65536
OTHER_STIMULI = "its stimuli are others now"  # why a unit was revoked
KEPT, ROWS = "kept", "rows"  # kinds of lines: filters of --keep-percent, images that were given rows
# No shuffling: it would part the runs of zeros that a ReLU leaves. Zstandard packs tighter, but takes about three times
# as long to pack and four to unpack (make bench, "store").
CODEC = Blosc(cname="lz4", clevel=9, shuffle=Blosc.NOSHUFFLE)


def shard_rows(image_bytes: int) -> int:
    """Rows of a shard, a power of two from 16 to 256, such that a unit of work stays below UNIT_BYTES."""
    rows = 256
    while rows > 16 and rows * image_bytes > UNIT_BYTES:
        rows //= 2
    return rows


def build(path: Path, spec: dict[str, Any]) -> None:
    """Make all arrays of an empty store, but for the maps where a first pass is to choose their filters."""
    _ids(path, "images", 0, IDS_CHUNK)
    for name, (filters, _, _) in spec["layers"].items():
        _mean(path, spec, name)
        if spec["keep"] is None:
            _maps(path, spec, name, filters)
            _ids(path, f"layers/{name}/filters", filters, filters)
            open_array(path / f"layers/{name}/filters", "r+")[:] = np.arange(filters)


def _ids(path: Path, name: str, count: int, chunk: int) -> None:
    """An array of ids; -1 where none was written."""
    zarr.create_array(
        path, name=name, shape=(count,), chunks=(chunk,), dtype="i4", fill_value=-1, compressors=Crc32cCodec()
    )


def _mean(path: Path, spec: dict[str, Any], name: str) -> None:
    filters, rows = spec["layers"][name][0], int(spec["shard_rows"])
    zarr.create_array(
        path,
        name=f"layers/{name}/mean",
        shape=(0, filters),
        chunks=(rows, filters),
        dtype="f4",
        fill_value=np.nan,
        compressors=Crc32cCodec(),
    )


def _maps(path: Path, spec: dict[str, Any], name: str, stored: int, images: int = 0) -> None:
    _, height, width = spec["layers"][name]
    rows = int(spec["shard_rows"])
    zarr.create_array(
        path,
        name=f"layers/{name}/maps",
        shape=(images, stored, height, width),
        chunks=(rows, 1, height, width),
        shards=(rows, stored, height, width),
        dtype=spec["dtype"],
        compressors=[BloscCodec(cname=CODEC.cname, clevel=CODEC.clevel, shuffle="noshuffle"), Crc32cCodec()],
        fill_value=0,
    )


def add_maps(store: ResumableStore, spec: dict[str, Any], name: str, filters: NDArray[Any], images: int) -> None:
    """Make the maps of a layer's kept filters, and note which these are; the caller holds the store's lock."""
    temporary = store.path / f"{PARTIAL}kept-{name}"
    shutil.rmtree(temporary, ignore_errors=True)
    zarr.open_group(temporary, mode="w", zarr_format=3)
    _maps(temporary, spec, name, len(filters), images)
    _ids(temporary, f"layers/{name}/filters", len(filters), len(filters))
    for kind in ("maps", "filters"):
        target = store.path / "layers" / name / kind
        if not (target / "zarr.json").is_file():
            shutil.rmtree(target, ignore_errors=True)
            (temporary / "layers" / name / kind).rename(target)
        elif kind == "maps" and metadata_of(target)["shape"][1] != len(filters):
            raise MismatchError(
                f"{target} holds another number of filters than the ranking now chooses; move {store.path} away and "
                "run boldreams extract again"
            )
        else:
            write_text(target / "zarr.json", (temporary / "layers" / name / kind / "zarr.json").read_text())
    shutil.rmtree(temporary, ignore_errors=True)
    file = store.write_array(f"layers/{name}/filters", (0,), filters.astype(np.int32))
    store.add(KEPT, name, [file], filters=[int(index) for index in filters])


def check(store: ResumableStore, spec: dict[str, Any]) -> None:
    """Compare the arrays' metadata with what the spec makes them.

    Raises
    ------
    MismatchError
        If one was changed or is missing.
    """
    store.check_static()
    names = ["images", *(f"layers/{name}/{kind}" for name in spec["layers"] for kind in ("mean", "maps", "filters"))]
    for name in names:
        path = store.path / name
        if spec["keep"] is not None and name.endswith(("/maps", "/filters")) and not path.is_dir():
            continue
        found = metadata_of(path)
        if _decisive(found, name) != _expected(spec, name, found):
            raise MismatchError(f"{path / 'zarr.json'} is not what the store's spec says; {remedy(path, True)}")


def _decisive(metadata: dict[str, Any], name: str) -> dict[str, Any]:
    """All but the number of rows, which grows."""
    shape = metadata.get("shape")
    fixed = shape if name.endswith("/filters") else shape[1:] if isinstance(shape, list) else shape
    return {key: value for key, value in metadata.items() if key != "shape"} | {"shape": fixed}


def _expected(spec: dict[str, Any], name: str, found: dict[str, Any]) -> dict[str, Any]:
    layer, _, kind = name.removeprefix("layers/").rpartition("/")
    stored = spec["layers"][layer][0] if layer else 0
    if spec["keep"] is not None and kind in ("maps", "filters"):
        stored = _stored(found, kind)
    key = json.dumps([spec["layers"].get(layer), spec["dtype"], spec["shard_rows"], name, stored])
    if key not in _made:
        memory = zarr.storage.MemoryStore()
        _make_one(memory, spec, layer, kind, stored)
        made = zarr.open_array(memory, path=name, mode="r").metadata.to_dict()
        _made[key] = _decisive(json.loads(json.dumps(made, default=str)), name)
    return _made[key]


_made: dict[str, dict[str, Any]] = {}  # of arrays that were checked before in this process


def _stored(found: dict[str, Any], kind: str) -> int:
    shape = found.get("shape")
    place = 1 if kind == "maps" else 0
    return shape[place] if isinstance(shape, list) and len(shape) > place and isinstance(shape[place], int) else 0


def _make_one(path: Any, spec: dict[str, Any], layer: str, kind: str, stored: int) -> None:
    if kind == "images":
        _ids(path, "images", 0, IDS_CHUNK)
    elif kind == "mean":
        _mean(path, spec, layer)
    elif kind == "maps":
        _maps(path, spec, layer, stored)
    else:
        _ids(path, f"layers/{layer}/filters", stored, stored)


def known(images: NDArray[np.int32]) -> int:
    """Rows that have an image: those before the first -1, which a kill in the middle of growing may leave."""
    gaps = np.flatnonzero(images < 0)
    return int(gaps[0]) if len(gaps) else len(images)


def ids_hash(ids: NDArray[Any]) -> str:
    """What a unit's line notes of the images in its rows."""
    return hashlib.sha256(np.asarray(ids, dtype="<i4").tobytes()).hexdigest()[:16]


def noted_rows(store: ResumableStore) -> NDArray[np.int32]:
    """Ids of the rows as the ledger has them, as far as it has them without a gap."""
    found: list[int] = []
    for line in store.lines(ROWS):
        if int(line["unit"]) <= len(found):
            found[int(line["unit"]) :] = line["images"]
    return np.array(found, np.int32)


def edition(store: ResumableStore) -> str:
    """Hash of the stimuli of units that were made anew of others than at first, "" where none was.

    A fingerprint knows a sample of the stimuli alone. Rows that are added later change nothing here.
    """
    found: list[list[Any]] = []
    waiting: set[Any] = set()
    for line in store.lines("maps"):
        if line.get("damaged") == OTHER_STIMULI:
            waiting.add(line["unit"])
        elif line.get("read") and line["unit"] in waiting:
            waiting.remove(line["unit"])
            found.append([line["unit"], line["read"][0][2:]])
    return fingerprint(sorted(found)) if found else ""


def add_rows(store: ResumableStore, spec: dict[str, Any], ids: NDArray[np.int32]) -> int:
    """Give rows to images that have none, in the order given; the caller holds the store's lock.

    The layers grow first: a row counts from the moment that `images` names its image. What was lost of `images` is
    restored from the ledger.
    """
    try:
        before = open_array(store.path / "images")[:]
        restored = known(before) < len(before)
        before = before[: known(before)]
    except (MismatchError, OSError, ValueError, RuntimeError, KeyError):  # what a damaged chunk makes zarr raise
        before, restored = np.zeros(0, np.int32), True
    noted = noted_rows(store)
    if len(noted) > len(before) or not np.array_equal(before[: len(noted)], noted):
        before, restored = noted, True
    unique = ids[np.sort(np.unique(ids, return_index=True)[1])]
    new = unique[~np.isin(unique, before)]
    rows = len(before) + len(new)
    if not len(new) and not restored:
        return 0
    for name in spec["layers"]:
        for kind in ("maps", "mean"):
            _grow(store.path / "layers" / name / kind, rows)
    _grow(store.path / "images", rows)
    images = np.concatenate([before, new])
    for number in range(0, -(-rows // IDS_CHUNK)):
        store.write_array("images", (number,), images[number * IDS_CHUNK : (number + 1) * IDS_CHUNK])
    if len(noted) < rows:
        store.add(ROWS, len(noted), [], images=images[len(noted) :].tolist())
    return len(new)


def _grow(path: Path, rows: int) -> None:
    if (path / "zarr.json").is_file():
        metadata = metadata_of(path)
        if metadata["shape"][0] != rows:
            write_text(path / "zarr.json", json.dumps(metadata | {"shape": [rows, *metadata["shape"][1:]]}, indent=2))
