"""What a backbone is: an entry that says all there is to know about it, and its maps of images.

To add a library of networks, see `features/backbones/libraries`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from boldreams_cli.console import ChoiceError, listing
from boldreams_cli.features.preprocessing import Preprocessing

IMAGENET_CLASSES = 1000
Read = Callable[[nn.Module, Sequence[str], Tensor], dict[str, Tensor]]
"""Network, layers and normalised pixels -> layer -> (images, filters, height, width)."""


@dataclass(frozen=True)
class Entry:
    """All about one backbone.

    Parameters
    ----------
    name : as on the command line.
    source : where architecture and weights come from.
    layers : the paper's name of each readout layer -> its module path in `stages`.
    filters : of each layer, in the same order.
    preprocessing : of its images.
    stages : builds the untrained network; a sequence of named children is cut behind the last layer that is read.
    pretrained : the library's own weights, downloaded or cached by that library.
    batch_size : the fastest on a CPU, by measurement.
    dream : the authors' settings for dreams (steps, rate, range of scales).
    classifier : builds the whole untrained network, where it was trained on ImageNet's classes.
    renamed : brings a published file's names under the network's own; leaves those that it does not know.
    idle : modules whose parameters decide no map: the head that a network was trained with, which a file may lack.
    reads : ``images``, or ``captions`` of them: a text tower, which `features.text` builds.
    cut : (network, layers) -> the network that gives these layers' maps; None where `stages` does.
    read : how maps come out of the network; None where each layer's module gives them.
    other_layer : the canonical name of a layer that is not in `layers`; raises ChoiceError where there is no such.
    shapes : (height, width) of each layer's maps, where they are known beforehand.
    library : name and version of what builds the network, for the fingerprint of a store; the paper's have none, as
        their layers are few and tested.
    """

    name: str
    source: str
    layers: Mapping[str, str]
    filters: tuple[int, ...]
    preprocessing: Preprocessing
    stages: Callable[[], nn.Module]
    pretrained: Callable[[], dict[str, Tensor]]
    batch_size: int
    dream: Mapping[str, Any]
    classifier: Callable[[], nn.Module] | None = None
    renamed: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    idle: tuple[str, ...] = ()
    reads: str = "images"
    cut: Callable[[nn.Module, Sequence[str]], nn.Module] | None = None
    read: Read | None = None
    other_layer: Callable[[str], str] | None = None
    shapes: tuple[tuple[int, int], ...] = ()
    library: str = ""

    def layer(self, name: str) -> str:
        """Give the canonical name of a layer, from that name or its module path in the library.

        Raises
        ------
        ChoiceError
            If the backbone has no such readout layer.
        """
        for known, path in self.layers.items():
            if name.removeprefix("visual.") in (known, path):
                return known
        if self.other_layer is not None:
            return self.other_layer(name)
        raise ChoiceError(f"{self.name} has no readout layer {name!r}; its layers: {listing(self.layers)}")


class Backbone(nn.Module):
    """What computes maps: of images, or of their captions.

    Attributes
    ----------
    entry : which one.
    network : its modules, with weights.
    layers : canonical names of the layers that are read, in order.
    digest : SHA-256 of the weights in use.
    weights : what was asked for: ``pretrained``, ``random:SEED`` or a path.
    """

    def __init__(self, entry: Entry, network: nn.Module, layers: Iterable[str], digest: str, weights: str) -> None:
        super().__init__()
        self.entry, self.network, self.digest, self.weights = entry, network, digest, weights
        self.layers = tuple(layers)
        self.rectified = False

    def reading(self) -> dict[str, Any]:
        """What turns an image into maps beside the weights, for the fingerprint of a store and the spec of a model."""
        more = {"library": self.entry.library, "map": "rectified" if self.rectified else ""}
        return self.entry.preprocessing.to_dict() | {key: value for key, value in more.items() if value}

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.parameters()).device

    def maps_of(self, images: Tensor) -> dict[str, Tensor]:
        """Layer -> (images, filters, height, width) of stimuli, moved to this backbone's device."""
        return self.maps_of_ready(self.ready(images))

    def ready(self, images: Tensor) -> Tensor:
        """What is done to stimuli on the host, before they are moved."""
        return images

    def maps_of_ready(self, images: Tensor) -> dict[str, Tensor]:
        """Maps of what `ready` gave."""
        return self(images.to(self.device))


class ImageBackbone(Backbone):
    """An image network up to its last readout layer and no further."""

    def __init__(self, entry: Entry, network: nn.Module, layers: Iterable[str], digest: str, weights: str) -> None:
        super().__init__(entry, network, layers, digest, weights)
        self._maps: dict[tuple[int, str], Tensor] = {}  # of each thread: extraction computes in several
        for name in self.layers if entry.read is None else ():
            network.get_submodule(entry.layers[name]).register_forward_hook(_Keep(name, self._maps))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Compute the maps of images.

        Parameters
        ----------
        pixels : (images, 3, H, W) in [0, 1]; resized where H, W are not the input size.

        Returns
        -------
        Layer -> (images, filters, height, width), in the order of `layers`.
        """
        # Convolutions on the CPU are up to 1.6 times faster with channels last (make bench).
        pixels = self.entry.preprocessing.normalise(pixels).contiguous(memory_format=torch.channels_last)
        if self.entry.read is not None:
            maps = self.entry.read(self.network, self.layers, pixels)
        else:
            self.network(pixels)
            maps = {name: self._maps.pop((get_ident(), name)) for name in self.layers}
        return {name: value.relu() for name, value in maps.items()} if self.rectified else maps

    def ready(self, images: Tensor) -> Tensor:
        """(images, height, width, 3) uint8 stimuli -> (images, 3, size, size) uint8."""
        return self.entry.preprocessing.resize(images)

    def maps_of_ready(self, images: Tensor) -> dict[str, Tensor]:
        """Maps of (images, 3, size, size) uint8 pixels."""
        return self(images.to(self.device).float() / 255)


class _Keep:
    """A hook that keeps a layer's output in a dictionary; both are copied with the network that they belong to."""

    def __init__(self, name: str, maps: dict[tuple[int, str], Tensor]) -> None:
        self.name, self.maps = name, maps

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        # Not a copy, which would cost time: nothing overwrites it, as loading.py makes no rectifier in-place.
        self.maps[get_ident(), self.name] = output


def children_of(model: nn.Module, without: tuple[str, ...]) -> nn.Sequential:
    """The model's children as a sequence under their own names; they must run in the order they are listed."""
    sequence = nn.Sequential()
    for name, child in model.named_children():
        if name not in without:
            sequence.add_module(name, child)
    return sequence


def same(*names: str) -> dict[str, str]:
    """Layers whose names are their modules' paths."""
    return {name: name for name in names}


def interpolation(name: str) -> str:
    """A library's name of how images are resized, as torch has it; bilinear where torch has no such."""
    return name if name in ("bilinear", "bicubic") else "bilinear"
