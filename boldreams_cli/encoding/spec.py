"""What a fitted model is, on disk: all that is needed to rebuild it (cache/README.md, "models")."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from boldreams_cli import __version__
from boldreams_cli.console import BoldreamsError, ChoiceError, MismatchError, listing
from boldreams_cli.encoding.readout import GroupReader
from boldreams_cli.files import digest, read_json, write_json, written_whole

FORMAT = 1
BACKBONE = "backbone.safetensors"  # of a finetuned model, beside its spec


@dataclass(frozen=True)
class Group:
    """Layers that share a resolution and hence receptive fields (``--rf layer``: one layer each).

    Parameters
    ----------
    name : ``13x13``, or the layer's name.
    height, width : of the maps, pixels.
    layers : in order.
    """

    name: str
    height: int
    width: int
    layers: tuple[str, ...]

    @property
    def pixels(self) -> int:
        """P."""
        return self.height * self.width


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


def make_groups(shapes: Mapping[str, tuple[int, int]], rf: str) -> list[Group]:
    """Group layers by resolution (``shared``, as published) or give each its own fields (``layer``).

    Raises
    ------
    ChoiceError
        If `rf` is neither.
    """
    if rf == "layer":
        return [Group(name, height, width, (name,)) for name, (height, width) in shapes.items()]
    if rf != "shared":
        raise ChoiceError(f"unknown receptive fields {rf!r}; choose shared or layer (--rf)")
    found: dict[tuple[int, int], list[str]] = {}
    for name, shape in shapes.items():
        found.setdefault(shape, []).append(name)
    return [Group(f"{h}x{w}", h, w, tuple(names)) for (h, w), names in found.items()]


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


def model_folder(
    cache: Path, subject: int, backbone: str, percent: float, finetuned: bool, readout: str = "separable"
) -> Path:
    """Where a model of that kind lies."""
    kind = f"-{readout}" if readout in ("ridge", "gaussian") else ""
    name = f"percent-{percent:g}{kind}" + ("-finetuned" if finetuned else "")
    return cache / "models" / f"subj{subject:02d}" / backbone / name


def find_models(
    cache: Path,
    backbone: str | None = None,
    percent: float | None = None,
    subject: int | None = None,
    finetuned: bool | None = None,
    readout: str | None = None,
) -> list[Path]:
    """Folders of the fitted models that match; None matches any."""
    found = []
    for path in sorted((cache / "models").glob("subj*/*/percent-*/spec.json")):
        folder = path.parent
        if folder.name.endswith(".previous"):
            continue
        spec = read_json(path)
        asked = {"backbone": backbone, "percent": percent, "subject": subject, "finetuned": finetuned}
        asked["readout"] = readout
        if all(value is None or spec.get(key) == value for key, value in asked.items()):
            found.append(folder)
    return found


def the_model(candidates: Iterable[Path], cache: Path) -> Path:
    """The only candidate.

    Raises
    ------
    ChoiceError
        If there is none or more than one; the message lists what there is.
    """
    found = list(candidates)
    if len(found) == 1:
        return found[0]
    if not found:
        there = [str(path.relative_to(cache / "models")) for path in find_models(cache)]
        raise ChoiceError(
            f"no fitted model in {cache} matches; there: {listing(there)}. Run boldreams fit, or choose with "
            "--backbone --percent --subject --finetune --readout or --model DIR"
        )
    names = listing(str(path.relative_to(cache / "models")) for path in found)
    raise ChoiceError(
        f"{len(found)} fitted models match: {names}. Choose with --backbone --percent --subject --finetune "
        "--readout or --model DIR"
    )
