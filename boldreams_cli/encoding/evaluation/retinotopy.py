"""Fitted receptive fields as retinotopic maps, and how far they agree with fields that were measured apart.

A model is never told where a voxel looks; that is measured in an experiment of its own. Angles are counted as there:
degrees, 0 to 360, 0 for the right horizontal meridian and 90 for the upper vertical one (`data.nsd.retinotopy`).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from boldreams_cli.console import logger
from boldreams_cli.data.opening import open_dataset
from boldreams_cli.data.responses import Responses
from boldreams_cli.data.retinotopy import STIMULUS_DEGREES, Retinotopy
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.encoding.numerics.field_shapes import FieldShapes, joint_shapes

R2_FLOOR = 10.0  # percent: measured fields that explain less are not compared with
FEWEST = 3  # voxels that a correlation is given for
TOGETHER = 1024  # voxels whose fields are on the common grid at a time
ALL = "all"
WITH_FIELDS = ("separable", "gaussian")  # readouts
MAPS = ("x", "y", "eccentricity", "angle", "size")
Maps = dict[str, NDArray[np.float64]]
Values = NDArray[np.floating]


@dataclass(frozen=True)
class Retinotopic:
    """What one model's fields say of the visual field.

    Parameters
    ----------
    maps : as `field_maps`; None of a readout without fields.
    comparison : as `against_measured`, and what decided it; None where there is nothing to compare.
    note : why not; empty where there is a comparison.
    source : which measured fields these were, a hash; empty where there were none.
    """

    maps: Maps | None = None
    comparison: dict[str, Any] | None = None
    note: str = "receptive fields were not looked at"
    source: str = ""

    def columns(self) -> Maps:
        """The maps as columns of a table of voxels: ``field_x``, ``field_y``, ``eccentricity``, ``angle``, ``size``."""
        maps = self.maps or {}
        return {f"field_{name}" if name in ("x", "y") else name: values for name, values in maps.items()}


def of_model(model: FittedModel, responses: Responses, data_root: Path | None) -> Retinotopic:
    """Maps of a model's fields, and how they agree with the fields measured in its subject.

    Parameters
    ----------
    model : fitted.
    responses : of its subject.
    data_root : that may hold measured fields; None compares with nothing.

    Raises
    ------
    BoldreamsError
        If a volume of measured fields is damaged or of another shape.
    """
    if np.isnan(degrees_of(responses)):
        return Retinotopic(None, None, "the visual angle of the images is not known: no receptive fields in degrees")
    maps = field_maps(model, responses)
    if maps is None:
        return Retinotopic(None, None, f"{_article(model.spec.readout)} readout has no receptive fields to compare")
    measured, note = measured_fields(responses, data_root)
    if measured is None:
        return Retinotopic(maps, None, note)
    areas = {name: responses.areas.select(name) for name in responses.areas.counts()}
    radius = degrees_of(responses) / 2
    comparison = {
        "r2_floor": None if measured.r2 is None else R2_FLOOR,
        "within_degrees": radius,
        **against_measured(maps, measured, areas, radius),
    }
    return Retinotopic(maps, comparison, "", measured.digest())


def is_current(source: str, model: FittedModel, responses: Responses, data_root: Path) -> bool:
    """Whether a comparison was with the fields that are measured under a root now; so it is where there are none.

    Parameters
    ----------
    source : as in `Retinotopic`.
    """
    if model.spec.readout not in WITH_FIELDS:
        return True
    measured, _ = measured_fields(responses, data_root)
    return measured is None or measured.digest() == source


def degrees_of(responses: Responses) -> float:
    """Visual angle that the images spanned; NaN where that is not known, and all maps are NaN then."""
    said = responses.request.get("degrees")
    return STIMULUS_DEGREES.get(str(responses.request.get("dataset")), float("nan")) if said is None else float(said)


def measured_fields(responses: Responses, data_root: Path | None) -> tuple[Retinotopy | None, str]:
    """Measured fields of a subject's voxels, or None and why."""
    if data_root is None or not data_root.exists():
        return None, "no NSD root is at hand; with --nsd-root, fields are compared with those measured"
    found = open_dataset(data_root).of_request(responses.request).retinotopy(responses.subject, responses.areas)
    if found is None and data_root.is_file():
        return None, f"{data_root} holds no measured fields"
    if found is None:
        return None, f"no measured fields (prf_eccentricity.nii.gz) of subject {responses.subject} under {data_root}"
    return found, ""


