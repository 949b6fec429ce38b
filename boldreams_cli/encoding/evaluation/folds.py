"""Accuracy of cross-validated predictions of the training images, per voxel and area, beside the test images'."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boldreams_cli.console import MismatchError, timed
from boldreams_cli.data.maps.writing import write_map
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.evaluation.certainty.influences import ALL, memberships
from boldreams_cli.encoding.evaluation.saved.files import SCORES, add
from boldreams_cli.encoding.evaluation.statistics import (
    image_error,
    interval,
    mean_and_error,
    noise_ceiling,
    r_and_influence,
    within_groups,
)
from boldreams_cli.encoding.folds import Folds, load_folds, provenance, there_are
from boldreams_cli.encoding.model.folder import check_there
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.files import read_json

VOXELS_IN_A_BLOCK = 512  # read at a time; so many share a chunk of the betas
MEANS = "of each fold"  # that are taken off before a correlation


def scored(model: FittedModel, count: int | None, responses: Callable[[], Responses]) -> dict[str, Any] | None:
    """What ``score`` says of a model's folds, out of its scores.json where that has it; else it is put there.

    Parameters
    ----------
    model : whose test images were scored.
    count : of folds; None takes those that are there, of several the most.
    responses : of the model's subject, opened only where something is to be correlated.

    Returns
    -------
    ``folds``, ``images``, ``voxels``, ``r_mean`` with its standard error and interval over images, ``ceiling_mean``,
    ``rois`` with the same of each area, ``file``; None where there are no folds and none were asked for.

    Raises
    ------
    MismatchError
        If there are no predictions of so many folds.
    """
    if count is None:
        if not (there := there_are(model)):
            return None
        count = there[-1]
    saved = read_json(model.folder / SCORES)
    known, digest = saved.get("folds"), (provenance(model, count) or {}).get("digest")
    names = [] if known is None else known.get("files", [known["file"]])
    whole = bool(names) and all((model.folder / name).is_file() for name in names)
    if known is None or known["predictions"] != digest or known.get("means") != MEANS or not whole:
        known = _score(load_folds(model, count), responses(), model.folder) | {"predictions": digest, "means": MEANS}
        add(model, "folds", known, saved["weights_digest"])
    more = {"files": [str(model.folder / name) for name in known["files"]]} if "files" in known else {}
    return known | {"file": str(model.folder / known["file"])} | more


def correlate(
    folds: Folds, responses: Responses, areas: dict[str, NDArray[np.bool_]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlate predictions with betas averaged over repeats, over all folds together, a block of voxels at a time.

    Each fold's mean is taken off both sides first: a fold is predicted around the mean of the other images, which is
    the lower the higher its own is, so that voxels without signal would have an r below 0.

    Parameters
    ----------
    folds : of the training images.
    responses : of their subject.
    areas : name -> (voxels,).

    Returns
    -------
    r : (voxels,), NaN where there is none.
    influences : (areas, images) mean influence over the area's voxels that have an r; NaN where there are none.
    """
    inside = np.stack(list(areas.values())).astype(np.float64)
    voxels = inside.shape[1]
    r, sums = np.empty(voxels), torch.zeros(len(inside), len(folds.images), dtype=torch.float64)
    for start in range(0, voxels, VOXELS_IN_A_BLOCK):
        block = slice(start, min(start + VOXELS_IN_A_BLOCK, voxels))
        prediction, betas = folds.predictions(block), responses.mean_betas(folds.images, block)
        found, influence = r_and_influence(*(within_groups(values, folds.fold) for values in (prediction, betas)))
        r[block] = found.numpy()
        known = torch.isfinite(found)
        sums += torch.from_numpy(inside[:, block])[:, known] @ influence[:, known].T
    counts = inside @ np.isfinite(r)
    means = np.full(sums.shape, np.nan)
    np.divide(sums.numpy(), counts[:, None], out=means, where=counts[:, None] > 0)
    return r, means


def _score(folds: Folds, responses: Responses, folder: Path) -> dict[str, Any]:
    """Correlate, write the map, and say what areas have."""
    if not np.array_equal(folds.images, responses.train_images):
        raise MismatchError(f"{folds.path} is of other images than the training images; fit again with --overwrite")
    areas = memberships(responses.areas)
    with timed(f"correlations of {len(folds.images)} images that were left out"):
        r, influences = correlate(folds, responses, areas)
    check_there(folder)
    files = [path.name for path in write_map(folder, f"correlation-folds-{folds.count}", responses.units, r)]
    ceiling = np.sqrt(noise_ceiling(responses.ncsnr, responses.repeats(folds.images)))
    rows = {
        name: _area(inside & np.isfinite(r), r, ceiling, influence)
        for (name, inside), influence in zip(areas.items(), influences, strict=True)
    }
    rois = {name: rows[name] for name in responses.areas.counts()}
    named = {"file": files[0]} | ({"files": files} if len(files) > 1 else {})
    return {"folds": folds.count, "images": len(folds.images), **rows[ALL], "rois": rois, **named}


def _area(
    known: NDArray[np.bool_], r: NDArray[np.float64], ceiling: NDArray[np.float64], influence: NDArray[np.float64]
) -> dict[str, Any]:
    """Means over the voxels that have a correlation, and how certain the mean r is."""
    mean, error = mean_and_error(r[known])[0], float(image_error(influence))
    return {
        "voxels": int(known.sum()),
        "r_mean": mean,
        "r_image_se": error,
        "r_ci": list(interval(mean, error, len(influence))),
        "ceiling_mean": mean_and_error(ceiling[known])[0],
    }
