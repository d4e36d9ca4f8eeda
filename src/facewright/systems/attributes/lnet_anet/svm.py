"""Linear support vector machines, one for each attribute, on the features of a network that never saw the pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize

from ....errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]


def fit_svm(
    features: ArrayLike, labels: ArrayLike, *, cost: float = 1.0, start: Floats | None = None, balanced: bool = False
) -> Floats:
    """Weights and bias (D + 1,) of features (N, D) for labels (N,) of ±1, as LIBLINEAR's L2-loss machine.

    Minimises ½ |w − w₀|² + cost / N · Σ max(0, 1 − y (w · x + b))², where w₀ is `start` (D + 1,) or 0; the bias is
    free. With few pictures the classifier that features were trained with is a better start than nothing. `balanced`
    lets both labels weigh alike. Raises UsageError where one label is missing.
    """
    x, y = np.asarray(features, np.float64), np.asarray(labels, np.float64)
    if x.ndim != 2 or y.shape != (len(x),) or set(np.unique(y)) != {-1.0, 1.0}:
        raise UsageError("a support vector machine needs features (N, D) and labels (N,) of both 1 and -1")
    base = np.zeros(x.shape[1] + 1) if start is None else np.asarray(start, np.float64)
    weight = np.full(len(y), cost / len(y))
    if balanced:
        weight = np.where(y > 0, 0.5 * cost / (y > 0).sum(), 0.5 * cost / (y < 0).sum())

    def loss(w: Floats) -> tuple[float, Floats]:
        missing = np.maximum(0, 1 - y * (x @ w[:-1] + w[-1]))
        away = w[:-1] - base[:-1]
        slope = -2 * weight * missing * y
        return float(away @ away / 2 + weight @ missing**2), np.append(away + slope @ x, slope.sum())

    found = minimize(loss, base, jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return np.asarray(found.x)
