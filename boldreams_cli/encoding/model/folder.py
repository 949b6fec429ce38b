"""Where models lie, which one is meant, and how one is held and removed (cache/README.md, "models")."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from boldreams_cli.console import BoldreamsError, ChoiceError, StopFlag, listing
from boldreams_cli.data.subjects import Subject, folder_of
from boldreams_cli.encoding.model.spec import READABLE, ModelSpec, old_recipe
from boldreams_cli.features.store.feature_store import folder_name
from boldreams_cli.files import read_json
from boldreams_cli.locks import Lock

HOW_TO_CHOOSE = "--backbone --percent --subject --finetune --readout --recipe --rf --fit-seed or --model DIR"
REMOVED = ".removed-"
SPEC = "spec.json"


def model_folder(cache: Path, spec: ModelSpec) -> Path:
    """Where the model of a spec lies: what a person would say, and six digits of the hash of all that decides it.

    Were another model there whose hash begins with the same six digits, the whole hash is taken.
    """
    kind = spec.recipe or spec.readout
    name = f"percent-{spec.percent:g}-{kind}" + ("-finetuned" if spec.finetuned else "")
    parent = cache / "models" / folder_of(spec.subject) / folder_name(spec.backbone)
    short = parent / f"{name}-{spec.key[:6]}"
    other = _spec(short)
    return short if other is None or other["key"] in ("", spec.key) else parent / f"{name}-{spec.key}"


@contextmanager
def held(folder: Path, stop: StopFlag | None = None) -> Iterator[None]:
    """Hold a model's folder while it is made or removed, after whoever holds it now; by any path it is the same lock.

    Raises
    ------
    StoppedError
        If a signal came while waiting.
    """
    real = folder.resolve()
    with Lock(real.with_name(f".{real.name}.lock"), str(folder), wait=True, stop=stop):
        yield


def is_there(folder: Path) -> bool:
    """Whether a folder holds a model; what is made with one is written only beside it."""
    return (folder / SPEC).is_file()


def check_there(folder: Path) -> None:
    """Raise BoldreamsError where a model that was opened is gone: written now, its folder would be no command's."""
    if not is_there(folder):
        raise BoldreamsError(f"{folder} was removed meanwhile, so nothing was written there; fit the model again")


@contextmanager
def added_to(folder: Path, stop: StopFlag | None = None) -> Iterator[None]:
    """Hold the folder of a finished model while something is put beside it.

    Raises
    ------
    StoppedError
        If a signal came while waiting.
    BoldreamsError
        If the model was removed since it was opened.
    """
    check_there(folder)  # the lock's own file would make the folder of folders anew
    with held(folder, stop):
        check_there(folder)
        yield


@dataclass(frozen=True)
class ModelRow:
    """One model, as lists show it.

    Parameters
    ----------
    folder : of it.
    subject, backbone, percent, readout, recipe, finetuned, seed, rf : of its spec; None where it does not say.
    key : hash of all that decides it.
    r_mean : of its scores; None where there are none or they are of other weights.
    date : of the spec, seconds since 1970.
    bytes : of its spec, weights and backbone.
    """

    folder: Path
    subject: Subject
    backbone: str
    percent: float
    readout: str
    recipe: str | None
    finetuned: bool
    seed: int | None
    rf: str | None
    key: str
    r_mean: float | None
    date: float
    bytes: int

    @property
    def kind(self) -> str:
        """Recipe or readout, as in the folder's name."""
        return self.recipe or self.readout

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def find_models(cache: Path, **selectors: Any) -> list[ModelRow]:
    """The fitted models that match.

    Parameters
    ----------
    cache : to look in.
    selectors : any fields of the spec or of its training settings (``backbone``, ``percent``, ``subject``,
        ``finetuned``, ``readout``, ``recipe``, ``seed``, ``rf``, ``epochs``, ``sessions``, ...); None matches any.

    Returns
    -------
    Rows, ordered by folder. A folder whose spec cannot be read is no model.
    """
    found = []
    for path in sorted((cache / "models").glob("*/*/*/spec.json")):
        if path.parent.name.startswith("."):
            continue
        spec = _spec(path.parent)
        if spec is not None and all(_matches(spec, key, value) for key, value in selectors.items()):
            found.append(_row(path.parent, spec))
    return found


def _spec(folder: Path) -> dict[str, Any] | None:
    """The spec of a folder as it is in JSON, None where there is none that this version reads."""
    try:
        spec = read_json(folder / "spec.json")
    except BoldreamsError:
        return None
    if not isinstance(spec, dict) or spec.get("format") not in READABLE:
        return None
    if {"subject", "backbone", "percent", "readout", "finetuned"} - spec.keys():
        return None
    return {"key": "", "recipe": old_recipe(spec) if spec["format"] == 1 else None, "training": {}} | spec


def weights_of(folder: Path) -> str | None:
    """Digest of the weights that a folder's model has now; None where there is none that this version reads."""
    return (_spec(folder) or {}).get("weights_digest")


