"""Ridge regression of all voxels on the same features, each with its own penalty; pure functions of arrays.

With weights s of the images, centred features X and betas y, both times the roots of s, and X X' = U D U', the
residuals are U (penalty / (D + penalty)) U' y and the leverages those of U: what each image would be missed by, had
it been left out, follows for every penalty from one decomposition. That form does not cancel, so products with betas
may be of float32 where the decomposition is of float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Times the mean eigenvalue of the features' covariance.
PENALTIES = tuple(10.0**power for power in range(-4, 5))
HALF_DECADES = tuple(10.0 ** (power / 2) for power in range(-6, 8))

ZERO = 1e-13  # eigenvalues below that share of the largest are rounding of float64 sums


class LeftOut:
    """What images are predicted from that are left out, one at a time, by every penalty.

    Parameters
    ----------
    values : (directions,) float64, eigenvalues.
    fast : (images, directions) float32, their vectors.
    freedom : (penalties, images) float64, what a left-out image's residual is divided by.
    penalties : (penalties,) float64, on the scale of `values`.
    repeats : (images,) trials that each image's mean beta stands for; the images' weights.
    """

    def __init__(self, values: Tensor, fast: Tensor, freedom: Tensor, penalties: Tensor, repeats: Tensor) -> None:
        self._weigh(repeats)
        self.values, self.fast, self.freedom, self.penalties = values, fast, freedom, penalties.tolist()
        self.complete = fast.shape[0] == fast.shape[1]

    @property
    def arrays(self) -> dict[str, Tensor]:
        """The parameters by name, but for the repeats."""
        penalties = torch.tensor(self.penalties, dtype=torch.float64)
        return {"values": self.values, "fast": self.fast, "freedom": self.freedom, "penalties": penalties}

    def _weigh(self, repeats: Tensor) -> None:
        self.root = repeats.double().sqrt()
        self.share = repeats.double() / repeats.sum()

    def left_out_errors(self, betas: Tensor) -> Tensor:
        """Squared errors of each image predicted from all others, exactly, without fitting again.

        Parameters
        ----------
        betas : (images, voxels) averaged over repeats.

        Returns
        -------
        (penalties, voxels) float64, sums over images, weighted by repeats.
        """
        _, left = self._centred(betas)
        left = left.float()
        products = self.fast.T @ left
        outside = None if self.complete else left - self.fast @ products
        errors = []
        for penalty, freedom in zip(self.penalties, self.freedom, strict=True):
            missed = self.fast @ (products * (penalty / (self.values + penalty)).float()[:, None])
            if outside is not None:
                missed += outside
            errors.append(missed.div_(freedom.float()[:, None]).square_().sum(0, dtype=torch.float64))
        return torch.stack(errors)

    def left_out(self, betas: Tensor, chosen: Tensor) -> Tensor:
        """What each image is predicted to be from all others, by one penalty a voxel.

        Parameters
        ----------
        betas : (images, voxels) averaged over repeats.
        chosen : (voxels,) which penalty each voxel takes.

        Returns
        -------
        (images, voxels) float32, less the voxel's mean beta and times the roots of the images' weights.
        """
        _, left = self._centred(betas)
        left = left.float()
        penalty = torch.tensor(self.penalties, dtype=torch.float64, device=betas.device)[chosen]
        products = self.fast.T @ left
        missed = self.fast @ (products * (penalty / (self.values[:, None] + penalty)).float())
        if not self.complete:
            missed += left - self.fast @ products
        return left - missed / self.freedom.float()[chosen].T

    def _centred(self, betas: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of the betas (voxels,), and what is left, weighted (images, voxels)."""
        values = betas.double()
        mean = self.share @ values
        return mean, (values - mean) * self.root[:, None]


