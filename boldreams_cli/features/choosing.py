"""Which of a cache's feature stores is meant."""

from __future__ import annotations

from pathlib import Path

from boldreams_cli.console import ChoiceError, MismatchError, listing, logger
from boldreams_cli.features.feature_store import FeatureStore, stores


def the_store(cache: Path, backbone: str, features: str | None, names: str | None = None) -> FeatureStore:
    """The cache's store of a backbone.

    Parameters
    ----------
    cache : that holds it.
    backbone : its name.
    features : fingerprint of the store; None where there is one.
    names : hash of the names of the images that it must be of, where a data file has its own; None where images are
        numbered the same in all of a data set.

    Raises
    ------
    ChoiceError
        If there are several.
    MismatchError
        If there is none.
    """
    there = [store for store in stores(cache, backbone) if features in (None, store.fingerprint)]
    found = [store for store in there if store.spec["stimuli"].get("names") == names]
    if not found:
        wanted = f"store {features}" if features else "store"
        others = " with the images of this subject" if there else ""
        raise MismatchError(
            f"{cache} holds no {wanted} of {backbone}{others}; run boldreams extract --backbone {backbone}"
        )
    if len(found) > 1:
        described = listing(
            f"{s.fingerprint} (weights {s.weights}, keep {(s.spec['keep'] or {}).get('percent', 100)} %)" for s in found
        )
        raise ChoiceError(f"{cache} holds {len(found)} stores of {backbone}: {described}; choose with --features")
    logger.debug("features: %s", found[0].path)
    return found[0]
