"""Files beside the page, and pictures inside of it within its size."""

from __future__ import annotations

import base64
import csv
import io
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing
from numpy.typing import NDArray
from PIL import Image

from boldreams_cli.console import BoldreamsError
from boldreams_cli.files import read_json, write_json, write_text, written_whole
from boldreams_cli.plots import style
from boldreams_cli.study.report.blocks import Column, Figure, Picture, Table

SIDE = 200  # pixels of a picture in a grid
DPI = 150
FILES = "files.json"  # names of all that was written beside the page
TEXT = 90_000  # bytes of the page's own text, style and script
PERCENTS = ("percent", "p_lo", "reference")  # columns of shares of filters, as short as they are
CELL = 75  # of a number in a table, with what is around it


@dataclass
class Assets:
    """Writes what lies beside the page, and turns pictures into what lies inside.

    Parameters
    ----------
    folder : of the files beside the page.
    largest : bytes of the page.
    """

    folder: Path
    largest: int
    taken: int = TEXT
    left_out: Counter[str] = field(default_factory=Counter)
    written: list[Path] = field(default_factory=list)

    def has_room(self, count: int) -> bool:
        """Whether that many bytes more fit into the page."""
        return self.taken + count <= self.largest

    def take(self, text: str, what: str) -> str:
        """The text, if the page has room for it; else nothing, and it is counted among what was left out."""
        if not self.has_room(len(text)):
            self.left_out[what] += 1
            return ""
        self.taken += len(text)
        return text

    def text(self, name: str, text: str) -> None:
        """Write a file beside the page."""
        write_text(self._new(name), text)

    def forget_former(self) -> None:
        """Remove what an earlier page of this name had and this one has not; note what this one has.

        Files that no page wrote stay.
        """
        listing = self.folder / FILES
        try:
            former = {str(name) for name in read_json(listing)}
        except (BoldreamsError, TypeError):
            former = set()
        for name in former - {path.name for path in self.written}:
            if Path(name).name == name:
                (self.folder / name).unlink(missing_ok=True)
        write_json(listing, sorted(path.name for path in self.written))

    def _new(self, name: str) -> Path:
        path = self.folder / name
        if path not in self.written:
            self.written.append(path)
        return path

    def table(self, table: Table, on_page: bool = True) -> dict[str, str]:
        """Write a table as CSV, numbers in full; its name by format. `on_page` says whether the page has it too."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([column.key for column in table.columns])
        self.taken += CELL * len(table.shown) * min(table.most, len(table.rows)) * on_page
        for row in table.rows:
            writer.writerow([_plain(row.get(column.key)) for column in table.columns])
        self.text(f"{table.name}.csv", text.getvalue())
        return {"CSV": f"{self.folder.name}/{table.name}.csv"}

    def figure(
        self, table: Table, title: str, caption: str, alt: str, draw: Callable[[], Drawing], shown: bool = True
    ) -> Figure:
        """Draw a figure, light and dark, with its files; `shown` says whether the page has its numbers too."""
        files = self.drawing(table.name, draw) | self.table(table, on_page=shown)
        picture = self._inside(table.name, draw)
        return Figure(table.name, title, caption, alt, picture, table if shown else None, files)

    def drawing(self, name: str, draw: Callable[[], Drawing]) -> dict[str, str]:
        """Write a drawing as PNG and PDF; their names by format."""
        with style.theme(dark=False):
            drawn = draw()
            for suffix in ("png", "pdf"):
                style.save(drawn, self._new(f"{name}.{suffix}"), DPI)
        return {"PNG": f"{self.folder.name}/{name}.png", "PDF": f"{self.folder.name}/{name}.pdf"}

    def _inside(self, name: str, draw: Callable[[], Drawing]) -> Picture:
        image = Image.open(self.folder / f"{name}.png").convert("RGB")
        light = self.take(encoded(image, exact=True), "figures")
        with style.theme(dark=True):
            buffer = io.BytesIO()
            draw().savefig(buffer, format="png", dpi=DPI)
        dark = self.take(encoded(Image.open(buffer).convert("RGB"), exact=True), "figures") if light else ""
        width, height = (round(length * 96 / DPI) for length in image.size)
        return Picture(light, dark, width, height)

    def copied(self, source: Path, name: str, what: str, inked: bool = True) -> tuple[Picture, dict[str, str]]:
        """A figure that another command drew: its files beside, its picture inside; `inked` if of lines alone."""
        files = {}
        for suffix in ("png", "pdf", "csv"):
            path = source.with_suffix(f".{suffix}")
            if path.is_file():
                with written_whole(self._new(f"{name}.{suffix}")) as temporary:
                    shutil.copyfile(path, temporary)
                files[suffix.upper()] = f"{self.folder.name}/{name}.{suffix}"
        image = Image.open(source.with_suffix(".png")).convert("RGB")
        width, height = (round(length * 96 / DPI) for length in image.size)
        return Picture(self.take(encoded(image, exact=inked), what), "", width, height, inked), files

    def picture(self, image: Image.Image, what: str) -> str:
        """A picture of a grid as a data URI."""
        if not self.has_room(0):
            self.left_out[what] += 1
            return ""
        small = image.convert("RGB")
        small.thumbnail((round(SIDE * 1.4), SIDE), Image.Resampling.LANCZOS)
        return self.take(encoded(small), what)


def encoded(image: Image.Image, exact: bool = False) -> str:
    """A data URI of WebP; `exact` for drawings, whose few colours need no loss."""
    buffer = io.BytesIO()
    if exact:
        image.save(buffer, "webp", lossless=True, quality=40, method=1)
    else:
        image.save(buffer, "webp", quality=80, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def square(pixels: NDArray[Any], side: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 -> (side, side, 3), the whole of it on white."""
    image = Image.fromarray(pixels).convert("RGB")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    whole = Image.new("RGB", (side, side), "white")
    whole.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(whole)


def columns(*named: tuple[Any, ...]) -> tuple[Column, ...]:
    """Columns of (key, heading) or (key, heading, digits); with an empty heading, in the CSV only."""
    found = []
    for key, heading, *digits in named:
        shown = digits[0] if digits else None if key in PERCENTS else 3
        found.append(Column(key, heading or key, shown, bool(heading)))
    return tuple(found)


def listed(names: Sequence[object]) -> str:
    """Join names for a sentence."""
    shown = [str(name) for name in names]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else "none"


def _plain(value: Any) -> Any:
    if value is None or (isinstance(value, float) and value != value):
        return ""
    return repr(value) if isinstance(value, float) else value


def scalars(row: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a JSON object that are no lists or objects; pairs become two."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, list) and len(value) == 2 and all(isinstance(item, int | float | None) for item in value):
            found |= {f"{name}_low": value[0], f"{name}_high": value[1]}
        elif not isinstance(value, list | dict):
            found[name] = value
    return found
