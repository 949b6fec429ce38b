"""Options of `boldreams extract` that a store was made with: with other ones the command would fill a second store."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from typing import Any


def options(spec: Mapping[str, Any], weights: str, layers: Collection[str]) -> dict[str, str]:
    """Those that are not the defaults.

    Parameters
    ----------
    spec : of the store.
    weights : where they came from.
    layers : names of those in the store.

    Returns
    -------
    Option, e.g. ``--dtype``, -> value.
    """
    from boldreams_cli.features.backbones import entry

    preprocessing, keep = spec.get("preprocessing", {}), spec.get("keep")
    found = {
        "--weights": weights if weights != "pretrained" else "",
        "--layers": ",".join(layers) if set(layers) != entry(spec["backbone"]).layers.keys() else "",
        "--map": preprocessing.get("map", ""),
        "--clip": preprocessing.get("clip", ""),
        "--dtype": spec["dtype"] if spec.get("dtype", "float16") != "float16" else "",
        "--keep-percent": f"{keep['percent']:g}" if keep else "",
    }
    return {option: value for option, value in found.items() if value}


def command(spec: Mapping[str, Any], weights: str, layers: Collection[str]) -> str:
    """The command that adds rows to the store, but for whose."""
    chosen = options(spec, weights, layers)
    words = [
        "boldreams",
        "extract",
        "--backbone",
        spec["backbone"],
        *(word for pair in chosen.items() for word in pair),
    ]
    return shlex.join(words)
