"""Builds a backbone with weights, cut behind the last layer that is read (paper, section 2.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from boldreams_cli.console import ChoiceError, listing, meant
from boldreams_cli.features import weights as weight_files
from boldreams_cli.features.backbones import libraries
from boldreams_cli.features.backbones.entry import Entry, ImageBackbone
from boldreams_cli.features.backbones.frozen import hasten
from boldreams_cli.features.backbones.modules import hastened

LIBRARIES = libraries.load()
NAMED: dict[str, Callable[[str], Entry]] = {name: library.named for name, library in LIBRARIES.items()}
_ENTRIES = [item for library in LIBRARIES.values() for item in library.ENTRIES]
BACKBONES: dict[str, Entry] = {item.name: item for item in sorted(_ENTRIES, key=lambda item: item.name)}


def entry(name: str) -> Entry:
    """Look a backbone up, by its name here or as ``LIBRARY:NAME``.

    Raises
    ------
    ChoiceError
        If there is none of that name.
    """
    library, _, model = name.partition(":")
    if library in NAMED and model:
        return NAMED[library](model)
    if name not in BACKBONES:
        near = meant(name, BACKBONES)
        open_ended = " or ".join(f"{library}:NAME" for library in NAMED)
        known = f"{listing(BACKBONES)}, or {open_ended}"
        raise ChoiceError(f"unknown backbone {name!r}{near}; choose from {known} (--backbone)")
    return BACKBONES[name]


def load(
    name: str,
    weights: str = "pretrained",
    seed: int = 0,
    layers: Iterable[str] | None = None,
    trainable: bool = False,
    rectified: bool = False,
) -> ImageBackbone:
    """Build a backbone with weights, in evaluation mode on the CPU.

    Parameters
    ----------
    name : of the backbone.
    weights : ``pretrained``, ``random``, or the path of a state dict or safetensors file. A file that covers
        only the layers in use is enough.
    seed : of random weights.
    layers : to read (default: all readout layers).
    trainable : keep all parameters as the library has them; else layers are replaced by faster equals.
    rectified : whether maps are max(0, x).

    Raises
    ------
    ChoiceError
        If backbone or layer is unknown, or the backbone reads no images.
    BoldreamsError
        If the weights cannot be had or do not fit.
    """
    chosen = entry(name)
    if chosen.reads != "images":
        raise ChoiceError(f"{name} reads {chosen.reads} and has no pixels to look at; choose another --backbone")
    names = [chosen.layer(layer) for layer in layers] if layers is not None else list(chosen.layers)
    names = [layer for layer in chosen.layers if layer in names] + [n for n in names if n not in chosen.layers]
    weights, seed = weight_files.asked(weights, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = chosen.stages()
        if chosen.cut is not None:
            network = chosen.cut(network.eval(), names)
        elif isinstance(network, nn.Sequential):
            network = _up_to(network, [chosen.layers[layer] for layer in names])
    state, said = weight_files.find(chosen.name, chosen.source, chosen.pretrained, weights, seed)
    if state is not None:
        network.load_state_dict(weight_files.match(network.state_dict(), chosen.renamed(state), said, chosen.idle))
    weight_digest = weight_files.digest(network.state_dict())
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # an in-place ReLU would overwrite a kept map
    network = network.eval().to(memory_format=torch.channels_last)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    if not trainable and chosen.read is None:
        hasten(network)
    elif not trainable:
        network = _hastened(chosen, network, names)
    backbone = ImageBackbone(chosen, network, names, weight_digest, said)
    backbone.rectified = rectified
    return backbone


def _hastened(chosen: Entry, network: nn.Module, names: list[str]) -> nn.Module:
    """Faster equals where they fit, which of a network that was not looked at is tried out."""
    read = chosen.read
    assert read is not None
    size = chosen.preprocessing.size
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    return hastened(network, lambda some, given: read(some, names, given), pixels)


def _up_to(stages: nn.Sequential, paths: list[str]) -> nn.Sequential:
    """Drop the children behind the last one that holds a wanted path, in nested sequences too."""
    children = dict(stages.named_children())
    heads = [path.split(".", 1)[0] for path in paths]
    last = max(list(children).index(head) for head in heads)
    kept = nn.Sequential()
    for index, (key, child) in enumerate(children.items()):
        if index > last:
            break
        inner = [path.split(".", 1)[1] for path in paths if path.startswith(f"{key}.")]
        if index == last and type(child) is nn.Sequential and inner and key not in paths:
            child = _up_to(child, inner)
        kept.add_module(key, child)
    return kept


def shapes(chosen: Entry) -> list[tuple[int, int]]:
    """Height and width of each layer's maps, of the network without weights."""
    network = load(chosen.name, "random", trainable=True)
    size = chosen.preprocessing.size
    with torch.inference_mode():
        maps = network(torch.zeros(1, 3, size, size))
    return [(value.shape[2], value.shape[3]) for value in maps.values()]
