"""Which of two models predicts better, and where: paired by test image, per area and voxel (paper, figure 3)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boldreams_cli.console import ChoiceError, MismatchError, listing, timed
from boldreams_cli.data.maps.writing import place_columns, write_map
from boldreams_cli.data.responses import Responses
from boldreams_cli.data.subjects import store_name
from boldreams_cli.encoding.evaluation.certainty.influences import ALL, memberships
from boldreams_cli.encoding.evaluation.certainty.paired import Paired, paired
from boldreams_cli.encoding.evaluation.predict import Wanted, predict
from boldreams_cli.encoding.model.full import store_of
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.files import write_json, write_text
from boldreams_cli.plots.models.differences import plane

Q = 0.05  # of a voxel that is counted as better in one model
OBJECT, AREAS, VOXELS = "compare.json", "rois.csv", "voxels.csv"
MAPS = ("difference", "q")


@dataclass
class Comparison:
    """Two models of one subject, compared.

    Parameters
    ----------
    models : A and B.
    responses : of the subject.
    result : over the voxels that have a correlation in both.
    folder : of the files.
    files : that `save` wrote.
    """

    models: tuple[FittedModel, FittedModel]
    responses: Responses
    result: Paired
    folder: Path
    files: list[Path] = field(default_factory=list)

    def areas(self, labels: bool = False) -> dict[str, dict[str, Any]]:
        """The difference in each group of areas (and each single label) that has voxels with both correlations."""
        known = self.responses.areas
        names = dict.fromkeys([*known.counts(), *(known.label_counts() if labels else [])])
        return {name: self.result.area(name) for name in names if name in self.result.members}

    def summary(self) -> dict[str, Any]:
        """The JSON object of ``compare``."""
        whole = self.result.area(ALL)
        better = self.result.q < Q
        return {
            "models": [str(model.folder) for model in self.models],
            "subject": self.responses.subject,
            "images": self.result.images,
            "voxels": whole["voxels"],
            "excluded": len(self.result.r_a) - whole["voxels"],
            "r_mean": [whole["r_a"], whole["r_b"]],
            "difference": {"mean": whole["difference"], "se": whole["se"], "ci": whole["ci"]},
            "rois": self.areas(),
            "voxels_q05": {
                "A": int((better & (self.result.difference > 0)).sum()),
                "B": int((better & (self.result.difference < 0)).sum()),
            },
            "verdict": verdict(whole, self.areas()),
            "files": [str(path) for path in self.files],
        }

    def save(self) -> None:
        """Write tables, maps and the figure, and compare.json when those are there."""
        a, b = self.models
        self.files = [self.folder / name for name in (OBJECT, AREAS, VOXELS)]
        write_text(self.folder / AREAS, self._area_table())
        write_text(self.folder / VOXELS, self._voxel_table())
        for name in MAPS:
            self.files += write_map(self.folder, name, self.responses.units, getattr(self.result, name))
        self.files += plane(self.folder / "plane", self.result.r_a, self.result.r_b, named(a), named(b))
        write_json(self.folder / OBJECT, self.summary())

    def _area_table(self) -> str:
        """Groups, single labels, then all voxels."""
        rows = self.areas(labels=True) | {ALL: self.result.area(ALL)}
        columns = ["voxels", "r_a", "r_b", "difference", "se", "low", "high", "p"]
        return _table(
            ["roi", *columns],
            [
                [name, *((row | dict(zip(("low", "high"), row["ci"], strict=True)))[key] for key in columns)]
                for name, row in rows.items()
            ],
        )

    def _voxel_table(self) -> str:
        """One row a voxel; empty where a number is not defined."""
        result = self.result
        columns = (result.r_a, result.r_b, result.difference, result.error, result.p, result.q)
        places = place_columns(self.responses.units)
        rows = zip(*places.values(), *(_cells(values) for values in columns), strict=True)
        return _table([*places, "r_a", "r_b", "difference", "se", "p", "q"], list(rows))


def compare(
    a: FittedModel,
    b: FittedModel,
    responses: Responses,
    cache: Path,
    data_root: Path | None,
    device: torch.device,
    memory: int,
) -> Comparison:
    """Predict the test images with both models, and compare their correlations with the betas.

    Parameters
    ----------
    a, b : fitted, of the same responses (`check_comparable`).
    responses : of both.
    cache : that holds the feature stores, and the folder of the comparison.
    data_root : of the images, for finetuned models.
    device : to compute on.
    memory : bytes that maps may take.
    """
    images = responses.test_images
    with timed("predictions of both models"):
        mine, other = (_predicted(model, images, cache, data_root, device, memory) for model in (a, b))
    betas = torch.from_numpy(responses.mean_betas(images))
    result = paired(mine, other, betas, memberships(responses.areas))
    if ALL not in result.members:
        raise MismatchError("no voxel has a correlation in both models; see boldreams score of each")
    folder = cache / "studies" / "compare" / f"{a.folder.name}-{b.folder.name}"
    return Comparison((a, b), responses, result, folder)


def _predicted(
    model: FittedModel,
    images: NDArray[np.integer],
    cache: Path,
    data_root: Path | None,
    device: torch.device,
    memory: int,
) -> torch.Tensor:
    if not model.spec.finetuned:
        store_of(model, cache).rows(images)  # refused here, rather than computed again from images
    wanted = [Wanted(image_id=int(image)) for image in images]
    return torch.from_numpy(predict(model, wanted, cache, data_root, device, memory))


def check_comparable(a: FittedModel, b: FittedModel, cache: Path) -> None:
    """Refuse two models whose test betas are not the same.

    Raises
    ------
    ChoiceError
        If they are one model.
    MismatchError
        If they are of other subjects, responses, test images or stimuli; the message says which.
    """
    if a.folder.resolve() == b.folder.resolve():
        raise ChoiceError(f"{a.folder} would be compared with itself; give two models")
    if a.spec.subject != b.spec.subject:
        raise MismatchError(
            f"{named(a)} is of subject {a.spec.subject}, {named(b)} of subject {b.spec.subject}; "
            "give two models of one subject"
        )
    if a.spec.responses == b.spec.responses:
        pixels = [model.spec.training.get("pixels") for model in (a, b) if model.spec.finetuned]
        if len(set(pixels) - {None}) > 1:  # of frozen ones the store's edition says it
            raise MismatchError(f"{named(a)} was trained on other stimuli than {named(b)}: fit both again")
        return
    stores = [cache / "responses" / store_name(m.spec.subject, m.spec.responses) for m in (a, b)]
    others = [name for name in ("sessions", "mask") if getattr(a.spec, name) != getattr(b.spec, name)]
    if all(path.is_dir() for path in stores):
        mine, other = (Responses.open(path).test_images for path in stores)
        others += ["test images"] if not np.array_equal(mine, other) else []
    raise MismatchError(
        f"{named(a)} was fitted to responses {a.spec.responses}, {named(b)} to {b.spec.responses}"
        f"{' (other ' + ', '.join(others) + ')' if others else ''}; fit both to the same --sessions and --mask"
    )


def named(model: FittedModel) -> str:
    """Subject, backbone and name, as lists show a model."""
    return "/".join(model.folder.parts[-3:])


def verdict(whole: dict[str, Any], areas: dict[str, dict[str, Any]]) -> str:
    """Say which model is better where, by the 95 % intervals, each for itself.

    Parameters
    ----------
    whole, areas : of `Paired.area`, over all voxels and of each area.
    """
    found: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for name, row in areas.items():
        found[_sign(row)].append(name)
    words = {1: "A is better in", -1: "B is better in", 0: "no difference is shown in"}
    said = [f"{words[sign]} {listing(names, 30)}" for sign, names in found.items() if names]
    over_all = {1: "A is better", -1: "B is better", 0: "no difference is shown"}[_sign(whole)]
    return f"Over all voxels {over_all} (A - B: {interval_text(whole)}). By area: {'; '.join(said)}."


def interval_text(row: dict[str, Any]) -> str:
    """A difference with its 95 % interval."""
    return f"{row['difference']:+.4f}, 95 % interval {row['ci'][0]:+.4f} to {row['ci'][1]:+.4f}"


def _sign(row: dict[str, Any]) -> int:
    """1 or -1 where the interval leaves out 0."""
    low, high = row["ci"]
    return int(low > 0) - int(high < 0)


def _cells(values: NDArray[np.float64]) -> list[float | str]:
    return [value if math.isfinite(value) else "" for value in values.tolist()]


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
