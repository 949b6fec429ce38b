"""Voxels chosen by how well the model predicts them: the best of an area, or those above a bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, ChoiceError, quoted
from boldreams_cli.encoding.evaluation.saved.files import SCORES
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.files import read_json

FLOOR = 0.2  # of the ceiling, below which r / ceiling says nothing


@dataclass(frozen=True)
class VoxelScores:
    """Test accuracy of each voxel of a model.

    Parameters
    ----------
    r, ceiling : (voxels,) correlation with test betas and the largest to be expected; NaN where excluded.
    """

    r: NDArray[np.float64]
    ceiling: NDArray[np.float64]

    @classmethod
    def of(cls, model: FittedModel) -> VoxelScores:
        """Read what ``boldreams score`` wrote.

        Raises
        ------
        ChoiceError
            If the model was not scored, or changed since.
        """
        try:
            saved = read_json(model.folder / SCORES)
        except BoldreamsError:
            saved = None
        known = isinstance(saved, dict) and saved.get("weights_digest") == model.spec.weights_digest
        if not known or not all(len(saved.get(name, ())) == model.spec.voxels for name in ("r", "ceiling")):
            raise ChoiceError(
                f"{model.folder} has no scores of its voxels; run boldreams score --model {quoted(model.folder)} first"
            )
        return cls(np.array(saved["r"], np.float64), np.array(saved["ceiling"], np.float64))


@dataclass(frozen=True)
class Least:
    """Bounds that a voxel must reach to count.

    Parameters
    ----------
    r, ceiling : smallest correlation and noise ceiling; None for any.
    """

    r: float | None = None
    ceiling: float | None = None

    def check(self, area: bool) -> None:
        """Raise ChoiceError if there are bounds, and no `area` whose voxels they choose among."""
        if not area and (self.r, self.ceiling) != (None, None):
            raise ChoiceError(
                "--min-r and --min-ceiling choose among an area's voxels: give --roi or --voxel best:AREA"
            )

    @property
    def named(self) -> list[object]:
        """For the name of a folder."""
        given = (("min-r", self.r), ("min-ceiling", self.ceiling))
        return [part for name, value in given if value is not None for part in (name, f"{value:g}")]

    @property
    def said(self) -> list[str]:
        """For people."""
        given = (("r", self.r), ("ceiling", self.ceiling))
        bounds = [f"{name} >= {value:g}" for name, value in given if value is not None]
        return [f"({', '.join(bounds)})"] if bounds else []

    def of(self, model: FittedModel, voxels: NDArray[np.bool_], area: str) -> NDArray[np.bool_]:
        """(voxels,) bool, those of an area that reach the bounds.

        Raises
        ------
        ChoiceError
            If none does, or the model was not scored.
        """
        if self.r is None and self.ceiling is None:
            return voxels
        scores = VoxelScores.of(model)
        kept = voxels.copy()
        for values, bound in ((scores.r, self.r), (scores.ceiling, self.ceiling)):
            if bound is not None:
                kept &= np.nan_to_num(values, nan=-np.inf) >= bound
        if not kept.any():
            r, ceiling = (float(np.nan_to_num(v[voxels], nan=-1).max()) for v in (scores.r, scores.ceiling))
            raise ChoiceError(
                f"none of the {int(voxels.sum())} voxels of {area} has {' and '.join(self.said)}; its largest r is "
                f"{r:.3f}, its largest ceiling {ceiling:.3f} (--min-r, --min-ceiling)"
            )
        return kept


ALL = Least()


def best_voxel(model: FittedModel, voxels: NDArray[np.bool_], area: str, least: Least = ALL) -> tuple[int, int, int]:
    """Place of the voxel of an area with the largest r / ceiling, among those whose ceiling is at least FLOOR.

    Parameters
    ----------
    model : scored.
    voxels : (voxels,) bool of the area.
    area : its name.
    least : bounds beside.

    Raises
    ------
    ChoiceError
        If the model was not scored, or the area has no such voxel.
    """
    scores = VoxelScores.of(model)
    candidates = least.of(model, voxels, area) & np.isfinite(scores.r) & (scores.ceiling >= FLOOR)
    if not candidates.any():
        raise ChoiceError(f"no voxel of {area} has an r and a noise ceiling of at least {FLOOR} (--voxel best:AREA)")
    places = np.flatnonzero(candidates)
    best = places[np.argmax(scores.r[places] / scores.ceiling[places])]
    x, y, z = (int(number) for number in model.weights.voxels[best])
    return x, y, z
