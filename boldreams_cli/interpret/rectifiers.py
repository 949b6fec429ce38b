"""Gradients to silent units: what a closed rectifier holds back leaks through, values stay as they are.

Noise may leave a filter silent, and then without any gradient to wake it. Lucid and lucent redirect gradients for the
same reason, in their first steps, through ReLU and ReLU6. Here every rectifier with a dead zone counts, whether a
network calls it as a module or as a function: below its zone, and above it where there is an end, its output is
constant, or (GELU, SiLU, Mish, Hardswish) falls, so that the gradient would lead further into silence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

LEAK = 0.01
LOWEST = -0.4  # no rectified map goes below: Hardswish reaches -0.375, Mish -0.309, SiLU -0.279, GELU -0.170
Zone = tuple[float, float]
# Where each is open: between these it rises. Ends are the activations' minima.
OPEN: dict[Callable[..., Any], Zone] = {
    functional.relu: (0.0, math.inf),
    torch.relu: (0.0, math.inf),
    Tensor.relu: (0.0, math.inf),
    torch.relu_: (0.0, math.inf),
    Tensor.relu_: (0.0, math.inf),
    functional.relu6: (0.0, 6.0),
    functional.hardswish: (-1.5, math.inf),
    functional.hardsigmoid: (-3.0, 3.0),
    functional.gelu: (-0.7518, math.inf),
    functional.silu: (-1.2785, math.inf),
    functional.mish: (-1.1924, math.inf),
}


class Leaking(TorchFunctionMode):
    """While this is entered, closed rectifiers pass on LEAK of the gradient in place of their own."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`; of a rectifier, redirect the gradient where it is closed."""
        named = kwargs or {}
        zone = _open(func, args, named)
        if zone is None or not args[0].requires_grad:
            return func(*args, **named)
        value = args[0].clone() if _in_place(func, args, named) else args[0]
        output = func(*args, **named)
        closed = (value <= zone[0]) | (value >= zone[1])
        return torch.where(closed, output.detach() + LEAK * (value - value.detach()), output)


def rectified(maps: Tensor) -> bool:
    """Whether maps look like a rectifier's, pooled or not, so that what is not above 0 is silent."""
    return bool(maps.detach().amin() >= LOWEST)


def _open(func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Zone | None:
    """Where a function is open, if it is a rectifier."""
    if func is functional.hardtanh:
        low, high = (float(args[i] if len(args) > i else named.get(n, d)) for i, n, d in _HARDTANH)
        return low, high
    if func is functional.threshold:
        return float(args[1] if len(args) > 1 else named["threshold"]), math.inf
    return OPEN.get(func)


_HARDTANH = ((1, "min_val", -1.0), (2, "max_val", 1.0))


def _in_place(func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> bool:
    """Whether the input is overwritten."""
    said = bool(named.get("inplace")) or any(argument is True for argument in args[1:])
    return said or func in (torch.relu_, Tensor.relu_)
