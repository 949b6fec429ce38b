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
from boldreams_cli.console import MismatchError, logger
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.evaluation.predict import Wanted, predict
from boldreams_cli.encoding.evaluation.statistics import mean_and_error, noise_ceiling, pearson_r
from boldreams_cli.encoding.model.full import store_of
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.files import write_json, write_text, written_whole


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
    """

    model: FittedModel
    responses: Responses
    r: NDArray[np.float64]
    r_single: NDArray[np.float64]
    ceiling: NDArray[np.float64]
    files: list[Path]

    def areas(self, labels: bool = False) -> dict[str, dict[str, Any]]:
        """Accuracy of each group of areas (and, with `labels`, of each single label) that has voxels."""
        areas = self.responses.areas
        names = list(areas.counts()) + (list(areas.label_counts()) if labels else [])
        return {name: self._summary(areas.select(name)) for name in dict.fromkeys(names)}

    def _summary(self, voxels: NDArray[np.bool_]) -> dict[str, Any]:
        mean, error = mean_and_error(self.r[voxels])
        return {
            "voxels": int(voxels.sum()),
            "r_mean": mean,
            "r_se": error,
            "r_single_mean": mean_and_error(self.r_single[voxels])[0],
            "ceiling_mean": mean_and_error(self.ceiling[voxels])[0],
        }

    @property
    def excluded(self) -> NDArray[np.int64]:
        """Voxels without a correlation: constant or non-finite betas, or a constant prediction."""
        return np.flatnonzero(~np.isfinite(self.r))

    def summary(self) -> dict[str, Any]:
        """The JSON object of ``score``."""
        known = self.r[np.isfinite(self.r)]
        return {
            "model": str(self.model.folder),
            "voxels": len(self.r),
            "excluded": len(self.excluded),
            "r_mean": mean_and_error(self.r)[0],
            "r_median": float(np.median(known)) if len(known) else float("nan"),
            "r_single_mean": mean_and_error(self.r_single)[0],
            "ceiling_mean": mean_and_error(self.ceiling)[0],
            "rois": self.areas(),
            "files": [str(path) for path in self.files],
        }

    def save(self) -> None:
        """Write scores.json, rois.csv, correlation.nii.gz and the figures into the model's folder."""
        folder = self.model.folder
        names = ("rois.csv", "correlation.nii.gz")
        self.files = [folder / "scores.json", *(folder / name for name in names)]
        write_text(folder / "rois.csv", self._table())
        with written_whole(folder / "correlation.nii.gz") as temporary:
            nibabel.save(self._volume(), temporary)
        self.files += plots.accuracy(
            folder / "figures",
            self.r,
            self.ceiling,
            self.areas(),
            f"{self.model.spec.backbone}, {self.model.spec.percent:g} % of filters"
            f"{', finetuned' if self.model.spec.finetuned else ''}, subject {self.model.spec.subject}",
        )
        excluded = [self.responses.voxels[index].tolist() for index in self.excluded]
        more = {
            "weights_digest": self.model.spec.weights_digest,
            "excluded_voxels": excluded,
            "r": self.r,
            "r_single": self.r_single,
            "ceiling": self.ceiling,
        }
        write_json(folder / "scores.json", self.summary() | more)

    def _table(self) -> str:
        text = io.StringIO()
        fields = ["roi", "voxels", "r_mean", "r_se", "r_single_mean", "ceiling_mean"]
        writer = csv.DictWriter(text, fields, lineterminator="\n")
        writer.writeheader()
        for name, values in self.areas(labels=True).items():
            writer.writerow({"roi": name} | values)
        return text.getvalue()

    def _volume(self) -> nibabel.Nifti1Image:
        volume = np.full(self.responses.shape, np.nan, dtype=np.float32)
        volume[tuple(self.responses.voxels.T)] = self.r
        return nibabel.Nifti1Image(volume, self.responses.affine)


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
    prediction = torch.from_numpy(predict(model, wanted, cache, nsd_root, device, memory))
    betas = torch.from_numpy(responses.mean_betas(images))
    shown = np.searchsorted(images, responses.trial_images[responses.trial_test])
    singles = torch.from_numpy(responses.read_betas(responses.trial_test, slice(None)))
    scores = Scores(
        model,
        responses,
        r=pearson_r(prediction, betas).numpy(),
        r_single=pearson_r(prediction[torch.from_numpy(shown)], singles).numpy(),
        ceiling=np.sqrt(noise_ceiling(responses.ncsnr, responses.repeats(images))),
        files=[],
    )
    if count := len(scores.excluded):
        logger.warning(
            "%d of %d voxels have no correlation and are left out; scores.json names them",
            count,
            len(scores.r),
        )
    return scores
