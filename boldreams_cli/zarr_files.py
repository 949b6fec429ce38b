"""Zarr arrays and groups on disk: opened with a pipeline of their own, what their metadata say, what damage means."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zarr

from boldreams_cli.console import BoldreamsError, MismatchError

ROOT = "zarr.json"
# Zarr's setting of a pipeline is the process's; it is only ever changed under this lock, while an array is opened.
_PIPELINE = threading.Lock()
ZARRS, ZARR = "zarrs.ZarrsCodecPipeline", "zarr.core.codec_pipeline.BatchedCodecPipeline"


def open_array(path: Path, mode: str = "r", pipeline: str = ZARR, empty_chunks: bool = False) -> Any:
    """Open a Zarr array with a codec pipeline of its own, whatever the process's setting.

    Parameters
    ----------
    path : of the array.
    mode : as zarr's.
    pipeline : `ZARR`, or `ZARRS`, which writes shards several times faster.
    empty_chunks : whether chunks of the fill value are stored as well.

    Raises
    ------
    MismatchError
        If there is no array, or its metadata is damaged.
    """
    try:
        settings = {"codec_pipeline.path": pipeline, "array.write_empty_chunks": empty_chunks}
        with _PIPELINE, zarr.config.set(settings):
            return zarr.open_array(path, mode=mode)
    except Exception as error:
        raise MismatchError(f"{path} is damaged or missing ({said(error)}); {remedy(path, True)}") from error


def remedy(path: Path, made_once: bool = False) -> str:
    """What to type when something in a store is damaged; `made_once` where no unit makes it again."""
    if "responses" in path.parts:
        return "delete the store that it belongs to and run boldreams prepare again"
    if made_once:
        return "delete the store that it belongs to and run boldreams extract again"
    return "run boldreams info --verify and boldreams extract again, or delete the store that it belongs to"


def is_whole(path: Path) -> bool:
    """Whether a folder is a store, of any format, rather than what a kill left of one."""
    return file_size(path / ROOT) > 0 and bool(attributes(path))


def attributes(path: Path) -> dict[str, Any]:
    """The attributes of a group; errors as `metadata_of`."""
    found = metadata_of(path).get("attributes", {})
    return found if isinstance(found, dict) else {}


def metadata_of(path: Path) -> dict[str, Any]:
    """What the ``zarr.json`` of an array or group says.

    Raises
    ------
    MismatchError
        If it is missing or damaged.
    """
    try:
        found = json.loads((path / ROOT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MismatchError(f"{path / ROOT} is damaged or missing ({said(error)}); {remedy(path, True)}") from error
    if not isinstance(found, dict):
        raise MismatchError(f"{path / ROOT} is damaged; {remedy(path, True)}")
    return found


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn what zarr, zarrs and the system raise while writing into one error that says what to do."""
    try:
        yield
    except BoldreamsError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, (FileNotFoundError, KeyError, TypeError)):
            raise MismatchError(f"{path} cannot be written ({said(error)}); {remedy(path)}") from error
        raise BoldreamsError(
            f"cannot write {path}: {said(error)}; make room or use --cache DIR on another disk, "
            "then run the same command to go on"
        ) from error


def said(error: BaseException) -> str:
    """The first line of an error."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]


def file_size(path: Path) -> int:
    """Bytes of a file, -1 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def tail(path: Path) -> str:
    """The last four bytes of a file, in hex; "" where it cannot be read."""
    try:
        with path.open("rb", buffering=0) as stream:
            stream.seek(-4, os.SEEK_END)
            return stream.read().hex()
    except OSError:
        return ""
