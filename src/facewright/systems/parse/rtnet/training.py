"""How RTNet can be trained: pixel cross entropy in the tanh-polar view, SGD. The paper's training was never published;
rate, momentum and decay are those that networks with this head are usually trained with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..parser_training import ParserTraining

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from ....training.trainer import Batch
    from .network import RTNet


class RTNetTraining(ParserTraining):
    """`ParserTraining` on `data.portraits.PolarFaces`: batches also hold `box` (N, 4)."""

    def __init__(self, model: RTNet, *, lr: float = 0.01, momentum: float = 0.9, weight_decay: float = 5e-4) -> None:
        super().__init__(model, lr=lr, weight_decay=weight_decay)
        self.momentum = momentum

    def optimisers(self) -> dict[str, Optimizer]:
        weights = self.model.parameters()
        return {"model": torch.optim.SGD(weights, self.lr, momentum=self.momentum, weight_decay=self.weight_decay)}

    def logits(self, batch: Batch) -> Tensor:
        logits: Tensor = self.model(self.pixels(batch), batch["box"])
        return logits
