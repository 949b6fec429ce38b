"""What attributions leave on disk: maps and panels of each image and target, sheets, checks (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from boldreams_cli import plots
from boldreams_cli.console import BoldreamsError, StopFlag, logger, progress
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.evaluation.predict import Wanted
from boldreams_cli.encoding.model.full import FullModel
from boldreams_cli.files import DAMAGED_NPZ, write_npz
from boldreams_cli.interpret.attribution.attributor import Attributor, Job, Settings
from boldreams_cli.interpret.attribution.checks.record import Checker, summary
from boldreams_cli.interpret.attribution.integration import signed_map
from boldreams_cli.interpret.attribution.method import Attribution
from boldreams_cli.interpret.attribution.sheets import Sheets, title_of, unit_of
from boldreams_cli.interpret.labels import called
from boldreams_cli.interpret.products import Description, Product, said_of_model
from boldreams_cli.interpret.targets import Target

LARGEST_DELTA = 0.01  # of the sum of absolute attributions, before it is warned of
Entry = dict[str, Any]
NUMBERS = (
    *("prediction", "baseline_prediction", "attribution_sum", "absolute_sum"),
    *("delta", "relative_delta", "completeness_error"),
)


@dataclass(frozen=True)
class Request:
    """What to attribute, by whatever method.

    Parameters
    ----------
    full : the full model.
    targets : see `Attributor`.
    responses : of the model's subject; only the default images need them.
    cache : that holds the model's store.
    images : to attribute to all targets; none means each target's best test images.
    count : of these.
    """

    full: FullModel
    targets: Sequence[Target]
    responses: Responses | None
    cache: Path
    images: Sequence[Wanted]
    count: int


@dataclass
class Attributions:
    """What `attribute` made or found.

    Parameters
    ----------
    results : the entries of ``results`` in the JSON object of ``attribute``.
    sheets : pictures of all images of a target.
    """

    results: list[Entry] = field(default_factory=list)
    sheets: list[Path] = field(default_factory=list)

    @property
    def verdicts(self) -> list[str]:
        """Which methods' maps survive random weights, where they were checked."""
        checks: dict[str, list[Description]] = {}
        for entry in self.results:
            if "check" in entry:
                checks.setdefault(entry["method"], []).append(entry["check"])
        return summary(checks)

    def described(self, request: Request, settings: Sequence[Settings]) -> Description:
        """The JSON object of ``attribute``."""
        names = list(dict.fromkeys(target.name for target in request.targets))
        first = settings[0]
        return said_of_model(request.full.model) | {
            "roi": ",".join(names),
            "rois": names,
            "methods": [each.method for each in settings],
            "baseline": first.baseline or None,
            "steps": first.steps or None,
            "results": self.results,
            "verdicts": self.verdicts,
            "sheets": self.sheets,
        }

    def lines(self) -> list[str]:
        """For people."""
        return [*map(_line, self.results), *self.verdicts]


@dataclass(frozen=True)
class Place:
    """Where attributions are kept.

    Parameters
    ----------
    folder : of all targets.
    data_root : to read image ids from.
    chosen : whether the user named the folder.
    overwrite : whether to compute again what is done, and to replace others in a folder that the user named.
    """

    folder: Path
    data_root: Path | None
    chosen: bool = False
    overwrite: bool = False


def attribute_by(
    settings: Sequence[Settings], request: Request, place: Place, stop: StopFlag, check: bool = False
) -> Attributions:
    """Attribute by several methods, one after the other; see `attribute`."""
    made = Attributions()
    attributors = [Attributor(request.full, request.targets, request.responses, each) for each in settings]
    if request.images:
        jobs = attributors[0].all_areas(request.images, place.chosen)
    else:  # the same for all methods
        jobs = attributors[0].best_test_images(request.cache, place.data_root, request.count, stop)
    for attributor in attributors:
        found = attribute(attributor, jobs, place, stop, check)
        made.results += found.results
        made.sheets += found.sheets
    return made


