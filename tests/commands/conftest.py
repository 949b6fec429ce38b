"""A small cache with a fitted model, made once by the commands."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .. import figures
from ..conftest import Run

GRID = ("--backbone", "alexnet", "--percent", "1,10", "--subject", "1", "--recipe", "fast", "--epochs", "2")


@pytest.fixture(scope="package", autouse=True)
def unrendered() -> Iterator[None]:
    """Commands make their figures and save white paper, except in tests that ask for `rendered` and other processes."""
    with figures.unrendered():
        yield


@pytest.fixture
def rendered() -> Iterator[None]:
    """The test's commands render their figures; at least one test of every command that has any does."""
    with figures.rendered():
        yield


@pytest.fixture(scope="package")
def weights(random_alexnet: Path) -> Path:
    return random_alexnet


@pytest.fixture(scope="package")
def cache(run: Run, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the maps of both subjects and a fitted model of the first."""
    path = tmp_path_factory.mktemp("spine") / "cache"
    run("extract", "--backbone", "alexnet", "--weights", weights, "--cache", path)
    run("fit", "--percent", 10, "--subject", 1, "--cache", path, "--epochs", 3, "--lr", "1e-3")
    run("score", "--cache", path)
    shutil.copytree(path, path.with_name("as-made"))  # before tests add to it
    return path


@pytest.fixture
def own(cache: Path, tmp_path: Path) -> Path:
    """A copy of that cache as it was made, to spoil."""
    return Path(shutil.copytree(cache.with_name("as-made"), tmp_path / "cache"))


@pytest.fixture(scope="package")
def swept(run: Run, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache after a sweep of GRID called mine."""
    path = Path(shutil.copytree(cache.with_name("as-made"), tmp_path_factory.mktemp("swept") / "cache"))
    run("sweep", *GRID, "--cache", path, "--name", "mine")
    return path


@pytest.fixture
def mine(swept: Path, tmp_path: Path) -> Path:
    """A copy of it with the files' times, to spoil: all its cells are done."""
    return Path(shutil.copytree(swept, tmp_path / "cache"))


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file()}
