"""What a study would read, and about how long each cell takes and with how much memory; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from boldreams_cli.console import BoldreamsError
from boldreams_cli.data.prepared.choosing import names_of
from boldreams_cli.data.responses import Responses
from boldreams_cli.data.subjects import Subject
from boldreams_cli.encoding.inputs.layout import MapLayout
from boldreams_cli.encoding.inputs.maps import RESERVED_BYTES, usable
from boldreams_cli.encoding.inputs.members import members_of
from boldreams_cli.encoding.readouts.base import Readout
from boldreams_cli.encoding.readouts.stacked import StackedSettings
from boldreams_cli.features.choosing import the_store
from boldreams_cli.features.ranking import filter_count
from boldreams_cli.features.store.feature_store import FeatureStore
from boldreams_cli.files import sizes_below
from boldreams_cli.study.cells.costs import Task, products
from boldreams_cli.study.cells.grid import Cell
from boldreams_cli.study.cells.manifest import Study
from boldreams_cli.study.cells.recognising import prepared
from boldreams_cli.study.cells.room import data_bytes, layouts_of
from boldreams_cli.study.cells.running import solver_of
from boldreams_cli.study.sweep import State, groups

MATRIX = 1024  # rows of the product that the machine is measured by


@dataclass(frozen=True)
class Estimate:
    """What a cell would take.

    Parameters
    ----------
    cell : number.
    state : done, running, failed or missing.
    bytes : to read of maps and betas; 0 where another cell of this run reads them, None where it is not known.
    seconds : about, on this machine; None where it is not known.
    memory : bytes at most; None where it is not known.
    why : what is not known, and why.
    """

    cell: int
    state: str
    bytes: int | None
    seconds: float | None
    memory: int | None
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def estimates(study: Study, state: State, device: torch.device, shared: bool) -> list[Estimate]:
    """Estimate every cell.

    Parameters
    ----------
    study : of the cells.
    state : which are done.
    device : to compute on.
    shared : whether cells of one subject and backbone run together and read maps once.
    """
    rate = products_per_second(device)
    found: dict[int, Estimate] = {}
    for (subject, backbone), numbers in groups(study, state.cells).items():
        todo = [number for number in numbers if number not in state.noted]
        found |= {number: Estimate(number, state.cells[number], 0, 0.0, 0) for number in numbers if number not in todo}
        try:
            sizes = Sizes.of(study, subject, backbone)
        except BoldreamsError as error:
            said = " ".join(str(error).split())
            found |= {number: Estimate(number, state.cells[number], None, None, None, said) for number in todo}
            continue
        for number, passes in _passes(study, todo, shared).items():
            found[number] = _estimate(study, number, state.cells[number], sizes, rate, passes)
    return [found[number] for number in sorted(found)]


def products_per_second(device: torch.device) -> float:
    """Multiplications and additions of a float32 matrix product that the machine does in a second."""
    matrix = torch.ones(MATRIX, MATRIX, device=device)
    float((matrix @ matrix)[0, 0])
    start = time.perf_counter()
    float((matrix @ matrix)[0, 0])
    return 2 * MATRIX**3 / (time.perf_counter() - start)


@dataclass(frozen=True)
class Sizes:
    """Numbers of one subject and backbone.

    Parameters
    ----------
    store : of the backbone.
    images, trials, voxels : of the training.
    layer_bytes : of each layer's maps of the training images on disk.
    beta_bytes : of the betas on disk.
    """

    store: FeatureStore
    images: int
    trials: int
    voxels: int
    layer_bytes: Mapping[str, float]
    beta_bytes: int

    @classmethod
    def of(cls, study: Study, subject: Subject, backbone: str) -> Sizes:
        """Look them up.

        Raises
        ------
        BoldreamsError
            If the subject is not prepared or the maps are not extracted.
        """
        responses = Responses.open(prepared(study, subject))
        store = the_store(study.cache, backbone, study.settings.get("features"), names_of(responses.request))
        share = len(responses.train_images) / max(1, len(store.images))
        layers = {name: share * sum(sizes_below(store.path / "layers" / name / "maps")) for name in store.layers}
        return cls(
            store,
            images=len(responses.train_images),
            trials=int((~responses.trial_test).sum()),
            voxels=len(responses.voxels),
            layer_bytes=layers,
            beta_bytes=sum(sizes_below(responses.path / "betas")),
        )

    def map_bytes(self, percent: float) -> int:
        """Of a percent's maps on disk."""
        layers = self.store.layers
        return round(
            sum(
                size * filter_count(layers[name][0], percent) / len(self.store.filters(name))
                for name, size in self.layer_bytes.items()
            )
        )


