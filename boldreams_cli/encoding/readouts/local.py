"""Local: ridge whose prior is a receptive field, each voxel with its own field and penalty.

As ridge it has a weight for every filter at every node of a coarse grid, over all layers at once. But each feature is
times the square root of a Gaussian at its node, so that what is far from the Gaussian's centre must explain more to
be used; a flat field, which is plain ridge, is among those to choose from. Field and penalty are those with which
each training image is predicted best from all the others, on some of the images where there are many; the weights are
then solved for on all of them, exactly. Test images are never looked at.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import ChoiceError, StopFlag, progress
from boldreams_cli.encoding.inputs.pooled import PooledMaps, on_grid
from boldreams_cli.encoding.numerics.blocks import aligned_blocks, in_block
from boldreams_cli.encoding.numerics.local import add_times, dual_weights, node_fields, with_penalty
from boldreams_cli.encoding.numerics.ridge import Ridge, add_products, weighted
from boldreams_cli.encoding.readouts.base import Checkpoint, MapSource, Problem, ReadoutSettings, Solution, register
from boldreams_cli.encoding.readouts.ridge import FEATURES, VOXELS, RidgeReadout, RidgeSettings

HALF_DECADES = tuple(10.0 ** (power / 2) for power in range(-6, 8))


@dataclass(frozen=True)
class LocalSettings(RidgeSettings):
    """What decides a local readout; those of ridge, with other defaults, and more.

    Parameters
    ----------
    grid, penalties, compress : as of ridge; a field's penalties are multiples of the mean eigenvalue of its features.
    centres : of the fields along each side of the image.
    sizes : their standard deviations, in fractions of the image. A flat field comes besides.
    images : on which fields and penalties are chosen at most.
    """

    grid: int = 5
    penalties: tuple[float, ...] = HALF_DECADES
    centres: int = 5
    sizes: tuple[float, ...] = (0.2,)
    images: int = 2000

    def check(self) -> None:
        """Raise ChoiceError for values that make no sense."""
        super().check()
        if self.centres < 1 or not self.sizes or min(self.sizes) <= 0:
            raise ChoiceError("Gaussian fields need at least one centre, and sizes above 0")
        if self.images < 3:
            raise ChoiceError("fields are chosen on at least 3 images")

    @property
    def candidates(self) -> NDArray[np.float64]:
        """(n, 3) x, y and size of each field but the flat one, in fractions of the image."""
        places = (np.arange(self.centres) + 0.5) / self.centres
        return np.array([(x, y, size) for size in self.sizes for y in places for x in places])


@register
class Local(RidgeReadout):
    """See the head of this file."""

    name: ClassVar[str] = "local"
    readout: ClassVar[str] = "local"
    Settings: ClassVar[type[ReadoutSettings]] = LocalSettings

    def __init__(self, settings: LocalSettings | None = None) -> None:
        self.settings: LocalSettings = settings or LocalSettings()
        self._found: dict[str, Tensor] = {}
        self._of: MapSource | None = None

    def _working_bytes(self, problem: Problem) -> int:
        images, columns = len(problem.betas.image_ids), len(problem.betas.columns)
        some = min(images, self.settings.images)
        shapes = [on_grid(layout, self.settings.grid) for layout in problem.maps.layouts]
        blocks = 20 * images * min(FEATURES, self._features(problem)) + 40 * images * VOXELS
        blocks += 4 * images * max([a * c for a, c in (s.shape for s in shapes if not s.pixels_first)], default=0)
        # A node's products, a field's, and what is made of the latter; betas and the images' weights of all voxels.
        return 8 * images**2 + max(24 * images**2, 48 * some**2) + blocks + (8 * images + 48) * columns

    def prepare(self, problem: Problem, checkpoint: Checkpoint, stop: StopFlag) -> None:
        """Find each voxel's field and penalty, then the weights of the images; both are kept so far."""
        if self._of is problem.maps:
            return
        kept = checkpoint.load()
        stage, done = (kept[0]["stage"], kept[0]["done"]) if kept else ("search", 0)
        found = kept[1] if kept else self._start(problem)
        room = problem.memory - self.bytes_resident(problem)
        betas = problem.betas.means(problem.betas.columns)

        def pause(reached: str) -> Callable[[int], None]:
            def look(done: int) -> None:
                if stop or checkpoint.due:
                    checkpoint.save({"stage": reached, "done": done}, found)
                    stop.check(f"checkpoint of the {reached} at {done}")

            return look

        if stage == "search":
            self._search(problem, betas, found, done, room, pause("search"))
            stage, done = "solve", 0
            found["images"] = torch.zeros(betas.shape)
        if stage == "solve":
            self._solve_images(problem, betas, found, done, room, pause("solve"))
            checkpoint.save({"stage": "solved", "done": 0}, found)
        self._found, self._of = found, problem.maps

    def _start(self, problem: Problem) -> dict[str, Tensor]:
        count = len(problem.betas.columns)
        return {
            "error": torch.full((count,), torch.inf, dtype=torch.float64),
            "field": torch.zeros(count, dtype=torch.long),
            "penalty": torch.zeros(count, dtype=torch.long),
            "mean": torch.zeros(count, dtype=torch.float64),
            "scale": torch.zeros(len(self.settings.candidates) + 1, dtype=torch.float64),  # of the penalties
        }

    def _chosen_images(self, problem: Problem) -> Tensor:
        """Those on which fields and penalties are chosen, in order."""
        count = len(problem.betas.image_ids)
        if count <= self.settings.images:
            return torch.arange(count)
        drawn = np.random.default_rng(problem.seed).permutation(count)[: self.settings.images]
        return torch.from_numpy(np.sort(drawn))

    def _search(
        self,
        problem: Problem,
        betas: Tensor,
        found: dict[str, Tensor],
        done: int,
        room: int,
        look: Callable[[int], None],
    ) -> None:
        """Each voxel's best field and penalty by leaving out each of the chosen images."""
        some, count = self._chosen_images(problem), len(self.settings.candidates) + 1
        repeats = torch.from_numpy(problem.betas.repeats)[some].to(problem.device)
        mine, blocks = betas[some], list(aligned_blocks(np.arange(betas.shape[1]), VOXELS))
        width = 1 + max(0, room // (8 * len(some) ** 2))
        features = self._features(problem)
        with progress(problem.title, count, "fields") as shown:
            shown.advance(done)
            for first in range(done, count, width):
                fields = range(first, min(first + width, count))
                grams = self._products_of(problem, fields, some, repeats, functools.partial(look, first))
                for field in fields:
                    look(field)
                    ridge = Ridge.of_gram(grams.pop(0), repeats, features, self.settings.penalties)
                    found["scale"][field] = ridge.penalties[0] / self.settings.penalties[0]
                    for part, offsets in blocks:
                        block = in_block(mine[:, part], offsets, VOXELS).to(problem.device)
                        _compare(found, part, field, ridge.left_out_errors(block)[:, : len(offsets)])
                    shown.advance()
        total = problem.betas.repeats[some.numpy()].sum()
        found["error"] /= float(total)

    def _solve_images(
        self,
        problem: Problem,
        betas: Tensor,
        found: dict[str, Tensor],
        done: int,
        room: int,
        look: Callable[[int], None],
    ) -> None:
        """The weights of all images for each voxel, by one factor of each field and penalty that was chosen."""
        repeats = torch.from_numpy(problem.betas.repeats).to(problem.device)
        root, share = repeats.double().sqrt(), repeats.double() / repeats.sum()
        pairs = sorted(set(zip(found["field"].tolist(), found["penalty"].tolist(), strict=True)))
        left = pairs[done:]
        width = 1 + max(0, room // (8 * len(root) ** 2))
        everyone = torch.arange(len(root))
        with progress(problem.title, len(pairs), "fields and penalties") as shown:
            shown.advance(done)
            while left:
                fields = sorted({field for field, _ in left})[:width]
                reached = len(pairs) - len(left)
                grams = self._products_of(problem, fields, everyone, repeats, functools.partial(look, reached))
                for field in fields:
                    gram = grams.pop(0)
                    for number in [number for known, number in left if known == field]:
                        look(len(pairs) - len(left))
                        penalty = self.settings.penalties[number] * float(found["scale"][field])
                        factor = with_penalty(gram, penalty)
                        chosen = torch.nonzero((found["field"] == field) & (found["penalty"] == number)).flatten()
                        for some in chosen.split(VOXELS):
                            block = in_block(betas[:, some], torch.arange(len(some)), VOXELS).to(problem.device)
                            images, mean = dual_weights(factor, block, root, share)
                            found["images"][:, some] = images[:, : len(some)].float().cpu()
                            found["mean"][some] = mean[: len(some)].cpu()
                        left = left[1:]
                        shown.advance()

    def _products_of(
        self, problem: Problem, fields: Sequence[int], images: Tensor, repeats: Tensor, look: Callable[[], None]
    ) -> list[Tensor]:
        """Products of all pairs of some images by each field, of which each node's are made once; lower triangles."""
        root, share = repeats.double().sqrt(), repeats.double() / repeats.sum()
        empty = torch.zeros(len(images), len(images), dtype=torch.float64, device=problem.device)
        totals, part = [empty.clone() for _ in fields], empty
        for weights, features in self._nodes(problem):
            look()
            part.zero_()
            for block in features:
                add_products(part, weighted(block[images.to(block.device)], root, share))
            for total, field in zip(totals, fields, strict=True):
                add_times(total, part, float(weights[field]))
        return totals

    def _nodes(self, problem: Problem) -> Iterator[tuple[Tensor, Iterator[Tensor]]]:
        """Yield of each node of each group what every field is there, and its features, some at a time."""
        for group, prior in zip(self._pooled(problem), self._priors(problem), strict=True):
            for node, weights in enumerate(prior.T):
                yield weights, _features_at(group, node)

    def _priors(self, problem: Problem) -> list[Tensor]:
        """(fields, nodes) of each group."""
        groups = [layout.group for layout in problem.maps.layouts]
        return [node_fields(g.height, g.width, self.settings.grid, self.settings.candidates) for g in groups]

    def solve(self, problem: Problem, voxels: NDArray[np.int64], checkpoint: Checkpoint, stop: StopFlag) -> Solution:
        """See `Readout.solve`; what `prepare` found of these voxels, as weights of filters at nodes."""
        self.prepare(problem, checkpoint, stop)
        places = np.searchsorted(problem.betas.columns, voxels)
        mine = torch.from_numpy(places)
        found: dict[str, Any] = {name: self._found[name][mine] for name in ("error", "field", "penalty", "mean")}
        found["images"] = self._found["images"][:, mine]
        repeats = torch.from_numpy(problem.betas.repeats).to(problem.device)
        priors = [prior[found["field"]].float() for prior in self._priors(problem)]
        weights, bias = self.fold(problem, places, found, repeats.double() / repeats.sum(), stop, priors)
        self._warn(found["penalty"])
        basis = [group.pool.T.contiguous() for group in self._pooled(problem)]
        flat = np.array([[0.5, 0.5, np.inf]])
        x, y, size = torch.from_numpy(np.concatenate([self.settings.candidates, flat]))[found["field"]].T
        penalty = torch.tensor(self.settings.penalties, dtype=torch.float64)[found["penalty"]]
        chosen = {"field": found["field"], "x": x, "y": y, "size": size, "penalty": penalty}
        loss = {"left_out_loss": [float(found["error"].mean())]}
        kept = {name: value.contiguous() for name, value in chosen.items()}
        return Solution([], weights, bias.float(), loss, basis, kept)


def _compare(found: dict[str, Tensor], part: slice, field: int, errors: Tensor) -> None:
    """Take a field's (penalties, voxels) errors where they are less than any before."""
    error, penalty = (value.cpu() for value in errors.min(0))
    better = error < found["error"][part]
    for name, value in (("error", error), ("penalty", penalty), ("field", torch.full_like(penalty, field))):
        found[name][part] = torch.where(better, value, found[name][part])


def _features_at(group: PooledMaps, node: int) -> Iterator[Tensor]:
    """Yield (images, some filters) of a group's maps at one node, constant numbers of them."""
    count, nodes = group.layout.count, group.layout.group.pixels
    if group.layout.pixels_first:
        for start in range(node * count, (node + 1) * count, FEATURES):
            yield group.columns(slice(start, min(start + FEATURES, (node + 1) * count)))
    else:
        yield group.columns(slice(0, group.values))[:, node::nodes]