def attribute(
    attributor: Attributor, jobs: Sequence[Job], place: Place, stop: StopFlag, check: bool = False
) -> Attributions:
    """Attribute images to targets and keep, under ``folder/TARGET``, an .npz and a panel of each, and sheets.

    Images that are done with all of the same settings are not computed again.

    Parameters
    ----------
    attributor, jobs, place : what to do, and where it is kept.
    stop : looked at between images and checks; finished ones are on disk.
    check : whether to check the maps too.

    Raises
    ------
    StoppedError
        If a signal came.
    ChoiceError
        If the folder that the user named holds others of the same name, or files in the way.
    """
    made, sheets, before = Attributions(), Sheets(), 0
    checker = Checker(attributor) if check else None
    with progress(f"attribute, {attributor.settings.method}", len(jobs), "images") as shown:
        for job in jobs:
            stop.check(f"finished maps are in {place.folder}")
            found, computed = _attribute_one(attributor, job, place, stop, checker)
            before += not computed
            for area, (description, checked) in found.items():
                made.results.append(_entry(attributor, area, description, checked, job.image))
                sheets.add(area, description)
            shown.advance()
    if before:
        logger.info("%d of %d images were done before (--overwrite computes them again)", before, len(jobs))
    made.sheets = sheets.write(attributor, place.folder, stop)
    return made


def _attribute_one(
    attributor: Attributor, job: Job, place: Place, stop: StopFlag, checker: Checker | None
) -> tuple[dict[int, tuple[Description, Description | None]], bool]:
    """One image's attributions and checks by target, in their order, and whether anything had to be computed."""
    pixels = attributor.pixels(job.image, place.data_root)
    products = {area: attributor.product(place.folder, area, job.name, pixels, place.chosen) for area in job.areas}
    with ExitStack() as locks:
        for area in sorted(products, key=lambda area: str(products[area].folder)):  # in one order, so none waits for us
            locks.enter_context(products[area].held(stop))
        found = {area: None if place.overwrite else product.found() for area, product in products.items()}
        missing = [area for area, description in found.items() if description is None]
        for area in missing:
            products[area].place(place.overwrite)  # refused before it is computed
        if missing:
            result = attributor.attribute(pixels, missing)
            for number, area in enumerate(missing):
                one = _One(attributor, area, job.image, called(job.image, place.data_root), pixels, result, number)
                found[area] = products[area].write(one.write, place.overwrite)
        done = {area: description for area, description in found.items() if description is not None}
        checks: dict[int, Description] = {}
        if checker is not None:
            checks = _check(checker, products, done, pixels, stop, place.overwrite)
    computed = bool(missing) or any(found["computed"] for found in checks.values())
    return {area: (description, checks.get(area)) for area, description in done.items()}, computed


def _check(
    checker: Checker,
    products: dict[int, Product],
    done: dict[int, Description],
    pixels: Tensor,
    stop: StopFlag,
    overwrite: bool,
) -> dict[int, Description]:
    """Checks of one image's maps, while these are held; ``computed`` says whether they were made now."""
    kept = {area: checker.product(products[area], description) for area, description in done.items()}
    found = {area: None if overwrite else product.found() for area, product in kept.items()}
    missing = [area for area, description in found.items() if description is None]
    random = checker.random_maps(pixels, missing, stop) if missing else {}
    for number, area in enumerate(missing):
        stop.check(f"finished maps and checks are in {kept[area].folder.parent}")
        values = _values(done[area]["files"][0])
        checked = checker.check(area, pixels, values, {level: maps[number] for level, maps in random.items()})
        title = f"{title_of(checker.attributor, area)}, image {_label(done[area])}"
        make = checked.writer(title, checker.attributor.targets[area].unit)
        with kept[area].held(stop):
            found[area] = kept[area].write(make, overwrite)
    return {
        area: description | {"computed": area in missing}
        for area, description in found.items()
        if description is not None
    }


