"""How FaceVerifier is trained: binary cross-entropy with softened targets, as some finds are labelled wrongly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from ....training.trainer import Batch, Training, Update, signed
from ...base import system_class

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from .network import FaceVerifier

SPARED = 0.99  # share of the faces that validation keeps


class FaceVerifierTraining(Training):
    """Batches have `image` (N, 64, 64, 3) uint8 RGB and `face` (N,) of 1 for a face and 0 for anything else.

    `soft` is the probability given to the other answer. `features_of` names a system whose second look has convolutions
    of the same shape, to begin with.
    """

    def __init__(
        self, model: FaceVerifier, *, lr: float = 2e-3, soft: float = 0.01, decay: float = 0.02, features_of: str = ""
    ) -> None:
        self.model: FaceVerifier = model
        if features_of:
            known: Any = system_class(features_of).from_pretrained()
            model.features.load_state_dict(known.refiner.features.state_dict())
        self.lr, self.soft, self.decay = lr, soft, decay

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        return {"model": torch.optim.AdamW(self.model.parameters(), self.lr, weight_decay=self.decay)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        odds = self.model(signed(batch["image"]))
        target = batch["face"].float() * (1 - 2 * self.soft) + self.soft
        loss = F.binary_cross_entropy_with_logits(odds, target)
        update("model", loss)
        return {"loss": loss.detach(), "accuracy": ((odds > 0) == (batch["face"] > 0.5)).float().mean()}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """`accuracy`, and the share of other things left at the odds that keep `SPARED` of the faces: `left`."""
        odds, face = self.model(signed(batch["image"])), batch["face"] > 0.5
        accuracy = float(((odds > 0) == face).float().mean())
        if not face.any() or face.all():
            return {"accuracy": accuracy}
        limit = torch.quantile(odds[face], 1 - SPARED)
        return {"accuracy": accuracy, "left": float((odds[~face] >= limit).float().mean())}