def _matches(spec: dict[str, Any], key: str, value: Any) -> bool:
    known = spec.get(key, spec["training"].get(key))
    return value is None or bool(known == value)


def _row(folder: Path, spec: dict[str, Any]) -> ModelRow:
    names = ("spec.json", "weights.safetensors", "backbone.safetensors")
    sizes = [(folder / name).stat().st_size for name in names if (folder / name).is_file()]
    training = spec["training"]
    return ModelRow(
        folder=folder,
        subject=spec["subject"],
        backbone=spec["backbone"],
        percent=spec["percent"],
        readout=spec["readout"],
        recipe=spec["recipe"],
        finetuned=spec["finetuned"],
        seed=training.get("seed"),
        rf=training.get("rf"),
        key=spec["key"],
        r_mean=_score(folder, spec.get("weights_digest")),
        date=(folder / "spec.json").stat().st_mtime,
        bytes=sum(sizes),
    )


def _score(folder: Path, weights_digest: str | None) -> float | None:
    try:
        scores = read_json(folder / "scores.json")
    except BoldreamsError:
        return None
    known = isinstance(scores, dict) and scores.get("weights_digest") == weights_digest
    return scores.get("r_mean") if known else None


def table(rows: Sequence[ModelRow], cache: Path) -> list[str]:
    """Lines that list models for people: name, subject, what it is, mean r and date."""
    lines = [("model", "subject", "readout", "seed", "r", "made")]
    for row in rows:
        lines.append(
            (
                str(row.folder.relative_to(cache / "models")),
                str(row.subject),
                row.kind + (", finetuned" if row.finetuned else ""),
                "" if row.seed is None else str(row.seed),
                "-" if row.r_mean is None else f"{row.r_mean:.3f}",
                datetime.fromtimestamp(row.date).strftime("%Y-%m-%d %H:%M"),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def the_model(candidates: Iterable[ModelRow], cache: Path) -> Path:
    """Folder of the only candidate.

    Raises
    ------
    ChoiceError
        If there is none or more than one; the message lists what there is.
    """
    found = list(candidates)
    if len(found) == 1:
        return found[0].folder
    if not found:
        there = [str(row.folder.relative_to(cache / "models")) for row in find_models(cache)]
        raise ChoiceError(
            f"no fitted model in {cache} matches; there: {listing(there)}. Run boldreams fit, or choose with "
            f"{HOW_TO_CHOOSE}"
        )
    rows = "\n".join(table(found, cache))
    raise ChoiceError(f"{len(found)} fitted models match; choose with {HOW_TO_CHOOSE}\n{rows}")


def resolve(cache: Path, text: str, option: str = "--model") -> Path:
    """Folder of the model that a name means.

    Parameters
    ----------
    cache : to look in.
    text : a folder, a model's name, or a unique beginning of it, with or without subject and backbone before it.
    option : that it was given to, for messages; empty where it stands by itself.

    Raises
    ------
    ChoiceError
        If no model or more than one is meant.
    """
    if is_there(Path(text).expanduser()):
        return _as_listed(Path(text).expanduser(), cache)
    rows = find_models(cache)
    asked = text.rstrip("/").removeprefix(f"{cache / 'models'}/")
    names = {row.folder: _names(row.folder) for row in rows}
    exact = [row for row in rows if asked in names[row.folder]]
    matching = exact or [row for row in rows if any(name.startswith(asked) for name in names[row.folder])]
    if len(matching) == 1:
        return _as_listed(matching[0].folder, cache)
    if not matching:
        there = listing(str(row.folder.relative_to(cache / "models")) for row in rows)
        raise ChoiceError(f"no model {text!r}{option and f' ({option})'}; there: {there}")
    lines = "\n".join(table(matching, cache))
    typed = f"{option} {text}".strip()
    raise ChoiceError(f"{typed} may be {len(matching)} models; write more of the name\n{lines}")


def _as_listed(folder: Path, cache: Path) -> Path:
    """The one path of a model's folder, whatever link or ``.`` it was typed by: as lists have it, or in full."""
    real, home = folder.resolve(), cache.resolve()
    return cache / real.relative_to(home) if real.is_relative_to(home) else real


def _names(folder: Path) -> tuple[str, ...]:
    parts = folder.parts[-3:]
    return tuple("/".join(parts[start:]) for start in range(3))


def remove(folder: Path) -> None:
    """Delete a model whole, with all that was made from it.

    Raises
    ------
    ChoiceError
        If the folder holds no model.
    """
    if not is_there(folder):
        raise ChoiceError(f"{folder} holds no fitted model (no {SPEC})")
    folder = folder.resolve()
    aside = folder.with_name(f"{REMOVED}{folder.name}-{os.getpid()}")
    with held(folder):
        if is_there(folder):  # or another process removed it
            folder.rename(aside)
        _delete(aside)
        for left in folder.parent.glob(f"{REMOVED}*"):  # by a kill
            with suppress(OSError):  # another user's
                _delete(left)


def _delete(folder: Path) -> None:
    """Delete a folder that another process may be deleting too."""
    while folder.is_dir():
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
