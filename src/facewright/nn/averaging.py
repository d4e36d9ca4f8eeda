"""Running means of a module's weights, by torch's AveragedModel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.optim.swa_utils import AveragedModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


class RunningMean(AveragedModel):
    """A copy of a module, `module`, that follows it: weights and buffers as a mean, counters as they are.

    `update_parameters` moves the copy to `decay` · itself + (1 − decay) · module. The decay is a function of the number
    of the update, counted from 1.
    """

    def __init__(self, module: nn.Module, decay: Callable[[int], float]) -> None:
        @torch.no_grad()
        def follow(means: Any, currents: Any, count: Any) -> None:
            if means[0].is_floating_point():
                torch._foreach_lerp_(means, currents, 1 - decay(int(count)))
            else:
                for mean, current in zip(means, currents, strict=True):
                    mean.copy_(current)

        super().__init__(module, multi_avg_fn=follow, use_buffers=True)
        self.n_averaged += 1  # the copy made here is the first value: an update never just replaces it

    @property
    def updates(self) -> int:
        """How often the copy has moved."""
        return int(self.n_averaged) - 1
