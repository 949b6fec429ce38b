"""What a fit leaves: the model's files, its log, and what a command says of it."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import BoldreamsError, logger
from boldreams_cli.encoding.model.spec import FittedModel, ModelSpec, is_whole
from boldreams_cli.encoding.model.weights import WeightsFile, written_weights
from boldreams_cli.encoding.readouts.base import Solution
from boldreams_cli.files import write_text

LOG = "log.csv"
AGAIN = "fitting-again"  # beside what is finished, while --overwrite makes it again
Curve = dict[str, list[float]]  # columns of log.csv


@dataclass
class FitResult:
    """A model and how its training went.

    Parameters
    ----------
    model : in its folder.
    curve : columns of log.csv, means over voxels.
    seconds : that this call took.
    """

    model: FittedModel
    curve: Curve
    seconds: float

    @property
    def losses(self) -> list[float]:
        """Mean squared error of the training data in each epoch; none of a readout that is solved at once."""
        return self.curve.get("train_loss", [])

    def summary(self) -> dict[str, Any]:
        """The JSON object of ``fit``; besides the training loss whatever else the log holds of loss."""
        spec = self.model.spec
        found = {
            "model": str(self.model.folder),
            "readout": spec.readout,
            "recipe": spec.recipe,
            "filters": {name: len(indices) for name, indices in spec.layers.items()},
            "epochs": len(self.losses),
            "train_loss": self.losses,
        }
        found |= {name: values for name, values in self.curve.items() if name.endswith("_loss") and name not in found}
        return found | {"seconds": self.seconds}


def finished(folder: Path, spec: ModelSpec) -> FitResult | None:
    """The model of that very spec, if it is there and whole."""
    there = is_whole(folder, spec.key)
    if there is None or not (folder / LOG).is_file():
        return None
    return FitResult(FittedModel(folder, there), read_log(folder / LOG), 0.0)


def begin(folder: Path, spec: ModelSpec, overwrite: bool) -> FitResult | None:
    """The model of that very spec where it is to be left as it is; call this while its folder is held.

    What is left beside a finished model is dropped: see `drop_left`.
    """
    there = finished(folder, spec)
    if there is not None:
        drop_left([folder / "spans", *folder.glob("checkpoint*")], folder / AGAIN, overwrite)
    if there is None or overwrite:
        return None
    logger.info("%s is there already, of the same settings and data; --overwrite fits it again", folder)
    return there


def drop_left(left: Iterable[Path], again: Path, overwrite: bool) -> None:
    """Drop what a kill has left of the making of something finished, lest `--overwrite` goes on from its end.

    Parameters
    ----------
    left : files and folders.
    again : the file that is there while it is made again. Then these are of that, and the same command goes on from
        them. Who makes it deletes that file before the last one of what is made.
    overwrite : whether it is to be made again.
    """
    if again.is_file():
        return
    for path in left:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if overwrite:
        write_text(again, "")


def write_weights(
    path: Path,
    spec: ModelSpec,
    spans: Callable[[], Iterable[tuple[NDArray[np.int64], Solution]]],
    voxels: NDArray[np.int32],
) -> None:
    """Join spans into a file of weights, one in memory at a time, whole or not at all.

    Parameters
    ----------
    path : of the file.
    spec : of the model.
    spans : called, gives the voxels and the solution of each span.
    voxels : (voxels, 3) indices into the volume; those in no span are left out and predict NaN.

    Raises
    ------
    BoldreamsError
        If a weight is not finite.
    """
    shapes, bases = _of_first(spec, spans)
    with written_weights(path, shapes, voxels) as file:
        for number, basis in enumerate(bases):
            file.put(f"fields/{spec.groups[number].name}", np.arange(len(basis)), basis)
        for columns, solution in spans():
            if not bool(torch.isfinite(solution.bias).all()):
                raise BoldreamsError("the weights are not finite; use a smaller --lr, or start anew with --no-resume")
            _put(file, spec, columns, solution)
            del solution  # before the next is read


def _of_first(
    spec: ModelSpec, spans: Callable[[], Iterable[tuple[NDArray[np.int64], Solution]]]
) -> tuple[dict[str, tuple[int, ...]], list[Tensor]]:
    """Shapes of the whole model and the fields that its voxels share, after the first span, which is let go of."""
    first = next(solution for _, solution in spans())
    return _shapes(spec, first), [basis.clone() for basis in first.basis or []]


def _shapes(spec: ModelSpec, solution: Solution) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of the whole model, after those of a span."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, group in enumerate(spec.groups):
        count = spec.voxels if solution.basis is None else len(solution.basis[number])
        side = solution.fields[number].shape[1:] if solution.queries else (group.height, group.width)
        shapes[f"fields/{group.name}"] = (count, *side)
    for number, group in enumerate(spec.groups):
        for name in group.layers:
            shapes[f"weights/{name}"] = (spec.voxels, len(spec.layers[name]), *solution.weights[number].shape[2:])
            if solution.queries:
                shapes[f"queries/{name}"] = (spec.voxels, len(spec.layers[name]))
    return shapes


def _put(file: WeightsFile, spec: ModelSpec, columns: NDArray[np.int64], solution: Solution) -> None:
    """Write one span's numbers to their places."""
    for number, group in enumerate(spec.groups):
        if solution.basis is None:
            file.put(f"fields/{group.name}", columns, solution.fields[number])
        sizes = [len(spec.layers[name]) for name in group.layers]
        for kind, values in (("weights", solution.weights), ("queries", solution.queries)):
            if values:
                for name, part in zip(group.layers, values[number].split(sizes, dim=1), strict=True):
                    file.put(f"{kind}/{name}", columns, part)
    file.put("bias", columns, solution.bias)


def join_curves(curves: Sequence[tuple[int, Curve]]) -> Curve:
    """Mean over spans of each column, weighted by their voxels."""
    first = curves[0][1]
    weights = [count for count, _ in curves]
    joined = {}
    for name in first:
        rows = np.array([curve[name] for _, curve in curves])
        same = (rows == rows[0]).all()  # of rates an average would round
        joined[name] = (rows[0] if same else np.average(rows, axis=0, weights=weights)).tolist()
    return joined


def log_text(curve: Curve) -> str:
    """Write log.csv: the epoch, counted from 1, and one column for each list of `curve`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *curve])
    for epoch, row in enumerate(zip(*curve.values(), strict=True)):
        writer.writerow([epoch + 1, *row])
    return text.getvalue()


def read_log(path: Path) -> Curve:
    """Read what `log_text` wrote."""
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    names = [name for name in (rows[0] if rows else {}) if name != "epoch"]
    return {name: [float(row[name]) for row in rows] for name in names}


def chosen_text(chosen: Sequence[tuple[NDArray[np.int64], dict[str, NDArray[Any]]]]) -> str:
    """Write chosen.csv: what was chosen for each voxel."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["voxel", *chosen[0][1]])
    for columns, values in chosen:
        writer.writerows(zip(columns.tolist(), *(value.tolist() for value in values.values()), strict=True))
    return text.getvalue()
