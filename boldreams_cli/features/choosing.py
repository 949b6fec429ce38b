"""Which of a cache's feature stores is meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from boldreams_cli.console import BoldreamsError, ChoiceError, MismatchError, listing, logger
from boldreams_cli.data.identity import of_named_images
from boldreams_cli.data.opening import open_dataset
from boldreams_cli.features.backbones import entry
from boldreams_cli.features.store.feature_store import FeatureStore, stores


def with_images(held: Sequence[FeatureStore], names: str | None) -> list[FeatureStore]:
    """Those of some stores whose images are these; see `the_store`."""
    return [store for store in held if of_named_images(store.spec["stimuli"]) == names]


def the_store(cache: Path, backbone: str, features: str | None, names: str | None = None) -> FeatureStore:
    """The cache's store of a backbone.

    Parameters
    ----------
    cache : that holds it.
    backbone : its name.
    features : fingerprint of the store; None where there is one.
    names : of the images that it must be of, as `data.choosing.names_of` gives them; None where images are numbered
        the same in all of a data set.

    Raises
    ------
    ChoiceError
        If there are several.
    MismatchError
        If there is none.
    """
    held = stores(cache, backbone)
    there = [store for store in held if features in (None, store.fingerprint)]
    found = with_images(there, names)
    if held and not there:
        known = listing(store.fingerprint for store in held)
        raise MismatchError(
            f"{cache} holds no store {features} of {backbone}; there: {known} (--features). For another, run "
            f"boldreams extract --backbone {backbone}"
        )
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


def compare_stimuli(store: FeatureStore, root: Path | None) -> None:
    """Warn where the stimuli at hand may be others than those that a store was made of; `extract` compares them.

    Captions are compared whole, images by their file's size and time of change.

    Parameters
    ----------
    store : of this version, or an earlier one, which notes nothing to compare.
    root : of the data; None where none is at hand.
    """
    if root is None or store.store is None:
        return
    backbone, noted = store.spec["backbone"], store.store.last("stimuli").get("file")
    captions = entry(backbone).reads == "captions"
    try:
        dataset = open_dataset(root)
        if captions:
            found = dataset.captions_identity()
            same = not found["captions"] or found == store.spec["stimuli"]  # there may be none: see --captions-dir
        else:
            same = noted is None or dataset.stimuli_stamp() == noted["stamp"]
    except (BoldreamsError, OSError) as error:  # nothing is read of them here: they may be gone
        logger.debug("the stimuli are not compared: %s", error)
        return
    if same:
        return
    if captions:
        said, then = "the captions under %s are not those that %s was made of", "makes a store of them"
    else:
        said, then = "the stimuli under %s were changed or copied since %s was made of them", "compares them"
    logger.warning(f"{said}: boldreams extract --backbone %s {then}", root, store.path, backbone)
