"""Several processes that train one model: joined under torchrun's variables, or launched here.

Whoever starts the processes (``--devices N`` or torchrun), each finds its place in RANK, WORLD_SIZE and LOCAL_RANK.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from boldreams_cli.console import BoldreamsError, StopFlag, StoppedError, logger
from boldreams_cli.machine import cores

LAUNCHER = "_BOLDREAMS_LAUNCHER"  # process that started this one, after whose death it should end
TIMEOUT = timedelta(hours=12)  # the others wait for the first to resize and rank
TICK_SECONDS, TICKS_BETWEEN_SIGNALS = 0.05, 10
GRACE_SECONDS = 20.0  # for the others to end when one has failed


@dataclass(frozen=True)
class Process:
    """One process among those that train together.

    Parameters
    ----------
    device : its own.
    rank, count : its number, and how many there are.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place, on this process's device."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def should_stop(self, stop: StopFlag) -> bool:
        """Whether this process was told to stop, or the one that launched it is gone."""
        return bool(stop) or self._orphaned()

    @staticmethod
    def _orphaned() -> bool:
        return os.getppid() != int(os.environ.get(LAUNCHER, os.getppid()))

    @contextmanager
    def first(self) -> Iterator[None]:
        """Let the leading process run the block before the others, which then find what it has made.

        Raises
        ------
        SystemExit
            In the others, with its exit code, where the leading process failed.
        """
        code = torch.zeros((), dtype=torch.int64, device=self.device)
        if self.count > 1 and not self.leads:
            distributed.broadcast(code, 0)
            if int(code):
                raise SystemExit(int(code))
        try:
            yield
        except BaseException as error:
            code.fill_(getattr(error, "exit_code", 1))
            raise
        finally:
            if self.count > 1 and self.leads:
                distributed.broadcast(code, 0)


def averaging(network: nn.Module, device: torch.device) -> DistributedDataParallel:
    """Wrap a network so that its gradients are averaged over all processes; buffers stay each process's own.

    Parameters
    ----------
    network : the same in all processes.
    device : that it is on.
    """
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    # Named anew in torch 2.13, which warns about the old name.
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    devices = [device] if device.type == "cuda" else None
    asked: dict[str, Any] = {name: False}
    return DistributedDataParallel(network, device_ids=devices, **asked)


def joined_already() -> bool:
    """Whether a launcher (``--devices`` or torchrun) has given this process its place."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def joined(device: torch.device) -> Iterator[Process]:
    """Take this process's place among those started together; alone if there are none.

    Parameters
    ----------
    device : asked for; CUDA devices are dealt out by LOCAL_RANK.

    Raises
    ------
    BoldreamsError
        If there are more processes on this machine than CUDA devices.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1")) if joined_already() else 1
    if processes == 1:
        yield Process(device)
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    if device.type == "cuda":
        _check_devices(local + 1, device)
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if rank:
        logger.setLevel(logging.ERROR)
    # DistributedDataParallel imports it, and imported while there is a group it keeps the group for good: then the
    # group's threads outlive the interpreter, which now and then aborts the process after a finished training.
    importlib.import_module("torch._dynamo")
    backend, bound = ("nccl", device) if device.type == "cuda" else ("gloo", None)
    distributed.init_process_group(backend, timeout=TIMEOUT, device_id=bound)
    try:
        yield Process(device, rank, processes)
    except StoppedError as error:
        if rank:  # the first one says it
            raise SystemExit(error.exit_code) from error
        raise
    finally:
        distributed.destroy_process_group()


def launch(processes: int, device: torch.device, stop: StopFlag) -> int:
    """Run this very command in several `processes`, and wait for them.

    Signals are passed on as SIGINT, again and again until they are heard: the processes start with SIGINT ignored,
    so that none ends them before or after they listen. A scheduler may send its own to every process as well.

    Parameters
    ----------
    processes : number of them.
    device : asked for; each process takes a CUDA device of its own.
    stop : looked at all the time.

    Returns
    -------
    The exit code of the first process that failed; 75 where that followed a signal.

    Raises
    ------
    BoldreamsError
        If there are fewer CUDA devices.
    """
    _check_devices(processes, device)
    command = [sys.executable, "-m", "boldreams_cli.cli", *sys.argv[1:]]
    children: list[subprocess.Popen[bytes]] = []
    try:
        listening = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for environment in _environments(processes):
            out = None if environment["RANK"] == "0" else subprocess.DEVNULL
            children.append(subprocess.Popen(command, env=environment, stdout=out, start_new_session=True))
        signal.signal(signal.SIGINT, listening)
        _watch(children, stop)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()
    code = next((child.returncode for child in children if child.returncode), 0)
    if code and stop:
        return StoppedError.exit_code
    return code if code >= 0 else 1


def _check_devices(processes: int, device: torch.device) -> None:
    if device.type == "cuda" and processes > torch.cuda.device_count():
        raise BoldreamsError(f"{processes} processes need as many CUDA devices, here are {torch.cuda.device_count()}")


def _environments(processes: int) -> Iterator[dict[str, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = max(1, cores() // processes)
    for rank in range(processes):
        own: dict[str, object] = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, LAUNCHER: os.getpid()}
        defaults = {"OMP_NUM_THREADS": str(threads)}
        if sys.platform == "linux":
            defaults["GLOO_SOCKET_IFNAME"] = "lo"  # all on this machine, whatever its name resolves to
        yield defaults | os.environ | {key: str(value) for key, value in own.items()}


def _watch(children: list[subprocess.Popen[bytes]], stop: StopFlag) -> None:
    """Wait for all to end; when one has failed the others, which may wait for it, are given a while."""
    failed = 0.0
    for tick in count():
        running = [child for child in children if child.poll() is None]
        if not running or (failed and time.monotonic() - failed > GRACE_SECONDS):
            return
        if not failed and any(child.returncode for child in children):
            failed = time.monotonic()
        if stop and tick % TICKS_BETWEEN_SIGNALS == 0:
            for child in running:
                child.send_signal(signal.SIGINT)
        time.sleep(TICK_SECONDS)
