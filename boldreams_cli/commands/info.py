"""`boldreams info`: what the cache holds, versions, device, layers and areas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boldreams_cli.commands import options
from boldreams_cli.commands.options import Output

PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "zarr", "zarrs", "numpy", "nibabel", "captum")


@options.command("boldreams info", "boldreams info --layers vgg11", "boldreams info --rois 1")
@options.output_options
@options.cache_option
@options.nsd_option
@options.option("--layers", "layers", metavar="BACKBONE", default=None, help="List a backbone's layers.")
@options.option(
    "--rois",
    "rois",
    type=options.SUBJECT,
    metavar="SUBJECT",
    default=None,
    help="List a subject's areas with their voxels.",
)
@options.device_option
def info(cache: Path, nsd_root: Path | None, layers: str | None, rois: int | None, device: str, output: Output) -> None:
    """Say what the cache holds, or list layers and areas."""
    if layers is not None:
        _layers(layers, output)
    elif rois is not None:
        _rois(rois, cache, nsd_root, output)
    else:
        _overview(cache, device, output)


def _layers(name: str, output: Output) -> None:
    from boldreams_cli.features.backbones.registry import entry

    chosen = entry(name)
    rows = [
        {"layer": layer, "module": path, "filters": filters}
        for (layer, path), filters in zip(chosen.layers.items(), chosen.filters, strict=True)
    ]
    output.show(
        {
            "backbone": name,
            "source": chosen.source,
            "preprocessing": chosen.preprocessing.to_dict(),
            "layers": rows,
        },
        f"{name}: {chosen.source}; input {chosen.preprocessing.size} x {chosen.preprocessing.size}",
        *(f"  {row['layer']}: {row['filters']} filters" for row in rows),
        f"  total: {sum(chosen.filters)} filters",
    )


def _rois(subject: int, cache: Path, nsd_root: Path | None, output: Output) -> None:
    from boldreams_cli.data.choosing import areas_of

    areas = areas_of(subject, cache, nsd_root)
    groups, labels = areas.counts(), areas.label_counts()
    output.show(
        {"subject": subject, "rois": groups, "labels": labels},
        f"areas of subject {subject} (voxels)",
        *(f"  {name}: {count}" for name, count in groups.items()),
        "single labels",
        *(f"  {name}: {count}" for name, count in labels.items()),
    )


def _overview(cache: Path, device: str, output: Output) -> None:
    import importlib.metadata
    import platform

    import torch

    from boldreams_cli import __version__

    versions = {"boldreams": __version__, "python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in PACKAGES}
    where = options.pick_device(device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else f"{torch.get_num_threads()} threads"
    held, models = _features(cache), _models(cache)
    responses = sorted(str(path) for path in (cache / "responses").glob("subj*.zarr"))
    output.show(
        {
            "cache": str(cache),
            "versions": versions,
            "device": str(where),
            "device_name": name,
            "features": held,
            "responses": responses,
            "models": models,
        },
        "versions: " + ", ".join(f"{key} {value}" for key, value in versions.items()),
        f"device: {where} ({name})",
        f"features in {cache}:",
        *(
            f"  {h['backbone']} {h['fingerprint']}: {h['done']} of {h['rows']} images, weights {h['weights']}, "
            f"{h['keep_percent']:g} % of the filters"
            for h in held
        ),
        "responses:",
        *(f"  {path}" for path in responses),
        "models:",
        *(f"  {m['model']}" + (f": r {m['r_mean']:.4f}" if m["r_mean"] is not None else "") for m in models),
    )


def _features(cache: Path) -> list[dict[str, Any]]:
    from boldreams_cli.features.feature_store import stores

    return [
        {
            "store": str(store.path),
            "backbone": store.spec["backbone"],
            "fingerprint": store.fingerprint,
            "weights": store.group.attrs["weights"],
            "rows": len(store.images),
            "done": int(store.done().sum()),
            "keep_percent": (store.spec["keep"] or {}).get("percent", 100.0),
        }
        for store in stores(cache)
    ]


def _models(cache: Path) -> list[dict[str, Any]]:
    from boldreams_cli.encoding.model.folder import find_models

    return [{"model": str(row.folder), "r_mean": row.r_mean} for row in find_models(cache)]
