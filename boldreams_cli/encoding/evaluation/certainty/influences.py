"""How each test image moves the accuracy of each area: what intervals and comparisons of models are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import ChoiceError, MismatchError, listing, quoted
from boldreams_cli.data.areas import Areas
from boldreams_cli.encoding.evaluation.saved.identity import key_of
from boldreams_cli.encoding.evaluation.statistics import CEILING_FLOOR, image_error, noise_normalised, r_and_influence
from boldreams_cli.encoding.model.spec import ModelSpec
from boldreams_cli.files import DAMAGED_NPZ, read_json, write_npz

INFLUENCES = "influences.npz"
ALL = "all"  # the name of all voxels, beside those of areas
VOXELS_IN_A_BLOCK = 1024  # whose influences are held at once


@dataclass(frozen=True)
class Influences:
    """Accuracy of each area of one model, and what each test image contributes to it.

    Parameters
    ----------
    images : (n,) int32, image ids of the test images.
    repeats : (n,) int32, trials of each.
    areas : (a,) names: groups, single labels and ``all``.
    r : (a, n) float64, mean influence over the area's voxels that have a correlation; NaN where it has none.
    accuracy : (a, n) float64, of the noise-normalised accuracy: sum of the influences over the voxels whose ceiling is
        at least the floor, over the sum of their ceilings.
    voxel_sets : (a,) hash of the positions of the voxels that have a correlation; equal where the voxels are.
    r_mean, accuracy_value : (a,) float64, mean r and noise-normalised accuracy.
    """

    images: NDArray[np.int32]
    repeats: NDArray[np.int32]
    areas: NDArray[np.str_]
    r: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    voxel_sets: NDArray[np.str_]
    r_mean: NDArray[np.float64]
    accuracy_value: NDArray[np.float64]

    def row(self, area: str) -> int:
        """Where an area is among the rows.

        Raises
        ------
        ChoiceError
            If it has no voxels in this subject, or is no group, label or ``all``.
        """
        found = np.flatnonzero(self.areas == area)
        if not len(found):
            raise ChoiceError(f"no scores of an area {area!r}; there are {listing(self.areas.tolist(), 40)}")
        return int(found[0])

    def save(self, folder: Path, key: str, name: str = INFLUENCES) -> None:
        """Write them into a model's folder; `key` is that of its scores."""
        write_npz(folder / name, key=np.array(key), **vars(self))


def load_influences(folder: Path) -> Influences:
    """Read what `score` wrote into a model's folder.

    Raises
    ------
    MismatchError
        If it is missing, damaged or not of the model's weights.
    BoldreamsError
        If the folder holds no model.
    """
    spec = ModelSpec.from_dict(read_json(folder / "spec.json"), folder / "spec.json")
    path, remedy = folder / INFLUENCES, f"run `boldreams score --model {quoted(folder)}`"
    if not path.is_file():
        raise MismatchError(f"{folder} has no {INFLUENCES}; {remedy}")
    try:
        with np.load(path, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
        if str(arrays.pop("key")) == key_of(spec):
            return Influences(**arrays)
    except (*DAMAGED_NPZ, TypeError) as error:
        raise MismatchError(f"{path} is damaged ({error}); {remedy} --overwrite") from error
    raise MismatchError(f"{path} is of other weights than the model's, or of another version; {remedy}")


def memberships(areas: Areas) -> dict[str, NDArray[np.bool_]]:
    """Voxels of each group, then of each single label, that has any; then all."""
    names = dict.fromkeys([*areas.counts(), *areas.label_counts()])
    return {name: areas.select(name) for name in names} | {ALL: np.ones(len(areas.voxels), dtype=bool)}


def of_areas(
    prediction: Tensor,
    beta: Tensor,
    ceiling: NDArray[np.float64],
    areas: Mapping[str, NDArray[np.bool_]],
    positions: NDArray[np.int32],
    images: NDArray[np.integer],
    repeats: NDArray[np.integer],
) -> tuple[NDArray[np.float64], NDArray[np.float64], Influences]:
    """Correlate predictions with betas, and sum the influences over areas.

    Memory is that of a block of voxels: the influences of all are not held.

    Parameters
    ----------
    prediction, beta : (n, voxels), betas averaged over repeats.
    ceiling : (voxels,) square root of the noise ceiling.
    areas : name -> (voxels,).
    positions : (voxels, 3) indices x, y, z.
    images, repeats : (n,).

    Returns
    -------
    r : (voxels,), NaN where there is none.
    r_se : (voxels,) its standard error over images.
    influences : of the areas.
    """
    voxels = prediction.shape[1]
    inside = np.stack(list(areas.values()))
    fair = ceiling >= CEILING_FLOOR
    r, r_se = np.empty(voxels), np.empty(voxels)
    sums = torch.zeros(2 * len(areas), len(prediction), dtype=torch.float64)
    for start in range(0, voxels, VOXELS_IN_A_BLOCK):
        block = slice(start, start + VOXELS_IN_A_BLOCK)
        correlation, influence = r_and_influence(prediction[:, block], beta[:, block])
        r[block], r_se[block] = correlation.numpy(), image_error(influence.numpy())
        known = np.isfinite(r[block])
        counted = np.concatenate([inside[:, block], inside[:, block] & fair[block]])[:, known]
        used = influence if known.all() else influence[:, torch.from_numpy(known)]
        sums += torch.from_numpy(counted.astype(np.float64)) @ used.T
    known = np.isfinite(r)
    counts, ceilings = (inside & known).sum(1), np.array([ceiling[mask & known & fair].sum() for mask in inside])
    chosen = [np.flatnonzero(mask & known) for mask in inside]
    of_r, of_accuracy = sums.numpy()[: len(areas)], sums.numpy()[len(areas) :]
    return (
        r,
        r_se,
        Influences(
            images=np.asarray(images, dtype=np.int32),
            repeats=np.asarray(repeats, dtype=np.int32),
            areas=np.array(list(areas)),
            r=_over(of_r, counts),
            accuracy=_over(of_accuracy, ceilings),
            voxel_sets=np.array([_hash(positions[places]) for places in chosen]),
            r_mean=np.array([r[places].mean() if len(places) else np.nan for places in chosen]),
            accuracy_value=np.array([noise_normalised(r[places], ceiling[places]) for places in chosen]),
        ),
    )


def _over(sums: NDArray[np.float64], totals: NDArray[np.number]) -> NDArray[np.float64]:
    """Rows over their totals; NaN where an area has no voxel to speak of."""
    totals = np.broadcast_to(totals[:, None], sums.shape)
    return np.divide(sums, totals, out=np.full(sums.shape, np.nan), where=totals > 0)


def _hash(positions: NDArray[np.int32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(positions, dtype="<i4").tobytes()).hexdigest()[:12]
