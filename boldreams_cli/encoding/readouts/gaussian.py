"""Gaussian: the separable readout of equation 1 whose field is one of a set of Gaussians, the same on all layers.

Weights are ridge's (feature-weighted receptive fields; St-Yves & Naselaris 2018, NeuroImage 180). Every candidate
field is read and decomposed once for all voxels; of each voxel only the best field and penalty so far and their error
are kept. They are chosen by how each training image is predicted from all the others; test images are never looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import ChoiceError, StopFlag, progress
from boldreams_cli.encoding.numerics.blocks import aligned_blocks, in_block
from boldreams_cli.encoding.numerics.fields import gaussian_fields
from boldreams_cli.encoding.numerics.ridge import PENALTIES, Ridge
from boldreams_cli.encoding.readouts.base import (
    Checkpoint,
    MapSource,
    Problem,
    Readout,
    ReadoutSettings,
    Solution,
    register,
)

# All three are parts of the arithmetic: constants, whatever the memory.
VOXELS = 256  # in a product
IMAGES = 64  # read at a time
TOGETHER = 9  # candidates in a product
MOST = 54  # candidates decomposed at a time, whatever the memory, so that a checkpoint is never far


@dataclass(frozen=True)
class GaussianSettings(ReadoutSettings):
    """What decides a readout with Gaussian fields.

    Parameters
    ----------
    centres : of the fields along each side of the image.
    sizes : their standard deviations, in fractions of the image.
    penalties : to choose from, as multiples of the features' mean eigenvalue.
    """

    centres: int = 9
    sizes: tuple[float, ...] = tuple(np.geomspace(0.03, 0.5, 6).tolist())
    penalties: tuple[float, ...] = PENALTIES

    def check(self) -> None:
        """Raise ChoiceError for values that make no sense."""
        if self.centres < 1 or not self.sizes or min(self.sizes) <= 0:
            raise ChoiceError("Gaussian fields need at least one centre, and sizes above 0")
        if not self.penalties or min(self.penalties) <= 0:
            raise ChoiceError("penalties are numbers above 0, at least one")

    @property
    def candidates(self) -> NDArray[np.float64]:
        """(n, 3) x, y and size of each field, in fractions of the image."""
        places = (np.arange(self.centres) + 0.5) / self.centres
        return np.array([(x, y, size) for size in self.sizes for y in places for x in places])


@register
class Gaussian(Readout):
    """See the head of this file."""

    name: ClassVar[str] = "gaussian"
    readout: ClassVar[str] = "gaussian"
    Settings: ClassVar[type[ReadoutSettings]] = GaussianSettings

    def __init__(self, settings: GaussianSettings | None = None) -> None:
        self.settings: GaussianSettings = settings or GaussianSettings()
        self._best: dict[str, Tensor] = {}
        self._of: MapSource | None = None

    def bytes_resident(self, problem: Problem) -> int:
        """Maps where they are kept in memory, one candidate at least, and blocks of voxels."""
        return problem.maps.resident_bytes + self._working_bytes(problem) + self._candidate_bytes(problem)

    def bytes_per_voxel(self, problem: Problem) -> int:
        """Betas, and the solution twice."""
        numbers = sum(layout.count + layout.group.pixels for layout in problem.maps.layouts)
        return 4 * len(problem.betas.image_ids) + 8 * numbers

    def _working_bytes(self, problem: Problem) -> int:
        images, filters = len(problem.betas.image_ids), _filters(problem)
        decomposition = 24 * images * filters + 32 * min(images, filters) ** 2
        fields = 12 * len(self.settings.candidates) * sum(layout.group.pixels for layout in problem.maps.layouts)
        return decomposition + 24 * images * VOXELS + fields + 12 * len(problem.betas.columns)

    def _candidate_bytes(self, problem: Problem) -> int:
        """Its features, then its directions in both precisions."""
        images, filters = len(problem.betas.image_ids), _filters(problem)
        return 4 * images * filters + 12 * images * min(images, filters)

    def prepare(self, problem: Problem, checkpoint: Checkpoint, stop: StopFlag) -> None:
        """Find each voxel's field and penalty; what is found so far is kept, by candidates and blocks of voxels."""
        if self._of is problem.maps:
            return
        columns = problem.betas.columns
        blocks = list(aligned_blocks(np.arange(len(columns)), VOXELS))
        kept = checkpoint.load()
        best = {
            "seen": torch.zeros(len(blocks), dtype=torch.int16),  # candidates, in order
            "error": torch.full((len(columns),), torch.inf, dtype=torch.float64),
            "field": torch.zeros(len(columns), dtype=torch.int16),
            "penalty": torch.zeros(len(columns), dtype=torch.int16),
        }
        if kept is not None and kept[0]["stage"] == "search":
            best = kept[1]
        candidates = len(self.settings.candidates)
        room = problem.memory - self.bytes_resident(problem)
        betas = problem.betas.means(columns) if 4 * len(problem.betas.image_ids) * len(columns) <= room // 2 else None
        room -= 0 if betas is None else betas.nbytes
        width = min(MOST, 1 + max(0, room // self._candidate_bytes(problem)))
        with progress(problem.title, candidates * len(blocks), "fields by voxels") as shown:
            shown.advance(int(best["seen"].sum()))
            while (first := int(best["seen"].min())) < candidates:
                some = np.arange(first, min(first + width, candidates))
                ridges = [ridge for ridge, _, _ in self._decomposed(problem, some, checkpoint, best, stop)]
                for number, (part, offsets) in enumerate(blocks):
                    if stop or checkpoint.due:
                        checkpoint.save({"stage": "search"}, best)
                        stop.check(f"checkpoint after {first} of {candidates} fields")
                    block = problem.betas.means(columns[part]) if betas is None else betas[:, part]
                    block = in_block(block, offsets, VOXELS).to(problem.device)
                    seen = int(best["seen"][number])
                    for candidate, ridge in zip(some.tolist(), ridges, strict=True):
                        if candidate >= seen:
                            _compare(best, part, candidate, ridge.left_out_errors(block)[:, : len(offsets)])
                            shown.advance()
                    best["seen"][number] = max(seen, int(some[-1]) + 1)
        self._best, self._of = best, problem.maps

    def _decomposed(
        self,
        problem: Problem,
        candidates: NDArray[np.int64],
        checkpoint: Checkpoint,
        best: dict[str, Tensor],
        stop: StopFlag,
    ) -> Iterator[tuple[Ridge, Tensor, Tensor]]:
        """Yield each candidate's regression, its features (images, K) on their own scale, and the scale (K,)."""
        repeats = torch.from_numpy(problem.betas.repeats).to(problem.device)
        features = self._read(problem, candidates)[::-1]
        while features:
            if stop and best:
                checkpoint.save({"stage": "search"}, best)
            stop.check("what was found for the fields so far is kept")
            values = features.pop().to(problem.device)
            scale = _scales(values)
            values /= scale.float()
            yield Ridge(values, repeats, self.settings.penalties), values, scale

    def _read(self, problem: Problem, candidates: NDArray[np.int64]) -> list[Tensor]:
        """(images, K) of each candidate: the maps summed against its field."""
        images, layouts = np.arange(len(problem.betas.image_ids)), problem.maps.layouts
        fields = [_fields(layout.group.height, layout.group.width, self.settings) for layout in layouts]
        found = [torch.empty(len(images), _filters(problem)) for _ in candidates]
        order = np.split(images, range(IMAGES, len(images), IMAGES))
        for some, maps in zip(order, problem.maps.batches(order), strict=True):
            start = 0
            for group, layout, field in zip(maps, layouts, fields, strict=True):
                first = group if layout.pixels_first else group.transpose(1, 2)  # (images, P, K)
                for piece in np.unique(candidates // TOGETHER):
                    numbers = slice(piece * TOGETHER, (piece + 1) * TOGETHER)
                    read = (field[numbers].to(group.device) @ first).cpu()
                    for place in np.flatnonzero(candidates // TOGETHER == piece):
                        into = found[place][some[0] : some[-1] + 1, start : start + layout.count]
                        into.copy_(read[:, candidates[place] % TOGETHER])
                start += layout.count
        return found

    def solve(self, problem: Problem, voxels: NDArray[np.int64], checkpoint: Checkpoint, stop: StopFlag) -> Solution:
        """See `Readout.solve`; each voxel is solved for by itself, with the field and penalty that `prepare` found."""
        self.prepare(problem, checkpoint, stop)
        places = torch.from_numpy(np.searchsorted(problem.betas.columns, voxels))
        field, penalty = (self._best[name][places].long() for name in ("field", "penalty"))
        betas = problem.betas.means(voxels)
        weights, bias = torch.zeros(len(voxels), _filters(problem)), torch.zeros(len(voxels))
        wanted = field.unique().numpy()
        room = problem.memory - self.bytes_resident(problem) - len(voxels) * self.bytes_per_voxel(problem)
        width = min(MOST, 1 + max(0, room // self._candidate_bytes(problem)))
        with progress(problem.title, len(voxels), "voxels") as shown:
            for some in np.split(wanted, range(width, len(wanted), width)):
                for number, (ridge, features, scale) in zip(
                    some.tolist(), self._decomposed(problem, some, checkpoint, {}, stop), strict=True
                ):
                    exact = features.double()
                    for voxel in torch.nonzero(field == number).flatten().tolist():
                        mine = slice(voxel, voxel + 1)
                        images, mean = ridge.dual(betas[:, mine].to(problem.device), penalty[mine].to(problem.device))
                        found = exact.T @ images
                        weights[voxel] = (found[:, 0] / scale).cpu()
                        bias[mine] = (mean - ridge.share @ exact @ found).float().cpu()
                        shown.advance()
        layouts = problem.maps.layouts
        fields = [_fields(layout.group.height, layout.group.width, self.settings)[field] for layout in layouts]
        x, y, size = (torch.from_numpy(column[field.numpy()]) for column in self.settings.candidates.T)
        loss = float(self._best["error"][places].mean() / problem.betas.repeats.sum())
        penalties = torch.tensor(self.settings.penalties, dtype=torch.float64)[penalty]
        return Solution(
            fields,
            [part.contiguous() for part in weights.split([layout.count for layout in layouts], dim=1)],
            bias,
            {"left_out_loss": [loss]},
            chosen={"x": x, "y": y, "size": size, "penalty": penalties},
        )


def _compare(best: dict[str, Tensor], part: slice, candidate: int, errors: Tensor) -> None:
    """Take a candidate's (penalties, voxels) errors where they are less than any before."""
    error, penalty = (value.cpu() for value in errors.min(0))
    better = error < best["error"][part]
    for name, value in (("error", error), ("penalty", penalty), ("field", torch.full_like(penalty, candidate))):
        best[name][part] = torch.where(better, value.to(best[name].dtype), best[name][part])


def _fields(height: int, width: int, settings: GaussianSettings) -> Tensor:
    """(candidates, P) float32."""
    return torch.from_numpy(gaussian_fields(height, width, settings.candidates)).float()


def _filters(problem: Problem) -> int:
    return sum(layout.count for layout in problem.maps.layouts)


def _scales(features: Tensor) -> Tensor:
    """Standard deviation over images (K,) float64; infinite where a feature never varies, so that it has no weight."""
    values = features.double()
    scale = values.std(0)
    return torch.where(scale > 1e-6 * values.square().mean(0).sqrt(), scale, torch.inf)
