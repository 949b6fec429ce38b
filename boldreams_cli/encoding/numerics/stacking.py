"""Several predictions of a voxel as one: non-negative weights, and coarse grids within finer ones; pure arrays."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.encoding.numerics.fields import interpolation_along

Floats = NDArray[np.float64]

STEPS = 10  # times the number of members; Lawson and Hanson ask for 3
TOLERANCE = 1e-9  # of a slope, by the largest there is
RIDGE = 1e-10  # of a member's mean square, so that two equal members have a solution


def nonnegative_weights(gram: Floats, target: Floats) -> Floats:
    """Least squares with weights of 0 or more, of many voxels at once (Lawson & Hanson 1974, chapter 23).

    All voxels take a step together, each by its own active set; what a voxel gets depends on no other.

    Parameters
    ----------
    gram : (voxels, members, members) products of all pairs of the members' predictions, summed over images.
    target : (voxels, members) products of predictions and betas.

    Returns
    -------
    (voxels, members) c >= 0 that minimise c' gram c - 2 c' target; their sum is free.
    """
    size = np.sqrt(np.einsum("vmm->vm", gram))
    size[size == 0] = np.inf  # a member that predicts nothing gets nothing
    gram = gram / (size[:, :, None] * size[:, None, :]) + RIDGE * np.eye(gram.shape[1])
    target = target / size
    least = TOLERANCE * np.abs(target).max(1)
    found, passive = np.zeros_like(target), np.zeros(target.shape, dtype=bool)
    todo = _grown(gram, target, found, passive, least, np.arange(len(target)))
    for _ in range(STEPS * target.shape[1]):
        if not len(todo):
            break
        free = passive[todo]
        wanted = _solved(gram[todo], target[todo], free)
        below = free & (wanted <= 0)
        stuck = np.asarray(below.any(1))
        with np.errstate(invalid="ignore", divide="ignore"):
            way = np.where(below, np.nan_to_num(found[todo] / (found[todo] - wanted)), np.inf)
        step = way.min(1, keepdims=True).clip(max=1.0)
        # As far as all stay above 0; who reaches it first is bound again.
        found[todo] = np.where(stuck[:, None], found[todo] + step * (wanted - found[todo]), wanted)
        passive[todo] = free & ~(below & (way <= step))
        found[todo] = np.where(passive[todo], found[todo], 0.0)
        grown = _grown(gram, target, found, passive, least, todo[~stuck])
        todo = np.union1d(todo[stuck], grown)
    return found / size


def _grown(
    gram: Floats, target: Floats, found: Floats, passive: NDArray[np.bool_], least: Floats, voxels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Free the member that would help most, in place; returns those of `voxels` that have one."""
    slope = target[voxels] - (gram[voxels] @ found[voxels][:, :, None])[:, :, 0]
    slope[passive[voxels]] = -np.inf
    best = slope.argmax(1)
    helps = slope[np.arange(len(voxels)), best] > least[voxels]
    passive[voxels[helps], best[helps]] = True
    return voxels[helps]


def _solved(gram: Floats, target: Floats, free: NDArray[np.bool_]) -> Floats:
    """Least squares of the free members, 0 of the others."""
    both = free[:, :, None] & free[:, None, :]
    bound = np.eye(free.shape[1]) * ~free[:, :, None]
    solved = np.linalg.solve(np.where(both, gram, 0.0) + bound, np.where(free, target, 0.0)[:, :, None])
    return np.asarray(solved[:, :, 0], np.float64)


def mixture(left_out: Tensor, betas: Tensor, repeats: Tensor, never_none: bool = False) -> tuple[Tensor, Tensor]:
    """Weights of 0 or more by which predictions of left-out images, added up, come nearest to the betas.

    Where there is little signal, all of them may be worse than none: a model of such a voxel is a constant, which has
    no correlation, so that models would choose by themselves over which voxels a mean is taken.

    Parameters
    ----------
    left_out : (members, images, voxels) predictions, as of `ridge.LeftOut.left_out`.
    betas : (images, voxels) averaged over repeats.
    repeats : (images,) weights of the images.
    never_none : whether such a voxel takes the member that is the least wrong, as it is.

    Returns
    -------
    (members, voxels) float32, and the mean squared error of their mix, weighted by repeats, (voxels,) float64.
    """
    share, root = repeats.double() / repeats.sum(), repeats.double().sqrt()
    predicted = left_out.permute(2, 0, 1).double()  # (voxels, members, images)
    wanted = (betas.double() - share @ betas.double()) * root[:, None]
    gram = (predicted @ predicted.transpose(1, 2)).numpy()
    target = (predicted @ wanted.T[:, :, None])[:, :, 0].numpy()
    weight = nonnegative_weights(gram, target)
    if never_none:
        _at_least_one(weight, gram, target)
    explained = 2 * (weight * target).sum(1) - np.einsum("vm,vmn,vn->v", weight, gram, weight)
    return torch.from_numpy(weight.T).float(), (wanted.square().sum(0) - torch.from_numpy(explained)) / repeats.sum()


def _at_least_one(weight: Floats, gram: Floats, target: Floats) -> None:
    """Give voxels without a member the one with the smallest error, in place; members of which all is 0 say nothing."""
    size = np.einsum("vmm->vm", gram)
    error = np.where(size > 0, size - 2 * target, np.inf)
    none = ~(weight > 0).any(1) & (size > 0).any(1)
    weight[none, error[none].argmin(1)] = 1.0


def nested_grids(grid: int) -> list[int]:
    """Grids whose nodes are among those of `grid`: what is given on them can be given on it exactly."""
    return [one for one in range(1, grid + 1) if one == 1 or (grid - 1) % (one - 1) == 0]


def on_finer_grid(height: int, width: int, coarse: int, fine: int) -> Tensor:
    """Turn weights of maps pooled on a coarse grid into those of the same maps pooled on a finer one.

    Parameters
    ----------
    height, width : of the maps, pixels.
    coarse, fine : nodes along each side; `coarse` one of ``nested_grids(fine)``.

    Returns
    -------
    (nodes of fine, nodes of coarse) float64, M: what is pooled on the coarse grid is M' times what is on the fine one.
    """
    down, across = (_along(pixels, coarse, fine) for pixels in (height, width))
    return torch.kron(down, across)


def _along(pixels: int, coarse: int, fine: int) -> Tensor:
    few, many = min(coarse, pixels), min(fine, pixels)
    # Nodes are means of pixels (inputs/pooled.py): their weights are those of an interpolation by their sums.
    sums = [interpolation_along(pixels, nodes).double().sum(0) for nodes in (few, many)]
    return sums[1][:, None] * interpolation_along(many, few).double() / sums[0]
