"""How PartSpectrum's readouts are fitted: logistic regression with a penalty, each kind against real pictures alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import minimize

from ....errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from .network import PartSpectrum

    Floats = NDArray[np.float64]


def logistic_loss(
    weights: Floats, seen: NDArray[np.floating], labels: Floats, importance: Floats, penalty: float
) -> tuple[float, Floats]:
    """Value and gradient of Σ importance · log(1 + e^{−y·z}) + penalty / 2 · |w|², the last weight being the bias."""
    logits = seen @ weights[:-1] + weights[-1]
    sign = 2 * labels - 1
    loss = float((importance * np.logaddexp(0, -sign * logits)).sum() + penalty / 2 * (weights[:-1] @ weights[:-1]))
    slope = -importance * sign / (1 + np.exp(sign * logits))
    return loss, np.append(slope @ seen + penalty * weights[:-1], slope.sum())


def fit_readout(
    seen: NDArray[np.floating], labels: NDArray[np.bool_], *, penalty: float, steps: int = 60
) -> tuple[Floats, float]:
    """Weights (D,) and bias of a logistic regression on descriptions of mean 0 and deviation 1; both sides weigh alike.

    Raises UsageError where one side is missing.
    """
    if labels.all() or not labels.any():
        raise UsageError("a readout needs pictures with and without what it is to tell")
    share = np.where(labels, 0.5 / labels.sum(), 0.5 / (~labels).sum())
    x = np.asarray(seen, np.float32)
    start = np.zeros(x.shape[1] + 1)
    found = minimize(
        logistic_loss,
        start,
        (x, labels.astype(np.float64), share, penalty),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": steps},
    )
    return found.x[:-1], float(found.x[-1])


@torch.no_grad()
def store(layer: nn.Linear, row: int, weights: Floats, bias: float) -> None:
    """Put a fitted readout into its row of a layer."""
    layer.weight[row] = torch.from_numpy(weights).to(layer.weight)
    layer.bias[row] = bias


@torch.no_grad()
def set_scale(model: PartSpectrum, descriptions: NDArray[np.floating]) -> None:
    """Let the model scale descriptions as these (N, D) have mean 0 and deviation 1."""
    model.centre.copy_(torch.from_numpy(descriptions.mean(0)))
    model.scale.copy_(torch.from_numpy(np.maximum(descriptions.std(0), 1e-3)))


def adopt_parser(model: PartSpectrum, parser: nn.Module) -> None:
    """Take the weights of the parser's trunk."""
    state = parser.state_dict()
    own = model.fixed.trunk
    own.load_state_dict({key: state[key] for key in own.state_dict()})
