"""How PFID is trained: a classifier of the known individuals, and a loss on pairs of its posteriors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ....errors import UsageError
from ....losses.pairs import posterior_pair_loss
from ....training.trainer import Batch, Training, Update
from ....training.validation import pair_auc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from .network import PFID


class PFIDTraining(Training):
    """Cross-entropy plus `pair_weight` times the loss on pairs of posteriors (arXiv 1907.02642, section 3).

    Batches hold `image` (N, S, S, 3) uint8 RGB and `label` (N,), the individual's number below those of the
    configuration. Without pairs of one individual in a batch the second term only pushes apart: use a sampler of P
    individuals with K pictures.
    """

    def __init__(
        self,
        model: PFID,
        *,
        lr: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        pair_weight: float = 1.0,
        margin: float = 2.0,
    ) -> None:
        self.model: PFID = model
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.pair_weight, self.margin = pair_weight, margin

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        parameters = self.model.parameters()
        return {"model": torch.optim.SGD(parameters, self.lr, momentum=self.momentum, weight_decay=self.weight_decay)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        labels, known = batch["label"], self.model.config.individuals
        if int(labels.max()) >= known:
            raise UsageError(f"the network knows {known} individuals, the data more: change `individuals`")
        found = self.model(self.model.normalise(batch["image"]), with_logits=True)
        logits = found.logits.float()
        classified = F.cross_entropy(logits, labels)
        pairs = posterior_pair_loss(logits, labels, margin=self.margin)
        update("model", classified + self.pair_weight * pairs)
        return {"classification": classified.detach(), "pairs": pairs.detach()}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Share of pairs of individuals that were not trained on in the right order, by the pooled features."""
        return {"auc": pair_auc(self.model(self.model.normalise(batch["image"])), batch["label"])}
