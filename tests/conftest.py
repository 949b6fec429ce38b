"""What all tests share: a small made-up experiment, real weights where they are at hand, the installed command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
COMMAND = Path(sys.executable).with_name("boldreams")


class Done:
    """A finished command."""

    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = process.returncode, process.stdout, process.stderr

    @property
    def json(self) -> dict:
        assert self.out.count("\n") == 1, f"more than one line on stdout: {self.out}"
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An NSD root with two subjects whose brains are known, made once."""
    from boldreams_cli.simulation import Experiment, write

    root = tmp_path_factory.mktemp("experiment") / "nsd"
    write(Experiment.small(), root)
    return root


@pytest.fixture(scope="session")
def run(experiment: Path) -> Run:
    """Run the installed command as a user would: run("fit", "--subject", 1, code=0)."""

    def call(*arguments: object, code: int = 0, **environment: object) -> Done:
        values = {key: value for key, value in os.environ.items() if not key.startswith("BOLDREAMS_")}
        values |= {"BOLDREAMS_NSD_ROOT": str(experiment), "BOLDREAMS_DEVICE": "cpu"}
        values |= {key: str(value) for key, value in environment.items()}
        process = subprocess.run(
            [COMMAND, *map(str, arguments)], capture_output=True, text=True, env=values, check=False
        )
        done = Done(process)
        assert done.code == code, f"{arguments}: exit code {done.code}\n{done.out}\n{done.err}"
        return done

    return call


@pytest.fixture(scope="session")
def alexnet_weights() -> Path:
    """Real AlexNet convolution weights, without a classifier."""
    path = SHARED / "alexnet_imagenet_features.safetensors"
    if not path.is_file():
        pytest.skip(f"needs the real AlexNet weights in {path}")
    return path


@pytest.fixture(scope="session")
def photographs() -> list[Path]:
    """300 photographs."""
    paths = sorted((SHARED / "images").glob("*.jpg"))
    if not paths:
        pytest.skip(f"needs the photographs in {SHARED / 'images'}")
    return paths
