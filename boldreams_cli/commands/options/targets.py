"""What is dreamed of or attributed to: areas, those of their voxels that are predicted well, a voxel or a filter."""

from __future__ import annotations

import re
from collections.abc import Callable

import click

from boldreams_cli.commands.options.environment import Command, option
from boldreams_cli.commands.options.types import Real


class VoxelPlace(click.ParamType):
    """A voxel as ``X,Y,Z``, or ``best:AREA``."""

    name = "X,Y,Z|best:AREA"

    def convert(
        self, value: object, parameter: click.Parameter | None, context: click.Context | None
    ) -> tuple[int, int, int] | str:
        """To three numbers from 0 up, or to the area."""
        if isinstance(value, str) and value.strip().startswith("best:") and value.strip() != "best:":
            return value.strip().removeprefix("best:").strip()
        match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*", str(value))
        if not match:
            self.fail(
                f"{value!r} is no voxel; write X,Y,Z, counted from 0 in the subject's volume, or best:AREA",
                parameter,
                context,
            )
        return int(match[1]), int(match[2]), int(match[3])


def bound_options(command: Command) -> Command:
    """Add --min-r and --min-ceiling; the command gets `min_r` and `min_ceiling`."""
    r = option(
        "--min-r", type=Real(), default=None, metavar="R", help="Only voxels of an area with this test r or more."
    )
    ceiling = option(
        "--min-ceiling",
        type=Real(),
        default=None,
        metavar="C",
        help="Only voxels of an area with this noise ceiling or more.",
    )
    return r(ceiling(command))


def target_options(repeated: str) -> Callable[[Command], Command]:
    """Add --roi, --voxel and --filter; the command gets `rois`, `voxel` and `filter_`.

    Parameters
    ----------
    repeated : what several areas in one call mean, for the help.
    """

    def add(command: Command) -> Command:
        roi = option(
            "--roi",
            "rois",
            multiple=True,
            excludes=["voxel", "filter"],
            metavar="AREA",
            help=f"An area, a comma-joined union, or a NIfTI mask; repeatable: {repeated}.",
        )
        voxel = option(
            "--voxel",
            type=VoxelPlace(),
            metavar=VoxelPlace.name,
            default=None,
            excludes=["roi", "filter"],
            help="One voxel of the volume, counted from 0; or best:AREA, that of the largest r / ceiling.",
        )
        filter_ = option(
            "--filter",
            "filter_",
            default=None,
            excludes=["roi", "voxel"],
            metavar="LAYER:K",
            help="A filter of the backbone: its mean map.",
        )
        return roi(voxel(filter_(command)))

    return add
