"""Processes that train together, as torchrun starts them."""

import os
import socket
import subprocess
import sys

import pytest

TRAIN_AND_LIST_THREADS = """
import os
from pathlib import Path
import torch
from torch import nn
from boldreams_cli.encoding.finetuning.processes import averaging, joined
with joined(torch.device("cpu")) as process:
    network = nn.Linear(3, 1)
    averaging(network, process.device)(torch.ones(2, 3)).sum().backward()
threads = [(Path("/proc/self/task") / task / "comm").read_text().strip() for task in os.listdir("/proc/self/task")]
print(process.count, *threads)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="lists threads in /proc")
def test_no_thread_of_the_group_outlives_the_training_and_nothing_is_warned_of() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-W", "error::FutureWarning", "-c", TRAIN_AND_LIST_THREADS]
    processes = [
        subprocess.Popen(command, env=os.environ | place | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    said = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    for count, *threads in said:
        assert count == "2"
        # They would abort the interpreter on its way out.
        assert not [name for name in threads if "gloo" in name]
