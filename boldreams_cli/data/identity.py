"""What tells input files apart: small ones by all of their content, large ones by size and samples, never by name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.files import fingerprint, reading

SAMPLES, SAMPLE_BYTES = 64, 16_384
NAMES = {
    "betas": "betas of session",
    "rois": "ROI volume",
    "labels": "label table",
    "brain_mask": "brain mask",
    "preparation": "preparation of the betas",
}
DIGITS = 32  # of a hash, in hex


def whole(path: Path) -> dict[str, Any]:
    """Size and hash of all of a file; for files of some megabytes."""
    with reading(path), path.open("rb") as stream:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()[:DIGITS]}


def sampled(path: Path) -> dict[str, Any]:
    """Size and hash of 64 blocks from the start to the end of a file, evenly apart; of all of one below 1 MB.

    Size alone would not do: uncompressed betas have the same one whatever they hold.
    """
    sample = hashlib.sha256()
    with reading(path), path.open("rb") as stream:
        total = path.stat().st_size
        for start in np.unique(np.linspace(0, max(0, total - SAMPLE_BYTES), SAMPLES).astype(int)).tolist():
            stream.seek(start)
            sample.update(stream.read(SAMPLE_BYTES))
    return {"size": total, "sample": sample.hexdigest()[:DIGITS]}


def stamp(path: Path) -> dict[str, Any]:
    """Name, size and time of change: while these stay the same, content need not be read again."""
    with reading(path):
        found = path.stat()
    return {"name": path.name, "size": found.st_size, "mtime_ns": found.st_mtime_ns}


def stamps(files: Sequence[Path]) -> Any:
    """The stamp of a file; of several, a list."""
    found = [stamp(path) for path in files]
    return found[0] if len(found) == 1 else found


def content(array: NDArray[Any]) -> str:
    """Hash of an array's values, type and shape."""
    hashed = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()[:DIGITS]


def of_named_images(said: Mapping[str, Any] | None) -> str | None:
    """Hash of what identifies images that have names; None where a data set numbers its images for all subjects.

    Not of the names alone: two subjects' pictures may be called the same.
    """
    return fingerprint(said) if said and "names" in said else None


def same_images(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether images that have names are the same as far as is known now; of lost pictures only the names are."""
    return all(then.get(key) == value for key, value in now.items())


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Name what differs between two requests, as ``sessions`` or ``ROI volume floc-faces``."""
    found = []
    for key in [*then, *(key for key in now if key not in then)]:
        one, other = then.get(key), now.get(key)
        if one == other:
            continue
        if key in ("betas", "rois", "labels") and isinstance(one, dict) and isinstance(other, dict):
            # A session that only one of the two has is named by "sessions".
            parts = one.keys() & other.keys() if key == "betas" else one.keys() | other.keys()
            changed = [part for part in sorted(parts, key=_by_number) if one.get(part) != other.get(part)]
            found += [f"{NAMES[key]} {part}" for part in changed]
        else:
            found.append(NAMES.get(key, key))
    return found


def _by_number(name: str) -> tuple[int, str]:
    return len(name), name
