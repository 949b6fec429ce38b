"""Arrays and words of a data file by their keys, wherever people put them; what is wrong with one names it."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError

Key = tuple[str, ...]  # where a value may lie, the documented place first


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
        return np.asarray(found[()] if isinstance(found, h5py.Dataset) else found)
    except (OSError, TypeError, ValueError) as error:
        raise FieldError(f"{key} cannot be read: {error}") from error


def needed(file: Any, key: str, what: str) -> NDArray[Any]:
    """As `values`; FieldError if it is not there."""
    found = values(file, key)
    if found is None:
        raise FieldError(f"{key} is missing: {what}")
    return found


def text(file: Any, key: str) -> str | None:
    """A word or sentence; None if it is not there."""
    found = values(file, key)
    return None if found is None else str(texts(found.reshape(-1))[0]) if found.size else ""


def texts(array: NDArray[Any]) -> list[str]:
    """Strings of an array of bytes or objects, as HDF5 gives them."""
    return [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in array.tolist()]


def is_text(array: NDArray[Any]) -> bool:
    """Whether an array holds strings."""
    return array.dtype.kind in "SUO"


def whole(key: str, array: NDArray[Any], count: int, least: int, most: int = 2**31 - 1) -> NDArray[np.int32]:
    """(count,) whole numbers within bounds."""
    check_shape(key, array, (count,))
    if array.dtype.kind not in "iuf" or not (np.isfinite(array).all() and (array == np.rint(array)).all()):
        raise FieldError(f"{key} must hold whole numbers, not {array.dtype}")
    if count and not (least <= array.min() and array.max() <= most):
        raise FieldError(f"{key} goes from {array.min():g} to {array.max():g}; the least is {least}, the most {most}")
    return array.astype(np.int32)


def flags(key: str, array: NDArray[Any], count: int) -> NDArray[np.bool_]:
    """(count,) booleans, or numbers that are 0 or 1."""
    check_shape(key, array, (count,))
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise FieldError(f"{key} must hold true and false, or 1 and 0, not {array.dtype}")
    return array.astype(bool)


def check_shape(key: str, array: NDArray[Any], wanted: tuple[int, ...]) -> None:
    """Raise FieldError where an array has another shape."""
    if array.shape != wanted:
        raise FieldError(f"{key} has shape {array.shape}; it must be {wanted}")
