"""Stacked: many ridges at once, each with another idea of where a voxel looks and what it reads, and their best mix.

Members are ridges of all layers near each of many receptive fields (as in local) and of one layer at a time at several
poolings. Each voxel chooses each member's penalty by leaving out one training image at a time; the predictions of the
images that were left out say how much of each member is best, with weights of 0 or more. All members read the same
maps, so what is left is one weight for every filter at every node, as of ridge. Fields, penalties and weights are
chosen on some of the images where there are many; members are then solved for on all. Test images are never looked at.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
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
from boldreams_cli.encoding.numerics.ridge import LeftOut, Ridge
from boldreams_cli.encoding.numerics.stacking import mixture, on_finer_grid
from boldreams_cli.encoding.numerics.tiles import NODES, TILE
from boldreams_cli.encoding.readouts.base import (
    LATER,
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

MOST = 4  # times the voxels of a search, of which left-out predictions are held: so many at most are lost by a stop
KEPT = 512  # voxels whose weights of the images are in one file


@dataclass(frozen=True)
class StackedSettings(LocalSettings):
    """What decides a stacked readout; those of local, and more.

    Parameters
    ----------
    sizes : of the fields of the members ``local``.
    images : on which penalties and weights of the members are chosen at most.
    members : kinds of them: ``ridge``, ``local`` (one a field, ridge among them) and ``layers`` (a ridge of each layer,
        on each grid whose nodes are among those of `grid`).
    never_none : whether a voxel for which all members are worse than none has the one that is the least wrong.
    """

    sizes: tuple[float, ...] = (0.2, 0.35)
    members: tuple[str, ...] = ("local", "layers")
    never_none: bool = field(default=True, metadata=LATER | {"before": False})

    def __post_init__(self) -> None:
        # From a file of a study it comes as a list.
        object.__setattr__(self, "members", tuple(self.members))

    def check(self) -> None:
        """Raise ChoiceError for values that make no sense."""
        super().check()
        if unknown := [name for name in self.members if name not in KINDS]:
            raise ChoiceError(
                f"--members takes {listing(KINDS)}, with commas between them, not {unknown[0]!r}: a member is a ridge "
                "of pooled maps, whose left-out predictions are exact; all of them fold into one model"
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
        self._kept: Checkpoint
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
        blocks += 12 * images * min(KEPT, columns)
        # A member's products and their factor, or what choosing takes; betas and what is chosen of all voxels.
        return max(12 * images**2, 56 * some**2) + tiles + blocks + (4 * images + 16 * len(members)) * columns

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
        """Choose each member's penalty and weight for all voxels, then the weights of the images; all is kept so far.

        Every member is decomposed, and factored by every penalty, once for all voxels. What comes of it is large and
        lies beside the checkpoint.
        """
        if self._of is problem.maps:
            return
        count = len(problem.betas.columns)
        kept = checkpoint.load()
        if kept is None or "chosen" not in kept[0]:  # there is none, or it is of an earlier version
            kept = {"chosen": 0}, self._start(len(self._members(problem)), count)
        done, found = kept[0]["chosen"], kept[1]
        if done < count:
            self._decompose(problem, checkpoint, stop)
            self._choose(problem, found, done, checkpoint, stop)
        self._found, self._kept = found, checkpoint
        self._solve_images(problem, stop)
        self._of = problem.maps

    def _start(self, members: int, voxels: int) -> dict[str, Tensor]:
        return {
            "weight": torch.zeros(members, voxels),
            "penalty": torch.zeros(members, voxels, dtype=torch.int16),
            "scale": torch.zeros(members, dtype=torch.float64),  # of the penalties
            "error": torch.zeros(voxels, dtype=torch.float64),
        }

    def _decompose(self, problem: Problem, checkpoint: Checkpoint, stop: StopFlag) -> None:
        """Keep of each member what the images that choose are predicted from, each left out."""
        some = problem.some_images(self.settings.images)
        repeats = torch.from_numpy(problem.betas.repeats)[some].to(problem.device)
        members = self._members(problem)
        todo = [number for number in range(len(members)) if not checkpoint.beside(f"member-{number}").there]

        def look() -> None:
            stop.check("what was decomposed so far is kept")

        with progress(problem.title, len(members), "members decomposed") as shown:
            shown.advance(len(members) - len(todo))
            for number, gram in self._products(problem, todo, some, look):
                count = members[number].features(problem.maps.layouts)
                ridge = Ridge.of_gram(gram.double(), repeats, count, self.settings.penalties)
                checkpoint.beside(f"member-{number}").save({}, ridge.arrays)
                shown.advance()

    def _choose(
        self, problem: Problem, found: dict[str, Tensor], done: int, checkpoint: Checkpoint, stop: StopFlag
    ) -> None:
        """Each voxel's penalties and weights of the members, some voxels at a time; `done` counts voxels."""
        some, members = problem.some_images(self.settings.images), len(self._members(problem))
        repeats = torch.from_numpy(problem.betas.repeats)[some].to(problem.device)
        columns = problem.betas.columns
        each = 4 * len(some) * members + 8 * len(problem.betas.image_ids)
        room = (problem.memory - self.bytes_resident(problem)) // each
        width = min(MOST, max(1, room // SEARCHED)) * SEARCHED
        with progress(problem.title, members * len(columns), "voxels of members") as shown:
            shown.advance(members * done)
            for first in range(done, len(columns), width):
                part = slice(first, min(first + width, len(columns)))
                betas = problem.betas.means(columns[part])[some]
                left_out = torch.empty(members, *betas.shape)
                for number in range(members):
                    stop.check(f"what was chosen for {first} of {len(columns)} voxels is kept")
                    ridge = self._member(checkpoint, number, repeats)
                    found["scale"][number] = ridge.penalties[0] / self.settings.penalties[0]
                    for start in range(0, betas.shape[1], SEARCHED):
                        place = slice(start, start + SEARCHED)
                        block = betas[:, place].to(problem.device)
                        chosen = ridge.left_out_errors(block).argmin(0)
                        left_out[number][:, place] = ridge.left_out(block, chosen).cpu()
                        found["penalty"][number, part][place] = chosen.cpu().to(torch.int16)
                    shown.advance(betas.shape[1])
                for start in range(0, betas.shape[1], VOXELS):
                    place = slice(start, start + VOXELS)
                    shown_to = left_out[:, :, place], betas[:, place], repeats.cpu()
                    weight, error = mixture(*shown_to, self.settings.never_none)
                    found["weight"][:, part][:, place] = weight
                    found["error"][part][place] = error
                checkpoint.save({"chosen": part.stop}, found)

    def _member(self, checkpoint: Checkpoint, number: int, repeats: Tensor) -> LeftOut:
        """What was kept of a member."""
        kept = checkpoint.beside(f"member-{number}").load()
        assert kept is not None, "made just before"
        return LeftOut(**{name: value.to(repeats.device) for name, value in kept[1].items()}, repeats=repeats)

    def _blocks(self, number: int) -> list[tuple[int, Tensor]]:
        """The voxels that have a member, those of one penalty side by side, some at a time: (penalty, places)."""
        having, penalty = self._found["weight"][number] > 0, self._found["penalty"][number]
        alike = [(one, torch.nonzero(having & (penalty == one)).flatten()) for one in penalty[having].unique().tolist()]
        return [(one, part) for one, places in alike for part in places.split(KEPT)]

    def _solved(self, number: int, penalty: int, places: Tensor) -> Checkpoint:
        """Where the weights of the images by a member are kept, of the voxels of a block."""
        return self._kept.beside(f"images-{number}-{penalty}-{zlib.crc32(places.numpy().tobytes()):08x}")

    def _solve_images(self, problem: Problem, stop: StopFlag) -> None:
        """Weights of all images by each member, for the voxels that have it."""
        repeats = torch.from_numpy(problem.betas.repeats).to(problem.device)
        root, share = repeats.double().sqrt(), repeats.double() / repeats.sum()
        blocks = [self._blocks(number) for number in range(len(self._members(problem)))]
        left = [[block for block in some if not self._solved(n, *block).there] for n, some in enumerate(blocks)]
        todo = [number for number, some in enumerate(left) if some]
        betas = problem.betas.means(problem.betas.columns) if todo else torch.empty(0)

        def look() -> None:
            stop.check("members that were solved so far are kept")

        with progress(problem.title, sum(map(len, blocks)), "blocks of voxels of members") as shown:
            shown.advance(sum(map(len, blocks)) - sum(map(len, left)))
            for number, gram in self._products(problem, todo, torch.arange(len(repeats)), look):
                for one, some in itertools.groupby(left[number], key=lambda block: block[0]):
                    system = DualSystem(gram, self.settings.penalties[one] * float(self._found["scale"][number]))
                    for _, mine in some:
                        look()
                        images = torch.empty(len(repeats), len(mine))
                        for part, offsets in aligned_blocks(np.arange(len(mine)), VOXELS):
                            wanted = in_block(betas[:, mine[part]], offsets, VOXELS).to(gram.device)
                            images[:, part] = system.dual_weights(wanted, root, share)[0].float().cpu()[:, offsets]
                        self._solved(number, one, mine).save({}, {"images": images})
                        shown.advance()

    def _products(
        self, problem: Problem, which: Sequence[int], images: Tensor, look: Callable[[], None]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield members, and the products of all pairs of images by each.

        Those of the features at the nodes are made once for all members of one source, as far as memory allows.
        """
        members, room = self._members(problem), problem.memory - self.bytes_resident(problem)
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
                matrices = products.matrices(chosen, look)
                for number in some:
                    look()
                    yield number, next(matrices)

    def _priors(self, problem: Problem, grid: int) -> list[Tensor]:
        """(fields, nodes) of each group."""
        groups = [layout.group for layout in problem.maps.layouts]
        return [node_fields(g.height, g.width, grid, self.settings.candidates) for g in groups]

    def solve(self, problem: Problem, voxels: NDArray[np.int64], checkpoint: Checkpoint, stop: StopFlag) -> Solution:
        """See `Readout.solve`; the members' weights of the features, added up one member after another."""
        self.prepare(problem, checkpoint, stop)
        members, weight = self._members(problem), self._found["weight"]
        places = torch.from_numpy(np.searchsorted(problem.betas.columns, voxels))
        kept = checkpoint.load()
        done = kept[0]["done"] if kept else 0
        shapes = [on_grid(layout, self.settings.grid) for layout in problem.maps.layouts]
        sums = [torch.zeros(len(voxels), layout.group.pixels, layout.count) for layout in shapes]
        if kept:
            sums = [kept[1][f"weights/{number}"] for number in range(len(sums))]
        used = [number for number in range(done, len(members)) if bool(weight[number, places].any())]
        with progress(problem.title, len(used), "members") as shown:
            for number in used:
                if stop or checkpoint.due:
                    checkpoint.save({"done": number}, {f"weights/{place}": value for place, value in enumerate(sums)})
                    stop.check(f"checkpoint at member {number + 1} of {len(members)}")
                everyone = torch.nonzero(weight[number]).flatten()
                mine = torch.from_numpy(np.flatnonzero(np.isin(places, everyone)))
                images = self._images(number, places[mine], len(problem.betas.image_ids))
                self._add(problem, number, images, mine, torch.searchsorted(everyone, places[mine]), places, sums)
                shown.advance()
        return self._folded(problem, places, sums)

    def _images(self, number: int, places: Tensor, images: int) -> Tensor:
        """Weights of the images by one member, (images, places), out of what is kept."""
        found = torch.empty(images, len(places))
        for penalty, everyone in self._blocks(number):
            mine = torch.from_numpy(np.flatnonzero(np.isin(places, everyone)))
            if len(mine):
                kept = self._solved(number, penalty, everyone).load()
                assert kept is not None, "made by prepare"
                found[:, mine] = kept[1]["images"][:, torch.searchsorted(everyone, places[mine])]
        return found

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

    def _folded(self, problem: Problem, places: Tensor, sums: list[Tensor]) -> Solution:
        """Undo scaling and centring."""
        found, betas = self._found, problem.betas.means(problem.betas.columns[places.numpy()])
        repeats = torch.from_numpy(problem.betas.repeats).to(problem.device)
        share = repeats.double() / repeats.sum()
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
