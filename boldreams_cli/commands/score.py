"""`boldreams score`: test accuracy of a fitted model."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import ModelChoice, Output


@options.command(
    "boldreams score",
    "boldreams score --subject 1 --percent 10 --readout ridge",
    "boldreams score --permutations 5000",
    "boldreams score --bootstrap 2000",
    "boldreams score --folds 5",
    "boldreams score --test synthetic",
    "boldreams score --model percent-10 --json",
)
@options.output_options
@options.model_options
@options.nsd_option
@options.memory_option
@options.device_option
@options.option(
    "--permutations",
    type=click.IntRange(1),
    metavar="N",
    help="Take each voxel's p from N permutations of the test images instead of Student's t of its r.",
)
@options.option(
    "--permutation-seed", type=options.SEED, default=0, show_default=True, help="The seed of the permutations."
)
@options.option(
    "--bootstrap",
    type=click.IntRange(100),
    metavar="N",
    excludes=["test"],
    help="Also draw the test images N times, for errors and intervals that rest on no formula.",
)
@options.option(
    "--folds",
    type=click.IntRange(2),
    default=None,
    metavar="K",
    excludes=["test"],
    help="Score the training images too, as K folds predict them (fit --folds K); without it, folds that are there.",
)
@options.option(
    "--test",
    type=click.Choice(["synthetic"]),
    default=None,
    help="Score another test of the data set in place of its own: NSD-synthetic, whose images are no photographs.",
)
@options.option(
    "--mesh",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR",
    help="Draw r of vertices on the inflated or flat meshes of this folder (pip install 'boldreams[surfaces]').",
)
@options.option("--overwrite", is_flag=True, help="Score again a model whose scores are there.")
def score(
    choice: ModelChoice,
    nsd_root: Path | None,
    memory: int,
    device: str,
    permutations: int | None,
    permutation_seed: int,
    bootstrap: int | None,
    folds: int | None,
    test: str | None,
    mesh: Path | None,
    overwrite: bool,
    output: Output,
) -> None:
    """Measure the test accuracy of a fitted model, per voxel and area.

    Pearson r between prediction and betas averaged over repeats, with the noise ceiling; writes scores.json, rois.csv,
    voxels.csv, influences.npz, figures and NIfTI maps (of vertices GIFTI and CIFTI) into the model's folder. Reads the
    feature store, or for a finetuned model the images. A model whose scores are there is not scored again.

    The test images are the random sample: standard errors and 95 % intervals are over images. The standard error over
    voxels is the paper's error bar, a spread: voxels share images and noise, so it does not say how certain the mean
    is. A, the noise-normalised accuracy, is the sum of r over the sum of ceilings, of voxels whose ceiling is at least
    0.2. A voxel's p is one-sided, from Student's t of its r or from --permutations; q is its false discovery
    rate over all voxels. Scores that are there are kept whichever p they have, unless --permutations asks for others.
    --bootstrap N adds errors and intervals of each area from test images drawn with replacement, those with as many
    repeats by themselves; the draws are the same for all voxels and models.

    Fitted receptive fields are compared with measured ones (prf_*.nii.gz) where --nsd-root has them. --test synthetic
    predicts NSD-synthetic's images, by the full network; its files end in -synthetic and replace none of the others.
    A data file without ceilings has those estimated from the repeats of its images, and it is said so.
    docs/reading-the-numbers.md explains all of them.
    """
    from boldreams_cli.console import stop_on_signals
    from boldreams_cli.encoding.evaluation.saved.kept import Scoring
    from boldreams_cli.encoding.folds import require
    from boldreams_cli.encoding.model import full

    _check_test(test, folds, bootstrap)
    model = choice.resolve()
    root = options.root_for(model.spec.subject, choice.cache, nsd_root)
    if folds is not None:
        require(model, folds)
    where = options.pick_device(device)
    full.compare_store(model, choice.cache, root)
    responses = functools.cache(lambda: options.responses_of(model, choice.cache, root))
    drawn = None if permutations is None else (permutations, permutation_seed)
    asked = Scoring(model, responses, choice.cache, root, where, memory, drawn, overwrite)
    if mesh is not None:
        from boldreams_cli.encoding.evaluation.saved import on_surface

        units = on_surface.check_can_draw(responses(), mesh)
    if test is None:
        summary = asked.of_test_images(folds, bootstrap)
    else:
        with stop_on_signals() as stop:
            summary = asked.of_other_images(test, options.dataset_of(root), stop)
    if mesh is not None:
        summary["files"] = [*summary["files"], str(on_surface.draw_r(model, units, mesh, test or ""))]
    output.show(summary, *_lines(summary))


def _check_test(test: str | None, folds: int | None, bootstrap: int | None) -> None:
    """Refuse what another test has not."""
    from boldreams_cli.console import ChoiceError

    if test is not None and folds is not None:
        raise ChoiceError("--folds are of the training images; leave out --test, or --folds")
    if test is not None and bootstrap is not None:
        raise ChoiceError("--bootstrap is of the data's own test; leave out --test, or --bootstrap")


def _lines(summary: dict[str, Any]) -> list[str]:
    """All that is said to people."""
    if "test" not in summary:
        return [
            *_report(summary),
            *_table(summary["rois"]),
            *_fields(summary),
            *_bootstrap_table(summary.get("bootstrap")),
            *_folds_table(summary.get("folds")),
        ]
    within = summary["r_within_kinds_mean"]
    kinds = [] if within is None else [f"r within kinds of image: mean {_number(within)} (kinds' means taken off)"]
    return [f"test: {summary['test']}", *_report(summary), *kinds, *_table(summary["rois"])]


def _report(summary: dict[str, Any]) -> list[str]:
    """What is said of all voxels."""
    from boldreams_cli.data.prepared.reliability import said_of_ceiling

    method = f"{summary['permutations']} permutations" if summary["permutations"] else "Student's t of r"
    unknown = summary["ceiling_mean"] is None or not math.isfinite(summary["ceiling_mean"])
    measured = [
        f"{name.removesuffix('_mean').replace('_', ' ')}: mean {_number(summary[name])}" for name in _measures()
    ]
    source = None if unknown else summary.get("ceiling_source")  # scores of before may not say it
    ceiling = [said_of_ceiling(source, summary.get("ceiling_images"))] if unknown or source else []
    return [
        f"model: {summary['model']}",
        f"r: mean {_number(summary['r_mean'])} ± {_number(summary['r_image_se'])} (standard error over "
        f"{summary['images']} images; 95 % interval {_interval(summary['r_ci'])}), median "
        f"{_number(summary['r_median'])} (ceiling {_number(summary['ceiling_mean'])}); single trials "
        f"{_number(summary['r_single_mean'])} (ceiling {_number(summary['ceiling_single_mean'])})",
        f"A, r over ceiling: {_number(summary['accuracy'])} (95 % interval {_interval(summary['accuracy_ci'])}), of "
        f"{summary['accuracy_voxels']} voxels; {summary['below_floor']} have a ceiling under 0.2, or none",
        f"voxels: {summary['voxels']}, of which {summary['excluded']} left out; {summary['voxels_q05']} predicted at "
        f"q < 0.05 (from {method})",
        *measured,
        *ceiling,
    ]


def _measures() -> list[str]:
    """Keys of what is measured beside r (encoding/evaluation/measures)."""
    from boldreams_cli.encoding.evaluation import measures

    return [f"{name}_mean" for name in measures.names()]


def _table(rois: dict[str, dict[str, Any]]) -> list[str]:
    """Areas; the last column is the paper's error bar."""
    heads = (
        "r",
        "s.e. over images",
        "95 % interval",
        "ceiling",
        "A",
        "95 % interval",
        "single",
        "s.e. over voxels (a spread)",
    )
    widths = (7, 16, 15, 7, 6, 15, 7, 27)
    lines = [
        f"{'area':10} {'voxels':>6} " + " ".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True))
    ]
    for name, row in rois.items():
        cells = (
            _number(row["r_mean"]),
            _number(row["r_image_se"]),
            _interval(row["r_ci"]),
            _number(row["ceiling_mean"]),
            _number(row["accuracy"]),
            _interval(row["accuracy_ci"]),
            _number(row["r_single_mean"]),
            _number(row["r_se"]),
        )
        values = " ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        lines.append(f"{name:10} {row['voxels']:6d} {values}")
    return lines


