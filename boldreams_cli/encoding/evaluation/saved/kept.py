"""A model's scores: those that are there where they are still true, else made now and saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boldreams_cli.console import StopFlag, logger
from boldreams_cli.data.dataset import Dataset
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.evaluation import folds, outside, retinotopy, score
from boldreams_cli.encoding.evaluation.certainty import bootstrap
from boldreams_cli.encoding.evaluation.saved import files as score_files
from boldreams_cli.encoding.model.folder import added_to
from boldreams_cli.encoding.model.spec import FittedModel

THERE = "the scores of these weights are there (--overwrite makes them again)"


@dataclass(frozen=True)
class Scoring:
    """What is scored, from what, and how.

    Parameters
    ----------
    model : fitted.
    responses : () -> of its subject; opened only where something is measured or compared.
    cache : that holds the model's feature store.
    data_root : of its images and of measured receptive fields; None where it is not known.
    device : to compute on.
    memory : bytes that maps may take.
    permutations : their number and seed, where each voxel's p must come from those.
    overwrite : score again what is there.
    """

    model: FittedModel
    responses: Callable[[], Responses]
    cache: Path
    data_root: Path | None
    device: torch.device
    memory: int
    permutations: tuple[int, int] | None = None
    overwrite: bool = False

    def of_test_images(self, count: int | None = None, draws: int | None = None) -> dict[str, Any]:
        """The JSON object of ``score``.

        Parameters
        ----------
        count : of folds whose predictions are scored too; None takes those that are there.
        draws : of the test images, for a bootstrap beside the errors by influences; None takes what is there.

        Raises
        ------
        MismatchError
            As `score.score`, or if there are no predictions of so many folds.
        """
        drawn, summary = self.permutations, None
        if not self.overwrite:
            summary = score_files.saved_summary(self.model, drawn)
        if summary is not None and self.data_root is not None:
            # Scores of inputs that are others now are not shown as if they were of these.
            source, root = summary["measured_fields"], self.data_root
            if not retinotopy.is_current(source, self.model, self.responses(), root):
                logger.info("the scores were not compared with receptive fields measured under %s: made again", root)
                drawn, summary = (summary["permutations"], summary["permutation_seed"]), None
        if summary is not None:
            logger.info(THERE)
        else:
            scores = score.score(
                *(self.model, self.responses(), self.cache, self.data_root, self.device, self.memory), *(drawn or ())
            )
            with added_to(self.model.folder):
                score_files.save(scores, keep=() if self.overwrite else ["bootstrap"])
            summary = scores.summary()
        drawn_again = bootstrap.scored(self.model, draws, self.responses, self._predict)
        more = {"folds": folds.scored(self.model, count, self.responses), "bootstrap": drawn_again}
        kept = {name: value for name, value in summary.items() if name not in more}  # as others made them
        return kept | {name: found for name, found in more.items() if found is not None}

    def _predict(self, responses: Responses) -> NDArray[np.float32]:
        return score.predict_test(self.model, responses, self.cache, self.data_root, self.device, self.memory)

    def of_other_images(self, name: str, dataset: Dataset, stop: StopFlag) -> dict[str, Any]:
        """The same of images of another kind, as `Dataset.outside_test` has them.

        Raises
        ------
        ChoiceError
            If the model reads captions, or the data set has no such test.
        StoppedError
            If a signal came.
        """
        outside.check_reads_images(self.model)
        responses = self.responses()
        test = dataset.of_request(responses.request).outside_test(
            name, responses.subject, responses.voxels, responses.shape, stop
        )
        summary = None if self.overwrite else score_files.saved_summary(self.model, self.permutations, test)
        if summary is not None:
            logger.info(THERE)
            return summary
        drawn = self.permutations or ()
        scores = outside.score_outside(self.model, responses, test, self.device, *drawn)
        with added_to(self.model.folder, stop):
            score_files.save(scores)
        return scores.summary()
