"""The cells of a sweep: every combination of the axes that makes sense, from options or a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from boldreams_cli.console import ChoiceError, listing
from boldreams_cli.data.subjects import Subject, parse_subject
from boldreams_cli.files import fingerprint, reading

PUBLISHED = (1.0, 5.0, 10.0, 15.0, 20.0, 25.0, 50.0, 75.0, 100.0)  # the paper's percents
# The names are those of fit's options, each with the type of its values.
SETTINGS: dict[str, type] = {
    "sessions": str,
    "mask": str,
    "betas": str,
    "features": str,
    "weights": str,
    "rf": str,
    "epochs": int,
    "lr": float,
    "batch_size": int,
    "grid": int,
    "compress": str,
    "members": list,
    "share": str,
    "precision": str,
}
TUNING: dict[str, type] = {
    "backbone_lr": float,
    "clip_gradient": float,
    "warmup": int,
    "batch_norm": str,
    "micro_batch": int,
    "validation_fraction": float,
    "early_stop": int,
}
TEXT = ("clip-text",)  # reads all of its embedding whatever the percent


@dataclass(frozen=True)
class Cell:
    """One fit and its score.

    Parameters
    ----------
    subject, backbone, percent, readout, recipe, finetune, seed : as in `boldreams fit`; the recipe is None where the
        readout has one solver.
    """

    subject: Subject
    backbone: str
    percent: float
    readout: str
    recipe: str | None
    finetune: bool
    seed: int

    @property
    def kind(self) -> str:
        """Recipe or readout, as in a model's folder."""
        return self.recipe or self.readout

    def __str__(self) -> str:
        tuned = ", finetuned" if self.finetune else ""
        return f"subject {self.subject}, {self.backbone}, {self.percent:g} %, {self.kind}{tuned}, seed {self.seed}"


@dataclass(frozen=True)
class Grid:
    """Axes of a sweep, and the settings that all its cells have.

    Parameters
    ----------
    subject, backbone, percent, readout, recipe, finetune, seed : values of each axis.
    settings : of every fit that has such a setting, by the names in SETTINGS and TUNING.
    """

    subject: tuple[Subject, ...]
    backbone: tuple[str, ...]
    percent: tuple[float, ...] = PUBLISHED
    readout: tuple[str, ...] = ("separable",)
    recipe: tuple[str, ...] = ("paper",)
    finetune: tuple[bool, ...] = (False,)
    seed: tuple[int, ...] = (0,)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Hash of all that decides the cells and their models' settings."""
        return fingerprint(asdict(self))

    def cells(self) -> list[Cell]:
        """Every combination, cells of one subject and backbone side by side.

        Finetuning trains the paper's readout, so other recipes and readouts are combined with the frozen backbone only;
        a recipe is of the separable readout.

        Raises
        ------
        ChoiceError
            If nothing is left.
        """
        kinds = [
            (readout, recipe)
            for readout in self.readout
            for recipe in (self.recipe if readout == "separable" else (None,))
        ]
        found = []
        for subject, backbone in product(self.subject, self.backbone):
            for (readout, recipe), finetune, seed in product(kinds, self.finetune, self.seed):
                text = backbone in TEXT
                if (finetune and (recipe != "paper" or text)) or (text and recipe != "paper"):
                    continue
                percents = (100.0,) if text else self.percent
                found += [Cell(subject, backbone, percent, readout, recipe, finetune, seed) for percent in percents]
        if not found:
            raise ChoiceError(
                "no cell is left: finetuned and text models have the separable readout of the paper's recipe only "
                "(--finetune, --recipe, --readout)"
            )
        return list(dict.fromkeys(found))


def axes() -> dict[str, type]:
    """Name and type of every axis."""
    types = {"tuple[int, ...]": int, "tuple[str, ...]": str, "tuple[float, ...]": float, "tuple[bool, ...]": bool}
    types["tuple[Subject, ...]"] = int  # or a name, which `_converted` takes too
    return {item.name: types[str(item.type)] for item in fields(Grid) if str(item.type) in types}


def read_toml(path: Path) -> tuple[str | None, dict[str, Any]]:
    """Read a study's file: its name, and axes and settings by their names.

    ::

        name = "figure-2"
        percent = [1, 10, 100]
        backbone = ["alexnet", "vgg11"]
        recipe = "fast"

        [settings]
        epochs = 20

    Raises
    ------
    ChoiceError
        If it names what is neither an axis nor a setting, or a value is of another kind.
    """
    with reading(path, remedy="correct it"):
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    name, given = found.pop("name", None), {}
    settings = found.pop("settings", {})
    if not isinstance(settings, Mapping) or not isinstance(name, str | None):
        raise ChoiceError(f"{path}: name is a text, and settings a table, [settings]")
    for key, value in found.items():
        given[key.replace("-", "_")] = tuple(_converted(path, key, item) for item in _list(value))
    given |= {key.replace("-", "_"): _setting(path, key, value) for key, value in settings.items()}
    return name, given


def _setting(path: Path, key: str, value: Any) -> Any:
    """A setting of the type that the option has; what is no setting is named by `make_grid`."""
    wanted = (SETTINGS | TUNING).get(key.replace("-", "_"))
    if wanted is float and type(value) is int:
        value = float(value)
    if wanted is None or (type(value) is wanted and wanted is not list):
        return value
    if wanted is list and all(isinstance(item, str) for item in _list(value)):
        return tuple(_list(value))
    raise ChoiceError(f"{path}: {value!r} is no value of {key}; write {_KINDS[wanted]}")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _converted(path: Path, key: str, value: Any) -> Any:
    known = axes()
    if key not in known:
        there = [*known, "name"]
        raise ChoiceError(f"{path}: no axis {key!r}; axes: {listing(there)}; settings go under [settings]")
    wanted = known[key]
    if key == "subject" and isinstance(value, str):
        return parse_subject(value)
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted or (wanted in (int, float) and not _in_range(key, value)):
        raise ChoiceError(f"{path}: {value!r} is no value of {key}; write {_example(wanted)}")
    return value


def _in_range(key: str, value: Any) -> bool:
    return 0 < value <= 100 if key == "percent" else value >= (1 if key == "subject" else 0)


_KINDS = {int: "a whole number", float: "a number", str: "a text", list: "a list of texts"}  # of settings


def _example(wanted: type) -> str:
    examples = {int: "numbers from 0 up", float: "numbers above 0 and up to 100", bool: "true or false", str: "texts"}
    return examples[wanted]


def make_grid(given: Mapping[str, Any]) -> Grid:
    """A grid of axes and settings by their names; None stands for the default.

    Raises
    ------
    ChoiceError
        If a name is neither, or an axis has no value.
    """
    known = axes()
    values = {name: value for name, value in given.items() if value is not None}
    unknown = values.keys() - known.keys() - set(SETTINGS) - set(TUNING)
    if unknown:
        raise ChoiceError(f"no setting {listing(sorted(unknown))}; settings: {listing([*SETTINGS, *TUNING], 20)}")
    if empty := [name for name in known if name in values and not values[name]]:
        raise ChoiceError(f"the axis {listing(empty)} has no value")
    along = {name: tuple(dict.fromkeys(value)) for name, value in values.items() if name in known}
    return Grid(**along, settings={name: value for name, value in values.items() if name not in known})
