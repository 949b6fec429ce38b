"""Places where jobs go: an sbatch that runs them in processes, and a SLURM of one node."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={home}/munge/socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
ReturnToService=2
SchedulerParameters=sched_interval=1
KillWait=5
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="package")
def weights(random_alexnet: Path) -> Path:
    return random_alexnet


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of jobs, and an sbatch on PATH that runs them; no squeue, no scontrol, no sacct."""
    home, tools = tmp_path / "jobs", tmp_path / "tools"
    home.mkdir()
    tools.mkdir()
    sbatch = tools / "sbatch"
    sbatch.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("sbatch.py")} "$@"\n')
    sbatch.chmod(0o755)
    for name in ("bash", "sh"):
        (tools / name).symlink_to(shutil.which(name) or "")
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("JOBS", str(home))
    return home


@pytest.fixture
def submitted(jobs: Path) -> Path:
    """The same, but an sbatch that only keeps the scripts, under their own names."""
    sbatch = jobs.parent / "tools/sbatch"
    sbatch.write_text(f'#!/bin/sh\nfor last; do :; done\n/bin/cp "$last" {jobs}/\necho 40\n')
    return jobs


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A SLURM of this one node, started and stopped here."""
    if missing := [name for name in (*DAEMONS, "sbatch", "squeue") if shutil.which(name) is None]:
        pytest.skip(f"needs Debian's slurm-wlm and munge: no {', '.join(missing)} on PATH")
    if os.geteuid():
        pytest.skip("slurmctld and slurmd are started by root only")
    home = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    home.chmod(0o755)
    pids: list[int] = []
    try:
        _start(home, pids)
        monkeypatch.setenv("SLURM_CONF", str(home / "slurm.conf"))
        _ready(home)
        yield home
    finally:
        for pid in reversed(pids):
            _end(pid)
        shutil.rmtree(home, ignore_errors=True)


def _start(home: Path, pids: list[int]) -> None:
    """Start the three daemons; munged as its own user, whose key nobody else may read."""
    munge, host = home / "munge", socket.gethostname().split(".")[0]
    for name in ("munge", "state", "spool"):
        (home / name).mkdir()
    (munge / "key").write_bytes(os.urandom(1024))
    (munge / "key").chmod(0o400)
    try:
        for path in (munge, munge / "key"):
            shutil.chown(path, "munge", "munge")
    except LookupError:
        pytest.skip("there is no user munge for munged to run as")
    ports = [_port(), _port()]
    (home / "slurm.conf").write_text(CONFIGURATION.format(home=home, host=host, ports=ports))
    (home / "cgroup.conf").write_text("\n")
    files = [
        f"--{name}-file={munge / name}" if name != "socket" else f"--socket={munge / name}"
        for name in ("key", "socket", "pid", "log", "seed")
    ]
    _run(["munged", *files], home, user="munge", group="munge", extra_groups=[])
    pids.append(_pid(munge / "pid", home))
    for daemon in DAEMONS[1:]:
        _run([daemon, "-c", "-f", str(home / "slurm.conf")], home)
        pids.append(_pid(home / f"{daemon}.pid", home))


def _run(command: list[str], home: Path, **more: object) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, **more)  # type: ignore[call-overload]
    if done.returncode:
        pytest.skip(f"{command[0]} does not start here: {done.stderr.strip() or _logs(home)}")


def _pid(path: Path, home: Path) -> int:
    for _ in range(100):
        if path.exists() and path.read_text().strip():
            return int(path.read_text())
        time.sleep(0.05)
    pytest.skip(f"{path.stem} does not start here: {_logs(home)}")


def _ready(home: Path) -> None:
    for _ in range(200):
        done = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False)
        if done.stdout.strip() == "idle":
            return
        time.sleep(0.1)
    pytest.skip(f"SLURM's node is not ready: {done.stdout.strip() or done.stderr.strip()}; {_logs(home)}")


def _logs(home: Path) -> str:
    errors = [line for path in home.glob("*.log") for line in path.read_text().splitlines() if "rror" in line]
    return "; ".join(errors[-3:]) or "no error in its log"


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end(pid: int) -> None:
    for number in (15, 9):
        for _ in range(60):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return
            time.sleep(0.05)
