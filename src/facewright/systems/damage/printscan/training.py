"""How PrintScan is trained: binary cross-entropy and a soft Dice loss, as marks cover a small share of a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ....training.trainer import Batch, Training, Update, signed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from .network import PrintScan


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 − Dice of (N, 1, H, W) logits and a target in [0, 1], over the whole batch."""
    share = logits.sigmoid()
    return 1 - (2 * (share * target).sum() + 1) / (share.sum() + target.sum() + 1)


class PrintScanTraining(Training):
    """Batches have `image` (N, S, S, 3) uint8 and `lost` (N, 1, S, S) bool."""

    def __init__(self, model: PrintScan, *, lr: float = 1e-3, dice: float = 1.0) -> None:
        self.model: PrintScan = model
        self.lr, self.dice = lr, dice

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        return {"model": torch.optim.AdamW(self.model.parameters(), self.lr, weight_decay=1e-3)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        logits = self.model(signed(batch["image"]))
        target = batch["lost"].float()
        cross, overlap = F.binary_cross_entropy_with_logits(logits, target), dice_loss(logits, target)
        update("model", cross + self.dice * overlap)
        return {"cross": cross.detach(), "dice": overlap.detach()}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        found = self.model(signed(batch["image"])) > 0
        lost = batch["lost"]
        hits = float((found & lost).sum())
        precision, recall = hits / max(1.0, float(found.sum())), hits / max(1.0, float(lost.sum()))
        return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / max(1e-9, precision + recall)}
