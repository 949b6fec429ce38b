"""Tensors on their way between host and device, beside what the device computes and without waiting for it.

A plain copy to a GPU waits until all that was asked of the GPU before is done; a loop with one copy in each step never
gives it more than one step of work at a time. On a CPU nothing moves, and nothing here does anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T")
Tensors = TypeVar("Tensors", bound=tuple[Tensor, ...])


def sent(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device: from pinned memory, so that nothing waits. One that is there stays as it is.

    Raises
    ------
    RuntimeError
        While a CUDA graph is recorded, which would copy from the same place again when it holds something else.
    """
    if device.type != "cuda" or values.is_cuda:
        return values.to(device)
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError("a copy from the host cannot be recorded")
    return values.pin_memory().to(device, non_blocking=True)


def landing(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A place on the host, not filled, to copy a device's tensors to (``copy_(..., non_blocking=True)``) or to send."""
    return torch.empty(tuple(shape), dtype=dtype, pin_memory=device.type == "cuda")


def in_threads(do: Callable[[T], None], items: Sequence[T], threads: int) -> None:
    """Do something with each item, several at a time.

    The first is done by itself: whatever is done once, as comparing a store's files with what its ledger says of them,
    is not done by each thread.

    Parameters
    ----------
    do : called with each item; writes to places of that item alone.
    items : in any order.
    threads : at most; no more than torch has here, so that what runs side by side shares the cores.
    """
    for item in items[:1]:
        do(item)
    with ThreadPoolExecutor(min(threads, torch.get_num_threads())) as pool:
        for _ in pool.map(do, items[1:]):
            pass


def read_ahead(
    read: Callable[[T], Tensors], order: Sequence[T], device: torch.device, ahead: int = 1
) -> Iterator[Tensors]:
    """Yield what is read of each item, on the device; the next ones are read and sent while one is used.

    Parameters
    ----------
    read : gives tensors of the host; called in another thread, in order.
    order : items.
    device : to send to, in a stream of its own.
    ahead : items that are read before they are asked for.
    """
    copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def load(item: T) -> tuple[Tensors, torch.cuda.Event | None]:
        tensors = read(item)
        if copies is None:
            return tensors, None
        with torch.cuda.stream(copies):
            there = tuple(sent(tensor, device) for tensor in tensors)
            return cast(Tensors, there), copies.record_event()

    with ThreadPoolExecutor(1) as reader:
        coming: deque[Future[tuple[Tensors, torch.cuda.Event | None]]] = deque()
        for position in range(len(order)):
            for item in order[position + len(coming) : position + ahead + 1]:
                coming.append(reader.submit(load, item))
            tensors, arrived = coming.popleft().result()
            if arrived is not None:
                stream = torch.cuda.current_stream(device)
                stream.wait_event(arrived)
                for tensor in tensors:
                    tensor.record_stream(stream)  # its memory is not taken for another copy before it was used
            yield tensors
