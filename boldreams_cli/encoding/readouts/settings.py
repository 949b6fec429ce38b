"""What decides a fit besides its data, whatever the readout; and the readout that a command asked for."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from boldreams_cli.console import ChoiceError, listing, meant
from boldreams_cli.encoding import readouts
from boldreams_cli.encoding.readouts.base import Readout

# Options of the command line, and the settings of readouts that they give.
OF_OPTIONS = {"lr": "rate"} | {
    name: name for name in ("epochs", "batch_size", "grid", "compress", "members", "share", "precision")
}


@dataclass(frozen=True)
class FitSettings:
    """What every fit has; the rest are the settings of its readout.

    Parameters
    ----------
    percent : of the filters of each layer.
    rf : ``shared`` receptive fields for layers of equal resolution, or one per ``layer``.
    seed : of all random numbers.
    held_out : share of the training images that choose among epochs, where a readout does so.
    """

    percent: float
    rf: str = "shared"
    seed: int = 0
    held_out: float = 0.1

    def check(self) -> None:
        """Raise ChoiceError for values that make no sense."""
        if not 0 < self.percent <= 100:
            raise ChoiceError(f"--percent takes a number above 0 and up to 100, not {self.percent:g}")
        if self.seed < 0:
            raise ChoiceError(f"--seed takes a number from 0 up, not {self.seed}")


def choose_readout(
    readout: str, recipe: str | None, reads: str, asked: Mapping[str, Any], more: Mapping[str, str] | None = None
) -> Readout:
    """The solver that a command asked for, with its settings.

    Parameters
    ----------
    readout : kind; for backbones that read captions the only one there is.
    recipe : of that kind; None is its first, the published one where there is one.
    reads : ``images`` or ``captions``, what the backbone reads.
    asked : settings of the command line; None stands for the readout's own default.
    more : settings that have no option, as they were typed.

    Raises
    ------
    ChoiceError
        If there is no such solver, or it has no such setting.
    """
    known = [solver for solver in readouts.load().values() if solver.reads == reads]
    if reads == "captions":
        if readout != "separable" or recipe not in (None, "paper"):
            raise ChoiceError(
                "text models have one readout, a linear layer; --readout and --recipe are for image backbones, leave "
                "them out"
            )
        matching = known
    else:
        matching = [solver for solver in known if solver.readout == readout]
        if not matching:
            kinds = sorted({solver.readout for solver in known})
            near = meant(readout, kinds)
            raise ChoiceError(f"unknown readout {readout!r}{near}; choose from {listing(kinds)} (--readout)")
        if recipe is not None and recipe not in [solver.recipe for solver in matching]:
            there = listing(sorted(solver.recipe for solver in matching if solver.recipe))
            raise ChoiceError(f"--readout {readout} has no recipe {recipe!r}; there: {there}. Leave out --recipe")
        matching = [solver for solver in matching if recipe in (None, solver.recipe)]
        matching.sort(key=lambda solver: solver.recipe != "paper")
    solver = matching[0]
    given = {name: value for name, value in asked.items() if value is not None}
    unknown = given.keys() - {field.name for field in fields(solver.Settings)}
    if unknown:
        what = f"--recipe {solver.recipe}" if solver.recipe else f"--readout {solver.readout}"
        typed = {setting: f"--{name.replace('_', '-')}" for name, setting in OF_OPTIONS.items()}
        names = ", ".join(typed.get(name, name) for name in given if name in unknown)
        raise ChoiceError(f"{what} has no {names}; leave {'it' if len(unknown) == 1 else 'them'} out")
    given |= {name: _typed(solver, name, text) for name, text in (more or {}).items()}
    settings = solver.Settings(**given)
    settings.check()
    return solver(settings)


def _typed(solver: type[Readout], name: str, text: str) -> Any:
    """A setting as its readout has it: a number, a text, or several with commas between them.

    Raises
    ------
    ChoiceError
        If the readout has no such setting, or the value is of another kind.
    """
    defaults = {field.name: field.default for field in fields(solver.Settings)}
    if name not in defaults:
        raise ChoiceError(f"--readout {solver.readout} has no setting {name!r}; there: {listing(sorted(defaults))}")
    default = defaults[name]
    if name == "precision" or (default is None and name in OF_OPTIONS):  # the command must know, or has the type
        raise ChoiceError(f"--setting {name}={text}: use --{name} {text}")
    try:
        if isinstance(default, tuple):
            return tuple(_like(default[0], part) for part in text.split(","))
        return _like(default, text)
    except (SyntaxError, ValueError) as error:
        like = ",".join(map(str, default)) if isinstance(default, tuple) else default
        raise ChoiceError(f"--setting {name}={text}: write a value like {like}") from error


def _like(default: Any, text: str) -> Any:
    """A value of the type of another; where that is None, what the text reads as."""
    if isinstance(default, str):
        return text
    value = ast.literal_eval(text.strip())
    if default is not None and type(value) is not type(default):
        if not (isinstance(default, float) and type(value) is int):
            raise ValueError(text)
        value = float(value)
    return value


def check_precision(precision: str | None, kind: str) -> None:
    """Refuse a precision that a device does not have.

    Parameters
    ----------
    precision : ``fp32``, ``tf32`` or ``bf16``; None where none was asked for.
    kind : of the device, as torch calls it, or ``auto`` where it is not known yet.

    Raises
    ------
    ChoiceError
        If the device computes in another.
    """
    if precision == "tf32" and kind not in ("cuda", "auto"):
        raise ChoiceError("--precision tf32 needs a CUDA device; choose fp32 or bf16")
