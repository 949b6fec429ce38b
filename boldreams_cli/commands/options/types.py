"""Values that a shell can write: subjects, percentages, sizes, readouts."""

from __future__ import annotations

import math
import re
from typing import Any

import click

from boldreams_cli.console import ChoiceError, meant
from boldreams_cli.data.subjects import Subject, parse_subject


class SubjectName(click.ParamType):
    """A subject as ``1``, ``01`` or ``subj01``, or by the name that its data file gives it."""

    name = "N|NAME"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Subject:
        """To a number from 1 up, or a name."""
        try:
            return parse_subject(str(value))
        except ChoiceError as error:
            self.fail(str(error), parameter, context)


class Percent(click.ParamType):
    """A percentage of the filters, above 0 and up to 100."""

    name = "P"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        """To a number; 0 and 101 are refused."""
        try:
            percent = float(value)
        except ValueError:
            percent = float("nan")
        if not 0 < percent <= 100:
            self.fail(
                f"{value!r} is no percentage of filters; give a number above 0 and up to 100",
                parameter,
                context,
            )
        return percent


class Real(click.FloatRange):
    """A number in a range, which not-a-number and infinity are outside of."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        """To a finite number."""
        number: float = super().convert(value, parameter, context)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", parameter, context)
        return number


class ByteCount(click.ParamType):
    """A size as ``4G``, ``800M`` or a number of bytes."""

    name = "SIZE"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        """To bytes, in powers of 1024 as memory is sold."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(value), re.IGNORECASE)
        if not match or float(match[1]) == 0:
            self.fail(f"{value!r} is no size; write 4G or 800M", parameter, context)
        return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


class CommaList(click.ParamType):
    """Values with commas between them, each of a type of its own.

    Parameters
    ----------
    of : the type.
    """

    def __init__(self, of: click.ParamType) -> None:
        self.of, self.name = of, f"{of.name},..."

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> tuple[Any, ...]:
        """To a tuple; blanks part values too."""
        if isinstance(value, tuple):
            return value
        parts = [part for part in re.split(r"[,\s]+", str(value)) if part]
        if not parts:
            self.fail("no value; write one, or several with commas between them", parameter, context)
        return tuple(self.of.convert(part, parameter, context) for part in parts)


class NamedValue(click.ParamType):
    """A name and a value, ``NAME=VALUE``."""

    name = "NAME=VALUE"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> tuple[str, str]:
        """To both, as text."""
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not (name.strip() and equals):
            self.fail(f"{value!r} is no setting; write NAME=VALUE", parameter, context)
        return name.strip(), text.strip()


class SolverField(click.ParamType):
    """A readout or a recipe of those that there are; they are looked up when one is named.

    Parameters
    ----------
    name : ``readout`` or ``recipe``.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str:
        """To itself, where a solver has it."""
        from boldreams_cli.encoding import readouts

        known = sorted({str(found) for solver in readouts.load().values() if (found := getattr(solver, self.name))})
        if value not in known:
            near = meant(str(value), known)
            self.fail(f"no {self.name} {value!r}{near}; choose from {', '.join(known)}", parameter, context)
        return str(value)


SUBJECT = SubjectName()
PERCENT = Percent()
READOUT, RECIPE = SolverField("readout"), SolverField("recipe")
WITH_RECIPES = {"readout": ("separable",)}  # options, and values, beside which a recipe makes sense
BYTES = ByteCount()
SEED = click.IntRange(0, 2**32 - 1)  # what every generator of random numbers takes
