"""The numbers of a table that pandas wrote to HDF5, a few columns at a time; labels, which may be pickled, stay shut.

Pandas' fixed format keeps columns of one type as one array ``blockN_values`` of (rows, columns). h5py reads it unless
it is compressed by a filter that only PyTables brings (blosc).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError, listing
from boldreams_cli.data.importing.recording import rows_in_memory
from boldreams_cli.files import reading

OTHERS = 256  # numbers of HDF5's filters that do not come with it


@dataclass(frozen=True)
class Table:
    """A table of rows by columns in a file.

    Parameters
    ----------
    path : of the file.
    node : its array in the file.
    shape : (rows, columns).
    dtype : of the numbers.
    offset : of the first number in the file, where they lie one after another; None for chunks.
    readable : whether h5py can read it; else PyTables does.
    """

    path: Path
    node: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    offset: int | None
    readable: bool

    def columns(self) -> Iterator[NDArray[np.float32]]:
        """Blocks of (columns, rows) float32, one after another.

        Raises
        ------
        BoldreamsError
            If the file is damaged, or PyTables is needed and not installed.
        """
        rows, count = self.shape
        step = 4 * rows_in_memory(rows, self.dtype.itemsize)  # every block goes through the whole file: few blocks
        for first in range(0, count, step):
            with reading(self.path):
                block = self._read(first, min(first + step, count))
            yield np.ascontiguousarray(block.T, dtype=np.float32)

    def _read(self, first: int, last: int) -> NDArray[Any]:
        """(rows, last - first)."""
        if self.offset is not None:
            return self._read_rows(self.offset, first, last)
        if self.readable:
            with h5py.File(self.path, "r") as file:
                return np.asarray(file[self.node][:, first:last])
        with _pytables(self.path).open_file(self.path, "r") as file:
            return np.asarray(file.get_node(self.node)[:, first:last])

    def _read_rows(self, offset: int, first: int, last: int) -> NDArray[Any]:
        """Part of every row and no more: HDF5 reads 64 kB for each, which would be the whole file each time."""
        rows, count = self.shape
        block = np.empty((rows, last - first), self.dtype)
        with self.path.open("rb", buffering=0) as stream:
            for row in range(rows):
                stream.seek(offset + (row * count + first) * self.dtype.itemsize)
                if stream.readinto(block[row].data) != block[row].nbytes:
                    raise ValueError("it ends early")
        return block


def find_table(path: Path, rows: int, columns: int) -> Table:
    """Find the table of that shape.

    Raises
    ------
    BoldreamsError
        If there is none, its labels are not in order, or PyTables is needed and not installed.
    """
    found: list[Table] = []
    seen: list[str] = []

    def look(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.ndim == 2 and node.dtype.kind == "f":
            seen.append(f"{name} {node.shape[0]} x {node.shape[1]}")
            if node.shape == (rows, columns):
                found.append(Table(path, f"/{name}", node.shape, node.dtype, node.id.get_offset(), _readable(node)))

    with reading(path), h5py.File(path, "r") as file:
        file.visititems(look)
        for table in found:
            _check_order(file, table)
    if len(found) != 1:
        raise BoldreamsError(
            f"{path} must hold one table of {rows} x {columns} numbers, as its CSV files say, in pandas' fixed format; "
            f"it holds {listing(seen)}"
        )
    if not found[0].readable:
        _pytables(path)
    return found[0]


def _readable(dataset: h5py.Dataset) -> bool:
    """Whether h5py has the filters that a dataset went through; which are there is known only by trying."""
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
    if all(code < OTHERS for code in filters):
        return True
    try:
        dataset[(slice(1),) * dataset.ndim]
    except OSError:
        return False
    return True


def _check_order(file: h5py.File, table: Table) -> None:
    """Where labels are plain numbers, they must count up, as rows and columns are taken in the order of the file."""
    group, block = table.node.rsplit("/", 1)
    for name in (block.replace("_values", "_items"), "axis1"):
        labels = file.get(f"{group}/{name}")
        plain = isinstance(labels, h5py.Dataset) and labels.dtype.kind in "iu" and _readable(labels)
        if plain and (np.diff(labels[:]) <= 0).any():
            raise BoldreamsError(
                f"{table.path}: the labels in {group}/{name} do not count up; write the table in order"
            )


def _pytables(path: Path) -> Any:
    try:
        import tables
    except ImportError as error:
        raise BoldreamsError(
            f"{path} is compressed in a way that needs PyTables; pip install 'boldreams[things]'"
        ) from error
    return tables
