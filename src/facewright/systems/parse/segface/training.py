"""How SegFace is trained: half cross entropy, half Dice (section 3.4), AdamW.

Photos without labels may join in (not in the paper): their landmarks say of some pixels which classes they can show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ....losses.segmentation import cross_entropy_dice, partial_cross_entropy
from ....training.warm_start import frozen_part
from ..parser_training import ParserTraining

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from torch.optim import Optimizer

    from ....training.trainer import Batch, Update
    from .network import SegFace

RARE = ("eye_g", "hat", "ear_r", "neck_l")
"""The long tail of CelebAMask-HQ: glasses, hat, earring, necklace."""


class SegFaceTraining(ParserTraining):
    """Batches as in `ParserTraining`; with `allowed` and `expected` (N, S, S), see `data.parsing.Evidence`,
    `partial_weight` of their loss is added, in which `doubts` maps names of classes to their weight where something
    else is expected. The defaults of `lr` and `weight_decay` are the paper's.

    Two things save time on a processor, and are not in the paper: the first `frozen` modules of the backbone stay as
    they are, and with `every` the loss looks at every so many-th row and column of a batch, from a random one on.
    """

    def __init__(
        self,
        model: SegFace,
        *,
        lr: float = 1e-4,
        weight_decay: float = 1e-5,
        partial_weight: float = 0.5,
        doubts: Mapping[str, float] | None = None,
        frozen: int = 0,
        every: int = 1,
    ) -> None:
        super().__init__(model, lr=lr, weight_decay=weight_decay)
        self.frozen = frozen_part(model.net.backbone, frozen)
        self.every = every
        self.everything = (1 << len(self.classes)) - 1
        self.partial_weight = partial_weight
        self.doubts = {self.classes.index(name): value for name, value in (doubts or {}).items()}

    def optimisers(self) -> dict[str, Optimizer]:
        """AdamW on everything alike, as the paper has it."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return {"model": torch.optim.AdamW(trained, self.lr, weight_decay=self.weight_decay)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        self.frozen.eval()  # norms, too, must not follow the batch
        logits, batch = self._thinned(self.logits(batch), batch)
        loss = cross_entropy_dice(logits, batch["labels"])
        logs = {"exact": loss.detach()}
        if "allowed" in batch:
            partial = partial_cross_entropy(
                logits, batch["allowed"], batch["expected"], self.everything, doubts=self.doubts
            )
            loss = loss + self.partial_weight * partial
            logs["partial"] = partial.detach()
        update("model", loss)
        return {"loss": loss.detach(), **logs}

    def _thinned(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
        """Every so many-th row and column of logits and of all that says something of pixels."""
        top, left = torch.randint(self.every, (2,)).tolist()
        rows, columns = slice(top, None, self.every), slice(left, None, self.every)
        thinned = dict(batch)
        for name in ("labels", "allowed", "expected"):
            if name in batch:
                thinned[name] = batch[name][:, rows, columns]
        return logits[:, :, rows, columns], thinned

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Loss, mean F1 of all classes but background and of the rare ones that the batch shows; the share of pixels
        with an allowed class where that is not exact.
        """
        logits = self.logits(batch)
        scores = self.scores(batch, logits)
        shown = [value for name, value in scores.f1.items() if name in RARE and not np.isnan(value)]
        agreed = {}
        if "allowed" in batch:
            known = batch["allowed"] != self.everything
            right = ((batch["allowed"] >> logits.argmax(1)) & 1)[known]
            agreed["agreed"] = float(right.float().mean())
        return agreed | {
            "loss": float(cross_entropy_dice(logits, batch["labels"])),
            "f1": scores.mean_f1,
            "f1_rare": float(np.mean(shown)) if shown else float("nan"),
        }
