"""Small made-up problems for solvers: maps in rows of any order, betas of known making, a driver's spans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boldreams_cli.console import StopFlag
from boldreams_cli.encoding.fit import solve_spans
from boldreams_cli.encoding.inputs.layout import Group, MapLayout
from boldreams_cli.encoding.inputs.maps import StoredMaps
from boldreams_cli.encoding.numerics.fields import gaussian_fields
from boldreams_cli.encoding.readouts.base import Problem, Readout
from boldreams_cli.encoding.spans import Spans

CPU = torch.device("cpu")
LAYERS = {"a": (5, 12, 10), "b": (30, 4, 4)}  # more pixels than filters, and the reverse
PLENTY = 10**9


def strict_products() -> bool:
    """Whether products have the same bits with any number of threads here: with MKL, on Intel's processors."""
    cpus = Path("/proc/cpuinfo")
    return torch.backends.mkl.is_available() and cpus.exists() and "GenuineIntel" in cpus.read_text()


class Store:
    """Stands for a feature store: images in rows of any order, with other subjects' between them."""

    def __init__(self, images: int, shuffled: bool = False, others: int = 0) -> None:
        random = np.random.default_rng(0)
        maps = {name: np.maximum(random.normal(size=(images, *shape)), 0) for name, shape in LAYERS.items()}
        maps["a"][:, 1] = 0.25  # never varies
        maps["a"][:-2, 3] = 0  # silent but for two images
        self.rows_per_shard, self.spec = 8, {"dtype": "float16"}
        self.rows = np.sort(random.permutation(images + others)[:images])
        if shuffled:
            random.shuffle(self.rows)
        self.maps = {name: np.full((images + others, *shape), 9, np.float16) for name, shape in LAYERS.items()}
        for name, values in maps.items():
            self.maps[name][self.rows] = values

    def read_layers(self, wanted: list[tuple[str, np.ndarray, np.ndarray]], rows: np.ndarray) -> None:
        for name, filters, out in wanted:
            out[:] = self.maps[name][rows][:, filters]


def layouts() -> list[MapLayout]:
    """Both layers, all their filters."""
    return [MapLayout(Group(name, *s[1:], (name,)), {name: range(s[0])}) for name, s in LAYERS.items()]


class Betas:
    """As `TrainingBetas`, of voxels that read Gaussian fields of the maps, with noise; repeats are 1 to 3.

    Attributes
    ----------
    centre, size : of the fields, (voxels, 2) and (voxels,), out of those that the gaussian readout tries.
    """

    def __init__(self, store: Store, voxels: int, noise: float = 0.5, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        images = len(store.rows)
        self.image_ids = np.arange(images)
        self.columns = np.arange(voxels) * 2 + 1  # every other voxel has no finite betas
        self.areas = np.arange(voxels) % 3  # of a readout whose areas share weights
        self.repeats = random.integers(1, 4, images)
        self.images = np.repeat(self.image_ids, self.repeats)
        self.centre = (random.integers(1, 8, (voxels, 2)) + 0.5) / 9
        self.size = np.geomspace(0.03, 0.5, 6)[random.integers(2, 4, voxels)]
        signal = 0
        for name, (filters, height, width) in LAYERS.items():
            fields = gaussian_fields(height, width, np.column_stack([self.centre, self.size]))
            maps = store.maps[name][store.rows].astype(float).reshape(images, filters, -1)
            read = np.einsum("bkp,vp,kv->bv", maps, fields, random.normal(size=(filters, voxels)))
            signal = signal + read / read.std(0)
        self.signal = signal / signal.std(0)
        trials = self.signal[self.images] + noise * random.normal(size=(len(self.images), voxels))
        self._trials = torch.from_numpy(trials).float()

    def trials(self, voxels: np.ndarray) -> Tensor:
        return self._trials[:, np.searchsorted(self.columns, voxels)]

    def means(self, voxels: np.ndarray) -> Tensor:
        sums = torch.zeros(len(self.image_ids), len(voxels), dtype=torch.float64)
        sums.index_add_(0, torch.from_numpy(self.images), self.trials(voxels).double())
        return (sums / torch.from_numpy(self.repeats)[:, None]).float()


def problem(
    folder: Path, images: int = 70, voxels: int = 10, memory: int = PLENTY, held_out: int = 12, **changes: Any
) -> Problem:
    """`changes` are of `Store`, or `noise` of `Betas`."""
    noise = changes.pop("noise", 0.5)
    store = Store(images, **changes)
    held = np.zeros(images, dtype=bool)
    held[np.random.default_rng(5).permutation(images)[:held_out]] = True
    maps = StoredMaps(store, store.rows, layouts(), CPU, folder / "scratch", memory)  # type: ignore[arg-type]
    return Problem(maps, Betas(store, voxels, noise), held, 0, CPU, memory)  # type: ignore[arg-type]


class Nowhere:
    """A checkpoint that keeps nothing."""

    due = False

    def load(self) -> None:
        return None

    def save(self, note: object, tensors: object) -> None:
        raise AssertionError("nothing is to be kept")


def solve(readout: Readout, posed: Problem, folder: Path, stop: StopFlag | None = None) -> dict[str, Tensor]:
    """Solve as the driver does, span by span; every number of the model by name, voxels in order."""
    spans = Spans(folder, "key")
    solve_spans(posed, posed.maps, readout, spans, StopFlag() if stop is None else stop)  # type: ignore[arg-type]
    parts: list[dict[str, Tensor]] = []
    columns: list[np.ndarray] = []
    for voxels, solution in spans.solved():
        part = {"bias": solution.bias, **solution.chosen}
        for name in ("fields", "weights", "queries"):
            part |= {f"{name}/{number}": value for number, value in enumerate(getattr(solution, name))}
        columns.append(voxels)
        parts.append(part)
    order = torch.from_numpy(np.argsort(np.concatenate(columns)))
    joined = {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}
    return joined | {"spans": torch.tensor(len(parts))}


def predict(model: dict[str, Tensor], posed: Problem, basis: list[Tensor] | None = None) -> Tensor:
    """(images, voxels) float64 by the definition (equation 1)."""
    total = model["bias"].double()
    order = [np.arange(len(posed.betas.image_ids))]
    for number, (layout, maps) in enumerate(
        zip(posed.maps.layouts, next(iter(posed.maps.batches(order))), strict=True)
    ):
        first = (maps.transpose(1, 2) if layout.pixels_first else maps).double()
        weights = model[f"weights/{number}"].double()
        if basis is None:
            total = total + torch.einsum("bkp,vp,vk->bv", first, model[f"fields/{number}"].double(), weights)
        else:
            total = total + torch.einsum("bkp,np,vkn->bv", first, basis[number].double(), weights)
    return total
