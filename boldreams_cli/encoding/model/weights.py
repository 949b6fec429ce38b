"""The trained numbers of a readout, as safetensors (cache/README.md, "models")."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from boldreams_cli.encoding.inputs.layout import Group
from boldreams_cli.encoding.numerics.contraction import GroupReader
from boldreams_cli.files import written_whole


@dataclass
class ReadoutWeights:
    """The trained numbers.

    Parameters
    ----------
    fields : group -> (voxels, height, width); of a ridge readout (nodes, height, width), the same for all voxels.
    weights : layer -> (voxels, filters); of a ridge readout (voxels, filters, nodes).
    bias : (voxels,); NaN for voxels that were excluded, so that their predictions are NaN too.
    voxels : (voxels, 3) int32 indices into the subject's volume.
    """

    fields: dict[str, Tensor]
    weights: dict[str, Tensor]
    bias: Tensor
    voxels: NDArray[np.int32]

    def group_weights(self, group: Group) -> Tensor:
        """(voxels, K) of all layers of a group, or (voxels, K, nodes)."""
        return torch.cat([self.weights[name] for name in group.layers], dim=1)

    def group_field(self, group: Group) -> Tensor:
        """(voxels, P), or (nodes, P)."""
        return self.fields[group.name].flatten(1)

    def reader(
        self, group: Group, pixels_first: bool, device: torch.device, voxels: Tensor | None = None
    ) -> GroupReader:
        """Read a group's maps on `device`; `voxels` (voxels,) bool chooses some."""
        fields, weights = self.group_field(group), self.group_weights(group)
        if voxels is not None:
            weights = weights[voxels]
            fields = fields if weights.ndim == 3 else fields[voxels]
        return GroupReader(fields.to(device), weights.to(device), pixels_first)

    @property
    def included(self) -> NDArray[np.bool_]:
        """(voxels,) False for those excluded from training."""
        return torch.isfinite(self.bias).numpy()

    def save(self, path: Path) -> None:
        """Write safetensors, whole or not at all."""
        tensors = {f"fields/{name}": value for name, value in self.fields.items()}
        tensors |= {f"weights/{name}": value for name, value in self.weights.items()}
        tensors |= {"bias": self.bias, "voxels": torch.from_numpy(self.voxels)}
        with written_whole(path) as temporary:
            save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)

    @classmethod
    def load(cls, path: Path) -> ReadoutWeights:
        """Read safetensors."""
        tensors = load_file(path)

        def under(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        return cls(under("fields/"), under("weights/"), tensors["bias"], tensors["voxels"].numpy())
