"""The table of a study: accuracy with its certainty by subject, area, backbone, readout and percent."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from boldreams_cli.files import to_json, write_json, write_text
from boldreams_cli.study.sweep import State, model_row

TABLE, JSON = "table.csv", "table.json"
WHOLE = "all"
IDENTITY = ("subject", "backbone", "percent", "recipe", "readout", "finetuned", "seed")
# Of the table, and of scores.json; a list there has two columns here.
SCORES = {
    "voxels": "voxels",
    "images": "images",
    "r": "r_mean",
    "r_image_se": "r_image_se",
    "r_ci": "r_ci",
    "r_se_over_voxels": "r_se",
    "ceiling": "ceiling_mean",
    "r_over_ceiling": "accuracy",
    "r_over_ceiling_image_se": "accuracy_image_se",
    "r_over_ceiling_ci": "accuracy_ci",
    "r_over_ceiling_voxels": "accuracy_voxels",
}
INTERVALS = ("r_ci", "r_over_ceiling_ci")


def rows(state: State) -> Iterator[dict[str, Any]]:
    """One row a model and area, the whole of the voxels first; null for what scores of an earlier version lack."""
    for number, noted in state.noted.items():
        model = model_row(state.study, number, noted)
        scores = noted["scores"]
        for area, values in ({WHOLE: scores} | scores["rois"]).items():
            yield {
                **{name: model[name] for name in IDENTITY},
                "area": area,
                **{ours: values.get(theirs) for ours, theirs in SCORES.items()},
                "ceiling_source": scores.get("ceiling_source"),
                "model": noted["model"],
            }


def write(state: State, again: Callable[[], State]) -> list[Path]:
    """Write table.csv and table.json into the study's folder, where they are other than what is there.

    Parameters
    ----------
    state : of the study; where nothing is to be written, no lock is taken.
    again : looks once more, while no other process writes: a table is never that of a look before another's.
    """
    paths = [state.study.folder / TABLE, state.study.folder / JSON]
    found = to_json(list(rows(state)))
    if found and not _is_there(paths, _csv(found)):
        with state.study.table_lock():
            found = to_json(list(rows(again())))
            if found and not _is_there(paths, text := _csv(found)):
                write_json(paths[1], found)
                write_text(paths[0], text)
    return paths if found else []


def _csv(found: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    cells = [flat(row) for row in found]
    writer = csv.DictWriter(text, list(cells[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(cells)
    return text.getvalue()


def _is_there(paths: Sequence[Path], text: str) -> bool:
    try:
        return paths[0].read_text(encoding="utf-8") == text and paths[1].is_file()
    except OSError:
        return False


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row with a column for each number, as the CSV has it."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if name in INTERVALS:
            low, high = value or (None, None)
            found |= {f"{name}_low": low, f"{name}_high": high}
        else:
            found[name] = value
    return found
