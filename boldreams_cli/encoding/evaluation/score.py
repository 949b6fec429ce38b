"""Test accuracy of a fitted model, per voxel and area, against its ceiling (paper, sections 2.2 and 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import MismatchError, logger, progress, timed
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.evaluation import measures, retinotopy
from boldreams_cli.encoding.evaluation.certainty import influences
from boldreams_cli.encoding.evaluation.predict import Wanted, predict
from boldreams_cli.encoding.evaluation.scores import Scores
from boldreams_cli.encoding.evaluation.statistics import noise_ceiling, p_without_signal, pearson_r, permutation_p
from boldreams_cli.encoding.model.full import store_of
from boldreams_cli.encoding.model.spec import FittedModel

VOXELS_IN_A_BLOCK = 1024  # whose trials are correlated, or images permuted, at once


def score(
    model: FittedModel,
    responses: Responses,
    cache: Path,
    data_root: Path | None,
    device: torch.device,
    memory: int,
    permutations: int = 0,
    permutation_seed: int = 0,
) -> Scores:
    """Compare predictions with test betas.

    Parameters
    ----------
    model : fitted.
    responses : of the model's subject.
    cache : that holds the model's feature store; a finetuned model is scored from images instead.
    data_root : of those images, where the cache does not hold them resized, and of measured receptive fields.
    device : to compute on.
    memory : bytes that maps may take.
    permutations : of the images, for each voxel's probability; 0 takes it from the standard error over images.
    permutation_seed : of their draws.

    Raises
    ------
    MismatchError
        If the model was fitted to other responses, or the cache no longer holds its store with all test images.
    """
    prediction = torch.from_numpy(predict_test(model, responses, cache, data_root, device, memory))
    with timed(f"correlations with {int(responses.trial_test.sum())} trials"):
        scores = of_prediction(model, responses, prediction, permutations, permutation_seed)
    with timed("receptive fields"):
        scores.fields = retinotopy.of_model(model, responses, data_root)
    if count := len(scores.excluded):
        logger.warning(
            "%d of %d voxels have no correlation and are left out; scores.json names them",
            count,
            len(scores.r),
        )
    return scores


def predict_test(
    model: FittedModel,
    responses: Responses,
    cache: Path,
    data_root: Path | None,
    device: torch.device,
    memory: int,
) -> NDArray[np.float32]:
    """(test images, voxels) predictions, in the order of `responses.test_images`; parameters and errors as `score`."""
    if model.spec.responses != responses.fingerprint:
        raise MismatchError(
            f"{model.folder} was fitted to responses {model.spec.responses}, these are {responses.fingerprint}; "
            "fit again, or score with the sessions and mask of the fit"
        )
    images = responses.test_images
    if not model.spec.finetuned:
        store_of(model, cache).rows(images)  # refused here, rather than computed again from images
    wanted = [Wanted(image_id=int(image)) for image in images]
    with timed(f"prediction of {len(images)} images"):
        return predict(model, wanted, cache, data_root, device, memory)


@dataclass(frozen=True)
class Measured:
    """What predictions are compared with.

    Parameters
    ----------
    images, repeats : (n,) ids and trials of each.
    betas : (n, voxels) averaged over repeats.
    ncsnr : (voxels,) float32, NaN where it is not known.
    trials : () -> (T,) place of each trial's image among the images, and its betas (T, voxels).
    averaged : presentations that the rows of betas are averages of; each of one by default.
    ceiling_source, ceiling_images : where `ncsnr` comes from, as `Responses` has it.
    """

    images: NDArray[np.integer]
    repeats: NDArray[np.int64]
    betas: Tensor
    ncsnr: NDArray[np.float32]
    trials: Callable[[], tuple[NDArray[np.integer], NDArray[np.float32]]]
    averaged: NDArray[np.integer] = field(default_factory=lambda: np.ones(1, np.int64))
    ceiling_source: str | None = None
    ceiling_images: int | None = None


def of_prediction(
    model: FittedModel, responses: Responses, prediction: Tensor, permutations: int = 0, permutation_seed: int = 0
) -> Scores:
    """Scores of predictions, (test images, voxels), in the order of `responses.test_images`."""
    images = responses.test_images

    def trials() -> tuple[NDArray[np.integer], NDArray[np.float32]]:
        shown = np.searchsorted(images, responses.trial_images[responses.trial_test])
        return shown, responses.read_betas(responses.trial_test, slice(None))

    betas = torch.from_numpy(responses.mean_betas(images))
    measured = Measured(
        *(images, responses.repeats(images), betas, responses.ncsnr, trials),
        ceiling_source=responses.ceiling_source,
        ceiling_images=responses.ceiling_images,
    )
    if responses.trial_repeats is not None:
        measured = replace(measured, averaged=responses.trial_repeats[responses.trial_test])
    return of_measured(model, responses, measured, prediction, permutations, permutation_seed)


def of_measured(
    model: FittedModel,
    responses: Responses,
    measured: Measured,
    prediction: Tensor,
    permutations: int = 0,
    permutation_seed: int = 0,
) -> Scores:
    """Scores of predictions, (images, voxels), in the order of the images that were measured."""
    betas, repeats, images = measured.betas, measured.repeats, measured.images
    ceiling = np.sqrt(noise_ceiling(measured.ncsnr, repeats))
    areas = influences.memberships(responses.areas)
    r, r_se, found = influences.of_areas(prediction, betas, ceiling, areas, responses.voxels, images, repeats)
    if permutations:
        p = _permuted(prediction, betas, repeats, permutations, permutation_seed)
    else:
        p = p_without_signal(r, len(images))
    return Scores(
        model,
        responses,
        r=r,
        r_single=_single_trials(prediction, *measured.trials()),
        ncsnr=measured.ncsnr,
        ceiling=ceiling,
        ceiling_single=np.sqrt(noise_ceiling(measured.ncsnr, measured.averaged)),
        r_se=r_se,
        p=p,
        influences=found,
        permutations=permutations,
        permutation_seed=permutation_seed if permutations else 0,
        measures=measures.measured(prediction, betas),
        ceiling_source=measured.ceiling_source,
        ceiling_images=measured.ceiling_images,
    )


def _permuted(
    prediction: Tensor, betas: Tensor, repeats: NDArray[np.int64], permutations: int, seed: int
) -> NDArray[np.float64]:
    """`permutation_p` of all voxels, which all see the same permutations, with progress."""
    _, counts = np.unique(repeats, return_counts=True)
    if (alone := int((counts == 1).sum())) > len(repeats) / 2:
        logger.warning(
            "%d of %d test images have a number of repeats that no other has, and are never exchanged: p of "
            "--permutations says little here; leave it out for Student's t of r",
            *(alone, len(repeats)),
        )
    parts = []
    with progress("permute", prediction.shape[1], "voxels") as shown:
        for start in range(0, prediction.shape[1], VOXELS_IN_A_BLOCK):
            block = slice(start, start + VOXELS_IN_A_BLOCK)
            parts.append(permutation_p(prediction[:, block], betas[:, block], repeats, permutations, seed))
            shown.advance(len(parts[-1]))
    return np.concatenate(parts)


def _single_trials(prediction: Tensor, shown: NDArray[np.integer], betas: NDArray[np.float32]) -> NDArray[np.float64]:
    """(voxels,) correlation of each trial with the prediction of its image; NaN where there is none."""
    trials, rows = torch.from_numpy(betas), torch.from_numpy(shown)
    blocks = [slice(start, start + VOXELS_IN_A_BLOCK) for start in range(0, trials.shape[1], VOXELS_IN_A_BLOCK)]
    return np.concatenate([pearson_r(prediction[:, block][rows], trials[:, block]).numpy() for block in blocks])
