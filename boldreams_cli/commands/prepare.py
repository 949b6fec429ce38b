"""`boldreams prepare`: one subject's betas, masks, areas and split into the cache."""

from __future__ import annotations

from pathlib import Path

from boldreams_cli.commands import options
from boldreams_cli.commands.options import Output
from boldreams_cli.data.subjects import Subject


@options.command(
    "boldreams prepare --subject 1",
    "boldreams prepare --subject 1 --sessions 1-40 --mask nsdgeneral",
    "boldreams prepare --subject 1 --betas func1mm/betas_fithrf",
    "boldreams prepare --data mydata.h5",
)
@options.output_options
@options.cache_option
@options.nsd_option
@options.subject_option()
@options.data_options
def prepare(
    cache: Path,
    nsd_root: Path | None,
    subject: Subject | None,
    sessions: str | None,
    mask: str | None,
    betas: str | None,
    output: Output,
) -> None:
    """Bring betas, masks, areas and split of a subject into the cache.

    Betas are z-scored per voxel and session. Goes on after the last finished session if it was stopped; fit does
    the same where it is missing. A data file of your own (docs/data-format.md) may have no sessions: then by mean and
    deviation over the training trials; no marks of the test: then a tenth of the images is held out; and no noise
    ceiling: then it is estimated from the repeats of images, where there are any.
    """
    from boldreams_cli.console import stop_on_signals
    from boldreams_cli.data.prepared.choosing import dataset_for
    from boldreams_cli.data.prepared.reliability import said_of_ceiling

    subject = options.the_subject(subject, cache, nsd_root, betas)
    dataset = dataset_for(cache, subject, nsd_root, betas)
    with stop_on_signals() as stop:
        found = dataset.prepare(subject, cache, sessions, mask, stop)
    summary = found.summary()
    count = len(summary["sessions"])
    sessions_said = "no sessions" if found.request.get("zscore") == "training" else f"{count} sessions"
    areas = ", ".join(f"{name} {count}" for name, count in summary["rois"].items())
    output.show(
        summary,
        f"subject {subject}: {summary['voxels']} {found.units.plural}, {sessions_said}",
        f"train: {summary['train']['images']} images, {summary['train']['trials']} trials",
        f"test:  {summary['test']['images']} images, {summary['test']['trials']} trials",
        said_of_ceiling(found.ceiling_source, found.ceiling_images),
        f"areas: {areas or 'none'}",
    )
