"""What is written for readers: links lead somewhere, commands and options are there, version and paper agree."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from boldreams_cli import __version__
from boldreams_cli.cli import COMMANDS, load

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "cache/README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_HERE = ("does not exist", "no such file", "is a directory")  # of a path in an example


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    for link in links:
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_the_paper_is_in_the_first_lines_and_in_every_place_that_cites() -> None:
    first = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:10]
    for text in ("\n".join(first), *((ROOT / name).read_text() for name in ("CITATION.cff", "pyproject.toml"))):
        assert "https://arxiv.org/abs/2501.14854" in text


def test_the_citation_names_this_version() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def command_lines(page: Path) -> Iterator[list[str]]:
    """Words of every `boldreams` line of a page's shell blocks."""
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["boldreams"]:
                yield words[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_shell_blocks_hold_commands_that_there_are(page: Path) -> None:
    for name, *words in command_lines(page):
        assert name in COMMANDS, name
        numbers = [re.sub(r"\$\w+", "1", word) for word in words]
        try:
            load(name).make_context(name, numbers)
        except click.BadParameter as error:
            if not any(said in error.format_message().lower() for said in NOT_HERE):
                raise AssertionError((name, words)) from error


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_options_in_the_text_are_ones_that_there_are(page: Path) -> None:
    known = {
        option
        for name in COMMANDS
        for parameter in load(name).params
        for option in [*parameter.opts, *parameter.secondary_opts]
    }
    known |= {"--help", "--brain", "--cpus-per-task"}  # of benchmarks.attention and sbatch, the last two
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    foreign = ("python", "pytest", "pip", "sbatch", "boldreams_data", "#SBATCH")
    for code in re.findall(r"`([^`\n]+)`", text):
        if not code.startswith(foreign):
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", code):
                assert option in known, (option, code)
    for line in re.findall(r"`boldreams ([a-z]+)", text):
        assert line in COMMANDS, line


def test_the_page_of_sections_leads_to_files_that_there_are() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## Where the paper is in the code")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d(?:\.\d)?)[^|]*\|[^|]*\|([^|]*)\|$", section, re.MULTILINE)
    assert {"2.1", "2.2", "2.3", "2.4", "2.5", "3.1", "3.2", "3.3"} <= {number for number, _ in rows}
    for _, where in rows:
        for name in re.findall(r"`([\w/.]+)`", where):
            assert (ROOT / "boldreams_cli" / name).exists(), name