def field_maps(model: FittedModel, responses: Responses) -> Maps | None:
    """Where each voxel's fitted field lies in the visual field, and how large it is.

    Fields of several resolutions are taken together, each by the strength of its weights. Those of a gaussian readout
    are the Gaussians that it chose.

    Parameters
    ----------
    model : fitted.
    responses : of its subject.

    Returns
    -------
    ``x`` to the right, ``y`` up, ``eccentricity`` and ``size`` (a standard deviation) in degrees of visual angle,
    ``angle`` in degrees; each (voxels,), NaN of voxels that were left out. None of a readout without fields.
    """
    if model.spec.readout == "gaussian" and (chosen := chosen_gaussians(model.folder, model.spec.voxels)) is not None:
        found = chosen
    elif model.spec.readout in WITH_FIELDS:
        found = _shapes(model)
    else:
        return None
    return in_degrees(found, degrees_of(responses))


def in_degrees(fields: FieldShapes, degrees: float) -> Maps:
    """Turn fields in fractions of the image into degrees of visual angle.

    Parameters
    ----------
    fields : x to the right and y down.
    degrees : that the image spans, with fixation in its middle.

    Returns
    -------
    As `field_maps`.
    """
    x, y = (fields.centre[:, 0] - 0.5) * degrees, (0.5 - fields.centre[:, 1]) * degrees
    angle = np.degrees(np.arctan2(y, x)) % 360
    return dict(zip(MAPS, (x, y, np.hypot(x, y), angle, fields.size * degrees), strict=True))


def chosen_gaussians(folder: Path, voxels: int) -> FieldShapes | None:
    """Fields that a gaussian readout noted in chosen.csv; None where that is gone or says something else."""
    path = folder / "chosen.csv"
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    try:
        places = np.array([int(row["voxel"]) for row in rows], dtype=np.int64)
        values = np.array([[float(row[name]) for name in ("x", "y", "size")] for row in rows]).reshape(-1, 3)
        found = np.full((voxels, 3), np.nan)
        found[places] = values
    except (KeyError, TypeError, ValueError, IndexError) as error:
        logger.warning("%s does not name this model's fields (%s): their shapes are taken", path, error)
        return None
    return FieldShapes(found[:, :2], found[:, 2])


def _shapes(model: FittedModel) -> FieldShapes:
    """Shapes of all voxels' fields, some voxels at a time."""
    groups, weights = model.spec.groups, model.weights
    parts = []
    for start in range(0, model.spec.voxels, TOGETHER):
        some = slice(start, start + TOGETHER)
        strength = [
            np.sqrt(sum(weights.weights[name][some].double().square().sum(1).numpy() for name in group.layers))
            for group in groups
        ]
        parts.append(joint_shapes([weights.fields[group.name][some].numpy() for group in groups], strength))
    centre, size = (np.concatenate([vars(part)[name] for part in parts]) for name in ("centre", "size"))
    left_out = ~weights.included
    centre[left_out], size[left_out] = np.nan, np.nan
    return FieldShapes(centre, size)


