"""`boldreams import`: one subject of a public data set into a neutral file."""

from __future__ import annotations

from pathlib import Path

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import Output
from boldreams_cli.console import quoted
from boldreams_cli.data import importers


@options.command(
    "boldreams import algonauts2023 /data/algonauts_2023 --subject 1 --output algonauts-subj01.h5",
    "boldreams import things /data/THINGS-fMRI --subject 1 --images /data/THINGS --output things-sub-01.h5",
    "boldreams import bold5000 /data/BOLD5000 --subject CSI1 --images /data/BOLD5000_Stimuli --output CSI1.h5",
    name="import",
)
@options.output_options
@click.argument("name", metavar="DATASET", type=click.Choice(importers.names()))
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@options.option(
    "-o", "--output", "file", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The new file."
)
@options.option("--subject", default=None, metavar="NAME", help="The subject, as the data set writes it or its number.")
@options.option(
    "--images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=None,
    help="A folder with the pictures shown, at any depth, where they do not lie in SOURCE.",
)
@options.option(
    "--hold-out",
    type=options.Real(0, 100, min_open=True, max_open=True),
    default=None,
    metavar="PERCENT",
    help="Images to mark as test where the data set has no test (algonauts2023; default: 10).",
)
@options.option(
    "--template",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=None,
    help="A file that says where units lie: a brain mask, a volume (bdata) or a CIFTI file (mosaic).",
)
@options.option("--rename", default=None, metavar="NAME", help="The subject's name in the new file.")
@options.option("--skip-missing", is_flag=True, help="Leave out trials whose picture is not there.")
@options.option("--overwrite", is_flag=True, help="Replace a file that is there.")
def import_(
    name: str,
    source: Path,
    file: Path,
    subject: str | None,
    images: Path | None,
    hold_out: float | None,
    template: Path | None,
    rename: str | None,
    skip_missing: bool,
    overwrite: bool,
    output: Output,
) -> None:
    """Write one subject of a public data set into one neutral file.

    DATASET is algonauts2023, things, bold5000, bdata (Generic Object Decoding and others of the brain decoder toolbox)
    or mosaic, SOURCE its folder or file as downloaded, which is only read. `boldreams prepare --data FILE` goes on from
    the new file, which points to the pictures where they lie.
    """
    from boldreams_cli.data.importing.converting import convert
    from boldreams_cli.data.importing.recording import Asked

    asked = Asked(source, subject, images, hold_out, template)
    result = convert(name, asked, file, rename=rename, skip_missing=skip_missing, overwrite=overwrite)
    left_out = ", ".join(f"{count} {what}" for what, count in result["left_out"].items())
    areas = result["rois"]
    output.show(
        result,
        f"{file}: subject {result['subject']}, {result['units']} units, {len(areas)} areas, "
        f"ceiling {result['ceiling'] or 'none in the data'}",
        *(f"{part}: {result[part]['images']} images, {result[part]['trials']} trials" for part in ("train", "test")),
        *([f"left out: {left_out}"] if left_out else []),
        f"next: boldreams prepare --data {quoted(file)}",
    )
