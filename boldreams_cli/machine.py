"""What this process takes of the machine: its memory and its cores."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TRIM, MAP, ARENAS = -1, -3, -8  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX of mallopt(3)
LARGEST_KEPT = 64 << 20  # bytes of a block; larger ones go back to the system when freed
KEPT = 512 << 20  # bytes of freed blocks


def keep_freed() -> None:
    """Reuse freed blocks of the size of maps, rather than give them back and have the next step fault them in anew.

    A dream's step of EfficientNet-lite0 takes a tenth less (benchmarks/RESULTS.md). Threads share one heap: blocks of
    this size in heaps of their own go back to the system at once, and what one thread freed no other could take.
    Does nothing without glibc.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # musl has none
        library.mallopt(MAP, LARGEST_KEPT)
        library.mallopt(TRIM, KEPT)
        library.mallopt(ARENAS, 1)


def give_back() -> None:
    """Give freed blocks back to the system, wherever in the heap they lie, when other and larger ones will follow.

    What is freed below a block that stays is kept otherwise: 1.6 GB of a fit's tiles, beside the weights that came
    after them. Does nothing without glibc.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def same_products() -> None:
    """Have MKL's matrix products not depend on the number of threads, to the last bit; before it is first used.

    "Strict conditional numerical reproducibility" in the branch of this processor: as fast as without it (Intel oneMKL
    developer guide, "Obtaining Numerically Reproducible Results"). Without it two threads moved fields by 2e-5.
    MKL does so on Intel's processors alone: on AMD's small products still depend on the number of threads (1e-7).
    """
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute in so many threads of torch's.

    In one, what `same_products` does not cover, as LAPACK's eigenvectors, has the same bits on every machine.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cores() -> int:
    """Cores that this process may use: in a batch job those it was given, not all of the machine."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, CUDA, its libraries or torch's allocator of the CPU ran out; all but Python raise RuntimeErrors.

    By name, because torch may not have been imported.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    signs = ("DefaultCPUAllocator", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


MAPS, VOXELS = 1 / 2, 1 / 3  # of what is free on a GPU; steps take the rest


def room(device: torch.device, memory: int, part: float = 1.0) -> int:
    """Bytes that data may take on the device that computes.

    Parameters
    ----------
    device : that computes.
    memory : of the host that they may take; on a CPU that is all there is to it.
    part : of what is free on a GPU, blocks that torch keeps for later counted in, for this kind of data.
    """
    if device.type != "cuda":
        return memory
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return int(part * (free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)))


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Make CUDA give the same sums every time, those of IEEE's float32."""
    if device.type != "cuda":
        yield
        return
    import torch

    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    try:
        cudnn.benchmark, cudnn.deterministic = False, True
        with float32_products("fp32", device):
            yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before


def set_products(precisions: Sequence[str]) -> list[str]:
    """Have CUDA multiply float32 numbers that way from now on, in matrix products and in convolutions.

    Torch's older names for this (``allow_tf32``) must not be used beside these: it refuses to read a mixture.

    Parameters
    ----------
    precisions : ``ieee`` or ``tf32`` for both of these.

    Returns
    -------
    What it was before.
    """
    import torch

    settings: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    for setting, value in zip(settings, precisions, strict=True):
        setting.fp32_precision = value
    return before


def ieee_products(device: torch.device) -> None:
    """Have CUDA multiply float32 numbers as they are, from now on; torch by itself takes TF32 for convolutions.

    What is computed then does not depend on the GPU but in rounding. Nothing is set where the device is not CUDA.
    """
    if device.type == "cuda":
        set_products(["ieee"] * 2)


@contextmanager
def float32_products(precision: str, device: torch.device) -> Iterator[None]:
    """How CUDA multiplies float32 numbers while the block runs.

    Parameters
    ----------
    precision : ``tf32``, or anything else for IEEE's float32.
    device : that computes; nothing is set where it is not CUDA.
    """
    if device.type != "cuda":
        yield
        return
    before = set_products(["tf32" if precision == "tf32" else "ieee"] * 2)
    try:
        yield
    finally:
        set_products(before)
