"""A small cache with a fitted model, made once by the commands."""

import shutil
from pathlib import Path

import pytest

from ..conftest import Run


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


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file()}
