"""Batches of few different sizes."""

from __future__ import annotations

import torch
from torch import Tensor


def padded(x: Tensor, least: int = 1) -> Tensor:
    """(N, …), N at least 1, filled up to a power of two (and `least`) with copies of the first entry.

    oneDNN keeps compiled kernels for every batch size it has seen; a network that is called with whatever number of
    faces there are would collect them without end.
    """
    missing = max(least, 1 << (len(x) - 1).bit_length()) - len(x)
    return torch.cat([x, x[:1].expand(missing, *x.shape[1:])]) if missing else x
