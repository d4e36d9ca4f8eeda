"""Measures of a validation batch that several trainings share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def ranked_right(scores: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve of scores (N,) for the (N,) bool `positive`; NaN when one side is empty."""
    high, low = scores[positive], scores[~positive].sort().values
    if len(high) == 0 or len(low) == 0:
        return float("nan")
    below = torch.searchsorted(low, high) + torch.searchsorted(low, high, right=True)
    return float(below.double().mean() / (2 * len(low)))


def pair_auc(embeddings: Tensor, labels: Tensor) -> float:
    """Share of genuine and impostor pairs of a batch, (N, D) of people (N,), that cosines put in the right order."""
    unit = F.normalize(embeddings.float())
    first, second = torch.triu_indices(len(unit), len(unit), offset=1)
    return ranked_right((unit @ unit.T)[first, second], labels[first] == labels[second])
