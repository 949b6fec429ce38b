"""`boldreams score`: test accuracy of a fitted model."""

from __future__ import annotations

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
def score(choice: ModelChoice, nsd_root: Path | None, memory: int, device: str, output: Output) -> None:
    """Measure the test accuracy of a fitted model, per voxel and area.

    Pearson r between prediction and betas averaged over repeats, with the noise ceiling; writes scores.json,
    rois.csv, correlation.nii.gz and figures into the model's folder. Reads the feature store, or for a finetuned
    model the images.
    """
    from boldreams_cli.encoding.evaluation import score

    model = choice.resolve()
    responses = options.responses_of(model, choice.cache)
    scores = score.score(model, responses, choice.cache, nsd_root, options.pick_device(device), memory)
    scores.save()
    summary = scores.summary()
    output.show(
        summary,
        f"model: {summary['model']}",
        f"r: mean {summary['r_mean']:.4f}, median {summary['r_median']:.4f}, single trials "
        f"{summary['r_single_mean']:.4f}; ceiling {summary['ceiling_mean']:.4f}",
        f"voxels: {summary['voxels']}, of which {summary['excluded']} left out",
        *_table(summary["rois"]),
    )


def _table(rois: dict[str, dict[str, float]]) -> list[str]:
    lines = [f"{'area':10} {'voxels':>6} {'r':>7} {'s.e.':>7} {'single':>7} {'ceiling':>7}"]
    for name, row in rois.items():
        lines.append(
            f"{name:10} {row['voxels']:6d} {row['r_mean']:7.3f} {row['r_se']:7.3f} "
            f"{row['r_single_mean']:7.3f} {row['ceiling_mean']:7.3f}"
        )
    return lines
