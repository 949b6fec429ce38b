"""Stacked: many ridges at once, each with another idea of where a voxel looks and what it reads, and their best mix.

Members are ridges of all layers near each of many receptive fields (as in local) and of one layer at a time at several
poolings. Each voxel chooses each member's penalty by leaving out one training image at a time; the predictions of the
images that were left out say how much of each member is best, with weights of 0 or more. All members read the same
maps, so what is left is one weight for every filter at every node, as of ridge. Fields, penalties and weights are
chosen on some of the images where there are many; members are then solved for on all. Test images are never looked at.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import ChoiceError, StopFlag, listing, progress
from boldreams_cli.encoding.inputs.members import KINDS, TOGETHER, Member, features_at, members_of, weighted_means
from boldreams_cli.encoding.inputs.pooled import PooledMaps, on_grid, pooled_bytes
from boldreams_cli.encoding.inputs.products import FieldProducts
from boldreams_cli.encoding.numerics.blocks import aligned_blocks, in_block
from boldreams_cli.encoding.numerics.local import DualSystem, node_fields
from boldreams_cli.encoding.numerics.ridge import Ridge
from boldreams_cli.encoding.numerics.stacking import nonnegative_weights, on_finer_grid
from boldreams_cli.encoding.numerics.tiles import NODES, TILE, whole
from boldreams_cli.encoding.readouts.base import (
    Checkpoint,
    MapSource,
    Problem,
    Readout,
    ReadoutSettings,
    Solution,
    register,
)
from boldreams_cli.encoding.readouts.local import TOGETHER as SEARCHED
from boldreams_cli.encoding.readouts.local import LocalSettings
from boldreams_cli.encoding.readouts.ridge import VOXELS


@dataclass(frozen=True)
class StackedSettings(LocalSettings):
    """What decides a stacked readout; those of local, and more.

    Parameters
    ----------
    sizes : of the fields of the members ``local``.
    images : on which penalties and weights of the members are chosen at most.
    members : kinds of them: ``ridge``, ``local`` (one a field, ridge among them) and ``layers`` (a ridge of each layer,
        on each grid whose nodes are among those of `grid`).
    """

    sizes: tuple[float, ...] = (0.2, 0.35)
    members: tuple[str, ...] = ("local", "layers")

    def __post_init__(self) -> None:
        # From a file of a study it comes as a list.
        object.__setattr__(self, "members", tuple(self.members))

    def check(self) -> None:
        """Raise ChoiceError for values that make no sense."""
        super().check()
        if unknown := [name for name in self.members if name not in KINDS]:
            raise ChoiceError(
                f"--members takes {listing(KINDS)}, with commas between them, not {unknown[0]!r}: what others fit "
                "is not made of maps pooled on one grid"
            )
        if not self.members or len(set(self.members)) < len(self.members):
            raise ChoiceError(f"--members takes {listing(KINDS)}, each once, at least one")


@register
class Stacked(Readout):
    """See the head of this file."""

    name: ClassVar[str] = "stacked"
    readout: ClassVar[str] = "stacked"
    pooled: ClassVar[bool] = True
    Settings: ClassVar[type[ReadoutSettings]] = StackedSettings

    def __init__(self, settings: StackedSettings | None = None) -> None:
        self.settings: StackedSettings = settings or StackedSettings()
        self._found: dict[str, Tensor] = {}
        self._of: MapSource | None = None

    def _members(self, problem: Problem) -> list[Member]:
        layers = [name for layout in problem.maps.layouts for name in layout.group.layers]
        return members_of(self.settings.members, self.settings.grid, self.settings.candidates, layers)

    def bytes_resident(self, problem: Problem) -> int:
        """What is at work, and pooled maps where they are kept in memory."""
        return self._working_bytes(problem) + sum(needed for _, needed, kept in self._rooms(problem) if kept)

    def bytes_per_voxel(self, problem: Problem) -> int:
        """Betas and weights of the images; weights of the features, as they add up, scaled, and laid out."""
        return 8 * len(problem.betas.image_ids) + 12 * self._features(problem)

    def voxels_together(self, problem: Problem) -> int:
        """Voxels of a product."""
        return VOXELS

    def _features(self, problem: Problem) -> int:
        shapes = [on_grid(layout, self.settings.grid).shape for layout in problem.maps.layouts]
        return sum(a * c for a, c in shapes)

    def _working_bytes(self, problem: Problem) -> int:
        images, columns, members = len(problem.betas.image_ids), len(problem.betas.columns), self._members(problem)
        some = min(images, self.settings.images)
        features, tile = self._features(problem), min(images, TILE)
        shapes = [on_grid(layout, self.settings.grid) for layout in problem.maps.layouts]
        tiles = 16 * tile * features + 4 * tile**2 * (min(NODES, self.settings.grid**2) + len(self.settings.candidates))
        blocks = 20 * images * min(TOGETHER, features) + 64 * images * VOXELS
        blocks += 4 * images * max([a * c for a, c in (s.shape for s in shapes if not s.pixels_first)], default=0)
        searched = min(SEARCHED, columns)
        blocks += searched * (4 * len(members) * some + 40 * images) + VOXELS * (12 * len(members) * some)
        # A member's products and their factor, or what choosing takes; what is chosen of all voxels.
        return max(12 * images**2, 56 * some**2) + tiles + blocks + 16 * len(members) * columns

    def _rooms(self, problem: Problem) -> list[tuple[int, int, bool]]:
        """Of each grid in use, coarse first: bytes of the maps that are pooled on it, whether they fit in memory."""
        room = problem.memory - self._working_bytes(problem) - VOXELS * self.bytes_per_voxel(problem)
        rooms = []
        for grid in sorted({member.grid for member in self._members(problem)} | {self.settings.grid}):
            needed = pooled_bytes(problem.maps.layouts, len(problem.betas.image_ids), grid)
            rooms.append((grid, needed, needed <= room))
            room -= needed if needed <= room else 0
        return rooms

    def _pooled(self, problem: Problem, grid: int) -> list[PooledMaps]:
        needed, kept = next((needed, kept) for one, needed, kept in self._rooms(problem) if one == grid)
        return problem.maps.pooled(grid, needed if kept else 0, self.settings.compress)

    def prepare(self, problem: Problem, checkpoint: Checkpoint, stop: StopFlag) -> None:
        """Choose each member's penalty and weight for all voxels, some voxels at a time; all is kept so far."""
        if self._of is problem.maps:
            return
        members, columns = self._members(problem), problem.betas.columns
        count, some = len(columns), len(problem.some_images(self.settings.images))
        room = problem.memory - self.bytes_resident(problem)
        each = 4 * some * len(members) + 8 * len(problem.betas.image_ids)
        most = max(1, room // each // SEARCHED) * SEARCHED
        kept = checkpoint.load()
        first, end, done = (kept[0][name] for name in ("first", "end", "done")) if kept else (0, 0, 0)
        found = kept[1] if kept else self._start(len(members), count)
        left_out = found.pop("left_out", None)
        if end - first > most:
            left_out = None  # of voxels that this memory has no room for: these start anew
        with progress(problem.title, len(members) * count, "voxels of members") as shown:
            shown.advance(len(members) * first)
            while first < count:
                if left_out is None:
                    end, done = min(first + most, count), 0
                    left_out = torch.zeros(len(members), some, end - first)
                part, left = slice(first, end), room - each * (end - first)
                shown.advance(done * (end - first))

                def look(done: int, part: slice = part, left_out: Tensor = left_out) -> None:
                    if stop or checkpoint.due:
                        note = {"first": part.start, "end": part.stop, "done": done}
                        checkpoint.save(note, found | {"left_out": left_out})
                        stop.check(f"checkpoint at member {done + 1} of {len(members)}")

                for _ in self._leave_out(problem, found, part, left_out, done, left, look):
                    shown.advance(end - first)
                self._weigh(problem, found, part, left_out)
                first, left_out = end, None
                checkpoint.save({"first": first, "end": first, "done": 0}, found)
        self._found, self._of = found, problem.maps

    def _start(self, members: int, voxels: int) -> dict[str, Tensor]:
        return {
            "weight": torch.zeros(members, voxels),
            "penalty": torch.zeros(members, voxels, dtype=torch.int16),
            "scale": torch.zeros(members, dtype=torch.float64),  # of the penalties
            "error": torch.zeros(voxels, dtype=torch.float64),
        }

    def _leave_out(
        self,
        problem: Problem,
        found: dict[str, Tensor],
        part: slice,
        left_out: Tensor,
        done: int,
        room: int,
        look: Callable[[int], None],
    ) -> Iterator[int]:
        """Predict each image from the others by each member, with each voxel's best penalty; yields what is done."""
        some = problem.some_images(self.settings.images)
        repeats = torch.from_numpy(problem.betas.repeats)[some].to(problem.device)
        betas = problem.betas.means(problem.betas.columns[part])[some]
        members = self._members(problem)
        for number, gram in self._products(problem, range(done, len(members)), some, room, look):
            count = members[number].features(problem.maps.layouts)
            ridge = Ridge.of_gram(gram.double(), repeats, count, self.settings.penalties)
            found["scale"][number] = ridge.penalties[0] / self.settings.penalties[0]
            for start in range(0, betas.shape[1], SEARCHED):
                place = slice(start, start + SEARCHED)
                block = betas[:, place].to(problem.device)
                chosen = ridge.left_out_errors(block).argmin(0)
                left_out[number][:, place] = ridge.left_out(block, chosen).cpu()
                found["penalty"][number, part][place] = chosen.cpu().to(torch.int16)
            yield number + 1

    def _weigh(self, problem: Problem, found: dict[str, Tensor], part: slice, left_out: Tensor) -> None:
        """Weights of the members for some voxels, and the left-out error of their mix."""
        some = problem.some_images(self.settings.images)
        repeats = torch.from_numpy(problem.betas.repeats)[some].double()
        betas = problem.betas.means(problem.betas.columns[part])[some].double()
        share, root = repeats / repeats.sum(), repeats.sqrt()
        for start in range(0, part.stop - part.start, VOXELS):
            place = slice(start, min(start + VOXELS, part.stop - part.start))
            predicted = left_out[:, :, place].permute(2, 0, 1).double()  # (voxels, members, images)
            wanted = (betas[:, place] - share @ betas[:, place]) * root[:, None]
            gram = (predicted @ predicted.transpose(1, 2)).numpy()
            target = (predicted @ wanted.T[:, :, None])[:, :, 0].numpy()
            weight = nonnegative_weights(gram, target)
            explained = 2 * (weight * target).sum(1) - np.einsum("vm,vmn,vn->v", weight, gram, weight)
            found["weight"][:, part][:, place] = torch.from_numpy(weight.T).float()
            error = wanted.square().sum(0) - torch.from_numpy(explained)
            found["error"][part][place] = error / repeats.sum()

    def _products(
        self,
        problem: Problem,
        which: Sequence[int],
        images: Tensor,
        room: int,
        look: Callable[[int], None],
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield members, and the products of all pairs of images by each.

        Those of the features at the nodes are made once for all members of one source, as far as `room` allows.
        """
        members = self._members(problem)
        repeats = torch.from_numpy(problem.betas.repeats)[images].to(problem.device)
        for source, same in itertools.groupby(which, key=lambda number: members[number].source):
            numbers = list(same)
            first = members[numbers[0]]
            fields = [member.field for member in members if member.source == source]
            read = first.maps(self._pooled(problem, first.grid))
            priors = self._priors(problem, first.grid)
            products = FieldProducts(list(read.values()), [priors[number][fields] for number in read], images, repeats)
            width = max(1, room // products.bytes_each)
            for start in range(0, len(numbers), width):
                some = numbers[start : start + width]
                chosen = [fields.index(members[number].field) for number in some]
                tiles = products.of(chosen, functools.partial(look, some[0]))
                for number in some:
                    look(number)
                    yield number, whole(tiles.pop(0), len(images))

    def _priors(self, problem: Problem, grid: int) -> list[Tensor]:
        """(fields, nodes) of each group."""
        groups = [layout.group for layout in problem.maps.layouts]
        return [node_fields(g.height, g.width, grid, self.settings.candidates) for g in groups]

    def solve(self, problem: Problem, voxels: NDArray[np.int64], checkpoint: Checkpoint, stop: StopFlag) -> Solution:
        """See `Readout.solve`; one member after another is solved for on all images and added to the weights so far."""
        self.prepare(problem, checkpoint, stop)
        members, found = self._members(problem), self._found
        places = torch.from_numpy(np.searchsorted(problem.betas.columns, voxels))
        betas = problem.betas.means(voxels)
        repeats = torch.from_numpy(problem.betas.repeats).to(problem.device)
        kept = checkpoint.load()
        done = kept[0]["done"] if kept else 0
        shapes = [on_grid(layout, self.settings.grid) for layout in problem.maps.layouts]
        sums = [torch.zeros(len(voxels), layout.group.pixels, layout.count) for layout in shapes]
        if kept:
            sums = [kept[1][f"weights/{number}"] for number in range(len(sums))]

        def look(done: int) -> None:
            if stop or checkpoint.due:
                checkpoint.save({"done": done}, {f"weights/{number}": value for number, value in enumerate(sums)})
                stop.check(f"checkpoint at member {done + 1} of {len(members)}")

        room = problem.memory - self.bytes_resident(problem) - len(voxels) * self.bytes_per_voxel(problem)
        used = [number for number in range(done, len(members)) if bool(found["weight"][number, places].any())]
        with progress(problem.title, len(used), "members") as shown:
            for number, gram in self._products(problem, used, torch.arange(len(repeats)), room, look):
                everyone = torch.nonzero(found["weight"][number]).flatten()
                mine = torch.from_numpy(np.flatnonzero(np.isin(places, everyone)))
                images = self._images(number, gram, betas[:, mine], places[mine], repeats)
                del gram
                self._add(problem, number, images, mine, torch.searchsorted(everyone, places[mine]), places, sums)
                shown.advance()
        return self._folded(problem, places, betas, repeats, sums)

    def _images(self, number: int, gram: Tensor, betas: Tensor, places: Tensor, repeats: Tensor) -> Tensor:
        """Weights of all images by one member, (images, voxels); blocks are of all voxels that share a penalty."""
        found, (root, share) = self._found, (repeats.double().sqrt(), repeats.double() / repeats.sum())
        images = torch.zeros(betas.shape)
        for one in found["penalty"][number, places].unique().tolist():
            penalty = self.settings.penalties[one] * float(found["scale"][number])
            system = DualSystem(gram, penalty)
            alike = torch.nonzero((found["penalty"][number] == one) & (found["weight"][number] > 0)).flatten()
            mine = torch.nonzero(found["penalty"][number, places] == one).flatten()
            order = torch.searchsorted(alike, places[mine])
            for part, offsets in aligned_blocks(order.numpy(), VOXELS):
                block = in_block(betas[:, mine[part]], offsets, VOXELS).to(gram.device)
                solved, _ = system.dual_weights(block, root, share)
                images[:, mine[part]] = solved.float().cpu()[:, offsets]
        return images

    def _add(
        self,
        problem: Problem,
        number: int,
        images: Tensor,
        mine: Tensor,
        order: Tensor,
        places: Tensor,
        sums: list[Tensor],
    ) -> None:
        """Add a member's weights of the features, on the grid of all, times its weight for each voxel.

        Parameters
        ----------
        images : (images, some) weights of the images.
        mine : (some,) which of the span's voxels these are.
        order : (some,) their places among all voxels that have the member.
        places : (voxels,) of the span's voxels among all.
        sums : of each group (voxels, nodes, K), added to in place.
        """
        member = self._members(problem)[number]
        weight = self._found["weight"][number, places[mine]]
        priors = self._priors(problem, member.grid)
        for total, group, prior, layout in zip(
            sums, self._pooled(problem, member.grid), priors, problem.maps.layouts, strict=True
        ):
            finer = on_finer_grid(layout.group.height, layout.group.width, member.grid, self.settings.grid)
            for node, spread in enumerate((finer * prior[member.field]).float().T):
                for filters, features in features_at(group, node, member.filters(group.layout)):
                    for part, offsets in aligned_blocks(order.numpy(), VOXELS):
                        block = in_block(images[:, part], offsets, VOXELS).to(features.device)
                        read = (features.T @ block).cpu()[:, offsets] * weight[part]
                        for fine in torch.nonzero(spread).flatten().tolist():
                            total[mine[part], fine, filters] += spread[fine] * read.T

    def _folded(self, problem: Problem, places: Tensor, betas: Tensor, repeats: Tensor, sums: list[Tensor]) -> Solution:
        """Undo scaling and centring."""
        found, share = self._found, repeats.double() / repeats.sum()
        groups = self._pooled(problem, self.settings.grid)
        bias = torch.zeros(len(places), dtype=torch.float64)
        centres = [weighted_means(group, share).flatten() for group in groups]
        for part, offsets in aligned_blocks(places.numpy(), VOXELS):
            block = in_block(betas[:, part], offsets, VOXELS).to(share.device)
            bias[part] = (share @ block.double()).cpu()[offsets]
            for centre, total in zip(centres, sums, strict=True):
                read = in_block(total[part].flatten(1).T, offsets, VOXELS)
                bias[part] -= (centre[:, None] * read).sum(0)[offsets]
        weights = [
            (total.transpose(1, 2) / group.scale[:, None]).contiguous()
            for total, group in zip(sums, groups, strict=True)
        ]
        weight = found["weight"][:, places]
        chosen = {"members": (weight > 0).sum(0), "sum": weight.sum(0)}
        chosen |= {member.name: row for member, row in zip(self._members(problem), weight, strict=True)}
        loss = {"left_out_loss": [float(found["error"][places].mean())]}
        basis = [group.pool.T.contiguous() for group in groups]
        kept = {name: value.contiguous() for name, value in chosen.items()}
        return Solution([], weights, bias.float(), loss, basis, kept)
