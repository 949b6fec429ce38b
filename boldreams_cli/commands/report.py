"""`boldreams report`: one page of all that the cache holds."""

from __future__ import annotations

from pathlib import Path

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import Output

PAGE = Path("studies/report/report.html")


@options.command(
    "boldreams report",
    "boldreams report --output results.html",
    "boldreams report --max-size 40MB --json",
)
@options.output_options
@options.cache_option
@options.nsd_option
@options.option(
    "--output",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="The page to write (default: studies/report/report.html in the cache).",
)
@options.option(
    "--max-size",
    "largest",
    type=options.BYTES,
    default="15MB",
    show_default=True,
    help="Size of the page; pictures beyond are left out, and it says how many.",
)
def report(cache: Path, nsd_root: Path | None, file: Path | None, largest: int, output: Output) -> None:
    """Write one self-contained page of all that the cache holds.

    Warnings and errors, data and split, accuracy by percent, differences, areas, dreams, word clouds, attention maps,
    the minimal model, brain maps to look around in, settings of every model, and a methods text. It opens without the
    internet, in any browser, and can be mailed. Each figure lies beside it as PNG and PDF with its numbers as CSV, in
    a folder named like the page with _files.

    What the cache lacks is said on the page. With --nsd-root brain maps lie on the subject's own mean image.
    """
    from boldreams_cli.console import ChoiceError, logger, size
    from boldreams_cli.data.opening import open_dataset
    from boldreams_cli.study.report.page import write_report

    if not cache.is_dir():
        raise ChoiceError(f"there is no cache in {cache} (--cache)")
    dataset = None
    if nsd_root is not None and nsd_root.exists():
        dataset = open_dataset(nsd_root)
    elif nsd_root is not None:
        logger.warning("there is no %s: brain maps lie on the voxels used", nsd_root)
    written = write_report(cache, file or cache / PAGE, largest, dataset)
    output.show(
        written.to_dict(),
        str(written.file),
        f"{size(written.bytes)}; {len(written.figures)} files beside it; {len(written.warnings)} warnings and errors",
    )
