"""The files of a model's scores: written into its folder, and read where they are of its weights."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli import plots
from boldreams_cli.console import BoldreamsError
from boldreams_cli.data.maps.cifti import has_cifti, write_cifti
from boldreams_cli.data.maps.writing import place_columns, write_map
from boldreams_cli.data.outside import OutsideTest
from boldreams_cli.data.units import VertexUnits
from boldreams_cli.encoding.evaluation import measures
from boldreams_cli.encoding.evaluation.certainty.influences import ALL, INFLUENCES
from boldreams_cli.encoding.evaluation.saved.identity import FORMAT, key_of
from boldreams_cli.encoding.evaluation.scores import Scores
from boldreams_cli.encoding.model.folder import added_to
from boldreams_cli.encoding.model.spec import FittedModel, ModelSpec
from boldreams_cli.files import read_json, write_json, write_text

Draw = Callable[[Path, NDArray[Any], NDArray[Any], Mapping[str, Mapping[str, Any]], str], list[Path]]

ALL_MAPS = "scores.dscalar.nii"
SCORES, AREAS, VOXELS = "scores.json", "rois.csv", "voxels.csv"
MAPS = {"correlation": "r", "ceiling": "ceiling", "r_over_ceiling": "r_over_ceiling", "q": "q"}
COLUMNS = {  # of AREAS, and what they are in JSON
    "roi": "roi",
    "voxels": "voxels",
    "excluded": "excluded",
    "images": "images",
    "r_mean": "r_mean",
    "r_image_se": "r_image_se",
    "r_ci_low": "r_ci_low",
    "r_ci_high": "r_ci_high",
    "r_se_over_voxels": "r_se",
    "r_single_mean": "r_single_mean",
    "ceiling_mean": "ceiling_mean",
    "ceiling_single_mean": "ceiling_single_mean",
    "accuracy": "accuracy",
    "accuracy_image_se": "accuracy_image_se",
    "accuracy_ci_low": "accuracy_ci_low",
    "accuracy_ci_high": "accuracy_ci_high",
    "accuracy_voxels": "accuracy_voxels",
    "below_floor": "below_floor",
}
FIELD_MAPS = {f"field_{name}": name for name in ("eccentricity", "angle", "size")}
ARRAYS = ("r", "r_single", "ceiling", "ceiling_single")
NOT_SHOWN = ("format", "key", "weights_digest", "excluded_voxels", *ARRAYS)  # of SCORES, in the object on stdout


def named(name: str, test: str) -> str:
    """Name of a file of the scores of a test: ``scores.json``, and ``scores-synthetic.json`` beside it."""
    stem, dot, suffix = name.partition(".")
    return f"{stem}-{test}{dot}{suffix}" if test else name


def title_of(spec: ModelSpec, test: str = "") -> str:
    """Of the figures of a model's scores: all that people tell it from others by, and the test where it is another."""
    kind = (spec.recipe or spec.readout) + ", finetuned" * spec.finetuned
    of_test = f", {test} test" if test else ""
    return f"{spec.backbone}, {spec.percent:g} % of filters, {kind}, subject {spec.subject}{of_test}"


def save(scores: Scores, draw: Draw = plots.accuracy, keep: Sequence[str] = ()) -> None:
    """Write maps, tables and figures into the model's folder, and scores.json when those are there; none until then.

    Parameters
    ----------
    scores : to write.
    draw : as `plots.accuracy`, perhaps by another process.
    keep : names of what was added to scores of the same key, and stays.
    """
    folder, spec, test = scores.model.folder, scores.model.spec, scores.test
    maps = {named(name, test): getattr(scores, values) for name, values in MAPS.items()}
    maps |= {named(name, test): values for name, values in scores.measures.items()}
    if scores.fields.maps is not None:
        maps |= {name: scores.fields.maps[values] for name, values in FIELD_MAPS.items()}
    units = scores.responses.units
    said, areas, voxels, moves = (folder / named(name, test) for name in (SCORES, AREAS, VOXELS, INFLUENCES))
    scores.files = [said, areas, voxels, moves]
    old = _read(said) or {}
    said.unlink(missing_ok=True)  # it vouches for the others: a kill while they are replaced must leave none
    write_text(areas, _area_table(scores))
    write_text(voxels, _voxel_table(scores))
    scores.influences.save(folder, scores.key, moves.name)
    for name, values in maps.items():
        scores.files += write_map(folder, name, units, values)
    if isinstance(units, VertexUnits) and has_cifti(units):
        scores.files.append(write_cifti(folder / named(ALL_MAPS, test), units, maps))
    figures = folder / named("figures", test)
    scores.files += draw(figures, scores.r, scores.ceiling, scores.areas(), title_of(spec, test))
    more = {
        "format": FORMAT,
        "key": scores.key,
        "weights_digest": spec.weights_digest,
        "excluded_voxels": [scores.responses.voxels[index].tolist() for index in scores.excluded],
        **{name: getattr(scores, name) for name in ARRAYS},
    }
    more |= {name: old[name] for name in keep if name in old and old.get("key") == scores.key}
    names = [path.relative_to(folder).as_posix() for path in scores.files]
    write_json(said, scores.summary() | more | {"files": names})


