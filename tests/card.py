"""A GPU for tests: the machine's own where there is one, else one made of the host's memory.

That one computes right, refuses to mix with the host, and notes what waits for it: it shows what a GPU would do with
the code. Its tensors say that they are on ``cuda:0``. An operation on tensors of both kinds fails, as it does on a GPU.
And whatever makes the host wait until the GPU has done all that was asked of it is noted: reading a number, a copy
either way that is not ``non_blocking``, choosing by a mask, an index of the host's, looking whether a decomposition
worked. It cannot show speed, streams, rounding or memory.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from boldreams_cli import transfers
from boldreams_cli.interpret.dreams.ascent import replay
from boldreams_cli.machine import set_products

CARD = torch.device("cuda", 0)
SYNCHRONIZING = "called a synchronizing CUDA operation"
READING = {
    "_local_scalar_dense": "a number",
    **dict.fromkeys(("_linalg_check_errors", "_linalg_eigh"), "whether a decomposition worked"),
    "equal": "whether tensors are equal",
    **dict.fromkeys(("nonzero", "masked_select", "_unique2", "unique_dim", "bincount"), "places of values"),
}


class OnCard(Tensor):
    """A tensor on the card; `held` has its values.

    To torch's own C++ it is one of the host's, which needs no GPU for gradients; to Python, and to what it is computed
    with, it is on the card.
    """

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    device = property(lambda self: CARD)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> OnCard:
        made = torch.Tensor._make_wrapper_subclass(cls, held.shape, strides=held.stride(), dtype=held.dtype)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert Card.now is not None, "the card was taken away"
        return Card.now.run(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnCard({self.held!r})"

    def cpu(self) -> Tensor:  # type: ignore[override]
        return torch.ops.aten._to_copy(self, device=torch.device("cpu"))

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"a tensor of {CARD} is no array of the host's")
        return self.detach().cpu().numpy()

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()


def _to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to`, which knows the card."""
    if args and isinstance(args[0], Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    if not isinstance(self, OnCard):
        return torch._C.TensorBase.to(self, *args, **kwargs)
    copy = kwargs.pop("copy", False)
    device, dtype, non_blocking, form = torch._C._nn._parse_to(*args, **kwargs)
    stays = device is None or device.type == "cuda"
    if stays and not copy and dtype in (None, self.dtype) and form is None:
        return self
    where = {} if stays else {"device": device}
    return torch.ops.aten._to_copy(self, dtype=dtype, non_blocking=non_blocking, memory_format=form, **where)


def _grouped(tensors: Any, with_indices: bool = False) -> Any:
    """What optimizers group tensors by, with the card's device."""
    found = _group_by_device(tensors, with_indices)
    onto = any(isinstance(tensor, OnCard) for some in tensors for tensor in some)
    return {(CARD if onto else device, dtype): group for (device, dtype), group in found.items()}


_group_by_device = torch._C._group_tensors_by_device_and_dtype


class Card(TorchDispatchMode):
    """While this is entered there is a card.

    Attributes
    ----------
    waits : what the host has waited for.
    free : bytes of its memory.
    """

    now: Card | None = None

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.free = 10**10

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Compute on the host what the card was asked for."""
        name, kwargs = func.overloadpacket.__name__, dict(kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [tensor for tensor in tensors if isinstance(tensor, OnCard)]
        kwargs.pop("pin_memory", None)
        device = kwargs.get("device")
        if device is not None:
            device = torch.device(device)
            kwargs["device"] = torch.device("cpu") if device.type == "cuda" else device
        onto = bool(there) if device is None else device.type == "cuda"
        onto = onto or (bool(there) and name != "_to_copy")  # torch's C++ makes tensors where it takes others to be
        if not there and not onto:
            return func(*args, **kwargs)
        if name in ("_to_copy", "copy_"):
            self._copying(name, args, kwargs, onto)
        else:
            self._looking(name, args, tensors, there)
        known = {id(tensor.held): tensor for tensor in there}
        found = func(*tree_map(held, args), **tree_map(held, kwargs))
        if torch.Tag.inplace_view in func.tags:  # such as squeeze_, which changes what C++ knows of the tensor itself
            with no_dispatch():
                func(*args, **kwargs)
        if not onto:
            return found

        def back(value: Any) -> Any:
            """The tensor of the card that was asked for, or a new one."""
            if not isinstance(value, Tensor) or any(value is tensor for tensor in tensors):
                return value  # written to on the host
            # What C++ knows of a tensor has no bit for conjugates.
            return known[id(value)] if id(value) in known else OnCard(value.resolve_conj().resolve_neg())

        return tree_map(back, found)

    def _copying(self, name: str, args: Any, kwargs: dict[str, Any], onto: bool) -> None:
        """Note a copy from or to the host that waits."""
        source, target = (args[0], onto) if name == "_to_copy" else (args[1], isinstance(args[0], OnCard))
        unawaited = kwargs.get("non_blocking", False) or (name == "copy_" and len(args) > 2 and args[2])
        if isinstance(source, OnCard) != target and not unawaited:
            self.waits.append("a copy to the card" if target else "a copy from the card")

    def _looking(self, name: str, args: Any, tensors: list[Tensor], there: list[OnCard]) -> None:
        """Refuse tensors of both kinds; note what is looked at."""
        if name in READING and there:
            self.waits.append(READING[name])
        indices: list[Tensor] = []
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            indices = [index for index in args[1] if index is not None]
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                self.waits.append("a mask")
            if isinstance(args[0], OnCard):
                if any(not isinstance(index, OnCard) for index in indices):
                    self.waits.append("an index of the host's")
                tensors = [tensor for tensor in tensors if not any(tensor is index for index in indices)]
        if there and (mixed := [t for t in tensors if not isinstance(t, OnCard) and t.dim()]):
            shapes = [tuple(tensor.shape) for tensor in mixed]
            raise RuntimeError(f"{name}: tensors on the card, and on the host of shapes {shapes}")


def held(value: Any) -> Any:
    """What a tensor of the card holds; anything else as it is."""
    return value.held if isinstance(value, OnCard) else value


class _Stream:
    """Stands for a stream and its events: all is done at once."""

    def __init__(self, device: object = None) -> None:
        pass

    def record_event(self) -> _Stream:
        return self

    def wait_event(self, event: _Stream) -> None:
        pass

    def synchronize(self) -> None:
        pass


class _AtOnce:
    """Stands for a thread: the card is in the test's own thread only."""

    def __init__(self, threads: int) -> None:
        pass

    def __enter__(self) -> _AtOnce:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(call(*arguments))
        return done

    def map(self, call: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
        return map(call, items)


class RealCard:
    """The GPU of this machine, as `Card` is seen by tests; torch says what waits for it (CUDA's sync debug mode)."""

    def __init__(self) -> None:
        self.waits: list[str] = []
        self.free = 10**10


@contextmanager
def a_real_card() -> Iterator[RealCard]:
    """The machine's GPU for the time of the block, computing in IEEE's float32 as under every command."""
    found, before, real = RealCard(), set_products(["ieee"] * 2), warnings.showwarning

    def show(said: Warning | str, *more: Any, **most: Any) -> None:
        if SYNCHRONIZING in str(said):
            found.waits.append(str(said))
        else:
            real(said, *more, **most)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("always", SYNCHRONIZING)
        patch.setattr(warnings, "showwarning", show)
        patch.setattr(torch.cuda, "mem_get_info", lambda device=None: (found.free, found.free))
        for name in ("memory_reserved", "memory_allocated"):
            patch.setattr(torch.cuda, name, lambda device=None: 0)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
            set_products(before)


@contextmanager
def a_card() -> Iterator[Card | RealCard]:
    """A card for the time of the block."""
    with a_real_card() if torch.cuda.is_available() else a_made_up_card() as card:
        yield card


@contextmanager
def a_made_up_card() -> Iterator[Card]:
    """One made of the host's memory."""
    mode = Card()
    lifts, overwrites = torch._C._only_lift_cpu_tensors(), torch.__future__.get_overwrite_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Card, "now", mode)
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "mem_get_info", lambda device=None: (mode.free, mode.free))
        for name in ("memory_reserved", "memory_allocated"):
            patch.setattr(torch.cuda, name, lambda device=None: 0)
        patch.setattr(torch.cuda, "Stream", _Stream)
        patch.setattr(torch.cuda, "current_stream", _Stream)
        patch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
        patch.setattr(replay, "WARM", sys.maxsize)  # it has no graphs
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        patch.setattr(torch, "inference_mode", torch.no_grad)  # in which nothing of the card could be written to
        patch.setattr(torch.Tensor, "to", _to)
        patch.setattr(torch._C, "_group_tensors_by_device_and_dtype", _grouped)
        patch.setattr(torch.Tensor, "pin_memory", lambda self: self)
        patch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
        patch.setattr(transfers, "ThreadPoolExecutor", _AtOnce)
        torch._C._set_only_lift_cpu_tensors(True)
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # weights become tensors of the card
        try:
            with mode:
                yield mode
        finally:
            torch._C._set_only_lift_cpu_tensors(lifts)
            torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
