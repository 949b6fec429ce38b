"""Maps of voxels to look around in: exact values on three slices, right, front and top (RAS) whatever the file's order.

A map travels as int16 and a scale that is a power of ten, so that what is read is the value to its last digit shown.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel
import numpy as np
from matplotlib import colormaps
from nibabel import orientations
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from PIL import Image

from boldreams_cli.data.dataset import Dataset
from boldreams_cli.data.subjects import folder_of
from boldreams_cli.encoding.evaluation.statistics import over_ceiling
from boldreams_cli.plots.brain.slices import slices
from boldreams_cli.study.report.assets import Assets, columns, listed
from boldreams_cli.study.report.blocks import Brain, Section, Table
from boldreams_cli.study.report.collect import Holdings, Model, Space, Subject
from boldreams_cli.study.report.parts import Part
from boldreams_cli.study.report.surface import surface

MISSING = np.iinfo(np.int16).min  # where a voxel has no value
LARGEST = np.iinfo(np.int16).max
FINEST = -4  # digits after the point
SMALL = 100_000  # pixels of a background that is kept without loss
SLICES = 12
TABLES = ("q", "eccentricity", "angle", "size")  # columns of voxels.csv
LOOKS = {  # colours, limits (None: of the values), unit
    "q": ("viridis_r", (0.0, 0.1), "q (false discovery rate)"),
    "eccentricity": ("plasma", (0.0, 4.2), "field eccentricity, degrees"),
    "angle": ("twilight", (0.0, 360.0), "field angle, degrees"),
    "size": ("cividis", None, "field size, degrees"),
    "difference": ("RdBu_r", None, "difference of r"),
}


@dataclass(frozen=True)
class Map:
    """Values of all voxels of a subject.

    Parameters
    ----------
    key : heading in the CSV.
    name : for people.
    unit : of the values, beside the colours.
    values : (V,) float64; NaN where there is none.
    colours : name of a colour map.
    limits : of the colours.
    """

    key: str
    name: str
    unit: str
    values: NDArray[np.float64]
    colours: str
    limits: tuple[float, float]


@dataclass(frozen=True)
class Canonical:
    """A space whose axes run to the right, front and top.

    Parameters
    ----------
    shape : of it.
    affine : its indices to mm.
    voxels : (V, 3) in it.
    axes : of each of its axes, the file's.
    flipped : whether that runs the other way.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    voxels: NDArray[np.int64]
    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    @classmethod
    def of(cls, space: Space) -> Canonical:
        """Turn a subject's space; nothing is interpolated."""
        turn = orientations.io_orientation(space.affine)
        axes = [int(np.flatnonzero(turn[:, 0] == axis)[0]) for axis in range(3)]
        flipped = [bool(turn[axis, 1] < 0) for axis in axes]
        shape = [space.shape[axis] for axis in axes]
        voxels = np.stack(
            [
                length - 1 - space.voxels[:, axis].astype(np.int64) if flip else space.voxels[:, axis].astype(np.int64)
                for axis, flip, length in zip(axes, flipped, shape, strict=True)
            ],
            axis=1,
        )
        affine = space.affine @ orientations.inv_ornt_aff(turn, space.shape)
        return cls((shape[0], shape[1], shape[2]), affine, voxels, tuple(axes), tuple(flipped))  # type: ignore[arg-type]

    def turned(self, volume: NDArray[Any]) -> NDArray[Any]:
        """A volume of the file, in this space."""
        turned = volume.transpose(self.axes)
        return turned[tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flipped)]

    def volume(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values of the voxels as a volume, NaN elsewhere."""
        whole = np.full(self.shape, np.nan)
        whole[tuple(self.voxels.T)] = values
        return whole

    def named(self, axis: int, place: int) -> str:
        """A slice through one of its axes, as the file and its table of voxels count."""
        return f"{'xyz'[self.axes[axis]]} {self.shape[axis] - 1 - place if self.flipped[axis] else place}"

    @property
    def linear(self) -> NDArray[np.uint32]:
        """(V,) x + X (y + Y z)."""
        x, y, z = self.voxels.T
        return (x + self.shape[0] * (y + self.shape[1] * z)).astype(np.uint32)


def scaled(values: NDArray[np.floating]) -> tuple[NDArray[np.int16], int]:
    """Round to whole multiples of a power of ten, the smallest that int16 can hold, not below a ten-thousandth.

    Parameters
    ----------
    values : (V,); NaN becomes MISSING.

    Returns
    -------
    multiples : (V,) int16.
    exponent : of ten.
    """
    known = np.isfinite(values)
    largest = float(np.abs(values[known]).max()) if known.any() else 0.0
    exponent = FINEST if largest == 0 else max(FINEST, math.ceil(math.log10(largest / LARGEST)))
    multiples = np.full(len(values), MISSING, np.int16)
    multiples[known] = np.rint(values[known] * 10.0**-exponent)
    return multiples, exponent


def brain_maps(held: Holdings, assets: Assets, dataset: Dataset | None) -> Section:
    """A map for each subject."""
    section = Section(
        "brain",
        "Brain map",
        "Click, drag or use the arrow keys on a slice; Page Up and Page Down go through the slices. The value is the "
        "map's own, not decoded from a colour. Left of the brain is on the left. Of vertices there is a picture.",
        missing="No scored model of a subject whose responses the cache holds. `boldreams score` makes the maps.",
    )
    for subject in held.subjects:
        if subject.meshes is not None:
            with held.findings.kept_going(f"surface of subject {subject.number}", "score it again with `--mesh DIR`"):
                section.blocks += surface(subject, assets)
        if subject.space is None:
            continue
        with held.findings.kept_going(f"brain map of subject {subject.number}", "`boldreams info` says more"):
            maps = list(_maps(held, subject, subject.space))
            if maps:
                section.blocks.append(_brain(held, assets, subject, subject.space, maps, dataset))
    return section


def _maps(held: Holdings, subject: Subject, space: Space) -> Iterator[Map]:
    """The best model's maps first, then r of the others, then comparisons."""
    count = len(space.voxels)
    alike = [model for model in subject.models if model.spec.get("mask") == space.mask]
    scored = [model for model in alike if model.scores is not None and len(model.r) == count]
    scored.sort(key=lambda model: -((model.scores or {}).get("r_mean") or -1))
    for place, model in enumerate(scored):
        yield _of_r(model, "r", model.r.astype(np.float64))
        if place:
            continue
        shares = over_ceiling(model.r.astype(np.float64), model.ceiling.astype(np.float64))
        if np.isfinite(shares).any():
            yield _of_r(model, "r / ceiling", shares)
        with held.findings.kept_going(model.row.folder / "voxels.csv", "score it again with `--overwrite`"):
            for name in TABLES:
                values = model.column(name)
                if values is not None and np.isfinite(values).any():
                    yield _map(f"{name} {model.row.folder.name}", name, f"{LOOKS[name][2]}: {model.label}", values)
    for study in held.compares:
        path = study.folder / "difference.nii.gz"
        if study.said.get("subject") != subject.number or not path.is_file():
            continue
        with held.findings.kept_going(path, "run `boldreams compare` again"):
            values = np.asarray(nibabel.load(path).dataobj, np.float64)[tuple(space.voxels.T)]
            yield _map(f"difference {study.folder.name}", "difference", f"difference of r: {study.folder.name}", values)


def _of_r(model: Model, kind: str, values: NDArray[np.float64]) -> Map:
    known = values[np.isfinite(values)]
    high = float(np.quantile(known, 0.99)) if len(known) else 1.0
    limits = (0.0, max(0.1, round(high, 2)))
    key = f"{kind.replace(' / ', '_over_')} {model.row.folder.name}"
    return Map(key, f"{kind}: {model.label}", kind, values, "viridis", limits)


def _map(key: str, look: str, name: str, values: NDArray[np.float64]) -> Map:
    colours, limits, unit = LOOKS[look]
    known = np.abs(values[np.isfinite(values)])
    high = max(0.01, round(float(np.quantile(known, 0.99)), 2)) if len(known) else 1.0
    return Map(key, name, unit, values, colours, limits or ((-high, high) if look == "difference" else (0.0, high)))


def _brain(
    held: Holdings, assets: Assets, subject: Subject, space: Space, maps: Sequence[Map], dataset: Dataset | None
) -> Brain:
    canonical = Canonical.of(space)
    volume, said = _background(held, subject, space, dataset)
    background = canonical.turned(volume)
    name = f"brain-{folder_of(subject.number)}"
    first = maps[0]
    low, high = np.quantile(canonical.voxels[:, 2], (0.02, 0.98)).tolist()
    levels = np.unique(np.linspace(low, high, SLICES).astype(int)).tolist()
    sizes = voxel_sizes(canonical.affine)

    def draw() -> Any:
        values = canonical.volume(first.values)
        aspect = float(sizes[1] / sizes[0])
        named = {level: canonical.named(2, level) for level in levels}
        return slices(background, values, named, heading, first.limits, first.colours, first.unit, aspect)

    title = f"Subject {subject.number}"
    heading = f"{title}, {first.name}"
    alt = f"{first.name} on {len(levels)} axial slices of subject {subject.number}; the values are in the CSV."
    drawn = assets.figure(_table(name, space, maps), title, "", alt, draw, shown=False)
    # Of a map int16, of its place uint32, in base64; the background is small beside them.
    room = [assets.has_room(4 * len(space.voxels) * (number + 4)) for number in range(len(maps))]
    kept = [shown for shown, fits in zip(maps, room, strict=True) if fits]
    assets.left_out["brain maps"] += len(maps) - len(kept)
    data = _embedded(canonical, space, background, kept, [float(size) for size in sizes]) if kept else ""
    assets.taken += len(data)
    caption = (
        f"Behind the map: {said}. Values of all maps by voxel are in the CSV; x, y and z, there and of the voxel and "
        f"slices named here, count from 0 along the axes of the file, which run {running(canonical)}."
    )
    names = [shown.name for shown in kept]
    return Brain(name, title, caption, data, list(space.areas), names, canonical.shape, drawn.picture, alt, drawn.files)


def running(space: Canonical) -> str:
    """Where the file's axes run to."""
    ends = (("right", "left"), ("front", "back"), ("top", "bottom"))
    named = {axis: ends[mine][space.flipped[mine]] for mine, axis in enumerate(space.axes)}
    return listed([f"{'xyz'[axis]} to the {named[axis]}" for axis in range(3)])


def _table(name: str, space: Space, maps: Sequence[Map]) -> Table:
    inside = np.stack(list(space.areas.values()), 1) if space.areas else np.zeros((len(space.voxels), 0), bool)
    names = list(space.areas)
    rows = []
    for place, (x, y, z) in enumerate(space.voxels.tolist()):
        areas = ";".join(names[area] for area in np.flatnonzero(inside[place]))
        values = {shown.key: float(shown.values[place]) for shown in maps}
        rows.append({"x": x, "y": y, "z": z, "areas": areas} | values)
    keys = ["x", "y", "z", "areas", *(shown.key for shown in maps)]
    return Table(name, "maps by voxel", columns(*((key, key, 4) for key in keys)), rows)


def _background(
    held: Holdings, subject: Subject, space: Space, dataset: Dataset | None
) -> tuple[NDArray[np.floating], str]:
    """A volume to lay maps on, and what it is."""
    if dataset is not None and subject.number in dataset.subjects():
        with held.findings.kept_going(f"background of subject {subject.number}", "the voxels used are shown instead"):
            found = dataset.of_request(subject.responses or {}).background(subject.number)
            if found is not None:
                volume, name = found
                if volume.shape != tuple(space.shape):
                    raise ValueError(f"{name} has shape {volume.shape}, the responses {space.shape}")
                masks = len(np.unique(volume)) <= 2
                return volume * 0.4 if masks else volume, name
    whole = np.zeros(space.shape, np.float32)
    whole[tuple(space.voxels.T)] = 0.4
    return whole, "the voxels used (no mean or T1 volume is at hand; give --nsd-root)"


def _embedded(
    space: Canonical, original: Space, background: NDArray[np.floating], maps: Sequence[Map], sizes: list[float]
) -> str:
    """All that the script reads, as JSON."""
    shown = []
    for item in maps:
        multiples, exponent = scaled(item.values)
        shown.append(
            {
                "name": item.name,
                "unit": item.unit,
                "exponent": exponent,
                "limits": item.limits,
                "colours": item.colours,
                "values": _base64(multiples.astype("<i2")),
            }
        )
    tables = {name: _base64((colormaps[name](np.arange(256))[:, :3] * 255).round().astype(np.uint8)) for name in
              {item.colours for item in maps}}  # fmt: skip
    areas = [{"name": name, "bits": _base64(np.packbits(inside))} for name, inside in original.areas.items()]
    value = {
        "shape": space.shape,
        "sizes": sizes,
        "affine": space.affine.tolist(),
        "axes": space.axes,
        "flipped": space.flipped,
        "voxels": _base64(space.linear.astype("<u4")),
        "background": _mosaic(background),
        "areas": areas,
        "maps": shown,
        "colours": tables,
    }
    # Within a page's script no name may end it.
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _mosaic(volume: NDArray[np.floating]) -> dict[str, Any]:
    """Slices of a volume beside and below each other as one grey picture: a tenth of the raw bytes."""
    x, y, z = volume.shape
    across = math.ceil(math.sqrt(z * y / x))
    known = volume[np.isfinite(volume)]
    masks = len(np.unique(known)) <= 2  # drawn in a dim grey, on which the colours of a map are seen
    top = 1.0 if masks or not (known > 0).any() else float(np.quantile(known[known > 0], 0.995))
    grey = (np.clip(np.nan_to_num(volume) / top, 0, 1) * 255).astype(np.uint8)
    sheet = np.zeros((math.ceil(z / across) * y, across * x), np.uint8)
    for level in range(z):
        row, column = divmod(level, across)
        sheet[row * y : (row + 1) * y, column * x : (column + 1) * x] = grey[:, :, level].T
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "webp", quality=80, method=2, lossless=sheet.size < SMALL)
    return {"across": across, "uri": "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()}


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


PARTS = (Part(lambda held, assets: brain_maps(held, assets, held.dataset), place=120, turn=1),)
