"""Arrays and words of a data file by their keys, wherever people put them; what is wrong with one names it."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError

TURNED = "it looks turned round: MATLAB and Julia write axes in reverse order"
YES, NO = ("true", "yes", "1"), ("false", "no", "0")


class FieldError(BoldreamsError):
    """A key of a data file that is missing or wrong; the message begins with the key."""


def find(file: Any, key: str) -> Any:
    """A dataset, or an attribute of the group that would hold it or of the file; None if there is none.

    Of ``units/ijk``, ``ijk`` at the top of the file is found too.
    """
    group, _, name = key.rpartition("/")
    for place in (key, name):
        if isinstance(file.get(place), h5py.Dataset):
            return file[place]
    for holder in (file.get(group) if group else None, file):
        if isinstance(holder, h5py.Group) and name in holder.attrs:
            return holder.attrs[name]
    return None


def values(file: Any, key: str) -> NDArray[Any] | None:
    """All of a small array; None if it is not there."""
    found = find(file, key)
    if found is None:
        return None
    try:
        array = np.asarray(found[()] if isinstance(found, h5py.Dataset) else found)
    except (OSError, TypeError, ValueError) as error:
        raise FieldError(f"{key} cannot be read: {error}") from error
    if isinstance(found, h5py.Dataset) and found.attrs.get("MATLAB_class") in (b"char", "char"):
        return _characters(array)
    return array


def _characters(array: NDArray[Any]) -> NDArray[Any]:
    """Text as MATLAB saves it: numbers of characters, a row of text in each column of the file."""
    lines = np.atleast_2d(array.T).tolist() if array.dtype.kind == "u" else []
    return np.array(["".join(map(chr, line)).rstrip() for line in lines], object)


def needed(file: Any, key: str, what: str) -> NDArray[Any]:
    """As `values`; FieldError if it is not there."""
    found = values(file, key)
    if found is None:
        raise FieldError(f"{key} is missing: {what}")
    return found


def check_own(file: Any, key: str, dataset: Any) -> None:
    """Raise FieldError for a dataset whose numbers lie in other files: these change, or go, and nobody notices."""
    if dataset.is_virtual or dataset.external or dataset.file.filename != file.filename:
        raise FieldError(f"{key} points to numbers in other files; write them into this one")


def text(file: Any, key: str) -> str | None:
    """A word or sentence; None if it is not there."""
    found = values(file, key)
    return None if found is None else texts(key, found.reshape(-1)[:1])[0] if found.size else ""


def texts(key: str, array: NDArray[Any]) -> list[str]:
    """Strings of an array of bytes or objects, as HDF5 gives them; whole numbers are written out."""
    found = array.reshape(-1).tolist()
    if wrong := [item for item in found if not isinstance(item, str | bytes | int)]:
        more = "; cells of MATLAB are references: write strings" if isinstance(wrong[0], h5py.Reference) else ""
        raise FieldError(f"{key} must hold text, not {type(wrong[0]).__name__}{more}")
    return [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in found]


def is_text(array: NDArray[Any]) -> bool:
    """Whether an array holds strings."""
    return array.dtype.kind in "SUO"


def vector(array: NDArray[Any]) -> NDArray[Any]:
    """One axis, where the other has length 1: MATLAB knows no other vectors."""
    return array.reshape(-1) if array.ndim == 2 and 1 in array.shape else array


def whole(key: str, array: NDArray[Any], count: int, least: int, most: int = 2**31 - 1) -> NDArray[np.int32]:
    """(count,) whole numbers within bounds."""
    array = vector(array)
    check_shape(key, array, (count,))
    if array.dtype.kind not in "iuf" or not (np.isfinite(array).all() and (array == np.rint(array)).all()):
        raise FieldError(f"{key} must hold whole numbers, not {array.dtype}")
    if count and not (least <= array.min() and array.max() <= most):
        raise FieldError(f"{key} goes from {array.min():g} to {array.max():g}; the least is {least}, the most {most}")
    return array.astype(np.int32)


def flags(key: str, array: NDArray[Any], count: int) -> NDArray[np.bool_]:
    """(count,) booleans, or numbers that are 0 or 1."""
    array = vector(array)
    check_shape(key, array, (count,))
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise FieldError(f"{key} must hold true and false, or 1 and 0, not {array.dtype}")
    return array.astype(bool)


def flag(key: str, array: NDArray[Any]) -> bool:
    """One yes or no: a boolean, 0 or 1, or a word for it."""
    if array.size == 1 and array.dtype.kind in "biuf" and np.isin(array, (0, 1)).all():
        return bool(array.reshape(-1)[0])
    said = texts(key, array)[0].strip().lower() if array.size == 1 and is_text(array) else ""
    if said not in (*YES, *NO):
        raise FieldError(f"{key} must be true or false, not {array.tolist()!r:.40}")
    return said in YES


def check_shape(key: str, array: Any, wanted: tuple[int, ...]) -> None:
    """Raise FieldError where an array has another shape."""
    if array.shape != wanted:
        raise FieldError(f"{key} has shape {array.shape}; it must be {wanted}")
