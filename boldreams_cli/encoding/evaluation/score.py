"""Test accuracy of a fitted model, per voxel and area, against its ceiling (paper, sections 2.2 and 3.1)."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

from boldreams_cli import plots
from boldreams_cli.console import BoldreamsError, MismatchError, logger, timed
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.evaluation.predict import Wanted, predict
from boldreams_cli.encoding.evaluation.statistics import (
    mean_and_error,
    noise_ceiling,
    pearson_r,
    single_trial_ceiling,
)
from boldreams_cli.encoding.model.full import store_of
from boldreams_cli.encoding.model.spec import FittedModel, ModelSpec
from boldreams_cli.files import fingerprint, read_json, write_json, write_text, written_whole

FORMAT = 2  # of scores.json
SCORES, AREAS, MAP = "scores.json", "rois.csv", "correlation.nii.gz"
COLUMNS = {  # of AREAS, and what they are in JSON
    "roi": "roi",
    "voxels": "voxels",
    "excluded": "excluded",
    "r_mean": "r_mean",
    "r_se_over_voxels": "r_se",
    "r_single_mean": "r_single_mean",
    "ceiling_mean": "ceiling_mean",
    "ceiling_single_mean": "ceiling_single_mean",
}


@dataclass
class Scores:
    """Accuracy of one model.

    Parameters
    ----------
    model : that was scored.
    responses : of its subject.
    r : (voxels,) correlation with test betas averaged over repeats; NaN where excluded.
    r_single : (voxels,) correlation with single trials.
    ceiling : (voxels,) square root of the noise ceiling, the largest r to be expected.
    ceiling_single : (voxels,) the same of single trials.
    files : that `save` wrote.
    """

    model: FittedModel
    responses: Responses
    r: NDArray[np.float64]
    r_single: NDArray[np.float64]
    ceiling: NDArray[np.float64]
    ceiling_single: NDArray[np.float64]
    files: list[Path]

    def areas(self, labels: bool = False) -> dict[str, dict[str, Any]]:
        """Accuracy of each group of areas (and, with `labels`, of each single label) that has voxels.

        Everything is over the same voxels, those with a correlation: ``voxels`` counts them, ``excluded`` the others.
        """
        areas = self.responses.areas
        names = list(areas.counts()) + (list(areas.label_counts()) if labels else [])
        return {name: self._area(areas.select(name)) for name in dict.fromkeys(names)}

    def _area(self, inside: NDArray[np.bool_]) -> dict[str, Any]:
        known = inside & np.isfinite(self.r)
        mean, error = mean_and_error(self.r[known])
        return {
            "voxels": int(known.sum()),
            "excluded": int(inside.sum() - known.sum()),
            "r_mean": mean,
            "r_se": error,
            "r_single_mean": mean_and_error(self.r_single[known])[0],
            "ceiling_mean": mean_and_error(self.ceiling[known])[0],
            "ceiling_single_mean": mean_and_error(self.ceiling_single[known])[0],
        }

    @property
    def excluded(self) -> NDArray[np.int64]:
        """Voxels without a correlation: constant or non-finite betas, or a constant prediction."""
        return np.flatnonzero(~np.isfinite(self.r))

    def summary(self) -> dict[str, Any]:
        """The JSON object of ``score``; means over the voxels that have a correlation, ``voxels`` counts all."""
        whole = self._area(np.ones(len(self.r), dtype=bool))
        known = self.r[np.isfinite(self.r)]
        return {
            "model": str(self.model.folder),
            **identity(self.model.spec),
            "voxels": len(self.r),
            "excluded": whole["excluded"],
            "r_mean": whole["r_mean"],
            "r_median": float(np.median(known)) if len(known) else float("nan"),
            "r_single_mean": whole["r_single_mean"],
            "ceiling_mean": whole["ceiling_mean"],
            "ceiling_single_mean": whole["ceiling_single_mean"],
            "rois": self.areas(),
            "files": [str(path) for path in self.files],
        }

    def save(self) -> None:
        """Write the map, the table and the figures into the model's folder, and scores.json when those are there."""
        folder, spec = self.model.folder, self.model.spec
        self.files = [folder / SCORES, folder / AREAS, folder / MAP]
        write_text(folder / AREAS, self._table())
        with written_whole(folder / MAP) as temporary:
            nibabel.save(self._volume(), temporary)
        kind = spec.recipe or spec.readout
        self.files += plots.accuracy(
            folder / "figures",
            self.r,
            self.ceiling,
            self.areas(),
            f"{spec.backbone}, {spec.percent:g} % of filters, {kind}{', finetuned' if spec.finetuned else ''}, "
            f"subject {spec.subject}",
        )
        more = {
            "format": FORMAT,
            "key": key_of(spec),
            "weights_digest": spec.weights_digest,
            "excluded_voxels": [self.responses.voxels[index].tolist() for index in self.excluded],
            "r": self.r,
            "r_single": self.r_single,
            "ceiling": self.ceiling,
            "ceiling_single": self.ceiling_single,
        }
        names = [path.relative_to(folder).as_posix() for path in self.files]
        write_json(folder / SCORES, self.summary() | more | {"files": names})

    def _table(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for name, values in self.areas(labels=True).items():
            row = values | {"roi": name}
            writer.writerow([row[key] for key in COLUMNS.values()])
        return text.getvalue()

    def _volume(self) -> nibabel.Nifti1Image:
        volume = np.full(self.responses.shape, np.nan, dtype=np.float32)
        volume[tuple(self.responses.voxels.T)] = self.r
        return nibabel.Nifti1Image(volume, self.responses.affine)


def identity(spec: ModelSpec) -> dict[str, Any]:
    """What tells one model from another, for JSON."""
    return {
        "subject": spec.subject,
        "backbone": spec.backbone,
        "percent": spec.percent,
        "readout": spec.readout,
        "recipe": spec.recipe,
        "finetuned": spec.finetuned,
        "seed": spec.training.get("seed"),
    }


def key_of(spec: ModelSpec) -> str:
    """Hash of all that decides the scores of a model."""
    return fingerprint([FORMAT, spec.weights_digest, spec.backbone_weights["digest"], spec.responses, spec.store])


def saved_summary(model: FittedModel) -> dict[str, Any] | None:
    """The JSON object of ``score`` as it was saved; None where it is missing, not whole or of other weights."""
    path = model.folder / SCORES
    if not path.is_file():
        return None
    try:
        saved = read_json(path)
    except BoldreamsError:
        return None
    if not isinstance(saved, dict) or saved.get("key") != key_of(model.spec):
        return None
    files = [model.folder / name for name in saved["files"]]
    if not all(file.is_file() for file in files):
        return None
    arrays = ("format", "key", "weights_digest", "excluded_voxels", "r", "r_single", "ceiling", "ceiling_single")
    summary = {name: value for name, value in saved.items() if name not in arrays}
    return summary | {"model": str(model.folder), "files": [str(file) for file in files]}


def score(
    model: FittedModel,
    responses: Responses,
    cache: Path,
    nsd_root: Path | None,
    device: torch.device,
    memory: int,
) -> Scores:
    """Compare predictions with test betas.

    Parameters
    ----------
    model : fitted.
    responses : of the model's subject.
    cache : that holds the model's feature store; a finetuned model is scored from images instead.
    nsd_root : of those images, where the cache does not hold them resized.
    device : to compute on.
    memory : bytes that maps may take.

    Raises
    ------
    MismatchError
        If the model was fitted to other responses, or the cache no longer holds its store with all test images.
    """
    if model.spec.responses != responses.fingerprint:
        raise MismatchError(
            f"{model.folder} was fitted to responses {model.spec.responses}, these are {responses.fingerprint}; "
            "fit again, or score with the sessions and mask of the fit"
        )
    images = responses.test_images
    if not model.spec.finetuned:
        store_of(model, cache).rows(images)  # refused here, rather than computed again from images
    wanted = [Wanted(nsd_id=int(image)) for image in images]
    with timed(f"prediction of {len(images)} images"):
        prediction = torch.from_numpy(predict(model, wanted, cache, nsd_root, device, memory))
    with timed(f"correlations with {int(responses.trial_test.sum())} trials"):
        betas = torch.from_numpy(responses.mean_betas(images))
        shown = np.searchsorted(images, responses.trial_images[responses.trial_test])
        singles = torch.from_numpy(responses.read_betas(responses.trial_test, slice(None)))
        scores = Scores(
            model,
            responses,
            r=pearson_r(prediction, betas).numpy(),
            r_single=pearson_r(prediction[torch.from_numpy(shown)], singles).numpy(),
            ceiling=np.sqrt(noise_ceiling(responses.ncsnr, responses.repeats(images))),
            ceiling_single=np.sqrt(single_trial_ceiling(responses.ncsnr)),
            files=[],
        )
    if count := len(scores.excluded):
        logger.warning(
            "%d of %d voxels have no correlation and are left out; scores.json names them",
            count,
            len(scores.r),
        )
    return scores
