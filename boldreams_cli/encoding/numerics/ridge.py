"""Ridge regression of all voxels on the same features, each with its own penalty; pure functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Times the mean eigenvalue of the features' covariance.
PENALTIES = tuple(10.0**power for power in range(-4, 5))


class Ridge:
    """One decomposition of the features, which gives the solutions for every penalty and their left-out errors.

    Parameters
    ----------
    features : (images, F) float32, on any scale; they are centred here.
    repeats : (images,) trials that each image's mean beta stands for; the images' weights.
    penalties : to choose from, as multiples of the features' mean eigenvalue.
    """

    def __init__(self, features: Tensor, repeats: Tensor, penalties: Sequence[float] = PENALTIES) -> None:
        self.root = repeats.double().sqrt()[:, None]
        self.share = (repeats / repeats.sum()).double()[:, None]
        self.centre = (features * self.share.float()).sum(0)
        scaled = (features - self.centre) * self.root.float()
        few = features.shape[1] <= features.shape[0]
        # The smaller of the two Gram matrices; they have the same eigenvalues.
        values, vectors = torch.linalg.eigh(_gram(scaled.T if few else scaled))
        kept = values > 1e-6 * values[-1].clamp_min(1e-30)  # float32 products hold no more
        self.values, vectors = values[kept], vectors[:, kept].float()
        self.directions = vectors if few else scaled.T @ (vectors / self.values.sqrt().float())
        self.scores = scaled @ self.directions
        mean = self.values.mean() if len(self.values) else torch.ones((), dtype=torch.float64)
        self.penalties = [float(penalty * mean) for penalty in penalties]

    def _projected(self, betas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean of the betas (V,), what is left, weighted (images, V), and its products with the scores (r, V)."""
        mean = (betas * self.share).sum(0).float()
        left = (betas - mean) * self.root.float()
        return mean, left, self.scores.T @ left

    def left_out_errors(self, betas: Tensor) -> Tensor:
        """Squared errors of each image predicted from all others, exactly, without fitting again.

        Parameters
        ----------
        betas : (images, voxels) averaged over repeats.

        Returns
        -------
        (penalties, voxels), sums over images, weighted by repeats.
        """
        _, left, products = self._projected(betas)
        errors = []
        for penalty in self.penalties:
            shrunk = 1 / (self.values + penalty)
            leverage = self.scores.double().square() @ shrunk + self.share[:, 0]
            residual = left - self.scores @ (products * shrunk[:, None].float())
            errors.append((residual / (1 - leverage).clamp_min(1e-6)[:, None].float()).square().sum(0))
        return torch.stack(errors)

    def solve(self, betas: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and bias.

        Parameters
        ----------
        betas : (images, voxels).
        chosen : (voxels,) which penalty each voxel takes.

        Returns
        -------
        (F, voxels) and (voxels,).
        """
        mean, _, products = self._projected(betas)
        penalty = torch.tensor(self.penalties, dtype=torch.float64, device=betas.device)[chosen]
        weights = self.directions @ (products / (self.values[:, None] + penalty)).float()
        return weights, mean - self.centre @ weights


def _gram(rows: Tensor, block: int = 4096) -> Tensor:
    """Products of all pairs of rows, summed in float64 a block of columns at a time."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for part in rows.split(block, dim=1):
        total += part @ part.T
    return total
