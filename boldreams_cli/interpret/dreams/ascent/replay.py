"""A step on a GPU, recorded once as a CUDA graph and played back: it is asked for as a whole, not kernel by kernel.

A dream's step is some 350 kernels, which take an H200 2.5 ms and Python 6.7 ms to ask for (python -m benchmarks.cuda
dream).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from boldreams_cli.console import logger
from boldreams_cli.machine import is_out_of_memory

WARM = 3  # calls before it is recorded, in which libraries choose their ways and make their workspaces


class Replay:
    """A function that always does the same with tensors that stay where they are; the same numbers as its calls.

    Nothing in it may wait for the device, take random numbers, or depend on anything but the tensors.

    Parameters
    ----------
    call : takes one tensor of the device, always of one shape, and gives some.
    """

    def __init__(self, call: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        self.call, self.left = call, WARM
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, value: Tensor) -> tuple[Tensor, ...]:
        """As `call` of it."""
        if self.graph is None and self.left == 0:
            self._record(value)
        if self.graph is None:
            self.left -= 1  # below 0 where it cannot be recorded
            return self.call(value)
        self.given.copy_(value)
        self.graph.replay()
        return tuple(found.clone() for found in self.found)  # the next time is written over them

    def _record(self, value: Tensor) -> None:
        """Make the graph, which computes nothing; some networks do what cannot be part of one."""
        self.given, graph = value.clone(), torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.found = self.call(self.given)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            logger.info("steps are taken one by one, as they cannot be recorded: %s", str(error).splitlines()[0])
            torch.cuda.synchronize(value.device)
            return
        self.graph = graph