def add(model: FittedModel, name: str, found: Mapping[str, Any], digest: str) -> None:
    """Put more into a model's scores.json, beside what others have put there since it was read.

    Parameters
    ----------
    model : whose folder it lies in.
    name, found : of what is added.
    digest : of the weights that it is of; scores of others are left as they are.
    """
    path = model.folder / SCORES
    with added_to(model.folder):
        saved = read_json(path)
        if saved["weights_digest"] == digest:
            write_json(path, saved | {name: found})


def _read(path: Path) -> dict[str, Any] | None:
    """What a file says; None where it is missing or not whole."""
    try:
        found = read_json(path) if path.is_file() else None
    except BoldreamsError:
        return None
    return found if isinstance(found, dict) else None


def saved_summary(
    model: FittedModel, permutations: tuple[int, int] | None = None, test: OutsideTest | None = None
) -> dict[str, Any] | None:
    """The JSON object of ``score`` as it was saved; None where it is missing, not whole or of other weights.

    Scores without a measure that there is count as not whole.

    Parameters
    ----------
    model : fitted.
    permutations : their number and seed, where the probabilities must come from those.
    test : with images of another kind; None for that of the model's data.
    """
    saved = _read(model.folder / named(SCORES, test.name if test else ""))
    if saved is None or saved.get("key") != key_of(model.spec, test.identity if test else None):
        return None
    if permutations is not None and permutations != (saved["permutations"], saved["permutation_seed"]):
        return None
    if not all(f"{name}_mean" in saved for name in measures.names()):
        return None
    files = [model.folder / name for name in saved["files"]]
    if not all(file.is_file() for file in files):
        return None
    summary = {name: value for name, value in saved.items() if name not in NOT_SHOWN}
    return summary | {"model": str(model.folder), "files": [str(file) for file in files]}


def _area_table(scores: Scores) -> str:
    """Groups, single labels, then all voxels."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = COLUMNS | {f"{name}_mean": f"{name}_mean" for name in scores.measures}
    writer.writerow(columns)
    for name, values in (scores.areas(labels=True) | {ALL: scores.area(ALL)}).items():
        ends = {f"{ci}_{end}": values[ci][place] for ci in ("r_ci", "accuracy_ci") for place, end in enumerate(_ENDS)}
        row = values | ends | {"roi": name}
        writer.writerow([row[key] for key in columns.values()])
    return text.getvalue()


_ENDS = ("low", "high")


def _voxel_table(scores: Scores) -> str:
    """One row a voxel; numbers to seven digits, ``nan`` for what is not defined."""
    columns: dict[str, NDArray[np.floating]] = {
        "ncsnr": scores.ncsnr,
        "ceiling": scores.ceiling,
        "r": scores.r,
        "r_se": scores.r_se,
        "p": scores.p,
        "q": scores.q,
        "r_over_ceiling": scores.r_over_ceiling,
        **scores.measures,
        **scores.fields.columns(),
    }
    places = place_columns(scores.responses.units)
    form = "%s,%s,%s,%s" + ",%.7g" * len(columns)
    numbers = (values.tolist() for values in columns.values())
    rows = zip(*places.values(), _areas_of_voxels(scores), *numbers, strict=True)
    return "\n".join([",".join([*places, "areas", *columns]), *(form % row for row in rows), ""])


def _areas_of_voxels(scores: Scores) -> list[str]:
    """Names of the groups and labels that each voxel lies in, joined by semicolons."""
    inside = {name: mask for name, mask in scores.memberships.items() if name != ALL}
    names: list[list[str]] = [[] for _ in range(len(scores.r))]
    for name, mask in inside.items():
        for voxel in np.flatnonzero(mask).tolist():
            names[voxel].append(name)
    return [_quoted(";".join(found)) for found in names]


def _quoted(cell: str) -> str:
    """A cell of a CSV file, for labels that a table spells with commas or quotes."""
    return '"' + cell.replace('"', '""') + '"' if any(mark in cell for mark in ',"\n') else cell
