"""How LiveCheck is trained: the kind of presentation, asked of the whole face and of each of its cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....metrics.calibration import fit_affine
from ....training.trainer import Batch, Training, Update, signed
from .network import live_log_odds

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch.optim import Optimizer

    from .network import LiveCheck

CELLS_WEIGHT = 0.5
SMOOTHING = 0.05


def kind_loss(cells: Tensor, kinds: Tensor) -> Tensor:
    """Cross entropy of (N, K, H, W) logits with kinds (N,): of their mean, and by `CELLS_WEIGHT` of every cell."""
    logits = cells.float()
    everywhere = kinds[:, None, None].expand(-1, *cells.shape[2:])
    whole = F.cross_entropy(logits.mean((2, 3)), kinds, label_smoothing=SMOOTHING)
    return whole + CELLS_WEIGHT * F.cross_entropy(logits, everywhere, label_smoothing=SMOOTHING)


class LiveCheckTraining(Training):
    """Batches hold `image` (N, S, S, 3) uint8 RGB and `kind` (N,), an index of `KINDS`."""

    def __init__(self, model: LiveCheck, *, lr: float = 2e-3, weight_decay: float = 2e-2) -> None:
        self.model: LiveCheck = model
        self.lr, self.weight_decay = lr, weight_decay

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        return {"model": torch.optim.AdamW(self.model.parameters(), self.lr, weight_decay=self.weight_decay)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        loss = kind_loss(self.model(signed(batch["image"])), batch["kind"].long())
        update("model", loss)
        return {"loss": loss.detach()}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Loss, and the shares of live people and of attacks that are taken for what they are."""
        cells, kinds = self.model(signed(batch["image"])), batch["kind"].long()
        right = (live_log_odds(cells.float().mean((2, 3))) > 0) == (kinds == 0)
        live = kinds == 0
        return {
            "loss": float(kind_loss(cells, kinds)),
            "live": float(right[live].float().mean()) if bool(live.any()) else float("nan"),
            "attack": float(right[~live].float().mean()) if bool((~live).any()) else float("nan"),
        }


def calibrate(model: LiveCheck, crops: NDArray[np.uint8], live: NDArray[np.bool_]) -> None:
    """Set the calibration by crops (N, S, S, 3) of people and instruments that the network never saw.

    Live and attack are taken for equally likely before, whatever their shares among the crops.
    """
    odds = live_log_odds(model.cell_logits(crops).mean((2, 3))).double().cpu().numpy()
    found = fit_affine(odds, live)
    model.scale.fill_(found.scale)
    model.offset.fill_(found.offset)
