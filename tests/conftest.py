"""What all tests share: a small made-up experiment, real weights where they are at hand, the installed command."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from boldreams_cli.machine import same_products

if TYPE_CHECKING:
    from tests.card import Card, RealCard

same_products()  # as every command does; before torch is imported
if "PYTEST_XDIST_WORKER" in os.environ:  # others are at work on the other cores; commands that tests start inherit it
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
COMMAND = Path(sys.executable).with_name("boldreams")


@dataclass
class Done:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        assert self.out.count("\n") == 1, f"more than one line on stdout: {self.out}"
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An NSD root with two subjects whose brains are known, made once."""
    from boldreams_cli.simulation.experiment import Experiment, write

    root = tmp_path_factory.mktemp("experiment") / "nsd"
    write(Experiment.small(), root)
    return root


def in_this_process(arguments: list[str], environment: dict[str, str]) -> Done:
    """Call the installed entry point; importing torch again for every command would take most of the suite's time."""
    (entry_point,) = entry_points(group="console_scripts", name="boldreams")
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name in [name for name in os.environ if name.startswith("BOLDREAMS_")]:
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", [str(COMMAND), *arguments])
        with pytest.raises(SystemExit) as stopped:
            entry_point.load()()
    return Done(int(stopped.value.code or 0), out.getvalue(), err.getvalue())


def in_a_process(arguments: list[str], environment: dict[str, str]) -> Done:
    """Start the installed script."""
    values = {key: value for key, value in os.environ.items() if not key.startswith("BOLDREAMS_")} | environment
    process = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, env=values, check=False)
    return Done(process.returncode, process.stdout, process.stderr)


def in_a_forked_one(arguments: list[str], environment: dict[str, str]) -> Done:
    """Fork a process that has imported what commands do."""
    from tests.forked import Forked

    values = {key: value for key, value in os.environ.items() if not key.startswith("BOLDREAMS_")} | environment
    process = Forked(arguments, values)
    out, err = process.communicate()
    assert process.returncode is not None
    return Done(process.returncode, out, err)


@pytest.fixture(scope="session")
def run(experiment: Path) -> Run:
    """Run the installed command as a user would: run("fit", "--subject", 1, code=0).

    In a process of its own where an environment variable must be seen by libraries when they are imported, and in one
    that is forked where it is the number of threads alone (tests/forked.py).
    """

    def call(*arguments: object, code: int = 0, **environment: object) -> Done:
        values = {"BOLDREAMS_NSD_ROOT": str(experiment), "BOLDREAMS_DEVICE": "cpu"}
        values |= {key: str(value) for key, value in environment.items()}
        seen = {name for name in environment if not name.startswith("BOLDREAMS_")}
        start = in_this_process if not seen else in_a_forked_one if seen == {"OMP_NUM_THREADS"} else in_a_process
        done = start([*map(str, arguments)], values)
        assert done.code == code, f"{arguments}: exit code {done.code}\n{done.out}\n{done.err}"
        return done

    return call


@pytest.fixture
def card() -> Iterator[Card | RealCard]:
    """The machine's GPU, or one made of the host's memory, for the time of a test (tests/card.py)."""
    from tests.card import a_card

    with a_card() as made:
        yield made


@pytest.fixture(scope="session")
def alexnet_weights() -> Path:
    """Real AlexNet convolution weights, without a classifier."""
    path = SHARED / "alexnet_imagenet_features.safetensors"
    if not path.is_file():
        pytest.skip(f"needs the real AlexNet weights in {path}")
    return path


@pytest.fixture(scope="session")
def random_alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole AlexNet of random weights, as torchvision saves one."""
    import torch
    import torchvision

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def photographs() -> list[Path]:
    """300 photographs."""
    paths = sorted((SHARED / "images").glob("*.jpg"))
    if not paths:
        pytest.skip(f"needs the photographs in {SHARED / 'images'}")
    return paths