@dataclass(frozen=True)
class _One:
    """One image's attribution to one target; `number` is the target's among the result's, `label` the image's name."""

    attributor: Attributor
    area: int
    image: Wanted
    label: str
    pixels: Tensor
    result: Attribution
    number: int

    def write(self, folder: Path, stem: str) -> Description:
        """Write .npz and panel; what to say of them."""
        one, values = self.attributor, self.result.values[self.number]
        smooth = signed_map(values).astype(np.float32)
        numbers = self._numbers()
        self._warn(numbers)
        write_npz(
            folder / f"{stem}.npz",
            compressed=True,
            attribution=values.astype(np.float32),
            map=smooth,
            pixels=self.pixels.cpu().numpy(),
            prediction=numbers["prediction"],
            baseline_prediction=np.nan if numbers["baseline_prediction"] is None else numbers["baseline_prediction"],
            image=self.label,
        )
        caption = f"image {self.label}: {one.targets[self.area].unit} {numbers['prediction']:.2f}"
        row = plots.Row(self.pixels.permute(1, 2, 0).cpu().numpy(), smooth, caption)
        plots.attribution(folder / f"{stem}.png", [row], title_of(one, self.area), unit_of(one, self.area))
        settings = one.settings
        return said_of_model(one.full.model) | {
            "image": self.image.name,
            "image_label": self.label,
            "roi": one.rois[self.area],
            "area": one.targets[self.area].folder,
            "method": settings.method,
            "baseline": settings.baseline or None,
            "steps": settings.steps or None,
            **numbers,
            "unit": unit_of(one, self.area),
            "response_unit": one.targets[self.area].unit,
            "caption": caption,
        }

    def _numbers(self) -> Entry:
        """The numbers of the JSON object; None where the method has no baseline or is not meant to add up."""
        result, method = self.result, self.attributor.method
        arrays = {
            "prediction": result.prediction,
            "baseline_prediction": result.baseline_prediction if method.from_baseline else None,
            "attribution_sum": result.sums,
            "absolute_sum": result.absolute_sums,
        }
        for name in ("delta", "relative_delta", "completeness_error"):
            arrays[name] = getattr(result, name) if method.adds_up else None
        return {name: None if array is None else float(array[self.number]) for name, array in arrays.items()}

    def _warn(self, numbers: Entry) -> None:
        relative, one = numbers["relative_delta"], self.attributor
        if relative is not None and not abs(relative) <= LARGEST_DELTA:
            logger.warning(
                "image %s, %s: the attribution's sum is off by %+.3g, %.1f %% of its absolute values; use more --steps "
                "than %d",
                *(self.label, one.rois[self.area], numbers["delta"], 100 * abs(relative), one.settings.steps),
            )


def _entry(attributor: Attributor, area: int, found: Description, checked: Description | None, image: Wanted) -> Entry:
    about = {"image": image.name, "image_label": _label(found), "roi": attributor.rois[area]}
    about["method"] = attributor.settings.method
    entry = about | {"files": found["files"]} | {name: found[name] for name in NUMBERS}
    if checked is not None:
        own = ("deletion", "insertion", "chance_deletion", "chance_insertion", "infidelity", "relative_infidelity")
        names = (*own, "sensitivity", "rank_correlation", "survives", "files")
        entry["check"] = {name: checked[name] for name in names}
    return entry


def _line(entry: Entry) -> str:
    said = f"{entry['roi']}, image {entry['image_label']}, {entry['method']}: {entry['prediction']:.4f}"
    if entry["baseline_prediction"] is not None:
        said += f", of the baseline {entry['baseline_prediction']:.4f}"
    if entry["relative_delta"] is not None:
        said += f"; sum off by {entry['delta']:+.2g}, {100 * abs(entry['relative_delta']):.2g} % of absolute values"
    if (found := entry.get("check")) is not None:
        said += (
            f"; deletion {found['deletion']:.3f} (by chance {found['chance_deletion']:.3f}), insertion "
            f"{found['insertion']:.3f} ({found['chance_insertion']:.3f}), relative infidelity "
            f"{_number(found['relative_infidelity'])}, sensitivity {_number(found['sensitivity'])}"
        )
    return f"{said}  {entry['files'][1]}"


def _label(found: Description) -> str:
    """What people call the image; products that were made before it was written down have its number or path only."""
    return str(found.get("image_label", found["image"]))


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _values(path: Path) -> Any:
    """(3, H, W) as it is on disk, so that a check is the same whenever the map was computed."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["attribution"]
    except DAMAGED_NPZ as error:
        raise BoldreamsError(f"{path} is damaged ({error}); run the command again with --overwrite") from error
