"""A step on a GPU, recorded once as a CUDA graph and played back: it is asked for as a whole, not kernel by kernel.

A dream's step is some 350 kernels, which take an H200 2.5 ms and Python 6.7 ms to ask for (python -m benchmarks.cuda
dream).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM = 3  # calls before it is recorded, in which libraries choose their ways and make their workspaces


class Replay:
    """A function that always does the same with tensors that stay where they are; the same numbers as its calls.

    Nothing in it may wait for the device, take random numbers, or depend on anything but the tensors.

    Parameters
    ----------
    call : takes one tensor of the device, always of one shape, and gives some.
    """

    def __init__(self, call: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        self.call, self.calls = call, 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, value: Tensor) -> tuple[Tensor, ...]:
        """As `call` of it."""
        if self.graph is None:
            if self.calls < WARM:
                self.calls += 1
                return self.call(value)
            self.graph = self._recorded(value)
        self.given.copy_(value)
        self.graph.replay()
        return tuple(found.clone() for found in self.found)  # the next time is written over them

    def _recorded(self, value: Tensor) -> torch.cuda.CUDAGraph:
        """The graph; recording does not compute."""
        self.given = value.clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.found = self.call(self.given)
        return graph
