"""What attributions leave on disk: an .npz and a panel of each image and area, and a sheet (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli import plots
from boldreams_cli.console import BoldreamsError, StopFlag, logger, progress
from boldreams_cli.encoding.evaluation.predict import Wanted
from boldreams_cli.files import DAMAGED_NPZ, write_npz
from boldreams_cli.interpret.attribution.attributor import Attributor, Job
from boldreams_cli.interpret.attribution.integration import BASELINES, Integral, signed_map
from boldreams_cli.interpret.products import Description, Product, said_of_model, title_of_model

LARGEST_ERROR = 0.01
LONGEST_SHEET = 50  # images; each takes 360 pixels of height
Row = tuple[NDArray[Any], NDArray[Any], str]


@dataclass
class _Sheets:
    """What the sheets of the areas will show."""

    keys: dict[int, list[str]] = field(default_factory=dict)
    rows: dict[int, list[Row]] = field(default_factory=dict)

    def add(self, area: int, found: Description) -> None:
        """One image more, as it is on disk."""
        self.keys.setdefault(area, []).append(found["key"])
        rows = self.rows.setdefault(area, [])
        if len(rows) < LONGEST_SHEET:
            rows.append(_row(found))

    def write(self, attributor: Attributor, folder: Path, stop: StopFlag) -> list[Path]:
        """Draw them; one that was drawn of the same images is left."""
        files = []
        for area, rows in self.rows.items():
            place = folder / attributor.names[area]
            sheet = Product("sheet", place, "sheet", ("{stem}.png",), {"images": self.keys[area]})
            title = _title(attributor, area)

            def draw(folder: Path, stem: str, rows: list[Row] = rows, title: str = title) -> Description:
                plots.attribution(folder / f"{stem}.png", rows, title)
                return {"rows": len(rows), "title": title}

            with sheet.held(stop):
                files += (sheet.found() or sheet.write(draw))["files"]
            if len(self.keys[area]) > len(rows):
                logger.info("%s shows the first %d of %d images", files[-1], len(rows), len(self.keys[area]))
        return files


@dataclass
class Attributions:
    """What `attribute` made or found.

    Parameters
    ----------
    results : the entries of ``results`` in the JSON object of ``attribute``.
    sheets : pictures of all images of an area.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    sheets: list[Path] = field(default_factory=list)


def attribute(
    attributor: Attributor,
    jobs: Sequence[Job],
    folder: Path,
    nsd_root: Path | None,
    stop: StopFlag,
    overwrite: bool = False,
) -> Attributions:
    """Attribute images to areas and keep, under ``folder/AREA``, an .npz and a panel of each, and a sheet.

    Images that are done with all of the same settings are not computed again.

    Parameters
    ----------
    attributor, jobs : what to do.
    folder : of all areas.
    nsd_root : to read nsdIds from.
    stop : looked at between images; finished ones are on disk.
    overwrite : whether to compute again what is done.

    Raises
    ------
    StoppedError
        If a signal came.
    """
    made, sheets, before = Attributions(), _Sheets(), 0
    with progress("attribute", len(jobs), "images") as shown:
        for job in jobs:
            stop.check(f"finished maps are in {folder}")
            found, computed = _attribute_one(attributor, job, folder, nsd_root, stop, overwrite)
            before += not computed
            for area, description in found.items():
                made.results.append(_entry(attributor.rois[area], description, job.image))
                sheets.add(area, description)
            shown.advance()
    if before:
        logger.info("%d of %d images were done before (--overwrite computes them again)", before, len(jobs))
    made.sheets = sheets.write(attributor, folder, stop)
    return made


def _attribute_one(
    attributor: Attributor, job: Job, folder: Path, nsd_root: Path | None, stop: StopFlag, overwrite: bool
) -> tuple[dict[int, Description], bool]:
    """One image's attributions by area, in the order of the areas, and whether anything had to be computed."""
    pixels = attributor.pixels(job.image, nsd_root)
    products = {area: attributor.product(folder, area, job.image, pixels) for area in job.areas}
    with ExitStack() as locks:
        for area in sorted(products, key=lambda area: str(products[area].folder)):  # in one order, so none waits for us
            locks.enter_context(products[area].held(stop))
        found = {area: None if overwrite else product.found() for area, product in products.items()}
        missing = [area for area, description in found.items() if description is None]
        if missing:
            result = attributor.integrate(pixels, missing)
            for place, area in enumerate(missing):
                one = _One(attributor, area, job.image, pixels, result, place)
                found[area] = products[area].write(one.write)
    return {area: description for area, description in found.items() if description is not None}, bool(missing)


@dataclass(frozen=True)
class _One:
    """One image's attribution to one area; `place` is the area's among the result's."""

    attributor: Attributor
    area: int
    image: Wanted
    pixels: Tensor
    result: Integral
    place: int

    def write(self, folder: Path, stem: str) -> Description:
        """Write .npz and panel; what to say of them."""
        result, place = self.result, self.place
        smooth = signed_map(result.values[place]).astype(np.float32)
        prediction, start = float(result.prediction[place]), float(result.baseline_prediction[place])
        error = float(result.completeness_error[place])
        self._warn(prediction - start, error)
        write_npz(
            folder / f"{stem}.npz",
            compressed=True,
            attribution=result.values[place].astype(np.float32),
            map=smooth,
            pixels=self.pixels.cpu().numpy(),
            prediction=prediction,
            baseline_prediction=start,
            image=str(self.image.name),
        )
        said_image = self.image.name if self.image.nsd_id is not None else stem
        caption = f"image {said_image}: mean beta {prediction:.2f}"
        row = (self.pixels.permute(1, 2, 0).cpu().numpy(), smooth, caption)
        plots.attribution(folder / f"{stem}.png", [row], _title(self.attributor, self.area))
        settings = self.attributor.settings
        return said_of_model(self.attributor.full.model) | {
            "image": self.image.name,
            "roi": self.attributor.rois[self.area],
            "baseline": settings.baseline,
            "steps": settings.steps,
            "prediction": prediction,
            "baseline_prediction": start,
            "attribution_sum": float(result.sums[place]),
            "completeness_error": error,
            "caption": caption,
        }

    def _warn(self, difference: float, error: float) -> None:
        if not error <= LARGEST_ERROR:
            logger.warning(
                "image %s, %s: the attribution misses the difference of the predictions (%.3g) by %.1f %%; "
                "use more --steps than %d",
                *(self.image.name, self.attributor.rois[self.area], difference, 100 * error),
                self.attributor.settings.steps,
            )


def _entry(roi: str, found: Description, image: Wanted) -> dict[str, Any]:
    names = ("prediction", "baseline_prediction", "attribution_sum", "completeness_error")  # null where infinite
    return {"image": image.name, "roi": roi, "files": found["files"]} | {name: found[name] for name in names}


def _row(found: Description) -> Row:
    """The row of a sheet, read from disk, so that it is the same whenever the image was computed."""
    path = found["files"][0]
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["pixels"].transpose(1, 2, 0), arrays["map"], found["caption"]
    except DAMAGED_NPZ as error:
        raise BoldreamsError(f"{path} is damaged ({error}); run the command again with --overwrite") from error


def _title(attributor: Attributor, area: int) -> str:
    baseline = attributor.settings.baseline
    against = f", against {baseline}" if baseline != BASELINES[0] else ""
    return f"{attributor.rois[area]}, {title_of_model(attributor.full.model)}{against}"
