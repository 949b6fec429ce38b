"""Models of nested filters and a brain whose accuracies are known, to test how a minimal percent is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NestedBrain:
    """An area whose voxels read all filters, and models that read some of them, each more than the last.

    Parameters
    ----------
    share : percent -> accuracy of its model as a share of that of 100 %, true of the whole population of images.
    voxels : in the area.
    features : directions in which a voxel's signal varies within what each percent adds; few of them make voxels alike.
    noise : variance of a voxel's noise; that of its signal is 1.
    shared : part of the noise's variance that voxels have in common, as in fMRI.
    overfit : variance of what a model of 100 % wrongly predicts, of which a smaller model has as much less as it
        predicts less.
    """

    share: Mapping[float, float] = field(
        # 10 % falls short by more than 2 %, just so.
        default_factory=lambda: {100: 1, 50: 0.999, 25: 0.995, 10: 0.979, 5: 0.93, 1: 0.8}
    )
    voxels: int = 40
    features: int = 3
    noise: float = 12.0
    shared: float = 0.8
    overfit: float = 0.3

    @property
    def ceiling(self) -> float:
        """Largest correlation to be expected, of every voxel."""
        return float(1 / np.sqrt(1 + self.noise))

    def truth(self) -> dict[float, float]:
        """Percent -> noise-normalised accuracy over the population of images."""
        return {percent: value / np.sqrt(1 + self.overfit) for percent, value in self.share.items()}

    def sufficient(self, margin: float) -> set[float]:
        """Percents that truly fall short of 100 % by less than the margin."""
        return {percent for percent, value in self.share.items() if value > 1 - margin}

    def draw(self, images: int, rng: np.random.Generator) -> tuple[Floats, dict[float, Floats]]:
        """Show test images to the brain and to the models.

        The correlation of signal and prediction is the root of the variance that is predicted: what a percent adds
        has the variance by which the squares of `share` grow.

        Returns
        -------
        beta : (images, voxels).
        predictions : percent -> (images, voxels).
        """
        ascending = sorted(self.share)
        grown = np.diff([0.0, *(self.share[percent] ** 2 for percent in ascending)])
        beta, wrong = np.zeros((2, images, self.voxels))
        predictions = {}
        for percent, variance in zip(ascending, grown, strict=True):
            beta = beta + np.sqrt(variance) * self._mixed(images, rng)
            wrong = wrong + np.sqrt(variance * self.overfit) * self._mixed(images, rng)
            predictions[percent] = beta + wrong
        common = np.sqrt(self.shared) * self._mixed(images, rng, features=3)
        own = np.sqrt(1 - self.shared) * rng.normal(size=beta.shape)
        return beta + np.sqrt(self.noise) * (common + own), predictions

    def _mixed(self, images: int, rng: np.random.Generator, features: int | None = None) -> Floats:
        """(images, voxels) of variance 1, each voxel another mixture of a few features."""
        count = features or self.features
        mixture = rng.normal(size=(count, self.voxels))
        return rng.normal(size=(images, count)) @ (mixture / np.linalg.norm(mixture, axis=0))
