"""What a cache holds, as `boldreams info` lists it; what cannot be read is listed with the reason."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from boldreams_cli import stores, zarr_files
from boldreams_cli.console import BoldreamsError, MismatchError, logger

Row = dict[str, Any]
# What a damaged or strange store may raise where its maker's checks do not reach.
UNREADABLE = (BoldreamsError, OSError, KeyError, TypeError, ValueError, RuntimeError)


def features(cache: Path) -> list[Row]:
    """Feature stores: rows (images) and how many are done."""

    def read(path: Path) -> Row:
        from boldreams_cli.features.store.feature_store import FeatureStore

        store = FeatureStore(path)
        return {
            "backbone": store.spec["backbone"],
            "fingerprint": store.fingerprint,
            "weights": store.weights,
            "rows": len(store.images),
            "done": int(store.done().sum()),
            "keep_percent": (store.spec["keep"] or {}).get("percent", 100.0),
        }

    names = ("backbone", "fingerprint", "weights", "rows", "done", "keep_percent")
    return [_row(path, read, names) for path in sorted((cache / "features").glob("[!.]*.zarr"))]


def responses(cache: Path) -> list[Row]:
    """Responses: sessions and how many are done, trials and voxels."""

    def read(path: Path) -> Row:
        from boldreams_cli.data.responses import Responses

        attributes = zarr_files.attributes(path)
        rows = len(attributes["sessions"])
        row: Row = {name: attributes[name] for name in ("subject", "fingerprint", "mask")} | {"rows": rows}
        try:
            whole = Responses.open(path)
        except BoldreamsError as error:
            row["done"] = _units_done(path)
            if isinstance(error, MismatchError) or row["done"] >= rows:
                row["problem"] = str(error)
            return row
        return row | {"done": rows, "voxels": len(whole.voxels), "trials": len(whole.trial_images)}

    names = ("subject", "fingerprint", "rows", "done", "mask", "voxels", "trials")
    return [_row(path, read, names) for path in sorted((cache / "responses").glob("[!.]*.zarr"))]


def _units_done(path: Path) -> int:
    if not _resumable(path):
        return 0
    store = stores.ResumableStore(path)
    return sum(len(store.done(kind)) for kind in {line["kind"] for line in store.lines()})


def _resumable(path: Path) -> bool:
    """Whether a store has a ledger with checksums; those of earlier versions have none."""
    marks = {"store_id", "static", "seal"} & zarr_files.attributes(path).keys()
    return bool(marks) or (path / "ledger").is_dir()


def _row(path: Path, read: Callable[[Path], Row], names: Iterable[str]) -> Row:
    """One store; with ``problem`` where it cannot be read."""
    empty: Row = {"store": str(path)} | dict.fromkeys(names) | {"problem": None}
    try:
        return empty | read(path)
    except UNREADABLE as error:
        return empty | {"problem": str(error) or type(error).__name__}


def models(cache: Path) -> list[Row]:
    """Fitted models; folders that hold none that can be read follow, with the reason."""
    from boldreams_cli.encoding.model.folder import find_models

    rows = [_model(row) for row in find_models(cache)]
    known = {row["model"] for row in rows}
    empty = dict.fromkeys(rows[0] if rows else ("model", "r_mean"))
    for folder in sorted((cache / "models").glob("[!.]*/*/[!.]*")):
        if folder.is_dir() and str(folder) not in known:
            rows.append(empty | {"model": str(folder), "problem": _problem(folder)})
    return rows


def _model(row: Any) -> Row:
    value = row.to_dict()
    folder = value.pop("folder")
    date = datetime.fromtimestamp(value["date"], UTC).isoformat(timespec="seconds")
    return {"model": str(folder), "name": folder.name} | value | {"date": date, "problem": None}


def _problem(folder: Path) -> str:
    if (folder / "spec.json").exists():
        return "its spec.json cannot be read by this version; fit it again, or remove it"
    if any(folder.glob("checkpoint*")) or (folder / "spans").is_dir():
        return "not finished; the same boldreams fit goes on"
    return "no spec.json"


def products(cache: Path, known: Iterable[Row]) -> list[Row]:
    """Dreams, attributions, words and predictions of models, and words of the cache."""
    from boldreams_cli.encoding.model.folder import weights_of
    from boldreams_cli.interpret.products import find_products

    found = []
    for folder in [None, *(Path(row["model"]) for row in known)]:
        now = weights_of(folder) if folder else None
        for kept in find_products(folder or cache):
            current = now is None or kept.is_of(now)
            found.append(
                {
                    "model": str(folder) if folder else None,
                    "kind": kept.kind,
                    "name": kept.name,
                    "state": kept.state if current else "of earlier weights",
                    "date": kept.date,
                    "place": str(kept.place),
                    "files": [str(file) for file in kept.files],
                }
            )
    return found


def damage(cache: Path, paths: Iterable[Path]) -> Iterator[Row]:
    """Read stores whole and name the units that are damaged, and what to run.

    Parameters
    ----------
    cache : that holds them.
    paths : of those to read; all of the cache if there are none.
    """
    kinds = ("features", "responses")
    chosen = list(paths) or [path for kind in kinds for path in sorted((cache / kind).glob("[!.]*.zarr"))]
    for path in chosen:
        command = "boldreams prepare" if path.resolve().parent.name == "responses" else "boldreams extract"
        anew = f"rm -r {shlex.quote(str(path))} and {command}"  # what was made with the store, no unit makes again
        try:
            if not _resumable(path):
                logger.warning("%s is of an earlier version and has no checksums: it cannot be verified", path)
                continue
            for kind, unit, file, why in _damage(path):
                name = f"{kind} {unit}".strip()
                run = anew if kind == stores.STATIC else command
                yield {"store": str(path), "unit": name, "file": file, "why": why, "run": run}
        except UNREADABLE as error:
            why = str(error) or type(error).__name__
            yield {"store": str(path), "unit": None, "file": None, "why": why, "run": anew}


def _damage(path: Path) -> Iterator[tuple[str, stores.Unit, str, str]]:
    """What is damaged in a store: kind, unit, file, why; of maps, what their store's maker knows too."""
    from boldreams_cli.features.store import verifying
    from boldreams_cli.features.store.feature_store import FeatureStore

    store = stores.ResumableStore(path)
    if path.resolve().parent.name == "responses":
        yield from store.verify()
        return
    try:
        maps = FeatureStore(path)
    except MismatchError:
        found = list(store.verify())
        yield from found
        if not any(kind == stores.STATIC for kind, *_ in found):
            raise  # metadata that grows with the rows has no checksum: the store itself says what is wrong
        return
    for row in verifying.verify(maps):
        yield row["kind"], row["unit"], row["file"], row["problem"]
