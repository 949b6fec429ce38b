"""Readout layers of torchvision's models, found in their graphs: the last rectifier or sum of each resolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.fx import Node
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from boldreams_cli.console import ChoiceError, meant
from boldreams_cli.features.backbones.modules import (
    Shape,
    declared_format,
    default_layers,
    filters_first,
    tokens_to_maps,
)

RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.GELU)
JOINS = ("relu", "add", "cat")  # operations, as nodes are called: a rectifier, a sum, or rectified branches together
TOKENS_OF = 3  # dimensions of (images, tokens, filters)


def shapes_of(network: nn.Module, size: int) -> dict[str, Shape]:
    """Candidate layers -> (filters, height, width), in the graph's order; sees no images.

    Parameters
    ----------
    network : in evaluation mode, on any device.
    size : of its input.
    """
    nodes = get_graph_node_names(network)[1]
    candidates = [node for node in nodes if _is_candidate(network, node)]
    pixels = torch.zeros(1, 3, size, size, device=next(network.parameters()).device)
    extractor = create_feature_extractor(network, return_nodes=candidates)
    with torch.no_grad():
        given = extractor(pixels)
    learned = _learned(extractor)
    given = {name: value for name, value in given.items() if name in learned}
    maps = {name: value for name, value in given.items() if value.ndim == 4 and _is_map(network, value)}
    shapes = {name: _shape(to_maps(network, name, value)) for name, value in maps.items()}
    if shapes:
        return shapes
    tokens = {name: value for name, value in given.items() if value.ndim == TOKENS_OF and _last(name, given)}
    return {name: _shape(to_maps(network, name, value)) for name, value in tokens.items()}


def _is_candidate(network: nn.Module, node: str) -> bool:
    if node.rpartition(".")[2].rstrip("0123456789").rstrip("_") in JOINS:
        return True
    try:
        return isinstance(network.get_submodule(node), RECTIFIERS)
    except AttributeError:
        return False


def _learned(extractor: nn.Module) -> list[str]:
    """Nodes that weights had a part in: GoogLeNet and Inception first rescale the colours, and join them again."""
    learned: set[Node] = set()
    for node in extractor.eval_graph.nodes:  # type: ignore[union-attr]
        own = node.op == "call_module" and any(True for _ in extractor.get_submodule(node.target).parameters())
        if own or node.op == "get_attr" or any(source in learned for source in node.all_input_nodes):
            learned.add(node)
    (given,) = next(node for node in extractor.eval_graph.nodes if node.op == "output").args  # type: ignore[union-attr]
    return [name for name, node in given.items() if node in learned]


def _is_map(network: nn.Module, value: Tensor) -> bool:
    """Whether a node gives maps as most of its network's do: those laid out otherwise are parts of blocks."""
    height, width = value.shape[1:3] if _format(network) == "NHWC" else value.shape[2:]
    return height == width and height > 1


def _format(network: nn.Module) -> str:
    # By the class's name, as a graph made of the network keeps it.
    return "NHWC" if "Swin" in type(network).__name__ else declared_format(network)


def _last(name: str, nodes: Mapping[str, Tensor]) -> bool:
    """Whether a node is the last of its block, so that each block of a transformer counts once."""
    block = name.rpartition(".")[0]
    return [node for node in nodes if node.rpartition(".")[0] == block][-1] == name


def _shape(maps: Tensor) -> Shape:
    return (maps.shape[1], maps.shape[2], maps.shape[3])


def to_maps(network: nn.Module, name: str, value: object) -> Tensor:
    """What a node gives, as (images, filters, height, width).

    Raises
    ------
    ChoiceError
        If these are no maps.
    """
    if isinstance(value, Tensor) and value.ndim == TOKENS_OF:
        return tokens_to_maps(value, 1)
    return filters_first(value, name, _format(network))


def layers_of(shapes: Mapping[str, Shape]) -> list[str]:
    """Those that are read where the user names none: before each drop in resolution the last."""
    order = list(shapes)
    heights = [shapes[name][1] for name in order]
    falling = {}
    for index, name in enumerate(order):
        if all(height <= heights[index] for height in heights[index:]):  # branches aside, nothing larger comes later
            falling[name] = shapes[name]
    return default_layers(falling)


def a_node(network: nn.Module, backbone: str, name: str, size: int) -> str:
    """`name`, if the graph has such a node and it gives maps.

    Raises
    ------
    ChoiceError
        If it has none, or it does not.
    """
    nodes = get_graph_node_names(network)[1]
    if name not in nodes:
        raise ChoiceError(f"{backbone} has no node {name!r}{meant(name, nodes)} in its graph (--layers)")
    pixels = torch.zeros(1, 3, size, size, device=next(network.parameters()).device)
    with torch.no_grad():
        to_maps(network, name, create_feature_extractor(network, return_nodes=[name])(pixels)[name])
    return name


def graph_of(network: nn.Module, layers: Sequence[str]) -> nn.Module:
    """The network up to its last layer, giving copies of layer -> maps; parameters keep their names."""
    cut = create_feature_extractor(network, return_nodes=list(layers))
    for graph in (cut.train_graph, cut.eval_graph):
        end = next(node for node in graph.nodes if node.op == "output")
        copies = {}
        for name, node in end.args[0].items():
            with graph.inserting_after(node):  # what follows may overwrite it: F.relu(x, inplace=True)
                copies[name] = graph.call_function(torch.clone, (node,))
        end.args = (copies,)
    cut.recompile()
    return cut
