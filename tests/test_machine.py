"""What a process takes of its machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from boldreams_cli import machine

COUNT = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from boldreams_cli.features.store import shards
from boldreams_cli.machine import cores
print(cores(), shards.THREADS)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are given to processes on Linux only")
def test_a_job_of_one_core_reads_with_one_thread() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


FREED = """
import numpy as np
from boldreams_cli.machine import give_back, keep_freed
keep_freed()
def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))
blocks = [np.ones(2**17) for _ in range(400)]  # 1 MB each
above = blocks.pop()
before = resident()
del blocks
kept = resident()
give_back()
print(before - kept, kept - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_freed_blocks_are_kept_until_they_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    at_once, later = map(int, done.stdout.split())
    assert at_once < 50
    assert later > 350


GPU = torch.device("cuda")  # settings of its libraries can be made where there is none


def precisions() -> list[str]:
    return [setting.fp32_precision for setting in (torch.backends.cuda.matmul, torch.backends.cudnn.conv)]


@pytest.fixture
def as_before() -> Iterator[None]:
    before = machine.set_products(["ieee"] * 2)
    yield
    machine.set_products(before)


@pytest.mark.usefixtures("as_before")
def test_a_block_may_take_other_products_and_repeat_its_sums_within() -> None:
    """Torch refuses to read its older settings of TF32 beside the newer ones: none may be mixed."""
    with machine.float32_products("tf32", GPU):
        assert precisions() == ["tf32"] * 2
        with machine.repeatable(GPU):
            assert precisions() == ["ieee"] * 2
            assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (False, True)
        assert precisions() == ["tf32"] * 2
    assert precisions() == ["ieee"] * 2
    assert not torch.backends.cudnn.deterministic
    with pytest.raises(KeyError), machine.repeatable(GPU):
        raise KeyError
    assert not torch.backends.cudnn.deterministic


@pytest.mark.usefixtures("as_before")
def test_a_command_computes_in_ieee_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    from boldreams_cli.commands.options import pick_device

    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    machine.set_products(["tf32"] * 2)
    pick_device("cpu")
    assert precisions() == ["tf32"] * 2
    for name in ("auto", "cuda:1"):
        machine.set_products(["tf32"] * 2)
        assert pick_device(name).type == "cuda"
        assert precisions() == ["ieee"] * 2
    assert chosen == [torch.device("cuda", 1)]  # so that nothing is pinned by another


def test_room_is_the_hosts_on_a_cpu_and_what_is_free_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.room(torch.device("cpu"), 1000, machine.MAPS) == 1000
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (600, 4000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    assert machine.room(GPU, 7) == 1000
    assert machine.room(GPU, 7, 1 / 2) == 500


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, is_one: bool) -> None:
    assert machine.is_out_of_memory(error) == is_one
