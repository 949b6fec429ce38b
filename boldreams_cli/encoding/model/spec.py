"""What a fitted model is, on disk: all that is needed to rebuild it (cache/README.md, "models")."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boldreams_cli import __version__
from boldreams_cli.console import BoldreamsError, MismatchError, logger
from boldreams_cli.data.subjects import Subject
from boldreams_cli.encoding.inputs.layout import Group
from boldreams_cli.encoding.model.weights import ReadoutWeights
from boldreams_cli.files import digest, fingerprint, read_json, write_json

FORMAT = 2
READABLE = (1, 2)
WEIGHTS = "weights.safetensors"
BACKBONE = "backbone.safetensors"  # of a finetuned model, beside its spec


@dataclass
class ModelSpec:
    """Everything about a model but its weights.

    Parameters
    ----------
    subject : number or name.
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
    edition : of the store, where some of its maps were made anew of other stimuli than at first.
    voxels : number of voxels, those excluded from training included.
    training : settings that decide the weights.
    recipe : which of the solvers of that kind of readout, None where there is one.
    key : hash of all that decides the weights; its first digits are in the folder's name. Empty in format 1.
    sessions, mask : of the responses.
    weights_digest : SHA-256 of ``weights.safetensors``.
    versions : of the software.
    """

    subject: Subject
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
    recipe: str | None = None
    key: str = ""
    sessions: list[int] = field(default_factory=list)
    mask: Any = None
    edition: str = ""
    weights_digest: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def filters(self, group: Group) -> int:
        """K: filters that are read from a group's layers."""
        return sum(len(self.layers[name]) for name in group.layers)

    @property
    def compress(self) -> str:
        """What becomes of each map value before it is read (numerics/compression.py)."""
        return str(self.training.get("compress", "none"))

    def to_dict(self) -> dict[str, Any]:
        """For ``spec.json``."""
        known = asdict(self)
        if not self.edition:  # of most models: their keys and files are as they were before there were editions
            del known["edition"]
        return known

    @classmethod
    def from_dict(cls, value: dict[str, Any], path: Path) -> ModelSpec:
        """Read ``spec.json``; MismatchError if this version cannot."""
        if value.get("format") not in READABLE:
            raise MismatchError(f"{path} has format {value.get('format')}, this version reads {FORMAT}; fit it again")
        if value["format"] == 1:
            value = value | {"recipe": old_recipe(value)}
        groups = [Group(item["name"], item["height"], item["width"], tuple(item["layers"])) for item in value["groups"]]
        shapes = {name: (shape[0], shape[1]) for name, shape in value["shapes"].items()}
        return cls(**(value | {"groups": groups, "shapes": shapes}))


def old_recipe(spec: dict[str, Any]) -> str | None:
    """The recipe in a ``spec.json`` of format 1, where it was a setting."""
    recipe: str | None = spec.get("training", {}).get("recipe", "paper")
    return recipe if spec.get("readout") in ("separable", "linear") else None


def with_key(spec: ModelSpec) -> ModelSpec:
    """Set the key: the hash of all that decides the weights.

    The device is not in it, though a GPU's sums differ in the last bits: it is the same model. Nor are memory, threads
    and whatever else only chooses the way.
    """
    decisive = spec.to_dict()
    for name in ("key", "weights_digest", "versions", "format", "sessions", "mask", "voxels"):
        del decisive[name]  # `responses` stands for the sessions and the mask
    decisive["backbone_weights"] = spec.backbone_weights["digest"]
    decisive["training"] = {name: value for name, value in spec.training.items() if name != "device"}
    spec.key = fingerprint(decisive)
    return spec


def is_whole(folder: Path, key: str) -> ModelSpec | None:
    """The spec of the model of that key in a folder; None where it is missing, damaged or of another key."""
    try:
        spec = ModelSpec.from_dict(read_json(folder / "spec.json"), folder / "spec.json")
    except (BoldreamsError, TypeError, KeyError, AttributeError):
        return None
    if not key or spec.key != key:
        return None
    wanted = {WEIGHTS: spec.weights_digest} | ({BACKBONE: None} if spec.finetuned else {})
    for name, known in wanted.items():
        path = folder / name
        if not path.is_file() or (known is not None and digest(path) != known):
            logger.warning("%s is not the file that spec.json belongs to; the model is made again", path)
            return None
    return spec


class FittedModel:
    """A model's folder, its spec and its weights.

    Parameters
    ----------
    folder : that holds it.
    spec : of it.
    weights : None reads them from the folder when they are first asked for.
    """

    def __init__(self, folder: Path, spec: ModelSpec, weights: ReadoutWeights | None = None) -> None:
        self.folder, self.spec, self._weights = folder, spec, weights

    @property
    def weights(self) -> ReadoutWeights:
        """The trained numbers."""
        if self._weights is None:
            self._weights = ReadoutWeights.load(self.folder / WEIGHTS)
        return self._weights

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
        path = folder / WEIGHTS
        if not path.is_file() or digest(path) != spec.weights_digest:
            raise MismatchError(f"{path} is not the file that spec.json belongs to; fit the model again")
        return cls(folder, spec, ReadoutWeights.load(path))

    def save(self) -> None:
        """Write weights, then the spec that names their digest: without it the folder is no model."""
        self.weights.save(self.folder / WEIGHTS)
        self.save_spec()

    def save_spec(self) -> None:
        """Write the spec of the weights that are in the folder."""
        self.spec.weights_digest = digest(self.folder / WEIGHTS)
        self.spec.versions, self.spec.format = versions(), FORMAT
        write_json(self.folder / "spec.json", self.spec.to_dict())


def versions() -> dict[str, str]:
    """Of what decides the numbers."""
    return {
        "boldreams": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }
