"""Which feature store is meant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from boldreams_cli.commands.options.environment import Command, option
from boldreams_cli.console import ChoiceError, MismatchError, listing, logger

if TYPE_CHECKING:
    from boldreams_cli.features.feature_store import FeatureStore


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
    from boldreams_cli.features.backbones import entry

    if backbone is not None:
        return entry(backbone).name
    held = sorted({path.name.rsplit("-", 1)[0] for path in (cache / "features").glob("*.zarr")})
    chosen = held[0] if len(held) == 1 else "alexnet"
    why = f"the cache holds {', '.join(held) or 'none'}"
    logger.info("backbone: %s (%s; --backbone chooses)", chosen, why)
    return chosen


def choose_store(cache: Path, backbone: str, features: str | None) -> FeatureStore:
    """The cache's store of a backbone.

    Raises
    ------
    ChoiceError
        If there are several.
    MismatchError
        If there is none.
    """
    from boldreams_cli.features.feature_store import stores

    found = [store for store in stores(cache, backbone) if features in (None, store.fingerprint)]
    if not found:
        wanted = f"store {features}" if features else "store"
        raise MismatchError(f"{cache} holds no {wanted} of {backbone}; run boldreams extract --backbone {backbone}")
    if len(found) > 1:
        described = listing(
            f"{s.fingerprint} (weights {s.weights}, keep {(s.spec['keep'] or {}).get('percent', 100)} %)" for s in found
        )
        raise ChoiceError(f"{cache} holds {len(found)} stores of {backbone}: {described}; choose with --features")
    logger.debug("features: %s", found[0].path)
    return found[0]
