"""The sanity check of Adebayo et al. (2018): a map that stays when weights are random shows the image only."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from boldreams_cli.encoding.model.full import FullModel
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.features import backbones

LEVELS = {"readout": "readout at random", "all": "all weights at random"}
LIMIT = 0.5  # of the rank correlation of the signed maps, for a map to survive
SEED = 2018  # not that of weights that are random by choice


def randomised(full: FullModel, level: str, seed: int = SEED) -> FullModel:
    """The same model with the readout's weights (and queries) of filters by chance, or the backbone's as well.

    Receptive fields stay, and the size of each layer's weights.
    """
    random = torch.Generator().manual_seed(seed)
    weights = copy.copy(full.model.weights)
    included = torch.from_numpy(weights.included)
    weights.weights = {
        layer: torch.randn(value.shape, generator=random) * value[included].std(correction=0)
        for layer, value in weights.weights.items()
    }
    weights.queries = {
        layer: torch.randn(value.shape, generator=random) * value[included].std(correction=0)
        for layer, value in weights.queries.items()
    }
    model = FittedModel(full.model.folder, full.model.spec, weights)
    backbone = full.backbone
    if level == "all":
        name, layers = model.spec.backbone, model.spec.layers
        backbone = backbones.load(name, "random", seed=seed, layers=layers, rectified=backbone.rectified)
    return FullModel(model, backbone).eval().to(full.backbone.device)


def rank_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> dict[str, float]:
    """Spearman's of two maps (H, W), signed and of absolute values; NaN where one is constant.

    That of absolute values is high for methods that multiply by the image, whatever the weights: dark pixels get
    nothing from any model.
    """
    pairs = {"signed": (first, second), "absolute": (np.abs(first), np.abs(second))}
    return {name: _spearman(one.ravel(), other.ravel()) for name, (one, other) in pairs.items()}


def survives(correlations: dict[str, dict[str, float]]) -> bool | None:
    """Whether the signed map is another with every kind of random weights: |rank correlation| is at most LIMIT.

    None where that cannot be told, as a map is flat: of a filter that is silent everywhere.
    """
    found = [abs(level["signed"]) for level in correlations.values()]
    if any(value > LIMIT for value in found):
        return False
    return None if any(math.isnan(value) for value in found) else True


def _spearman(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(spearmanr(first, second).statistic)
