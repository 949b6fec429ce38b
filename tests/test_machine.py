"""What a process takes of its machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COUNT = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from boldreams_cli.features import shards
from boldreams_cli.machine import cores
print(cores(), shards.THREADS)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are given to processes on Linux only")
def test_a_job_of_one_core_reads_with_one_thread() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]
