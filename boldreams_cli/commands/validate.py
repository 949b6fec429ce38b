"""`boldreams validate`: what is missing or odd in a data file."""

from __future__ import annotations

from pathlib import Path

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import Output


@options.command("boldreams validate mydata.h5", "boldreams validate --json mydata.h5")
@options.output_options
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def validate(file: Path, output: Output) -> None:
    """Say what is missing or odd in a data file of your own, with counts.

    All keys, shapes and betas are looked at, and the header of every picture. Ends with exit code 1 if something keeps
    the file from being used. docs/data-format.md says what such a file holds.
    """
    from boldreams_cli.data.neutral.checking import check

    found = check(file)
    said = [f"odd: {line}" for line in found.warnings] + [f"wrong: {line}" for line in found.errors]
    output.show(found.to_dict(), *_counts(found.facts), *said)
    if found.errors:
        raise SystemExit(1)


def _counts(facts: dict[str, object]) -> list[str]:
    if not facts:
        return []
    lines = [f"{name}: {_said(facts[name])}" for name in facts]
    return [line for line in lines if line]


def _said(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items()) or "none"
    if isinstance(value, list):
        return f"{len(value)}" if value else "none"
    return "none" if value is None else str(value)
