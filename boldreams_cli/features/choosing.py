"""Which of a cache's feature stores is meant."""

from __future__ import annotations

from pathlib import Path

from boldreams_cli.console import ChoiceError, MismatchError, listing, logger
from boldreams_cli.features.feature_store import FeatureStore, stores


def the_store(cache: Path, backbone: str, features: str | None) -> FeatureStore:
    """The cache's store of a backbone.

    Parameters
    ----------
    cache : that holds it.
    backbone : its name.
    features : fingerprint of the store; None where there is one.

    Raises
    ------
    ChoiceError
        If there are several.
    MismatchError
        If there is none.
    """
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