class Ridge(LeftOut):
    """One decomposition of the features, which gives the solutions for every penalty and their left-out errors.

    Parameters
    ----------
    features : (images, F), on any scale; they are centred here.
    repeats : (images,) trials that each image's mean beta stands for; the images' weights.
    penalties : to choose from, as multiples of the features' mean eigenvalue.
    """

    def __init__(self, features: Tensor, repeats: Tensor, penalties: Sequence[float] = PENALTIES) -> None:
        self._weigh(repeats)
        scaled = weighted(features, self.root, self.share)
        images, count = scaled.shape
        # The smaller of the two Gram matrices; they have the same eigenvalues.
        if count <= images:
            values, axes = torch.linalg.eigh(scaled.T @ scaled)
            kept = values > ZERO * values[-1]
            self.values = values[kept]
            self.vectors = scaled @ (axes[:, kept] / self.values.sqrt())
            self.complete = False
        else:
            self._decompose(scaled @ scaled.T)
        self._scale(penalties, count)

    @classmethod
    def of_gram(cls, gram: Tensor, repeats: Tensor, features: int, penalties: Sequence[float] = PENALTIES) -> Ridge:
        """From the products of all pairs of images, where features are too many to be held.

        Parameters
        ----------
        gram : (images, images) float64 products of `weighted` features; what lies above the diagonal is not read.
        repeats : (images,).
        features : their number.
        penalties : as multiples of the features' mean eigenvalue.
        """
        ridge = cls.__new__(cls)
        ridge._weigh(repeats)
        ridge._decompose(gram)
        ridge._scale(penalties, features)
        return ridge

    @classmethod
    def of_decomposition(
        cls, values: Tensor, vectors: Tensor, repeats: Tensor, features: int, penalties: Sequence[float] = PENALTIES
    ) -> Ridge:
        """From `values` and `vectors` of another one, kept meanwhile; arguments otherwise as for `of_gram`."""
        ridge = cls.__new__(cls)
        ridge._weigh(repeats)
        ridge.values, ridge.vectors, ridge.complete = values, vectors, vectors.shape[0] == vectors.shape[1]
        ridge._scale(penalties, features)
        return ridge

    def _decompose(self, gram: Tensor) -> None:
        """All directions, those without variance too: then residuals need no part of their own outside of them."""
        values, self.vectors = torch.linalg.eigh(gram)
        self.values, self.complete = values.clamp_min(0), True

    def _scale(self, penalties: Sequence[float], features: int) -> None:
        total = float(self.values.sum())
        mean = total / min(len(self.root) - 1, features) if total > 0 else 1.0
        self.penalties = [penalty * mean for penalty in penalties]
        self.fast = self.vectors.float()
        squares = self.vectors.square()
        # What a left-out image's residual is divided by, (penalties, images).
        self.freedom = torch.stack(
            [1 - self.share - squares @ (self.values / (self.values + penalty)) for penalty in self.penalties]
        ).clamp_min(1e-12)

    def dual(self, betas: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the images: a feature's weight is the sum of its values at the images, times these.

        Parameters
        ----------
        betas : (images, voxels).
        chosen : (voxels,) which penalty each voxel takes.

        Returns
        -------
        (images, voxels) float64, which sum to 0 over images; and the mean betas (voxels,) float64, from which the bias
        follows as what the weights make of the features' weighted mean is subtracted.
        """
        mean, left = self._centred(betas)
        penalty = torch.tensor(self.penalties, dtype=torch.float64, device=betas.device)[chosen]
        shrunk = (self.vectors.T @ left) / (self.values[:, None] + penalty)
        if self.complete and len(self.values):
            shrunk[self.values <= ZERO * self.values[-1]] = 0  # no feature reads from there
        return (self.vectors @ shrunk) * self.root[:, None], mean


def weighted(features: Tensor, root: Tensor, share: Tensor) -> Tensor:
    """Features without their weighted mean, times the roots of the images' weights.

    Parameters
    ----------
    features : (images, F).
    root, share : (images,) float64, roots of the weights, and the weights as shares of their sum.

    Returns
    -------
    (images, F) float64.
    """
    values = features.double()
    return (values - share @ values).mul_(root[:, None])


def add_products(gram: Tensor, rows: Tensor, block: int = 1024) -> None:
    """Add the products of all pairs of rows to the lower triangle of `gram`, in place.

    Parameters
    ----------
    gram : (images, images) float64.
    rows : (images, F) float64.
    block : images at a time; blocks above the diagonal are left out.
    """
    for start in range(0, len(rows), block):
        stop = min(start + block, len(rows))
        gram[start:stop, :stop].addmm_(rows[start:stop], rows[:stop].T)
