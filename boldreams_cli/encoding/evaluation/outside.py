"""Accuracy of a fitted model for images of another kind than those that it was fitted to."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import ChoiceError, logger, progress, timed
from boldreams_cli.data.outside import OutsideTest
from boldreams_cli.data.prepared.reliability import ESTIMATED
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.evaluation.repeats import means_of_repeats, ncsnr_of_repeats
from boldreams_cli.encoding.evaluation.score import Measured, of_measured
from boldreams_cli.encoding.evaluation.scores import Scores
from boldreams_cli.encoding.evaluation.statistics import mean_and_error, pearson_r, within_groups
from boldreams_cli.encoding.model.full import FullModel
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.features.backbones import entry
from boldreams_cli.machine import float32_products

IMAGES_IN_A_PASS = 8


def check_reads_images(model: FittedModel) -> None:
    """Raise ChoiceError if the model reads captions, which such images have none of."""
    if entry(model.spec.backbone).reads != "images":
        raise ChoiceError(
            f"{model.folder} reads captions, which the images of --test have none of; choose another model"
        )


def score_outside(
    model: FittedModel,
    responses: Responses,
    test: OutsideTest,
    device: torch.device,
    permutations: int = 0,
    permutation_seed: int = 0,
) -> Scores:
    """Compare predictions with the betas of a test of another kind of images.

    Images go through the full model: they are few, so that no store of their maps is kept. Ceilings come from the
    repeats within the test.

    Parameters
    ----------
    model : fitted.
    responses : of the model's subject, whose voxels are those of `test`.
    test : as the data set offers it.
    device : to compute on.
    permutations, permutation_seed : as in `score`.

    Raises
    ------
    ChoiceError
        If the model reads captions.
    MismatchError
        If the backbone's weights are not those that the model was fitted to.
    """
    check_reads_images(model)
    with timed(f"prediction of {len(test.images)} images"):
        prediction = _predicted(model, test, device)
    with timed(f"correlations with {len(test.trials)} trials"):
        measured = Measured(
            images=test.images,
            repeats=test.repeats,
            betas=torch.from_numpy(means_of_repeats(test.betas, test.rows)),
            ncsnr=ncsnr_of_repeats(test.betas, test.rows).astype(np.float32),
            trials=lambda: (test.rows, test.betas),
            ceiling_source=ESTIMATED,
            ceiling_images=int((test.repeats > 1).sum()),
        )
        scores = of_measured(model, responses, measured, prediction, permutations, permutation_seed)
    scores.test, scores.test_identity = test.name, test.identity
    if test.kinds:
        kinds = np.array([test.kinds.get(int(image), "") for image in test.images])
        scores.within_kinds = mean_and_error(within_kinds(prediction, measured.betas, kinds).numpy())[0]
    if count := len(scores.excluded):
        logger.warning("%d of %d voxels have no correlation and are left out", count, len(scores.r))
    return scores


def within_kinds(prediction: Tensor, beta: Tensor, kinds: NDArray[np.str_]) -> Tensor:
    """Correlation of what differs within kinds of image: each kind's mean is taken off both sides first.

    A model that only tells noise from scenes has an r, and none here.

    Parameters
    ----------
    prediction, beta : (images, voxels).
    kinds : (images,).

    Returns
    -------
    (voxels,) float64, NaN where there is none.
    """
    return pearson_r(within_groups(prediction, kinds), within_groups(beta, kinds))


def _predicted(model: FittedModel, test: OutsideTest, device: torch.device) -> Tensor:
    """(n, voxels) float32, on the CPU."""
    full = FullModel.rebuild(model, device)
    parts = []
    with (
        float32_products("fp32", device),
        torch.inference_mode(),
        progress("predict", len(test.images), "images") as bar,
    ):
        for start in range(0, len(test.images), IMAGES_IN_A_PASS):
            some = test.images[start : start + IMAGES_IN_A_PASS]
            parts.append(full.predict_images(torch.from_numpy(test.read(some))).cpu())
            bar.advance(len(some))
    return torch.cat(parts)
