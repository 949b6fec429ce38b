"""Memory that a fit takes, by what its readout plans with, before anything is read; and how many fit side by side."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import torch

from boldreams_cli.encoding.inputs.layout import MapLayout, make_groups
from boldreams_cli.encoding.inputs.maps import RESERVED_BYTES, map_bytes
from boldreams_cli.encoding.readouts.base import Problem, Readout
from boldreams_cli.features.ranking import filter_count
from boldreams_cli.features.store.feature_store import FeatureStore

AT_ONCE = 4  # fits; more would take more memory than they gain


def layouts_of(store: FeatureStore, percent: float, rf: str) -> list[MapLayout]:
    """Of the maps of a percent, whichever its filters are."""
    layers = store.layers
    filters = {name: range(filter_count(shape[0], percent)) for name, shape in layers.items()}
    return [MapLayout(group, filters) for group in make_groups({n: s[1:] for n, s in layers.items()}, rf)]


def data_bytes(
    solver: Readout,
    store: FeatureStore,
    layouts: Sequence[MapLayout],
    images: int,
    trials: int,
    voxels: int,
    room: int,
) -> int:
    """Bytes that a fit of all voxels at once takes beside Python and torch.

    Parameters
    ----------
    solver : of the fit.
    store, layouts : of its maps.
    images, trials, voxels : of the training.
    room : bytes that there are for it; whole maps stay in memory where they take half of that at most.
    """
    needed = map_bytes(store, images, layouts)
    stand_in = SimpleNamespace(
        maps=SimpleNamespace(layouts=layouts, resident_bytes=needed if needed <= room // 2 else 0),
        betas=SimpleNamespace(images=range(trials), image_ids=range(images), columns=range(voxels)),
        memory=room,
        device=torch.device("cpu"),
    )
    problem = cast(Problem, stand_in)
    return solver.bytes_resident(problem) + voxels * solver.bytes_per_voxel(problem)


def side_by_side(needs: Sequence[int], threads: int, room: int, kept: int) -> tuple[int, int]:
    """How many fits run at once, so that each has a core at least and all that it reads and makes in memory.

    Parameters
    ----------
    needs : bytes of each fit.
    threads : that may run.
    room : bytes for all data.
    kept : of these, what the fits share.

    Returns
    -------
    Their number, and the ``--memory`` of each; the number is 1 where two do not fit.
    """
    for count in range(min(AT_ONCE, threads, len(needs)), 1, -1):
        share = (room - kept) // count
        # Less than a third of what is reserved is never planned with (encoding/inputs/maps.py).
        if max(needs) <= share and share + kept >= RESERVED_BYTES // 3:
            return count, share + kept + RESERVED_BYTES
    return 1, 0
