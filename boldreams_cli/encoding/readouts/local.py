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
from boldreams_cli.encoding.inputs.products import FieldProducts
from boldreams_cli.encoding.numerics.local import DualSystem, node_fields
from boldreams_cli.encoding.numerics.ridge import Ridge
from boldreams_cli.encoding.numerics.tiles import NODES, TILE
from boldreams_cli.encoding.readouts.base import Checkpoint, MapSource, Problem, ReadoutSettings, Solution, register
from boldreams_cli.encoding.readouts.ridge import FEATURES, RidgeReadout, RidgeSettings

HALF_DECADES = tuple(10.0 ** (power / 2) for power in range(-6, 8))
STAGES = ("search", "solution", "end")
TOGETHER = 256  # voxels in a product; all of them are always searched, so that a voxel's place never differs


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
        some, fields = min(images, self.settings.images), len(self.settings.candidates) + 1
        features, tile = self._features(problem), min(images, TILE)
        tiles = 16 * tile * features + 4 * tile**2 * (min(NODES, self.settings.grid**2) + fields)
        blocks = 20 * images * min(FEATURES, features) + 64 * images * min(TOGETHER, columns)
        # One field's products and their factor, or what choosing takes; betas and the images' weights of all voxels.
        return max(12 * images**2, 48 * some**2) + tiles + blocks + (8 * images + 4 * some + 48) * columns

    def prepare(self, problem: Problem, checkpoint: Checkpoint, stop: StopFlag) -> None:
        """Find each voxel's field and penalty, then the weights of the images; both are kept so far."""
        if self._of is problem.maps:
            return
        kept = checkpoint.load()
        if kept is None or kept[0]["stage"] not in STAGES:  # there is none, or it is of an earlier version
            kept = {"stage": "search", "done": 0}, self._start(problem)
        (stage, done), found = (kept[0]["stage"], kept[0]["done"]), kept[1]
        betas = problem.betas.means(problem.betas.columns)

        def pause(reached: str) -> Callable[[int], None]:
            def look(done: int) -> None:
                if stop or checkpoint.due:
                    checkpoint.save({"stage": reached, "done": done}, found)
                    stop.check(f"checkpoint of the {reached} at {done}")

            return look

        if stage == "search":
            self._search(problem, betas, found, done, pause("search"))
            stage, done = "solution", 0
            found["images"] = torch.zeros(betas.shape)
        if stage == "solution":
            self._solve_images(problem, betas, found, done, pause("solution"))
            checkpoint.save({"stage": "end", "done": 0}, found)
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

    def _search(
        self, problem: Problem, betas: Tensor, found: dict[str, Tensor], done: int, look: Callable[[int], None]
    ) -> None:
        """Each voxel's best field and penalty by leaving out each of the chosen images; `done` counts fields."""
        some, count = problem.some_images(self.settings.images), len(found["scale"])
        repeats = torch.from_numpy(problem.betas.repeats)[some].to(problem.device)
        mine, features = betas[some], self._features(problem)
        with progress(problem.title, count, "fields") as shown:
            shown.advance(done)
            for field, gram in self._field_products(problem, range(done, count), some, look):
                look(field)
                ridge = Ridge.of_gram(gram.double(), repeats, features, self.settings.penalties)
                found["scale"][field] = ridge.penalties[0] / self.settings.penalties[0]
                for start in range(0, mine.shape[1], TOGETHER):
                    part = slice(start, start + TOGETHER)
                    _compare(found, part, field, ridge.left_out_errors(mine[:, part].to(problem.device)))
                shown.advance()
        found["error"] /= float(problem.betas.repeats[some.numpy()].sum())

    def _field_products(
        self, problem: Problem, fields: Sequence[int], images: Tensor, look: Callable[[int], None]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield fields and their products of some images; those of as many fields are made at once as memory holds."""
        repeats = torch.from_numpy(problem.betas.repeats)[images].to(problem.device)
        products = FieldProducts(self._pooled(problem), self._priors(problem), images, repeats)
        width = max(1, (problem.memory - self.bytes_resident(problem)) // products.bytes_each)
        for start in range(0, len(fields), width):
            chosen = fields[start : start + width]
            matrices = products.matrices(chosen, functools.partial(look, chosen[0]))
            for field in chosen:
                yield field, next(matrices)

    def _solve_images(
        self, problem: Problem, betas: Tensor, found: dict[str, Tensor], done: int, look: Callable[[int], None]
    ) -> None:
        """The weights of all images for each voxel, by one factor of each field and penalty that was chosen.

        `done` counts fields, in their order.
        """
        repeats = torch.from_numpy(problem.betas.repeats).to(problem.device)
        root, share = repeats.double().sqrt(), repeats.double() / repeats.sum()
        pairs = sorted(set(zip(found["field"].tolist(), found["penalty"].tolist(), strict=True)))
        fields = sorted({field for field, _ in pairs if field >= done})
        with progress(problem.title, len(pairs), "fields and penalties") as shown:
            shown.advance(sum(field < done for field, _ in pairs))
            for field, gram in self._field_products(problem, fields, torch.arange(len(root)), look):
                for number in [number for known, number in pairs if known == field]:
                    look(field)
                    system = DualSystem(gram, self.settings.penalties[number] * float(found["scale"][field]))
                    chosen = torch.nonzero((found["field"] == field) & (found["penalty"] == number)).flatten()
                    for some in chosen.split(TOGETHER):
                        images, mean = system.dual_weights(betas[:, some].to(problem.device), root, share)
                        found["images"][:, some] = images.float().cpu()
                        found["mean"][some] = mean.cpu()
                    del system
                    shown.advance()
                del gram  # before the next is made; a zip would keep it all the same

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
