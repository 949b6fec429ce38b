"""Ridge regression whose prior is a receptive field: features at far nodes are expected to weigh less; pure arrays.

Each feature is times the square root of the field at its node, so that with a field f and a penalty p a weight at
node n has the prior variance f[n] / p. The products of all pairs of images are then sums over nodes of f[n] times
those of the node's features, and need each node's but once for all fields.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

REFINED = 5  # times at most
LITTLE = 1e-4  # change of a solution, by its size, behind which there comes none of note


def node_fields(height: int, width: int, grid: int, gaussians: NDArray[np.float64]) -> Tensor:
    """Gaussian fields and a flat one at the nodes of a grid, each of mean 1 over its nodes.

    Parameters
    ----------
    height, width : of the maps, pixels.
    grid : nodes along each side, at most as many as pixels; the outermost lie on the outermost pixels.
    gaussians : (n, 3) x to the right, y down, standard deviation; in fractions of the image.

    Returns
    -------
    (n + 1, nodes) float64, the flat one last.
    """
    down, across = (_places(pixels, grid) for pixels in (height, width))
    x, y, size = (column[:, None, None] for column in gaussians.T)
    squares = ((down[None, :, None] - y) / size) ** 2 + ((across[None, None, :] - x) / size) ** 2
    # Against the nearest node, so that a field between nodes does not vanish.
    fields = np.exp((squares.min((1, 2), keepdims=True) - squares) / 2).reshape(len(gaussians), -1)
    fields = np.concatenate([fields, np.ones((1, fields.shape[1]))])
    return torch.from_numpy(fields / fields.mean(1, keepdims=True))


def _places(pixels: int, grid: int) -> NDArray[np.float64]:
    """Of the nodes along one side, in fractions of the image."""
    nodes = min(grid, pixels)
    if nodes == 1:
        return np.array([0.5])
    return (np.linspace(0, pixels - 1, nodes) + 0.5) / pixels


class DualSystem:
    """Products of images plus a penalty, solved for all voxels that chose it.

    Factored in float32, and refined by what is left of the error, taken in float64, until that hardly changes it. Where
    rounding leaves no positive definite matrix it is factored in float64. A penalty below the rounding of the products
    themselves is raised to it.

    Parameters
    ----------
    gram : (images, images) float32 products, symmetric; read while the system is in use.
    penalty : above 0, on the scale of `gram`.
    """

    def __init__(self, gram: Tensor, penalty: float) -> None:
        lost = torch.finfo(gram.dtype).eps * len(gram) ** 0.5 * float(gram.diagonal().max())
        self.gram, self.penalty = gram, max(penalty, lost)
        self.factor, failed = _factor(gram.clone(), self.penalty)
        if failed:
            self.factor, failed = _factor(gram.double(), self.penalty)
        if failed:
            raise torch.linalg.LinAlgError(f"products of images plus {self.penalty:g} are not positive definite")

    def dual_weights(self, betas: Tensor, root: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the images, of which those of the features are sums (see `Ridge.dual`).

        Parameters
        ----------
        betas : (images, voxels).
        root, share : (images,) float64, roots of the images' weights, and the weights as shares of their sum.

        Returns
        -------
        (images, voxels) float64, and the mean betas (voxels,) float64.
        """
        values = betas.double()
        mean = share @ values
        left = (values - mean) * root[:, None]
        found = self._solved(left)
        for _ in range(REFINED if self.factor.dtype != torch.float64 else 0):
            more = self._solved(self._missed(found, left))
            found += more
            # Another would change it less by the same factor, and is not worth its time.
            if bool((more.norm(dim=0) <= LITTLE * found.norm(dim=0)).all()):
                break
        return found * root[:, None], mean

    def _solved(self, left: Tensor) -> Tensor:
        # Not cholesky_solve, which copies the factor every time.
        half = torch.linalg.solve_triangular(self.factor, left.to(self.factor.dtype), upper=False)
        return torch.linalg.solve_triangular(self.factor.mT, half, upper=True).double()

    def _missed(self, found: Tensor, left: Tensor, block: int = 1024) -> Tensor:
        """What the products of a solution leave of the right hand side, float64."""
        missed = left - self.penalty * found
        for start in range(0, len(found), block):
            missed[start : start + block] -= self.gram[start : start + block].double() @ found
        return missed


def _factor(gram: Tensor, penalty: float) -> tuple[Tensor, bool]:
    """Cholesky factor, in place of `gram`, and whether it is none, as the matrix is not positive definite."""
    gram.diagonal().add_(penalty)
    turned = gram.mT  # the same numbers by columns, as LAPACK has them
    info = torch.empty((), dtype=torch.int32, device=gram.device)
    torch.linalg.cholesky_ex(turned, out=(turned, info))
    return turned, bool(info)
