"""The trained numbers of a readout, as safetensors (cache/README.md, "models")."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from boldreams_cli.encoding.inputs.layout import Group
from boldreams_cli.encoding.inputs.pooled import pixel_shares
from boldreams_cli.encoding.numerics.attention import AttentionReader
from boldreams_cli.encoding.numerics.contraction import GroupReader, template
from boldreams_cli.files import write_all, written_whole


@dataclass
class ReadoutWeights:
    """The trained numbers.

    Parameters
    ----------
    fields : group -> (voxels, height, width); of a ridge readout (nodes, height, width), the same for all voxels; of an
        attention readout (voxels, rows, columns), position biases at the nodes of a grid.
    weights : layer -> (voxels, filters); of a ridge readout (voxels, filters, nodes).
    bias : (voxels,); NaN for voxels that were excluded, so that their predictions are NaN too.
    voxels : (voxels, 3) int32 indices into the subject's volume.
    queries : layer -> (voxels, filters), of an attention readout; else empty.
    """

    fields: dict[str, Tensor]
    weights: dict[str, Tensor]
    bias: Tensor
    voxels: NDArray[np.int32]
    queries: dict[str, Tensor] = field(default_factory=dict)

    def group_weights(self, group: Group) -> Tensor:
        """(voxels, K) of all layers of a group, or (voxels, K, nodes)."""
        return torch.cat([self.weights[name] for name in group.layers], dim=1)

    def group_field(self, group: Group) -> Tensor:
        """(voxels, P), or (nodes, P), or (voxels, nodes)."""
        return self.fields[group.name].flatten(1)

    def reader(
        self, group: Group, pixels_first: bool, device: torch.device, voxels: Tensor | None = None
    ) -> GroupReader | AttentionReader:
        """Read a group's maps on `device`; `voxels` (voxels,) bool chooses some."""
        fields, layers = self.group_field(group), [self.weights[name] for name in group.layers]
        if voxels is not None:
            layers = [part[voxels] for part in layers]
            fields = fields if layers[0].ndim == 3 else fields[voxels]
        if not self.queries:
            return GroupReader(fields.to(device), [part.to(device) for part in layers], pixels_first)
        weights = torch.cat(layers, dim=1)
        queries = torch.cat([self.queries[name] for name in group.layers], dim=1)
        queries = queries if voxels is None else queries[voxels]
        pool = torch.kron(*pixel_shares(group, max(self.fields[group.name].shape[1:])))
        pool, fields, queries, weights = (value.to(device) for value in (pool, fields, queries, weights))
        return AttentionReader(pool, fields, queries, weights, pixels_first)

    def sum_reader(self, group: Group, voxel_weights: Tensor, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Read a weighted sum of voxels, (images, K, P) maps -> (images,): as one pattern where that is linear.

        Parameters
        ----------
        voxel_weights : (voxels,), e.g. 1/n inside an area.
        """
        if self.queries:
            used = voxel_weights != 0
            reader, share = self.reader(group, False, device, used), voxel_weights[used].to(device)
            return lambda maps: reader(maps) @ share
        pattern = template(self.group_field(group), self.group_weights(group), voxel_weights).to(device)
        return lambda maps: (maps * pattern).sum((1, 2))

    @property
    def included(self) -> NDArray[np.bool_]:
        """(voxels,) False for those excluded from training."""
        return torch.isfinite(self.bias).numpy()

    def save(self, path: Path) -> None:
        """Write safetensors, whole or not at all."""
        tensors = {f"fields/{name}": value for name, value in self.fields.items()}
        tensors |= {f"weights/{name}": value for name, value in self.weights.items()}
        tensors |= {f"queries/{name}": value for name, value in self.queries.items()}
        tensors |= {"bias": self.bias, "voxels": torch.from_numpy(self.voxels)}
        with written_whole(path) as temporary:
            save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)

    @classmethod
    def load(cls, path: Path) -> ReadoutWeights:
        """Read safetensors."""
        tensors = load_file(path)

        def under(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        arrays = under("fields/"), under("weights/"), tensors["bias"], tensors["voxels"].numpy()
        return cls(*arrays, under("queries/"))


class WeightsFile:
    """A safetensors file that is filled row by row (voxels, say), so that no more than some are ever in memory.

    Parameters
    ----------
    descriptor : of the open file, which holds zeros.
    places : name -> (position in the file, shape).
    """

    def __init__(self, descriptor: int, places: Mapping[str, tuple[int, tuple[int, ...]]]) -> None:
        self.descriptor, self.places = descriptor, places

    def put(self, name: str, rows: NDArray[np.int64], values: Tensor) -> None:
        """Write some rows of a tensor; `rows` are sorted."""
        position, shape = self.places[name]
        array = np.ascontiguousarray(values.numpy(), dtype="<f4" if values.is_floating_point() else "<i4")
        each = int(np.prod(shape[1:], dtype=np.int64)) * array.itemsize
        edges = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        for start, stop in zip(edges, [*edges[1:], len(rows)], strict=True):
            data = array[start:stop].reshape(-1).view(np.uint8).data
            write_all(self.descriptor, data, position + int(rows[start]) * each)


@contextmanager
def written_weights(
    path: Path, shapes: Mapping[str, tuple[int, ...]], voxels: NDArray[np.int32]
) -> Iterator[WeightsFile]:
    """Make a file of weights, whole or not at all, to be filled inside the block.

    What is not filled in is 0, and the bias NaN: voxels that were left out then predict NaN and not 0.

    Parameters
    ----------
    path : of the file.
    shapes : of ``fields/GROUP``, ``weights/LAYER`` and ``queries/LAYER``, as in `ReadoutWeights`.
    voxels : (voxels, 3) indices into the volume.
    """
    whole = {**shapes, "bias": (len(voxels),), "voxels": voxels.shape}
    tensors = {name: ("I32" if name == "voxels" else "F32", shape) for name, shape in whole.items()}
    with written_rows(path, tensors) as file:
        everyone = np.arange(len(voxels))
        file.put("bias", everyone, torch.full((len(voxels),), torch.nan))
        file.put("voxels", everyone, torch.from_numpy(np.ascontiguousarray(voxels)))
        yield file


@contextmanager
def written_rows(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> Iterator[WeightsFile]:
    """Make a safetensors file, whole or not at all, to be filled row by row inside the block; the rest is 0.

    Parameters
    ----------
    path : of the file.
    tensors : name -> (``F32`` or ``I32``, shape).
    """
    header: dict[str, dict[str, Any]] = {}
    end = 0
    for name, (kind, shape) in tensors.items():
        start, end = end, end + 4 * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    first = 8 + len(text)
    places = {name: (first + item["data_offsets"][0], tuple(item["shape"])) for name, item in header.items()}
    with written_whole(path) as temporary, temporary.open("r+b") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.flush()
        stream.truncate(first + end)
        yield WeightsFile(stream.fileno(), places)
        os.fsync(stream.fileno())
