"""Reads all of a feature store and says what is damaged."""

from __future__ import annotations

from typing import Any

import numpy as np

from boldreams_cli.console import MismatchError
from boldreams_cli.features.store import store_arrays
from boldreams_cli.features.store.feature_store import IMAGES, FeatureStore
from boldreams_cli.stores import STATIC


def verify(store: FeatureStore) -> list[dict[str, Any]]:
    """Read everything in a store; what is damaged is noted in its ledger, so that extract makes it again.

    Returns
    -------
    One entry a damaged file: kind, unit, file, problem.
    """
    found = [
        {"kind": kind, "unit": unit, "file": file, "problem": why} for kind, unit, file, why in store.writable.verify()
    ]
    try:
        images = store.images
        known = store_arrays.noted_rows(store.writable)
        if len(known) and not np.array_equal(images, known[: len(images)]):
            found.append({"kind": IMAGES, "unit": "", "file": IMAGES, "problem": "is not what its ledger says"})
    except MismatchError as error:
        found.append({"kind": IMAGES, "unit": "", "file": IMAGES, "problem": str(error)})
    for layer in store.layers if store.has_maps else ():
        try:
            store.filters(layer)
        except MismatchError as error:
            found.append({"kind": STATIC, "unit": "", "file": f"layers/{layer}/filters", "problem": str(error)})
    return found
