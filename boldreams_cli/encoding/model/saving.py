"""From the parameters of a finished fit to a model in its folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import logger
from boldreams_cli.encoding.model.spec import FittedModel, ModelSpec
from boldreams_cli.encoding.model.weights import ReadoutWeights

# Of a span of voxels: fields (voxels, P) and weights (voxels, K) or (voxels, K, nodes) of each group, and the bias.
Part = tuple[list[Tensor], list[Tensor], Tensor]


def assemble(
    spec: ModelSpec,
    parts: Sequence[Part],
    included: NDArray[np.bool_],
    voxels: NDArray[np.int32],
    basis: Sequence[Tensor] | None = None,
) -> ReadoutWeights:
    """Join the spans, with NaN biases where voxels were left out, so that they predict NaN and not 0.

    Parameters
    ----------
    spec : of the model.
    parts : of each span.
    included : (voxels,) those that were fitted.
    voxels : (voxels, 3) indices into the volume.
    basis : of each group, (nodes, P) fields that all voxels share; the parts then have none.
    """
    place = torch.from_numpy(np.flatnonzero(included))

    def scatter(values: list[Tensor], fill: float) -> Tensor:
        joined = torch.cat(values)
        whole = torch.full((len(included), *joined.shape[1:]), fill)
        whole[place] = joined
        return whole

    fields: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for index, group in enumerate(spec.groups):
        field = basis[index] if basis is not None else scatter([part[0][index] for part in parts], 0.0)
        fields[group.name] = field.view(-1, group.height, group.width)
        weight = scatter([part[1][index] for part in parts], 0.0)
        sizes = [len(spec.layers[name]) for name in group.layers]
        weights |= dict(zip(group.layers, weight.split(sizes, dim=1), strict=True))
    ordered = {name: weights[name] for name in spec.layers}
    return ReadoutWeights(fields, ordered, scatter([part[2] for part in parts], float("nan")), voxels)


def keep_previous(folder: Path, spec: ModelSpec) -> None:
    """Move a model of other settings aside with all that was made from it, rather than mix the two."""
    if not (folder / "spec.json").exists():
        return
    old = FittedModel.load(folder).spec
    if (old.training, old.store, old.responses, old.layers) == (
        spec.training,
        spec.store,
        spec.responses,
        spec.layers,
    ):
        return
    previous = folder.with_name(folder.name + ".previous")
    shutil.rmtree(previous, ignore_errors=True)
    folder.replace(previous)
    for path in previous.glob("checkpoint*"):  # of the model that is about to be saved
        folder.mkdir(exist_ok=True)
        path.replace(folder / path.name)
    logger.info("the model of other settings that was in %s is now in %s", folder, previous.name)
