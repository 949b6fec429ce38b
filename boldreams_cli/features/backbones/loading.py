"""Builds a backbone with weights, cut behind the last layer that is read (paper, section 2.2)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from boldreams_cli.console import ChoiceError, listing, meant
from boldreams_cli.features import weights as weight_files
from boldreams_cli.features.backbones import open_clip, timm, torchvision
from boldreams_cli.features.backbones.entry import Entry, ImageBackbone
from boldreams_cli.features.backbones.frozen import hasten

BACKBONES = {item.name: item for library in (torchvision, open_clip, timm) for item in library.ENTRIES}


def entry(name: str) -> Entry:
    """Look a backbone up.

    Raises
    ------
    ChoiceError
        If there is none of that name.
    """
    if name not in BACKBONES:
        near = meant(name, BACKBONES)
        raise ChoiceError(f"unknown backbone {name!r}{near}; choose from {listing(BACKBONES)} (--backbone)")
    return BACKBONES[name]


def load(
    name: str,
    weights: str = "pretrained",
    seed: int = 0,
    layers: Iterable[str] | None = None,
    trainable: bool = False,
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
    names = [layer for layer in chosen.layers if layer in names]  # the network's own order
    weights, seed = weight_files.asked(weights, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _up_to(chosen.stages(), [chosen.layers[layer] for layer in names])
    state, said = weight_files.find(chosen.name, chosen.source, chosen.pretrained, weights, seed)
    if state is not None:
        network.load_state_dict(weight_files.match(network.state_dict(), chosen.renamed(state), said))
    weight_digest = weight_files.digest(network.state_dict())
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # an in-place ReLU would overwrite a kept map
    network = network.eval().to(memory_format=torch.channels_last)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    if not trainable:
        hasten(network)
    return ImageBackbone(chosen, network, names, weight_digest, said)


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
