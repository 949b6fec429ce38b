"""The page: all sections put into one file, with what lies beside it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from boldreams_cli import __version__
from boldreams_cli.console import ChoiceError, logger, size
from boldreams_cli.data.dataset import Dataset
from boldreams_cli.files import to_json, write_text
from boldreams_cli.study.report.assets import Assets
from boldreams_cli.study.report.blocks import Section
from boldreams_cli.study.report.collect import Holdings, collect
from boldreams_cli.study.report.methods import Methods, methods
from boldreams_cli.study.report.parts import parts
from boldreams_cli.study.report.references import REFERENCES

MADE_BY_US = b'<meta name="generator" content="boldreams'  # in the first bytes of a page


@dataclass(frozen=True)
class Report:
    """What was written.

    Parameters
    ----------
    file : the page.
    figures : files beside it.
    warnings : on it, as text.
    left_out : kind of picture -> how many did not fit.
    bytes : of the page.
    """

    file: Path
    figures: list[Path]
    warnings: list[str]
    left_out: dict[str, int]
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of ``report``."""
        return asdict(self)


def write_report(cache: Path, file: Path, largest: int, dataset: Dataset | None = None) -> Report:
    """Write a page of all that a cache holds.

    Parameters
    ----------
    cache : to look through; it is only read, but for the page's own place in it.
    file : the page; its figures go to ``<stem>_files`` beside it.
    largest : bytes of the page; pictures beyond are left out, and it says how many.
    dataset : for the volumes that maps are laid on; None lays them on the voxels used.

    Raises
    ------
    ChoiceError
        If there is a file of another make in that place.
    """
    if file.exists() and not _is_page(file):
        raise ChoiceError(f"{file} is no page of `boldreams report`; move it, or choose another --output")
    held = collect(cache, dataset)
    assets = Assets(file.parent / f"{file.stem}_files", largest)
    sections, text = _sections(held, assets), methods(held)
    overview = _overview(held)
    _write_beside(assets, text, overview)
    left_out = {what: count for what, count in assets.left_out.items() if count}
    if left_out:
        names = ", ".join(f"{count} {what}" for what, count in left_out.items())
        held.findings.warn(
            file.name, f"{names} left out: the page would be larger than {size(largest)}", "`--max-size` allows more"
        )
    page = _rendered(held, sections, text, assets, overview)
    write_text(file, page)
    assets.forget_former()
    return Report(
        file,
        sorted(assets.written),
        [f"{found.where}: {found.what}" for group in held.findings.grouped() for found in group.found],
        left_out,
        len(page.encode()),
    )


def _is_page(file: Path) -> bool:
    with file.open("rb") as stream:
        return MADE_BY_US in stream.read(4096)


def _sections(held: Holdings, assets: Assets) -> list[Section]:
    """All that there are, in the page's order; made in the order in which they take room on it."""
    made: list[tuple[int, str, Section]] = []
    for part in parts():
        start = time.monotonic()
        section = part.make(held, assets)
        if section is not None:
            made.append((part.place, section.name, section))
            logger.debug("report, %s: %.2f s", section.name, time.monotonic() - start)
    return [section for *_, section in sorted(made, key=lambda one: one[:2])]


def _write_beside(assets: Assets, text: Methods, overview: Mapping[str, int]) -> None:
    assets.text("methods.md", text.markdown())
    assets.text("methods.bib", text.bibtex())
    numbers = {name: value for name, (value, _) in text.numbers.items()}
    assets.text("methods.json", json.dumps(to_json(numbers), indent=1) + "\n")
    assets.text("overview.json", json.dumps(overview, indent=1) + "\n")


def _overview(held: Holdings) -> dict[str, int]:
    return {
        "subjects": len(held.subjects),
        "models": len(held.models),
        "scored": len(held.scored),
        "products": sum(len(model.products) for model in held.models),
    }


def _rendered(
    held: Holdings, sections: list[Section], text: Methods, assets: Assets, overview: Mapping[str, int]
) -> str:
    folder = resources.files("boldreams_cli.study.report") / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["coded"] = _coded
    now = datetime.now(UTC)
    found: str = environment.get_template("report.html").render(
        sections=sections,
        groups=held.findings.grouped(),
        css=(folder / "report.css").read_text(encoding="utf-8"),
        script=(folder / "brain.js").read_text(encoding="utf-8"),
        cache=str(held.cache),
        version=__version__,
        made=now.strftime("%Y-%m-%d %H:%M UTC"),
        iso=now.isoformat(timespec="seconds"),
        overview=overview,
        files=assets.folder.name,
        methods_html=text.html(),
        methods_markdown=text.markdown(),
        methods_bibtex=text.bibtex(),
        references=[(key, REFERENCES[key].text.replace("{", "").replace("}", "")) for key in text.cited],
    )
    return found


def _coded(text: str) -> Markup:
    """Text with what stands between backticks as code."""
    plain = str(escape(text))
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", plain))  # escaped just now
