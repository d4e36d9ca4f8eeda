"""Regularisers that act every few steps only (StyleGAN2, appendix B)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StepCount(nn.Module):
    """How many steps were made; saved with the training so that a resumed one keeps its rhythm."""

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def due(self, every: int) -> bool:
        """Whether what acts every so many steps (0: never) acts in this one."""
        return every > 0 and int(self.steps) % every == 0
