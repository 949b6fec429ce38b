"""`boldreams info`: what the cache holds and whether it is whole, versions, device, layers and areas."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import Output

if TYPE_CHECKING:
    from boldreams_cli.data.subjects import Subject
    from boldreams_cli.features.backbones import Entry

PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "zarr", "zarrs", "numpy", "nibabel", "captum")


@options.command(
    "boldreams info",
    "boldreams info --layers vgg11",
    "boldreams info --layers timm:convnext_tiny",
    "boldreams info --rois 1",
    "boldreams info --verify",
    "boldreams info --verify cache/features/alexnet-0123456789ab.zarr",
)
@options.output_options
@options.cache_option
@options.nsd_option
@click.argument("stores", nargs=-1, type=click.Path(path_type=Path), metavar="[STORE...]")
@options.option(
    "--layers",
    "layers",
    metavar="BACKBONE",
    default=None,
    excludes=["rois", "verify"],
    help="List a backbone's layers and their filters.",
)
@options.option(
    "--rois",
    "rois",
    type=options.SUBJECT,
    metavar="SUBJECT",
    default=None,
    excludes=["layers", "verify"],
    help="List a subject's areas and their voxels.",
)
@options.option(
    "--verify",
    is_flag=True,
    excludes=["layers", "rois"],
    help="Read every STORE, or all of the cache, and name what is damaged.",
)
@options.device_option
def info(
    cache: Path,
    nsd_root: Path | None,
    stores: tuple[Path, ...],
    layers: str | None,
    rois: int | None,
    verify: bool,
    device: str,
    output: Output,
) -> None:
    """Say what the cache holds, or list layers and areas.

    Lists feature stores, responses, models and what was made with them; what cannot be read is listed as such.
    With --verify exits with 1 where something is damaged.
    """
    from boldreams_cli.console import ChoiceError

    if (layers is not None) + (rois is not None) + verify > 1:
        raise ChoiceError("--layers, --rois and --verify do different things; give one of them")
    if stores and not verify:
        raise ChoiceError(f"{stores[0]}: stores are named for --verify only")
    if layers is not None:
        _layers(layers, output)
    elif rois is not None:
        _rois(rois, cache, nsd_root, output)
    elif verify:
        _verify(cache, stores, output)
    else:
        _overview(cache, device, output)


def _layers(name: str, output: Output) -> None:
    from boldreams_cli.console import size as said
    from boldreams_cli.features.backbones import entry

    chosen = entry(name)
    shapes = chosen.shapes or _shapes(chosen)
    rows: list[dict[str, Any]] = []
    for (layer, path), filters, size in zip(chosen.layers.items(), chosen.filters, shapes, strict=True):
        stored = 2 * 10_000 * filters * math.prod(size)
        rows.append({"layer": layer, "module": path, "filters": filters, "size": list(size), "bytes_10000": stored})
    total = sum(chosen.filters), sum(row["bytes_10000"] for row in rows)
    output.show(
        {
            "backbone": name,
            "source": chosen.source,
            "preprocessing": chosen.preprocessing.to_dict(),
            "layers": rows,
        },
        f"{name}: {chosen.source}; input {chosen.preprocessing.size} x {chosen.preprocessing.size}",
        *(_layer_line(row) for row in rows),
        f"  total: {total[0]} filters, {said(total[1])} for 10,000 images in float16",
    )


def _layer_line(row: dict[str, Any]) -> str:
    from boldreams_cli.console import size as said

    height, width = row["size"]
    return f"  {row['layer']}: {row['filters']} filters, {height} x {width}, {said(row['bytes_10000'])}"


def _shapes(entry: Entry) -> list[tuple[int, int]]:
    """Height and width of the maps of a known backbone, by a run of it without weights."""
    from boldreams_cli.features import backbones

    if entry.reads != "images":
        return [(1, 1) for _ in entry.layers]
    return backbones.shapes(entry)


def _rois(subject: Subject, cache: Path, nsd_root: Path | None, output: Output) -> None:
    from boldreams_cli.data.prepared.choosing import areas_of

    areas = areas_of(subject, cache, nsd_root)
    groups, labels = areas.counts(), areas.label_counts()
    units = "voxels" if areas.space is None else "vertices"
    output.show(
        {"subject": subject, "rois": groups, "labels": labels},
        f"areas of subject {subject} ({units})",
        *(f"  {name}: {count}" for name, count in groups.items()),
        "single labels",
        *(f"  {name}: {count}" for name, count in labels.items()),
    )


def _verify(cache: Path, stores: Sequence[Path], output: Output) -> None:
    from boldreams_cli.console import BoldreamsError, ChoiceError
    from boldreams_cli.study import inventory

    if missing := [str(path) for path in stores if not path.is_dir()]:
        raise ChoiceError(f"no store {missing[0]}; boldreams info lists those of the cache")
    found = list(inventory.damage(cache, stores))
    output.show(
        {"cache": str(cache), "damaged": found},
        *(f"{row['store']}: {row['unit'] or 'whole'}: {row['why']} ({row['file'] or 'store'})" for row in found),
        *([] if found else ["nothing is damaged"]),
    )
    if found:
        commands = " and ".join(sorted({row["run"] for row in found}))
        raise BoldreamsError(f"{len(found)} damaged; {commands} with the options of before makes those again")


def _overview(cache: Path, device: str, output: Output) -> None:
    from boldreams_cli.console import logger
    from boldreams_cli.study import inventory

    where, name, versions = _running(device)
    if not cache.is_dir():
        logger.warning("there is no cache in %s (--cache)", cache)
    models = inventory.models(cache)
    held: dict[str, Any] = {
        "cache": str(cache),
        "versions": versions,
        "device": where,
        "device_name": name,
        "features": inventory.features(cache),
        "responses": inventory.responses(cache),
        "models": models,
        "products": inventory.products(cache, models),
    }
    output.show(
        held,
        "versions: " + ", ".join(f"{key} {value}" for key, value in versions.items()),
        f"device: {where} ({name})",
        *_section(f"features in {cache}:", _lines(held["features"], _features)),
        *_section("responses:", _lines(held["responses"], _responses)),
        *_section("models:", _models(models, cache)),
        *_section("made with them:", _products(held["products"], cache)),
    )


def _running(device: str) -> tuple[str, str, dict[str, str]]:
    """Device, its name, and versions."""
    import importlib.metadata
    import platform

    import torch

    from boldreams_cli import __version__

    versions = {"boldreams": __version__, "python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in PACKAGES}
    where = options.pick_device(device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else f"{torch.get_num_threads()} threads"
    return str(where), name, versions


def _section(title: str, lines: list[str]) -> list[str]:
    return [title, *lines] if lines else [f"{title} none"]


def _lines(rows: Iterable[dict[str, Any]], text: Any) -> list[str]:
    return [f"  {Path(row['store']).name}: " + (row["problem"] or text(row)) for row in rows]


def _features(row: dict[str, Any]) -> str:
    return f"{row['done']} of {row['rows']} images, weights {row['weights']}, {row['keep_percent']:g} % of the filters"


def _responses(row: dict[str, Any]) -> str:
    if row["done"] < row["rows"]:
        return f"{row['done']} of {row['rows']} sessions; boldreams prepare --subject {row['subject']} goes on"
    return f"{row['rows']} sessions, {row['trials']} trials, {row['voxels']} voxels"


def _models(rows: Iterable[dict[str, Any]], cache: Path) -> list[str]:
    """Lines of a table, and under it the folders that are none that can be read."""
    from boldreams_cli.console import size

    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        what = (row["recipe"] or row["readout"]) + (", finetuned" if row["finetuned"] else "")
        r = "-" if row["r_mean"] is None else f"{row['r_mean']:.3f}"
        date = row["date"][:16].replace("T", " ")
        return (_short(row["model"], cache), what, _or_dash(row["seed"]), r, date, size(row["bytes"]))

    head = ("model", "readout", "seed", "r", "made (UTC)", "size")
    rows = list(rows)
    table = [head, *(cells(row) for row in rows if not row["problem"])]
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
    broken = [f"{_short(row['model'], cache)}: {row['problem']}" for row in rows if row["problem"]]
    return [f"  {line.rstrip()}" for line in [*(lines if len(table) > 1 else []), *broken]]


def _products(rows: Iterable[dict[str, Any]], cache: Path) -> list[str]:
    """Under each model, or the cache, the places of what was made with it."""
    lines = []
    for folder, some in itertools.groupby(rows, lambda row: row["model"] or str(cache)):
        lines.append(f"  {_short(folder, cache)}:")
        for row in sorted(some, key=lambda row: str(row["place"])):
            state = "" if row["state"] == "done" else f" ({row['state']})"
            lines.append(f"    {Path(row['place']).relative_to(folder)}{state}")
    return lines


def _short(folder: str, cache: Path) -> str:
    return folder.removeprefix(f"{cache / 'models'}/")


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)
