"""What is written for readers: its links lead somewhere, and it names the version and the paper that are meant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from boldreams_cli import __version__

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "cache/README.md", *sorted((ROOT / "docs").glob("*.md"))]


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
