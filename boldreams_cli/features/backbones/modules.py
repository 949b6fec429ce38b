"""Maps of any module of a network, which layers to read where the user names none, and whether faster layers fit."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import get_ident

import torch
from torch import Tensor, nn

from boldreams_cli.console import BoldreamsError, ChoiceError, listing, meant
from boldreams_cli.features.backbones.frozen import hasten

Shape = tuple[int, int, int]
BLOCKS = 4  # that are read of a network whose resolution does not change
CLOSE = 1e-3  # relative; faster layers are off by some 1e-6, a norm folded where it does not belong by far more


@contextmanager
def outputs(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Maps of some modules while the network runs within the block, in this thread: others may run it as well.

    Raises
    ------
    ChoiceError
        If one of them gives no maps, or is not run.
    """
    found: dict[str, Tensor] = {}
    owner, declared = get_ident(), declared_format(network)

    def keep(name: str, output: object) -> None:
        if get_ident() != owner:
            return
        found[name] = filters_first(output, name, declared).clone()  # what follows may overwrite it: x += shortcut

    handles = []
    for name in names:
        module = network.get_submodule(name)
        handles.append(module.register_forward_hook(lambda _m, _i, output, name=name: keep(name, output)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
    if left := [name for name in names if name not in found]:
        raise ChoiceError(
            f"{listing(left)} is not run on the way to the maps, as heads and lists of modules are not; name another "
            "module (--layers)"
        )


def declared_format(network: nn.Module) -> str:
    """How a network lays out its maps: ``NCHW``, ``NHWC``, or "" where it does not say and they may be either."""
    for part in (network, getattr(network, "trunk", None)):  # a tower of open_clip around a network of timm
        said = str(getattr(part, "output_fmt", ""))
        if said in ("NCHW", "NHWC"):
            return said
    return "" if any(isinstance(module, nn.LayerNorm) for module in network.modules()) else "NCHW"


def filters_first(value: object, name: str, declared: str) -> Tensor:
    """(images, filters, height, width) of what a module gives, which may have its filters last.

    Images are square, and so are their maps: by that it is told, as networks with filters last mix both.

    Parameters
    ----------
    value : (images, filters, height, width) or (images, height, width, filters); anything else is refused.
    name : of the module.
    declared : `declared_format` of its network, for what cannot be told by its shape.

    Raises
    ------
    ChoiceError
        If it cannot be told, or these are no maps.
    """
    if not isinstance(value, Tensor) or value.ndim != 4:
        shape = tuple(value.shape[1:]) if isinstance(value, Tensor) else type(value).__name__
        raise ChoiceError(f"{name} gives no maps, but {shape}; name a module that gives (filters, height, width)")
    first, second, third = value.shape[1:]
    if first == second != third:
        return value.permute(0, 3, 1, 2)
    if second == third != first or declared == "NCHW":
        return value
    if declared == "NHWC":
        return value.permute(0, 3, 1, 2)
    raise ChoiceError(
        f"{name} gives {(first, second, third)}, of which it cannot be told which are filters, height and width; name "
        "another module (--layers)"
    )


def a_module(network: nn.Module, backbone: str, name: str, known: Iterable[str]) -> str:
    """`name`, if it is that of a module.

    Raises
    ------
    ChoiceError
        If there is no such module.
    """
    paths = [path for path, _ in network.named_modules() if path]
    if name not in paths:
        near = meant(name, paths)
        raise ChoiceError(
            f"{backbone} has no module {name!r}{near}; by default it reads {listing(known)}. Any module that gives "
            "maps can be named (--layers)"
        )
    return name


def default_layers(shapes: Mapping[str, Shape]) -> list[str]:
    """The last layer of each resolution; of a network that has one or two, four evenly spaced ones.

    Parameters
    ----------
    shapes : candidate -> (filters, height, width), in the network's order.
    """
    names = list(shapes)
    last = {shapes[name][1:]: name for name in names}
    if len(last) > 2:
        return [name for name in names if name in last.values()]
    count = min(BLOCKS, len(names))
    return [names[round((index + 1) * len(names) / count) - 1] for index in range(count)]


def hastened(network: nn.Module, read: object, pixels: Tensor) -> nn.Module:
    """The network with faster equals of its layers, where these give the same maps; else as it is.

    Parameters
    ----------
    network : in evaluation mode; its weights no longer change.
    read : (network, pixels) -> maps.
    pixels : to compare on.
    """
    assert callable(read)
    faster = copy.deepcopy(network)
    try:
        hasten(faster)
        with torch.inference_mode():
            before, after = read(network, pixels), read(faster, pixels)
    except (BoldreamsError, RuntimeError, ValueError, TypeError, AttributeError):
        return network
    same = all((after[name] - maps).abs().max() <= CLOSE * maps.abs().max() for name, maps in before.items())
    return faster if same else network


def tokens_to_maps(tokens: Tensor, prefix: int) -> Tensor:
    """(images, prefix + side², filters) -> (images, filters, side, side), without the class tokens.

    Raises
    ------
    ChoiceError
        If the rest is no square.
    """
    images, count, filters = tokens.shape
    side = round((count - prefix) ** 0.5)
    if side**2 != count - prefix:
        raise ChoiceError(f"{count - prefix} tokens make no square map")
    return tokens[:, prefix:].transpose(1, 2).reshape(images, filters, side, side)


def joined_prefix(tokens: Sequence[Tensor]) -> Tensor:
    """Class and register tokens, (images, n, filters) each, as one layer of one pixel: (images, filters, 1, 1)."""
    return torch.cat([value.flatten(1) for value in tokens], 1)[:, :, None, None]
