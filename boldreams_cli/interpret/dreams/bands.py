"""Dreams of the eccentricity bands beside each other, and how well their contrast moves outwards (paper, figure 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from boldreams_cli import plots
from boldreams_cli.console import StopFlag
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.interpret.dreams.eccentricity import Litmus, Profile, litmus, radial_profile
from boldreams_cli.interpret.products import (
    Description,
    Product,
    of_model,
    said_of_model,
    title_of_model,
    versions_that_matter,
)

STEM = "eccentricity"


def compare(
    model: FittedModel, dreams: Sequence[Mapping[str, Any]], folder: Path | None, stop: StopFlag
) -> Description | None:
    """Draw and keep the test of dreams that have three or more bands among them; None of fewer.

    Parameters
    ----------
    model : that dreamed.
    dreams : JSON objects of ``dream``.
    folder : to write, where the user names one; a test of other dreams that is there stays, this one is put beside it.
    stop : looked at while waiting for another process.

    Returns
    -------
    areas, radius, correlation, files.
    """
    profiles = {str(one["roi"]): profile_of(one) for one in dreams}
    test = litmus(profiles)
    if test is None:
        return None
    chosen = {str(one["roi"]): one for one in dreams if one["roi"] in test.areas}
    product = Product(
        kind="eccentricity",
        folder=folder or model.folder / "dreams",
        stem=STEM,
        files=("{stem}.png", "{stem}.pdf"),
        decides={
            **of_model(model),
            "settings": {area: one["settings"] for area, one in chosen.items()},
            "contrast": {area: profiles[area].contrast.tolist() for area in chosen},
            "versions": versions_that_matter(),
        },
        home=model.folder,
    )
    with product.held(stop):
        found = product.found()
        if found is None:
            found = product.write(lambda place, stem: _make(place, stem, model, chosen, profiles, test))
    names = ("areas", "radius", "correlation")
    return {name: found[name] for name in names} | {"files": [str(path) for path in found["files"]]}


def profile_of(dream: Mapping[str, Any]) -> Profile:
    """The radial profile that a dream's description has; of an older one without, that of its pictures."""
    known = dream.get("radial_profile")
    if known is None:
        pictures = [np.asarray(Image.open(path).convert("RGB")) / 255 for path in dream["images"]]
        return radial_profile(np.stack(pictures).transpose(0, 3, 1, 2))
    return Profile(np.array(known["radius"]), np.array(known["contrast"]))


def _make(
    folder: Path,
    stem: str,
    model: FittedModel,
    dreams: Mapping[str, Mapping[str, Any]],
    profiles: Mapping[str, Profile],
    test: Litmus,
) -> Description:
    rows = []
    for area, radius in zip(test.areas, test.radius, strict=True):
        pixels = np.asarray(Image.open(dreams[area]["images"][0]).convert("RGB")) / 255
        rows.append((area, pixels, profiles[area].radius, profiles[area].contrast, radius))
    plots.bands(folder / f"{stem}.png", rows, test.correlation, title_of_model(model))
    return said_of_model(model) | {
        "areas": list(test.areas),
        "radius": list(test.radius),
        "correlation": test.correlation,
        "measure": "mean radius of local contrast; Spearman's correlation with the band's rank",
    }