def against_measured(
    maps: Mapping[str, Values], measured: Retinotopy, areas: Mapping[str, NDArray[np.bool_]], radius: float
) -> dict[str, Any]:
    """How fitted fields agree with measured ones, area by area.

    Compared are voxels that have both, whose measured field lies within the images and, where its R2 is known,
    explains at least `R2_FLOOR` percent.

    Parameters
    ----------
    maps : ``eccentricity``, ``angle``, ``size``, each (V,).
    measured : of the same voxels.
    areas : name -> (V,).
    radius : degrees from fixation to the image's edge.

    Returns
    -------
    ``voxels`` that are compared in all, and ``rois``, area -> as `agreement`; ``all`` are those of any area.
    """
    usable = np.isfinite(measured.eccentricity) & (measured.eccentricity <= radius)
    usable &= np.isfinite(maps["eccentricity"])
    if measured.r2 is not None:
        usable &= np.isfinite(measured.r2) & (measured.r2 >= R2_FLOOR)
    everywhere = {ALL: np.ones(len(usable), dtype=bool), **areas}
    rois = {name: agreement(maps, measured, inside & usable) for name, inside in everywhere.items()}
    return {"voxels": int(usable.sum()), "rois": rois}


def agreement(maps: Mapping[str, Values], measured: Retinotopy, chosen: NDArray[np.bool_]) -> dict[str, Any]:
    """Agreement of some voxels' fitted fields with the measured ones.

    Parameters
    ----------
    maps, measured : as `against_measured`.
    chosen : (V,) which voxels.

    Returns
    -------
    ``voxels``; ``eccentricity_r`` and ``size_r``, Spearman's rank correlation; ``angle_r``, the circular correlation;
    ``angle_apart``, the median difference in degrees, which unlike that notices a rotation. None where not measured,
    NaN for fewer than three voxels.
    """
    found: dict[str, Any] = {
        "voxels": int(chosen.sum()),
        "eccentricity_r": rank_correlation(maps["eccentricity"][chosen], measured.eccentricity[chosen]),
        "size_r": None,
        "angle_r": None,
        "angle_apart": None,
    }
    if measured.size is not None:
        found["size_r"] = rank_correlation(maps["size"][chosen], measured.size[chosen])
    if measured.angle is not None:
        pair = maps["angle"][chosen], measured.angle[chosen]
        found["angle_r"], found["angle_apart"] = circular_correlation(*pair), angle_apart(*pair)
    return found


def rank_correlation(one: Values, other: Values) -> float:
    """Spearman's correlation of the pairs that are finite; NaN for fewer than three or without variation."""
    one, other = _pairs(one, other)
    if len(one) < FEWEST or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(scipy.stats.spearmanr(one, other).statistic)


def circular_correlation(one: Values, other: Values) -> float:
    """Correlation of two angles (Fisher & Lee 1983, Biometrika 70, 327-332).

    That is the sum over all pairs of voxels of sin(a_i - a_j) sin(b_i - b_j), over the root of the product of both sums
    of squares. It needs no mean direction, which angles all around the visual field do not have, and is the same
    after a rotation of either.

    Parameters
    ----------
    one, other : (V,) degrees.

    Returns
    -------
    In [-1, 1], -1 for mirrored angles; NaN for fewer than three finite pairs or without variation.
    """
    a, b = (np.radians(values.astype(np.float64)) for values in _pairs(one, other))
    if len(a) < FEWEST:
        return float("nan")
    sine, cosine = np.sin, np.cos
    # The sums over pairs, written as products of sums over voxels (the same paper, equation 3).
    product = (cosine(a) @ cosine(b)) * (sine(a) @ sine(b)) - (cosine(a) @ sine(b)) * (sine(a) @ cosine(b))
    squares = [len(x) ** 2 - cosine(2 * x).sum() ** 2 - sine(2 * x).sum() ** 2 for x in (a, b)]
    if min(squares) <= 1e-9 * len(a) ** 2:
        return float("nan")
    return float(np.clip(4 * product / np.sqrt(squares[0] * squares[1]), -1, 1))


def angle_apart(one: Values, other: Values) -> float:
    """Median difference of two angles, the shorter way round, degrees in [0, 180]; NaN without a finite pair."""
    one, other = _pairs(one, other)
    return float(np.median(np.abs((one - other + 180) % 360 - 180))) if len(one) else float("nan")


def _pairs(one: Values, other: Values) -> tuple[Values, Values]:
    both = np.isfinite(one) & np.isfinite(other)
    return one[both], other[both]


def _article(readout: str) -> str:
    return f"{'an' if readout[0] in 'aeiou' else 'a'} {readout}"
