"""How certain accuracy is, by drawing the test images again: the alternative to influences over images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import progress, timed
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.evaluation.certainty.influences import ALL, memberships
from boldreams_cli.encoding.evaluation.saved.files import SCORES, add
from boldreams_cli.encoding.evaluation.statistics import CEILING_FLOOR, noise_ceiling, pearson_r
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.files import read_json

LEVEL = 0.95
SEED = 0  # of all draws: equal for every model of the same test images, so that models can be compared draw by draw
VOXELS_IN_A_BLOCK = 512  # whose correlations in all draws are held at once
FEWEST = 10  # images that are drawn among themselves
FLAT = 1e-12  # of a z-scored voxel's variance: a draw that leaves less has no correlation


def strata_of(repeats: NDArray[np.number]) -> NDArray[np.int64]:
    """Which images are drawn together: those of equal repeats, and of neighbouring ones where these are few.

    A draw of m images varies by (m - 1) / m of what other images would, and by nothing where m is 1.

    Parameters
    ----------
    repeats : (images,) of each: betas averaged over more of them vary less.

    Returns
    -------
    (images,) stratum of each, from 0; none has fewer than FEWEST images where there are as many.
    """
    values, place, counts = np.unique(repeats, return_inverse=True, return_counts=True)
    stratum, held = np.zeros(len(values), dtype=np.int64), 0
    for number, count in enumerate(counts):
        if number and held >= FEWEST and counts[number:].sum() >= FEWEST:
            stratum[number:] += 1
            held = 0
        held += count
    return stratum[place]


def image_counts(repeats: NDArray[np.number], draws: int, seed: int = SEED) -> NDArray[np.float64]:
    """How often each draw takes each image: as many as there are, with replacement, of every stratum by itself.

    Parameters
    ----------
    repeats : (images,) which decide the strata, see `strata_of`.
    draws : how many.
    seed : of all; with the repeats it decides the draws, which are the same for all voxels and models.

    Returns
    -------
    (draws, images) whole numbers.
    """
    rng, strata = np.random.default_rng(seed), strata_of(repeats)
    counts = np.zeros((draws, len(strata)))
    for stratum in np.unique(strata):
        places = np.flatnonzero(strata == stratum)
        counts[:, places] = rng.multinomial(len(places), np.full(len(places), 1 / len(places)), size=draws)
    return counts


def correlations(
    prediction: NDArray[np.floating], beta: NDArray[np.floating], counts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Pearson's r of each voxel in each draw.

    Parameters
    ----------
    prediction, beta : (images, voxels), finite.
    counts : (draws, images) as `image_counts` gives.

    Returns
    -------
    (draws, voxels); NaN where a draw took images that are all alike.
    """
    share = counts / counts.sum(1, keepdims=True)
    p, y = (_standardised(values) for values in (prediction, beta))
    mean_p, mean_y = share @ p, share @ y
    var_p, var_y = share @ p**2 - mean_p**2, share @ y**2 - mean_y**2
    known = (var_p > FLAT) & (var_y > FLAT)
    scale = np.sqrt(var_p * var_y, out=np.ones_like(var_p), where=known)
    return np.where(known, (share @ (p * y) - mean_p * mean_y) / scale, np.nan)


def _standardised(values: NDArray[np.floating]) -> NDArray[np.float64]:
    centred = values.astype(np.float64) - values.mean(0, dtype=np.float64)
    return np.asarray(centred / centred.std(0))


def of_areas(
    prediction: NDArray[np.floating],
    beta: NDArray[np.floating],
    ceiling: NDArray[np.float64],
    areas: Mapping[str, NDArray[np.bool_]],
    counts: NDArray[np.float64],
) -> dict[str, dict[str, Any]]:
    """Standard errors and intervals of the mean r and of A of each area.

    Parameters
    ----------
    prediction, beta : (images, voxels), betas averaged over repeats; voxels without an r are left out.
    ceiling : (voxels,) square root of the noise ceiling, NaN where it is not known.
    areas : name -> (voxels,).
    counts : (draws, images).

    Returns
    -------
    Area -> ``r_se``, ``r_ci``, ``accuracy_se``, ``accuracy_ci``; NaN where it has none.
    """
    known = np.isfinite(pearson_r(*(_tensor(values) for values in (prediction, beta))).numpy())
    inside = np.stack(list(areas.values())) & known
    fair = inside & (ceiling >= CEILING_FLOOR)
    weights = np.concatenate([_over(inside, inside.sum(1)), _over(fair, np.where(fair, ceiling, 0).sum(1))])
    found = np.zeros((len(weights), len(counts)))
    lost = np.zeros(found.shape, bool)  # draws that leave a voxel of the area without a correlation
    with progress("bootstrap", len(known), "voxels") as shown:
        for start in range(0, len(known), VOXELS_IN_A_BLOCK):
            block = np.flatnonzero(known[start : start + VOXELS_IN_A_BLOCK]) + start
            if len(block):
                r = correlations(prediction[:, block], beta[:, block], counts)
                flat = np.isnan(r)
                found += weights[:, block] @ np.where(flat, 0, r).T
                lost |= (weights[:, block] > 0) @ flat.T
            shown.advance(min(VOXELS_IN_A_BLOCK, len(known) - start))
    found[lost] = np.nan
    found[~(weights.sum(1) > 0)] = np.nan  # of no voxels
    return {name: _said("r", found[row]) | _said("accuracy", found[row + len(areas)]) for row, name in enumerate(areas)}


def _tensor(values: NDArray[np.floating]) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(values))


def _over(mask: NDArray[np.bool_], totals: NDArray[np.number]) -> NDArray[np.float64]:
    """Rows over their totals; NaN where an area has no voxel to speak of."""
    return mask / np.where(totals > 0, totals, np.nan)[:, None]


def _said(name: str, drawn: NDArray[np.float64]) -> dict[str, Any]:
    """Standard error and percentile interval; NaN where a draw has no number."""
    tail = (1 - LEVEL) / 2
    return {f"{name}_se": float(drawn.std(ddof=1)), f"{name}_ci": np.quantile(drawn, [tail, 1 - tail]).tolist()}


def scored(
    model: FittedModel,
    draws: int | None,
    responses: Callable[[], Responses],
    predicted: Callable[[Responses], NDArray[np.float32]],
) -> dict[str, Any] | None:
    """What ``score`` says of the draws, out of the model's scores.json where that has it; else it is put there.

    Parameters
    ----------
    model : that was scored.
    draws : of the test images; None takes what is there.
    responses : of its subject, opened only where something is to be drawn.
    predicted : of those, (test images, voxels).

    Returns
    -------
    ``draws``, ``seed``, what `of_areas` says of all voxels, and ``rois`` with the same of each area; None where there
    is nothing and nothing was asked for.
    """
    saved = read_json(model.folder / SCORES)
    known: dict[str, Any] | None = saved.get("bootstrap")
    if draws is None or (known is not None and known["draws"] == draws):
        return known
    given = responses()
    images = given.test_images
    repeats = given.repeats(images)
    prediction, betas = predicted(given), given.mean_betas(images)
    areas = memberships(given.areas)
    ceiling = np.sqrt(noise_ceiling(given.ncsnr, repeats))
    with timed(f"{draws} draws of {len(images)} images"):
        found = of_areas(prediction, betas, ceiling, areas, image_counts(repeats, draws))
    rois = {name: found[name] for name in given.areas.counts()}
    known = {"draws": draws, "seed": SEED, **found[ALL], "rois": rois}
    add(model, "bootstrap", known, saved["weights_digest"])
    return known
