"""How Multibatch is trained: the hinge of all pairs of a batch around a distance that is learned with the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ....losses.pairs import multibatch_loss, pair_statistics, squared_distances
from ....training.trainer import Batch, Training, Update
from ....training.validation import pair_auc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from .network import Multibatch


class MultibatchTraining(Training):
    """All pairs of P people with K pictures each, SGD with momentum (arXiv 1605.07270).

    Batches hold `image` (N, S, S, 3) uint8 RGB and `label` (N,). `margin` and `outlier_sigma` are those of
    `multibatch_loss`. The threshold starts at the median squared distance of the first batch and is spared the weight
    decay.
    """

    def __init__(
        self,
        model: Multibatch,
        *,
        lr: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        margin: float = 1.0,
        outlier_sigma: float | None = None,
    ) -> None:
        self.model: Multibatch = model
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.margin, self.outlier_sigma = margin, outlier_sigma

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        named = list(self.model.named_parameters())
        groups = [
            {"params": [p for _, p in named if p.dim() > 1], "weight_decay": self.weight_decay},
            {"params": [p for _, p in named if p.dim() <= 1], "weight_decay": 0.0},
        ]
        return {"model": torch.optim.SGD(groups, self.lr, momentum=self.momentum)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        signatures = self.model(self.model.normalise(batch["image"])).float()
        if progress == 0:
            distances = squared_distances(signatures.detach())
            self.model.set_threshold(float(distances[~torch.eye(len(distances), dtype=torch.bool)].median()))
        loss = multibatch_loss(
            signatures, batch["label"], self.model.threshold, margin=self.margin, outlier_sigma=self.outlier_sigma
        )
        update("model", loss)
        return {"pairs": loss.detach(), "threshold": self.model.threshold.detach()}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Share of pairs in the right order, and the mean of both error rates at the learned threshold."""
        signatures = self.model(self.model.normalise(batch["image"])).float()
        found = pair_statistics(signatures, batch["label"], self.model.threshold, margin=self.margin)
        return {"auc": pair_auc(signatures, batch["label"]), "error": found.balanced_error}
