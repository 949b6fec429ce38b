"""What solvers of ridges are held against, by definition and scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import Ridge

from boldreams_cli.encoding.numerics.ridge import HALF_DECADES


def penalties_of(x: np.ndarray, repeats: np.ndarray, relative: tuple[float, ...] = HALF_DECADES) -> np.ndarray:
    """The absolute ones, by their definition."""
    centred = (x - np.average(x, 0, repeats)) * np.sqrt(repeats)[:, None]
    return np.square(centred).sum() / min(len(x) - 1, x.shape[1]) * np.array(relative)


def left_out(x: np.ndarray, y: np.ndarray, repeats: np.ndarray, penalty: float) -> float:
    """Weighted squared error of each image predicted from all others, fitted again for each."""
    error = 0.0
    for one in range(len(x)):
        some = np.arange(len(x)) != one
        fitted = Ridge(penalty).fit(x[some], y[some], sample_weight=repeats[some])
        error += repeats[one] * (fitted.predict(x[[one]])[0] - y[one]) ** 2
    return error
