"""Accuracy of one model: arrays over voxels, and what they say of each area and of all."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.evaluation.certainty.influences import ALL, Influences, memberships
from boldreams_cli.encoding.evaluation.retinotopy import Retinotopic
from boldreams_cli.encoding.evaluation.saved.identity import identity, key_of
from boldreams_cli.encoding.evaluation.statistics import (
    CEILING_FLOOR,
    benjamini_hochberg,
    image_error,
    interval,
    mean_and_error,
    noise_normalised,
    over_ceiling,
)
from boldreams_cli.encoding.model.spec import FittedModel

FOUND = 0.05  # false discovery rate of the voxels that are counted as predicted


@dataclass
class Scores:
    """Accuracy of one model.

    Parameters
    ----------
    model : that was scored.
    responses : of its subject.
    r : (voxels,) correlation with test betas averaged over repeats; NaN where excluded.
    r_single : (voxels,) correlation with single trials.
    ncsnr : (voxels,) that the ceilings come from.
    ceiling : (voxels,) square root of the noise ceiling, the largest r to be expected.
    ceiling_single : (voxels,) the same of single trials.
    r_se : (voxels,) standard error of `r` over images.
    p : (voxels,) one-sided probability of such an `r` without any relation.
    influences : of each image on each area.
    permutations : of the images that `p` comes from; 0 where it comes from `r_se`.
    permutation_seed : of their draws.
    ceiling_source : what ceilings come from; None where there are none.
    ceiling_images : of which images' repeats; None where they are not estimated.
    fields : what the fitted receptive fields are, and how they agree with measured ones.
    files : that were written.
    test : which images were predicted, where they are of another kind than those of the training; else empty.
    test_identity : all that decides those images and their betas.
    within_kinds : mean r over voxels of what differs within kinds of image; None where kinds are not known.
    measures : (voxels,) each, what else is measured of the voxels (`measures`).
    """

    model: FittedModel
    responses: Responses
    r: NDArray[np.float64]
    r_single: NDArray[np.float64]
    ncsnr: NDArray[np.float32]
    ceiling: NDArray[np.float64]
    ceiling_single: NDArray[np.float64]
    r_se: NDArray[np.float64]
    p: NDArray[np.float64]
    influences: Influences
    permutations: int = 0
    permutation_seed: int = 0
    ceiling_source: str | None = None
    ceiling_images: int | None = None
    fields: Retinotopic = field(default_factory=Retinotopic)
    files: list[Path] = field(default_factory=list)
    test: str = ""
    test_identity: dict[str, Any] = field(default_factory=dict)
    within_kinds: float | None = None
    measures: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Hash of all that decides the scores."""
        return key_of(self.model.spec, self.test_identity)

    @cached_property
    def memberships(self) -> dict[str, NDArray[np.bool_]]:
        """Voxels of each group, single label and of all."""
        return memberships(self.responses.areas)

    @cached_property
    def q(self) -> NDArray[np.float64]:
        """(voxels,) false discovery rate of `p` over all voxels that have a correlation."""
        return benjamini_hochberg(self.p)

    @property
    def r_over_ceiling(self) -> NDArray[np.float64]:
        """(voxels,); NaN where the ceiling is below the floor."""
        return over_ceiling(self.r, self.ceiling)

    @property
    def excluded(self) -> NDArray[np.int64]:
        """Voxels without a correlation: constant or non-finite betas, or a constant prediction."""
        return np.flatnonzero(~np.isfinite(self.r))

    def areas(self, labels: bool = False) -> dict[str, dict[str, Any]]:
        """Accuracy of each group of areas (and, with `labels`, of each single label) that has voxels.

        Everything is over the same voxels, those with a correlation: ``voxels`` counts them, ``excluded`` the others.
        Accuracy is over ``accuracy_voxels`` of them; ``below_floor`` counts those whose ceiling is lower or not known.
        """
        groups = self.responses.areas.counts()
        return {name: self.area(name) for name in self.memberships if name in groups or (labels and name != ALL)}

    def area(self, name: str) -> dict[str, Any]:
        """Accuracy of one area, or of ``all``."""
        known = self.memberships[name] & np.isfinite(self.r)
        fair = int((known & (self.ceiling >= CEILING_FLOOR)).sum())
        mean, spread = mean_and_error(self.r[known])
        row, images = self.influences.row(name), len(self.influences.images)
        error = float(image_error(self.influences.r[row]))
        accuracy = noise_normalised(self.r[known], self.ceiling[known])
        accuracy_error = float(image_error(self.influences.accuracy[row]))
        return {
            "voxels": int(known.sum()),
            "excluded": int(self.memberships[name].sum() - known.sum()),
            "images": images,
            "r_mean": mean,
            "r_image_se": error,
            "r_ci": list(interval(mean, error, images)),
            "r_se": spread,
            "r_single_mean": mean_and_error(self.r_single[known])[0],
            "ceiling_mean": mean_and_error(self.ceiling[known])[0],
            "ceiling_single_mean": mean_and_error(self.ceiling_single[known])[0],
            "accuracy": accuracy,
            "accuracy_image_se": accuracy_error,
            "accuracy_ci": list(interval(accuracy, accuracy_error, images)),
            "accuracy_voxels": fair,
            "below_floor": int(known.sum()) - fair,
            **{f"{measure}_mean": mean_and_error(values[known])[0] for measure, values in self.measures.items()},
        }

    def summary(self) -> dict[str, Any]:
        """The JSON object of ``score``; means over the voxels that have a correlation, ``voxels`` counts all."""
        whole = self.area(ALL)
        known = self.r[np.isfinite(self.r)]
        return {
            "model": str(self.model.folder),
            **identity(self.model.spec),
            **({"test": self.test, "r_within_kinds_mean": self.within_kinds} if self.test else {}),
            **whole,
            "voxels": len(self.r),
            "r_median": float(np.median(known)) if len(known) else float("nan"),
            "voxels_q05": int((self.q < FOUND).sum()),
            "permutations": self.permutations,
            "permutation_seed": self.permutation_seed,
            "ceiling_source": self.ceiling_source,
            "ceiling_images": self.ceiling_images,
            "retinotopy": self.fields.comparison,
            "retinotopy_note": self.fields.note,
            "measured_fields": self.fields.source,
            "rois": self.areas(),
            "files": [str(path) for path in self.files],
        }
