"""What a page is made of: sections of figures, grids of pictures, tables and brain maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Parameters
    ----------
    key : of the rows, and heading in the CSV.
    heading : on the page.
    digits : after the point, of numbers that are not whole; None writes them as short as they are, as percents.
    shown : whether the page has it, or the CSV only.
    """

    key: str
    heading: str
    digits: int | None = 3
    shown: bool = True

    def text(self, value: Any) -> str:
        """What the page shows; a dash for what is not known."""
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return "–"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, float) and self.digits is None:
            return f"{value:g}".replace("-", "−")
        if isinstance(value, float) and self.digits is not None:
            small = 0 < abs(value) < 0.5 * 10**-self.digits
            return (f"{value:.1e}" if small else f"{value:.{self.digits}f}").replace("-", "−")
        return str(value)

    @staticmethod
    def number(value: Any) -> str | None:
        """The number in full, as the CSV has it; None for what is no number."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        return repr(value)


@dataclass(frozen=True)
class Table:
    """Numbers, on the page and as CSV.

    Parameters
    ----------
    name : of the CSV file, without its suffix.
    caption : what it is.
    columns : in order.
    rows : key -> value.
    folded : whether the page shows it only when asked.
    most : rows that the page shows; all are in the CSV.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    folded: bool = False
    most: int = 400

    @property
    def shown(self) -> list[Column]:
        """Columns on the page."""
        return [column for column in self.columns if column.shown]


@dataclass(frozen=True)
class Picture:
    """A picture inside the page.

    Parameters
    ----------
    light, dark : data URIs; an empty one was left out for the page's size.
    width, height : in CSS pixels.
    inked : whether it is a drawing of ink on paper, which dark screens turn round where there is no dark one.
    """

    light: str
    dark: str
    width: int
    height: int
    inked: bool = True


@dataclass(frozen=True)
class Figure:
    """A drawing, with its numbers.

    Parameters
    ----------
    name : of its files.
    title, caption, alt : in words; `alt` says what a reader who does not see it should know.
    picture : of it.
    table : its numbers, shown folded; None where they are in another file.
    files : format -> name beside the page.
    """

    name: str
    title: str
    caption: str
    alt: str
    picture: Picture
    table: Table | None
    files: Mapping[str, str]
    kind: str = "figure"


@dataclass(frozen=True)
class Cell:
    """A picture of a grid.

    Parameters
    ----------
    uri : data URI; empty if it was left out for the page's size.
    alt : what it shows.
    note : below it.
    number : in the note, in full; None if there is none.
    css : class.
    """

    uri: str
    alt: str
    note: str = ""
    number: str | None = None
    css: str = ""


@dataclass(frozen=True)
class Grid:
    """Pictures of areas by models.

    Parameters
    ----------
    name, title, caption, files : as of a figure.
    columns : names.
    rows : a name, and a cell or None for each column.
    opened : whether it is shown at once.
    """

    name: str
    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell | None]]]
    files: Mapping[str, str]
    opened: bool = False
    kind: str = "grid"


@dataclass(frozen=True)
class Brain:
    """A map to look around in.

    Parameters
    ----------
    name, title, caption, files : as of a figure.
    data : what the script reads.
    areas, maps : names to choose from.
    montage : of the first map, where there is no script, and in print.
    alt : of the montage.
    """

    name: str
    title: str
    caption: str
    data: str
    areas: Sequence[str]
    maps: Sequence[str]
    sizes: tuple[int, int, int]
    montage: Picture
    alt: str
    files: Mapping[str, str]
    kind: str = "brain"


@dataclass(frozen=True)
class Tabled:
    """A table that stands for itself."""

    table: Table
    files: Mapping[str, str]
    kind: str = "table"


@dataclass(frozen=True)
class Note:
    """A line that says what is not shown, and what makes it."""

    text: str
    kind: str = "note"


Block = Figure | Grid | Brain | Tabled | Note


@dataclass
class Section:
    """A part of the page.

    Parameters
    ----------
    name : of its anchor.
    title : of it.
    intro : a paragraph; how to read what follows.
    blocks : what it shows.
    missing : what is not there, and what makes it; shown where there are no blocks.
    """

    name: str
    title: str
    intro: str
    blocks: list[Block] = field(default_factory=list)
    missing: str = ""