def _fields(summary: dict[str, Any]) -> list[str]:
    """How fitted receptive fields agree with measured ones, or why that is not said."""
    found = summary["retinotopy"]
    if found is None:
        return [f"receptive fields: not compared with measured ones: {summary['retinotopy_note']}"]
    floor = "" if found["r2_floor"] is None else f" and an R2 of at least {found['r2_floor']:g} %"
    lines = [
        f"receptive fields against measured ones within {found['within_degrees']:g} degrees{floor}: rank correlation "
        f"of eccentricity and size, circular correlation of angle, median difference of angle in degrees",
        f"{'area':10} {'voxels':>6} {'eccentricity':>12} {'size':>6} {'angle':>6} {'apart':>6}",
    ]
    for name, row in found["rois"].items():
        apart = row["angle_apart"]
        degrees = "-" if apart is None or not math.isfinite(apart) else f"{apart:.0f}"
        lines.append(
            f"{name:10} {row['voxels']:6d} {_number(row['eccentricity_r']):>12} {_number(row['size_r']):>6} "
            f"{_number(row['angle_r']):>6} {degrees:>6}"
        )
    return lines


def _folds_table(folds: dict[str, Any] | None) -> list[str]:
    """Accuracy of the training images, where folds predict them."""
    if folds is None:
        return []
    lines = [
        f"{folds['folds']} folds: {folds['images']} training images, each predicted by a fit without it",
        f"{'area':10} {'voxels':>6} {'r':>7} {'s.e.':>6} {'95 % interval':>15} {'ceiling':>7}",
    ]
    for name, row in [("all", folds), *folds["rois"].items()]:
        lines.append(
            f"{name:10} {row['voxels']:6d} {_number(row['r_mean']):>7} {_number(row['r_image_se']):>6} "
            f"{_interval(row['r_ci']):>15} {_number(row['ceiling_mean']):>7}"
        )
    return lines


def _bootstrap_table(drawn: dict[str, Any] | None) -> list[str]:
    """Errors and intervals from images drawn again."""
    if drawn is None:
        return []
    lines = [
        f"bootstrap: {drawn['draws']} draws of the test images, of those with as many repeats by themselves",
        f"{'area':10} {'s.e. of r':>9} {'95 % interval':>15} {'s.e. of A':>9} {'95 % interval':>15}",
    ]
    for name, row in [("all", drawn), *drawn["rois"].items()]:
        lines.append(
            f"{name:10} {_number(row['r_se']):>9} {_interval(row['r_ci']):>15} {_number(row['accuracy_se']):>9} "
            f"{_interval(row['accuracy_ci']):>15}"
        )
    return lines


def _interval(ends: list[float | None]) -> str:
    return " to ".join(_number(end) for end in ends)


def _number(value: float | None) -> str:
    """Three digits; a dash for what is not defined (null in scores.json)."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"
