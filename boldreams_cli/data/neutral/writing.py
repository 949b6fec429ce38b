"""Writes the data of one subject from arrays, whole or not at all (docs/data-format.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, ChoiceError, size
from boldreams_cli.data.subjects import check_name
from boldreams_cli.data.units import VertexUnits, VoxelUnits
from boldreams_cli.files import free_bytes, written_whole

FORMAT, VERSION = "boldreams-data", 1
CeilingKind = Literal["ncsnr", "single-trial", "test-set"]
CEILING_KINDS = ("ncsnr", "single-trial", "test-set")
TEXT = h5py.string_dtype()


@dataclass(frozen=True, kw_only=True)
class Given:
    """One subject's responses and images, as `write` takes them by name.

    Parameters
    ----------
    subject : name, of letters, digits, dots, - and _.
    betas : (trials, units), or blocks of trials one after another, of which one is in memory at a time.
    trial_image : (trials,) 0-based index of the image shown.
    image_names : of each image, no two the same.
    image_paths : of each image's file, absolute or relative to the folder of the file that is written; or
    pixels : (images, height, width, 3) uint8, or blocks of images one after another.
    zscored : whether betas are z-scored already; if not, `prepare` does it, by session where there are sessions.
    sessions : (trials,) in which session each trial was, 1 to 999; trials of a session need not lie together.
    test : (trials,) trials that no fit looks at; all trials of an image alike.
    repeats : (trials,) how many presentations a row of betas is the average of.
    units : where each column of betas lies.
    areas : name -> (units,) bool.
    ceiling : (units,) what noise allows, NaN where it is not known.
    ceiling_kind : ``ncsnr``, or the percent of variance that is explainable, of a ``single-trial`` or the ``test-set``.
    degrees : of visual angle that the images spanned, with fixation in their middle.
    source : where the data come from, for people.
    """

    subject: str
    betas: NDArray[Any] | Iterable[NDArray[Any]]
    trial_image: NDArray[np.integer]
    image_names: Sequence[str]
    image_paths: Sequence[str | Path] | None = None
    pixels: NDArray[np.uint8] | Iterable[NDArray[np.uint8]] | None = None
    zscored: bool
    sessions: NDArray[np.integer] | None = None
    test: NDArray[np.bool_] | None = None
    repeats: NDArray[np.integer] | None = None
    units: VoxelUnits | VertexUnits
    areas: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    ceiling: NDArray[np.floating] | None = None
    ceiling_kind: CeilingKind | None = None
    degrees: float | None = None
    source: str = ""

    def small(self) -> dict[str, NDArray[Any]]:
        """Arrays by their keys, but betas, images and units; ChoiceError where one is not what it must be."""
        if not isinstance(self.zscored, bool | np.bool_):
            raise ChoiceError(f"zscored is {self.zscored!r}; it must be True or False")
        index = _whole("trial_image", self.trial_image, len(np.ravel(self.trial_image)))
        self._check_images(index)
        count = len(self.units)
        found = {"trial/image": index, **_marks(self.sessions, self.test, self.repeats, index)}
        for name, area in self.areas.items():
            found[f"areas/{check_area(name)}"] = _flags(f"areas[{name!r}]", area, count)
        if self.degrees is not None:
            if not 0 < self.degrees < 180:
                raise ChoiceError(f"degrees is {self.degrees}; it must be above 0 and below 180")
            found["degrees"] = np.array(float(self.degrees))
        kinds = (None, *CEILING_KINDS)
        if (self.ceiling is None) != (self.ceiling_kind is None) or self.ceiling_kind not in kinds:
            said = ", ".join(CEILING_KINDS)
            raise ChoiceError(f"ceiling_kind is {self.ceiling_kind!r}; with a ceiling give one of {said}")
        if self.ceiling is not None:
            found["ceiling"] = _ceiling(self.ceiling, count)
        return found

    def _check_images(self, index: NDArray[np.int32]) -> None:
        images = len(self.image_names)
        if not len(index) or index.min() < 0 or index.max() >= images:
            raise ChoiceError(f"trial_image must hold at least one trial, and numbers from 0 to {images - 1}")
        if len(set(self.image_names)) < images or not all(self.image_names):
            raise ChoiceError("image_names must be of one character or more, and no two the same")
        if (self.image_paths is None) == (self.pixels is None):
            raise ChoiceError("give one of image_paths and pixels")
        if self.image_paths is not None and len(self.image_paths) != images:
            raise ChoiceError(f"image_paths has {len(self.image_paths)} entries, image_names {images}")


def write(path: Path, **given: Any) -> None:
    """Write one subject's responses and images, whole or not at all; a file that is there is replaced.

    Parameters
    ----------
    path : of the file.
    **given : all of `Given`, by name.

    Raises
    ------
    ChoiceError
        If an array has another shape or type, or holds what it cannot; the message names it. Nothing is written then.
    BoldreamsError
        If the disk has no room for the betas.
    """
    own = Given(**given)
    arrays, images = own.small(), len(own.image_names)
    needed, free = 4 * len(arrays["trial/image"]) * len(own.units), free_bytes(Path(path).absolute().parent)
    if needed > free:
        raise BoldreamsError(f"{path}: its betas take {size(needed)}, of which {size(free)} are free; use another disk")
    with written_whole(Path(path)) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update({"format": FORMAT, "version": VERSION, "subject": check_name(own.subject)})
        file.attrs.update({"source": own.source, "notes": ""})
        file.create_group("areas", track_order=True)
        for name, array in arrays.items():
            file[name] = array
        if own.ceiling is not None:
            file["ceiling"].attrs["kind"] = own.ceiling_kind
        file.create_dataset("images/name", data=list(own.image_names), dtype=TEXT)
        if own.image_paths is not None:
            file.create_dataset("images/path", data=[Path(item).as_posix() for item in own.image_paths], dtype=TEXT)
        elif own.pixels is not None:
            _blocks(file, "images/pixels", own.pixels, images, (None, None, 3), "uint8")
        _write_units(file.create_group("units"), own.units)
        _blocks(file, "betas", own.betas, len(arrays["trial/image"]), (len(own.units),), "float32")
        file["betas"].attrs["zscored"] = bool(own.zscored)


def check_area(name: str) -> str:
    """Give the name of an area back if `--roi` can ask for it.

    Raises
    ------
    ChoiceError
        If it holds what parts names from one another, or a path.
    """
    if not name.strip() or name != name.strip() or set(name) & set(",/\\") or name.endswith((".nii", ".nii.gz")):
        raise ChoiceError(f"area {name!r}: a name holds no comma and no slash, and is no file's")
    if name == "all":
        raise ChoiceError(f"area {name!r}: so all units together are called; give it another name")
    return name


def _marks(
    sessions: NDArray[Any] | None, test: NDArray[Any] | None, repeats: NDArray[Any] | None, index: NDArray[np.int32]
) -> dict[str, NDArray[Any]]:
    """What else is known of each trial."""
    found: dict[str, NDArray[Any]] = {}
    if sessions is not None:
        found["trial/session"] = _whole("sessions", sessions, len(index), 1, 999)
    if repeats is not None:
        found["trial/repeats"] = _whole("repeats", repeats, len(index), 1)
    if test is not None:
        marked = found["trial/test"] = _flags("test", test, len(index))
        if both := np.intersect1d(index[marked], index[~marked]).size:
            raise ChoiceError(f"test: {both} images have trials that are marked and trials that are not")
        if marked.all() or not marked.any():
            said = "all trials" if marked.all() else "no trial"
            raise ChoiceError(f"test marks {said}; mark some images, or leave it out to hold out a tenth")
    return found


def _write_units(group: Any, units: VoxelUnits | VertexUnits) -> None:
    if isinstance(units, VoxelUnits):
        group["ijk"], group["affine"], group["shape"] = units.ijk, units.affine, np.array(units.shape)
        return
    group.attrs["space"] = units.space
    group["hemisphere"], group["vertex"] = units.hemisphere.astype("S1"), units.vertex
    if units.vertices is not None:
        group.attrs["vertices"] = np.array(units.vertices)


def _blocks(
    file: Any, name: str, blocks: Any, count: int, tail: tuple[int | None, ...], dtype: Literal["float32", "uint8"]
) -> None:
    """Write blocks of rows one after another into one array of `count` rows; None is any length."""
    first, dataset = 0, None
    for given in [blocks] if isinstance(blocks, np.ndarray) else blocks:
        block = np.asarray(given)
        block = block[None] if block.ndim == len(tail) else block
        right = block.ndim == len(tail) + 1 and all(
            want in (None, have) for want, have in zip(tail, block.shape[1:], strict=True)
        )
        if not right or (dtype == "uint8") != (block.dtype == np.uint8) or block.dtype.kind not in "fiu":
            wanted = ", ".join("any" if length is None else str(length) for length in (count, *tail))
            raise ChoiceError(
                f"{name} is {np.shape(given)} {block.dtype}; it must be ({wanted}) {dtype}, or blocks of it"
            )
        if dataset is None:
            tail = block.shape[1:]  # all blocks are of one size
            dataset = file.create_dataset(name, (count, *tail), dtype)
        if first + len(block) > count:
            raise ChoiceError(f"{name} has more than {count} rows")
        dataset[first : first + len(block)] = block
        first += len(block)
    if first != count:
        raise ChoiceError(f"{name} has {first} rows; there must be {count}")


def _ceiling(values: NDArray[Any], count: int) -> NDArray[np.float32]:
    array = np.asarray(values, np.float32)
    if array.shape != (count,):
        raise ChoiceError(f"ceiling has shape {array.shape}; there are {count} units")
    return array


def _whole(name: str, values: Any, count: int, least: int | None = None, most: int = 2**31 - 1) -> NDArray[np.int32]:
    array = np.asarray(values)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise ChoiceError(f"{name} is {array.shape} {array.dtype}; it must be ({count},) whole numbers")
    if least is not None and count and not (least <= array.min() and array.max() <= most):
        raise ChoiceError(f"{name} goes from {array.min()} to {array.max()}; the least is {least}, the most {most}")
    return array.astype(np.int32)


def _flags(name: str, values: Any, count: int) -> NDArray[np.bool_]:
    array = np.asarray(values)
    if array.shape != (count,) or array.dtype != bool:
        raise ChoiceError(f"{name} is {array.shape} {array.dtype}; it must be ({count},) bool")
    return array
