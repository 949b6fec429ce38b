"""`boldreams score`: test accuracy of a fitted model."""

from __future__ import annotations

import math
from pathlib import Path

from boldreams_cli.commands import options
from boldreams_cli.commands.options import ModelChoice, Output


@options.command(
    "boldreams score",
    "boldreams score --subject 1 --percent 10 --readout ridge",
    "boldreams score --model percent-10 --json",
)
@options.output_options
@options.model_options
@options.nsd_option
@options.memory_option
@options.device_option
@options.option("--overwrite", is_flag=True, help="Score again a model whose scores are there.")
def score(
    choice: ModelChoice, nsd_root: Path | None, memory: int, device: str, overwrite: bool, output: Output
) -> None:
    """Measure the test accuracy of a fitted model, per voxel and area.

    Pearson r between prediction and betas averaged over repeats, with the noise ceiling; writes scores.json,
    rois.csv, correlation.nii.gz and figures into the model's folder. Reads the feature store, or for a finetuned
    model the images. A model whose scores are there is not scored again.

    Means of an area are over its voxels that have a correlation. The standard error over voxels is the paper's
    error bar, a spread: voxels share images and noise, so it does not say how certain the mean is.
    """
    from boldreams_cli.console import logger
    from boldreams_cli.encoding.evaluation import score

    model = choice.resolve()
    where = options.pick_device(device)
    summary = None if overwrite else score.saved_summary(model)
    if summary is not None:
        if nsd_root is not None:  # scores of inputs that are others now are not shown as if they were of these
            options.responses_of(model, choice.cache, nsd_root)
        logger.info("the scores of these weights are there (--overwrite makes them again)")
    else:
        responses = options.responses_of(model, choice.cache, nsd_root)
        scores = score.score(model, responses, choice.cache, nsd_root, where, memory)
        scores.save()
        summary = scores.summary()
    output.show(
        summary,
        f"model: {summary['model']}",
        f"r: mean {_number(summary['r_mean'])}, median {_number(summary['r_median'])} (ceiling "
        f"{_number(summary['ceiling_mean'])}); single trials {_number(summary['r_single_mean'])} "
        f"(ceiling {_number(summary['ceiling_single_mean'])})",
        f"voxels: {summary['voxels']}, of which {summary['excluded']} left out",
        *_table(summary["rois"]),
    )


def _table(rois: dict[str, dict[str, float]]) -> list[str]:
    lines = [f"{'area':10} {'voxels':>6} {'r':>7} {'s.e. over voxels':>16} {'ceiling':>7} {'single':>7} {'ceiling':>7}"]
    for name, row in rois.items():
        lines.append(
            f"{name:10} {row['voxels']:6d} {_number(row['r_mean']):>7} {_number(row['r_se']):>16} "
            f"{_number(row['ceiling_mean']):>7} {_number(row['r_single_mean']):>7} "
            f"{_number(row['ceiling_single_mean']):>7}"
        )
    return lines


def _number(value: float | None) -> str:
    """Three digits; a dash for what is not defined (null in scores.json)."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"
