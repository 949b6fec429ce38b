"""Which feature store is meant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from boldreams_cli.commands.options.environment import Command, option
from boldreams_cli.console import logger

if TYPE_CHECKING:
    from boldreams_cli.features.store.feature_store import FeatureStore


def store_option(command: Command) -> Command:
    """Add --features."""
    return option(
        "--features",
        default=None,
        metavar="FINGERPRINT",
        help="Which feature store, where the cache holds several of one backbone.",
    )(command)


def choose_backbone(cache: Path, backbone: str | None) -> str:
    """--backbone, else the one that the cache holds, else alexnet; says which."""
    if backbone is not None:
        from boldreams_cli.features.backbones import entry

        return entry(backbone).name
    held = sorted({_backbone_of(path) for path in (cache / "features").glob("*.zarr")})
    chosen = held[0] if len(held) == 1 else "alexnet"
    why = f"the cache holds {', '.join(held) or 'none'}"
    logger.info("backbone: %s (%s; --backbone chooses)", chosen, why)
    return chosen


def choose_store(
    cache: Path, backbone: str, features: str | None, names: str | None = None, root: Path | None = None
) -> FeatureStore:
    """The cache's store of a backbone, its stimuli compared with those at hand; see `features.choosing`."""
    from boldreams_cli.features.choosing import compare_stimuli, the_store

    store = the_store(cache, backbone, features, names)
    compare_stimuli(store, root)
    return store


def _backbone_of(path: Path) -> str:
    """The backbone of a store by its attributes, or where these cannot be read by its name."""
    import json

    try:
        return str(json.loads((path / "zarr.json").read_text())["attributes"]["spec"]["backbone"])
    except (OSError, ValueError, KeyError, TypeError):
        return path.name.rsplit("-", 1)[0]
