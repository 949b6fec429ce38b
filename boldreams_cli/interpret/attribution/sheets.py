"""Pages of all images of a target, a few rows each, drawn of what is on disk (paper, figure 8)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from boldreams_cli import plots
from boldreams_cli.console import BoldreamsError, StopFlag, progress
from boldreams_cli.files import DAMAGED_NPZ
from boldreams_cli.interpret.attribution.attributor import Attributor
from boldreams_cli.interpret.attribution.integration import BASELINES, SMOOTHING
from boldreams_cli.interpret.products import Description, Product, title_of_model

ROWS = 8  # of a page
Images = list[tuple[str, Path, str]]  # key, .npz and caption of each


@dataclass
class Sheets:
    """What the sheets of the targets will show."""

    images: dict[int, Images] = field(default_factory=dict)

    def add(self, area: int, found: Description) -> None:
        """One image more, as it is on disk."""
        self.images.setdefault(area, []).append((found["key"], found["files"][0], found["caption"]))

    def write(self, attributor: Attributor, folder: Path, stop: StopFlag) -> list[Path]:
        """Draw them; one that was drawn of the same images is left.

        Raises
        ------
        StoppedError
            If a signal came between pages.
        """
        pages = [page for area, images in self.images.items() for page in _pages(attributor, folder, area, images)]
        files: list[Path] = []
        with progress("sheets", len(pages), "pages") as shown:
            for page in pages:
                stop.check(f"finished maps and pages are in {folder}")
                with page.product.held(stop):
                    found = page.product.found() or page.product.write(page.draw)
                files += [path for path in found["files"] if path.suffix == ".png"]
                shown.advance()
        return files


@dataclass(frozen=True)
class _Page:
    """One page: where it is kept, and of what it is drawn."""

    product: Product
    images: Images
    title: str
    unit: str

    def draw(self, folder: Path, stem: str) -> Description:
        """Write the picture; what to say of it."""
        rows = [_row(path, caption) for _, path, caption in self.images]
        plots.attribution(folder / f"{stem}.png", rows, self.title, self.unit)
        return {"rows": len(rows), "title": self.title}


def _pages(attributor: Attributor, folder: Path, area: int, images: Images) -> list[_Page]:
    """ROWS images each. Where the user chose the folder too, one of other images gets another name."""
    parts = [images[start : start + ROWS] for start in range(0, len(images), ROWS)]
    place, files = folder / attributor.folder_name(area), ("{stem}.png", "{stem}.pdf")
    found = []
    for number, part in enumerate(parts, 1):
        stem = "sheet" if len(parts) == 1 else f"sheet-{number:03d}"
        of = {"images": [key for key, _, _ in part]}
        product = Product("sheet", place, stem, files, of, home=attributor.full.model.folder)
        page = f", page {number} of {len(parts)}" if len(parts) > 1 else ""
        found.append(_Page(product, part, title_of(attributor, area) + page, unit_of(attributor, area)))
    return found


def _row(path: Path, caption: str) -> plots.Row:
    """The row of a sheet, read from disk, so that it is the same whenever the image was computed."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return plots.Row(arrays["pixels"].transpose(1, 2, 0), arrays["map"], caption)
    except DAMAGED_NPZ as error:
        raise BoldreamsError(f"{path} is damaged ({error}); run the command again with --overwrite") from error


def title_of(attributor: Attributor, area: int) -> str:
    """Of a figure: target, model, method, and baseline where it is not the default."""
    settings = attributor.settings
    against = f" against {settings.baseline}" if settings.baseline not in ("", BASELINES[0]) else ""
    method = settings.method.replace("-", " ")
    return f"{attributor.targets[area].name}, {title_of_model(attributor.full.model)}\n{method}{against}"


def unit_of(attributor: Attributor, area: int) -> str:
    """Of the maps, and what was made of them: see `signed_map`."""
    unit = attributor.method.unit.format(response=attributor.targets[area].unit)
    return f"{unit}, mean of colours, smoothed by {SMOOTHING:g} pixels"
