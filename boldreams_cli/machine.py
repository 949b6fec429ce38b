"""What this process takes of the machine: its memory and its cores."""

from __future__ import annotations

import ctypes
import os
import sys

TRIM, MAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of mallopt(3)
LARGEST_KEPT = 64 << 20  # bytes of a block; larger ones go back to the system when freed
KEPT = 512 << 20  # bytes of freed blocks


def keep_freed() -> None:
    """Reuse freed blocks of the size of maps, rather than give them back and have the next step fault them in anew.

    A dream's step of EfficientNet-lite0 takes a tenth less (benchmarks/RESULTS.md). Does nothing without glibc.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # musl has none
        library.mallopt(MAP, LARGEST_KEPT)
        library.mallopt(TRIM, KEPT)


def cores() -> int:
    """Cores that this process may use: in a batch job those it was given, not all of the machine."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
