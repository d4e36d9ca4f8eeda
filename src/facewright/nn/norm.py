"""Normalisation over channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_EPS = 1e-4


def pixel_norm(x: Tensor) -> Tensor:
    """Scale every position (every row of a matrix) to root mean square 1 over the channels (dimension 1).

    Written with a vector norm: many times faster than a mean of squares in bfloat16, channels last.
    """
    length: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x * (math.sqrt(x.shape[1]) / length.clamp(min=_EPS))