def _passes(study: Study, numbers: Sequence[int], shared: bool) -> dict[int, int]:
    """Cells, the larger percents first, and how often each goes through its maps in the store."""
    seen: set[object] = set()
    found = {}
    for number in sorted(numbers, key=lambda number: -study.cells[number].percent):
        cell = study.cells[number]
        wanted = set() if cell.finetune else _kinds_of_maps(solver_of(cell, study.settings))
        found[number] = len(wanted - seen) if shared else len(wanted)
        seen |= wanted
    return found


def _kinds_of_maps(solver: Readout) -> set[object]:
    """What a readout makes of the maps as it reads them: it reads them once for each."""
    settings = solver.settings
    if not solver.pooled:
        return {"whole"}
    grids = {settings.grid}
    if isinstance(settings, StackedSettings):
        grids |= {member.grid for member in members_of(settings.members, settings.grid, settings.candidates, [""])}
    return {(grid, getattr(settings, "compress", "none")) for grid in grids}


def _estimate(study: Study, number: int, state: str, sizes: Sizes, rate: float, passes: int) -> Estimate:
    cell = study.cells[number]
    if cell.finetune:
        why = "finetuning reads images; its time and memory are those of the network"
        return Estimate(number, state, None, None, None, why)
    solver = solver_of(cell, study.settings)
    layouts = layouts_of(sizes.store, cell.percent, study.settings.get("rf") or "shared")
    read = passes * sizes.map_bytes(cell.percent) + (sizes.beta_bytes if passes else 0)
    taken = products(solver, Task(layouts, sizes.images, sizes.trials, sizes.voxels))
    why = "" if taken is not None else f"how long {cell.kind} takes"
    seconds = None if taken is None else taken / rate
    return Estimate(number, state, read, seconds, memory(study, solver, layouts, sizes), why)


def memory(study: Study, solver: Readout, layouts: Sequence[MapLayout], sizes: Sizes) -> int:
    """Bytes that a fit takes at most, by what the readout itself plans with."""
    counts = (sizes.images, sizes.trials, sizes.voxels)
    data = data_bytes(solver, sizes.store, layouts, *counts, usable(study.memory))
    return min(RESERVED_BYTES + data, max(study.memory, RESERVED_BYTES))


def lines(study: Study, found: Sequence[Estimate]) -> list[str]:
    """A table for people."""
    from boldreams_cli.console import duration, size

    rows = [("cell", "", "state", "reads", "time", "memory")]
    for item in found:
        cell: Cell = study.cells[item.cell]
        values = ("-" if item.bytes is None else size(item.bytes), "-" if item.memory is None else size(item.memory))
        seconds = "-" if item.seconds is None else duration(item.seconds)
        rows.append((str(item.cell), str(cell), item.state, values[0], seconds, values[1]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    total = sum(item.seconds or 0 for item in found)
    read = sum(item.bytes or 0 for item in found)
    text.append(
        f"{len(found)} cells, {size(read)} to read, {duration(total)} of fits on this machine, one after another"
    )
    return text + [f"not known: {why}" for why in dict.fromkeys(item.why for item in found if item.why)]
