"""Reads all of a data file but betas and pixels, and says at once all that is wrong with it (docs/data-format.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, ChoiceError, listing
from boldreams_cli.data.neutral import fields
from boldreams_cli.data.neutral.fields import FieldError
from boldreams_cli.data.neutral.writing import CEILING_KINDS, FORMAT, VERSION, check_area
from boldreams_cli.data.subjects import check_name
from boldreams_cli.data.units import Units, VertexUnits, VoxelUnits
from boldreams_cli.files import check_declared, reading

T = TypeVar("T")
REMEDY = "write it again (docs/data-format.md)"
LARGEST_SIDE = 8192  # of an image
HEMISPHERES = dict.fromkeys(("l", "lh", "left"), "L") | dict.fromkeys(("r", "rh", "right"), "R")  # as people write


@dataclass(frozen=True)
class TrialMarks:
    """What is known of each trial.

    Parameters
    ----------
    image : (trials,) int32 index of the image shown.
    session : (trials,) int32 from 1 up; None where there are no sessions.
    test : (trials,) bool; None where nothing is marked.
    repeats : (trials,) int32 presentations that a row of betas is the average of; None where each is one.
    """

    image: NDArray[np.int32]
    session: NDArray[np.int32] | None
    test: NDArray[np.bool_] | None
    repeats: NDArray[np.int32] | None


@dataclass(frozen=True)
class ImageList:
    """Names of the images, and their files where pixels are not in the data file.

    Parameters
    ----------
    names : of each image.
    paths : of their files, absolute; None where ``images/pixels`` holds them.
    """

    names: list[str]
    paths: list[Path] | None


@dataclass(frozen=True)
class AreaLabels:
    """One array of labels: (units,) int16, 0 for none, and the name of each label from 1 up."""

    labels: NDArray[np.int16]
    names: dict[int, str]


@dataclass(frozen=True)
class Ceiling:
    """(units,) float32 and what it is: one of `CEILING_KINDS`."""

    values: NDArray[np.float32]
    kind: str


@dataclass(frozen=True)
class DataFile:
    """All of a data file but betas and pixels.

    Parameters
    ----------
    path : of it.
    subject : name.
    zscored : whether betas are z-scored already.
    trials, images, units, areas, ceiling : see their classes; no ceiling where the file has none.
    degrees : of visual angle that the images spanned; None where that is not said.
    """

    path: Path
    subject: str
    zscored: bool
    trials: TrialMarks
    images: ImageList
    units: Units
    areas: list[AreaLabels]
    ceiling: Ceiling | None
    degrees: float | None


@dataclass
class Reading:
    """Reads a file part by part, so that one mistake does not hide the others.

    Parameters
    ----------
    path : of the file.
    errors, warnings : found so far, one line each.
    """

    path: Path
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def part(self, read: Callable[[], T]) -> T | None:
        """What a function reads; None, and an error noted, where it cannot."""
        try:
            return read()
        except BoldreamsError as error:
            self.errors.append(f"{self.path}: {error}")
            return None

    def warn(self, text: str) -> None:
        """Note what is odd."""
        self.warnings.append(f"{self.path}: {text}")

    def read(self) -> DataFile | None:
        """Read the file; None where something is wrong, and `errors` says what."""
        try:
            with reading(self.path, REMEDY, "give the path of a data file"), h5py.File(self.path, "r") as file:
                return self._read(file)
        except BoldreamsError as error:
            self.errors.append(str(error))
            return None

    def _read(self, file: Any) -> DataFile | None:
        self.part(lambda: _check_format(file))
        subject = self.part(lambda: _subject(file, self.path))
        shape = self.part(lambda: _shape_of_betas(file, self.path))
        images = self.part(lambda: _images(file, self.path))
        units = self.part(lambda: _units(file))
        if shape is not None and units is not None and len(units) != shape[1]:
            kind = "ijk" if isinstance(units, VoxelUnits) else "vertex"
            turned = f", and {shape[0]} trials; {fields.TURNED}" if len(units) == shape[0] else ""
            self.errors.append(f"{self.path}: units/{kind} has {len(units)} units, betas {shape[1]}{turned}")
            if turned:  # nothing else of it fits either
                return None
        degrees = self.part(lambda: _degrees(file))
        zscored = self.part(lambda: self._zscored(file))
        if shape is None or images is None:
            return None
        marks = self.part(lambda: _trials(file, shape[0], images.names))
        areas = self.part(lambda: _areas(file, shape[1]))
        ceiling = self.part(lambda: _ceiling(file, shape[1]))
        if self.errors or marks is None or areas is None or units is None or subject is None or zscored is None:
            return None
        return DataFile(self.path, subject, zscored, marks, images, units, areas, ceiling, degrees)

    def _zscored(self, file: Any) -> bool:
        betas = file.get("betas")
        said = betas.attrs.get("zscored") if isinstance(betas, h5py.Dataset) else None
        found = fields.values(file, "zscored") if said is None else np.asarray(said)
        if found is None:
            self.warn("betas has no attribute zscored: they are taken as not z-scored")
            return False
        return fields.flag("zscored", found)


def subject_of(path: Path) -> str:
    """Name of the subject of a data file.

    Raises
    ------
    BoldreamsError
        If the file cannot be read, or the name is none.
    """
    with reading(path, REMEDY, "give the path of a data file"), h5py.File(path, "r") as file:
        try:
            return _subject(file, path)
        except FieldError as error:
            raise FieldError(f"{path}: {error}") from error


def open_file(path: Path) -> DataFile:
    """Read a data file.

    Raises
    ------
    BoldreamsError
        If something is wrong with it: a line for each mistake.
    """
    found = Reading(path)
    data = found.read()
    if data is None:
        raise BoldreamsError("\n".join(found.errors))
    return data


def _check_format(file: Any) -> None:
    said, version = fields.text(file, "format"), fields.values(file, "version")
    if said not in (None, FORMAT):
        raise FieldError(f"format is {said!r}; this version reads {FORMAT!r}")
    if version is not None and not np.isin(version, range(1, VERSION + 1)).all():
        raise FieldError(f"version is {version}; this version reads up to {VERSION}")


def _subject(file: Any, path: Path) -> str:
    said = fields.text(file, "subject")
    try:
        return check_name(said or path.stem)
    except ChoiceError as error:
        where = "attribute" if said else "file's name, there being no such attribute,"
        raise FieldError(f"{error} (it is the {where} subject)") from error


def _shape_of_betas(file: Any, path: Path) -> tuple[int, int]:
    betas = file.get("betas")
    if not isinstance(betas, h5py.Dataset):
        raise FieldError(f"betas is missing: (trials, units) float32; the file holds {listing(file)}")
    if betas.ndim != 2 or not all(betas.shape) or betas.dtype.kind not in "fiu":
        raise FieldError(f"betas is {betas.shape} {betas.dtype}; it must be (trials, units) float32")
    fields.check_own(file, "betas", betas)
    check_declared(path, betas.size * betas.dtype.itemsize)
    return int(betas.shape[0]), int(betas.shape[1])


def _images(file: Any, path: Path) -> ImageList:
    names = fields.texts("images/name", fields.needed(file, "images/name", "a name of each image"))
    if not all(names):
        raise FieldError(f"images/name has an empty name: image {names.index('')}")
    if twice := _repeated(names):
        raise FieldError(
            f"images/name has a name twice: {twice[0]}; each image has one entry, however often it was shown"
        )
    found, pixels = fields.values(file, "images/path"), file.get("images/pixels")
    if found is not None:
        paths = fields.texts("images/path", found)
        if len(paths) != len(names):
            raise FieldError(f"images/path has {len(paths)} entries, images/name {len(names)}")
        folder = path.parent.absolute()  # not resolved: that asks the disk for every picture
        if twice := _repeated(paths):
            one, other = [name for name, item in zip(names, paths, strict=True) if item == twice[0]][:2]
            raise FieldError(
                f"images/path has a file twice: {one} and {other} are both {twice[0]}; give it one entry, and its "
                "index to all of its trials, or it may be held out and trained on"
            )
        return ImageList(names, [folder / item for item in paths])
    if not isinstance(pixels, h5py.Dataset):
        raise FieldError("images/path is missing, and so is images/pixels: one of them says what was seen")
    right = pixels.ndim == 4 and pixels.shape[3] == 3 and pixels.dtype == np.uint8
    if not right or len(pixels) != len(names) or not all(pixels.shape):
        turned = f"; {fields.TURNED}" if pixels.shape[::3] == (3, len(names)) else ""
        raise FieldError(
            f"images/pixels is {pixels.shape} {pixels.dtype}; it must be ({len(names)}, height, width, 3) uint8{turned}"
        )
    fields.check_own(file, "images/pixels", pixels)
    if max(pixels.shape[1:3]) > LARGEST_SIDE:
        raise FieldError(f"images/pixels is {pixels.shape}; no side may be above {LARGEST_SIDE}")
    check_declared(path, pixels.size)
    return ImageList(names, None)


def _repeated(items: list[str]) -> list[str]:
    """Those that are there more than once, in order."""
    return [item for item, count in Counter(items).items() if count > 1]


def _trials(file: Any, count: int, names: list[str]) -> TrialMarks:
    shown = fields.needed(file, "trial/image", "the image of each trial")
    if fields.is_text(shown):
        places = {name: place for place, name in enumerate(names)}
        asked = fields.texts("trial/image", shown)
        if unknown := sorted({name for name in asked if name not in places}):
            raise FieldError(f"trial/image names {len(unknown)} images that images/name lacks: {listing(unknown, 3)}")
        shown = np.array([places[name] for name in asked])
    image = fields.whole("trial/image", shown, count, 0, len(names) - 1)
    session, test, repeats = (fields.values(file, f"trial/{name}") for name in ("session", "test", "repeats"))
    marks = TrialMarks(
        image,
        None if session is None else fields.whole("trial/session", session, count, 1, 999),
        None if test is None else fields.flags("trial/test", test, count),
        None if repeats is None else fields.whole("trial/repeats", repeats, count, 1),
    )
    if marks.test is not None:
        if both := np.intersect1d(image[marks.test], image[~marks.test]).tolist():
            raise FieldError(f"trial/test marks some trials of an image and not others: {_named(both, names)}")
        if marks.test.all() or not marks.test.any():
            said = "all trials" if marks.test.all() else "no trial"
            raise FieldError(f"trial/test marks {said}; mark some images, or leave it out to hold out a tenth")
    elif len(np.unique(image)) < 2:
        raise FieldError("trial/image shows one image only; there must be one to train on and one to test on")
    return marks


def _named(images: list[int], names: list[str]) -> str:
    return listing((names[image] for image in images), 3)


def _units(file: Any) -> Units:
    try:
        if (ijk := fields.values(file, "units/ijk")) is not None:
            if ijk.ndim == 2 and ijk.shape[0] == 3 != ijk.shape[1]:
                raise FieldError(f"units/ijk has shape {ijk.shape}; it must be (units, 3); {fields.TURNED}")
            affine = fields.needed(file, "units/affine", "(4, 4), voxel indices to mm")
            shape = fields.needed(file, "units/shape", "the three sides of the volume")
            return VoxelUnits(ijk, affine, tuple(shape.reshape(-1)))
        vertex = fields.values(file, "units/vertex")
        if vertex is None:
            raise FieldError("units/ijk is missing, and so is units/vertex: one of them says where each unit lies")
        space, side = fields.text(file, "units/space"), fields.values(file, "units/hemisphere")
        if space is None or side is None:
            raise FieldError(f"units/{'space' if space is None else 'hemisphere'} is missing: vertices need it")
        meshes = fields.values(file, "units/vertices")
        counts = None if meshes is None else fields.whole("units/vertices", meshes, 2, 0)
        sides = [HEMISPHERES.get(name.strip().lower(), name) for name in fields.texts("units/hemisphere", side)]
        return VertexUnits(space, np.array(sides), fields.vector(vertex), counts)  # type: ignore[arg-type]
    except ChoiceError as error:
        raise FieldError(f"units/{error}") from error


def _areas(file: Any, units: int) -> list[AreaLabels]:
    found: list[AreaLabels] = []
    known: dict[str, str] = {}
    for key, item in _labelled(file):
        if not isinstance(item, h5py.Dataset):
            raise FieldError(f"{key} is a group; it must be ({units},)")
        if item.size != units:  # before it is read
            fields.check_shape(key, item, (units,))
        area = _boolean(key, item, units) if key.startswith("areas/") else _numbered(key, item, units)
        for name in set(area.names.values()):
            if (other := known.setdefault(name, key)) != key:
                raise FieldError(f"{key} has an area {name!r}, and so has {other}; rename one of them")
        found.append(area)
    return found


def _labelled(file: Any) -> Iterator[tuple[str, Any]]:
    """Whatever lies in the two groups that name areas, by its key."""
    for group in ("areas", "labels"):
        there = file.get(group)
        for name in there if isinstance(there, h5py.Group) else ():
            yield f"{group}/{name}", there.get(name)


def _boolean(key: str, item: Any, units: int) -> AreaLabels:
    inside = fields.flags(key, item[()], units).astype(np.int16)
    return AreaLabels(inside, {1: _area(key, key.removeprefix("areas/"))})


def _numbered(key: str, item: Any, units: int) -> AreaLabels:
    labels = fields.whole(key, item[()], units, -(2**15), 2**15 - 1).astype(np.int16)
    if "names" not in item.attrs:
        raise FieldError(f"{key} has no attribute names: of label 1, 2, ... in this order")
    names = fields.texts(f"{key}, its attribute names,", np.asarray(item.attrs["names"]))
    if labels.max() > len(names):
        raise FieldError(f"{key} goes to {labels.max()}, and its attribute names has {len(names)} names")
    # A label that no unit has may go without a name.
    used = {place: text for place, text in enumerate(names, 1) if text or (labels == place).any()}
    return AreaLabels(labels, {place: _area(key, text) for place, text in used.items()})


def _area(key: str, name: str) -> str:
    try:
        return check_area(name)
    except ChoiceError as error:
        raise FieldError(f"{key}: {error}") from error


def _ceiling(file: Any, units: int) -> Ceiling | None:
    found = fields.find(file, "ceiling")
    if found is None:
        if "ceiling" in file:
            raise FieldError(f"ceiling is a group; it must be ({units},)")
        return None
    array = fields.vector(np.asarray(found))
    fields.check_shape("ceiling", array, (units,))
    if array.dtype.kind not in "iuf":
        raise FieldError(f"ceiling must hold numbers, not {array.dtype}")
    said = getattr(found, "attrs", {}).get("kind")
    kind = fields.text(file, "ceiling_kind") if said is None else fields.texts("ceiling", np.asarray(said))[0]
    if kind not in CEILING_KINDS:
        raise FieldError(f"ceiling has the attribute kind {kind!r}; it must be one of {listing(CEILING_KINDS)}")
    return Ceiling(array.astype(np.float32), kind)


def _degrees(file: Any) -> float | None:
    found = fields.values(file, "degrees")
    if found is None:
        return None
    if found.size != 1 or found.dtype.kind not in "iuf" or not 0 < float(found.reshape(-1)[0]) < 180:
        raise FieldError("degrees must be one number: of visual angle that the images spanned")
    return float(found.reshape(-1)[0])
