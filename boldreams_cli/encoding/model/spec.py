"""What a fitted model is, on disk: all that is needed to rebuild it (cache/README.md, "models")."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boldreams_cli import __version__
from boldreams_cli.console import BoldreamsError, MismatchError
from boldreams_cli.encoding.inputs.layout import Group
from boldreams_cli.encoding.model.weights import ReadoutWeights
from boldreams_cli.files import digest, read_json, write_json

FORMAT = 1
BACKBONE = "backbone.safetensors"  # of a finetuned model, beside its spec


@dataclass
class ModelSpec:
    """Everything about a model but its weights.

    Parameters
    ----------
    subject : number.
    backbone : name in the registry.
    backbone_weights : ``digest`` (SHA-256 of the tensors in use) and ``source`` (what ``--weights`` was). Of a
        finetuned model: the digest of ``backbone.safetensors``, and ``start``, that of the weights at ``source``.
    preprocessing : of the images.
    layers : layer -> filters of the backbone that are read, best first.
    shapes : layer -> (height, width).
    groups : of layers with common receptive fields.
    percent : of the filters of each layer.
    finetuned : whether the backbone was trained too; its weights are then in ``backbone.safetensors``, and
        `store` is empty.
    readout : kind of readout.
    store, responses : fingerprints of what the model was fitted to.
    voxels : number of voxels, those excluded from training included.
    training : settings that decide the weights.
    weights_digest : SHA-256 of ``weights.safetensors``.
    versions : of the software.
    """

    subject: int
    backbone: str
    backbone_weights: dict[str, str]
    preprocessing: dict[str, Any]
    layers: dict[str, list[int]]
    shapes: dict[str, tuple[int, int]]
    groups: list[Group]
    percent: float
    finetuned: bool
    readout: str
    store: str
    responses: str
    voxels: int
    training: dict[str, Any]
    weights_digest: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def filters(self, group: Group) -> int:
        """K: filters that are read from a group's layers."""
        return sum(len(self.layers[name]) for name in group.layers)

    def to_dict(self) -> dict[str, Any]:
        """For ``spec.json``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any], path: Path) -> ModelSpec:
        """Read ``spec.json``; MismatchError if this version cannot."""
        if value.get("format") != FORMAT:
            raise MismatchError(f"{path} has format {value.get('format')}, this version reads {FORMAT}; fit it again")
        groups = [Group(item["name"], item["height"], item["width"], tuple(item["layers"])) for item in value["groups"]]
        shapes = {name: (shape[0], shape[1]) for name, shape in value["shapes"].items()}
        return cls(**(value | {"groups": groups, "shapes": shapes}))


@dataclass
class FittedModel:
    """A model's folder, its spec and its weights."""

    folder: Path
    spec: ModelSpec
    weights: ReadoutWeights

    @classmethod
    def load(cls, folder: Path) -> FittedModel:
        """Read a model.

        Raises
        ------
        BoldreamsError
            If the folder holds no model.
        MismatchError
            If the weights are not those that the spec belongs to.
        """
        if not (folder / "spec.json").is_file():
            raise BoldreamsError(f"{folder} holds no fitted model (no spec.json); --model takes a folder made by fit")
        spec = ModelSpec.from_dict(read_json(folder / "spec.json"), folder / "spec.json")
        path = folder / "weights.safetensors"
        if not path.is_file() or digest(path) != spec.weights_digest:
            raise MismatchError(f"{path} is not the file that spec.json belongs to; fit the model again")
        return cls(folder, spec, ReadoutWeights.load(path))

    def save(self) -> None:
        """Write weights, then the spec that names their digest: without it the folder is no model."""
        path = self.folder / "weights.safetensors"
        self.weights.save(path)
        self.spec.weights_digest = digest(path)
        self.spec.versions = versions()
        write_json(self.folder / "spec.json", self.spec.to_dict())


def versions() -> dict[str, str]:
    """Of what decides the numbers."""
    return {
        "boldreams": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }
