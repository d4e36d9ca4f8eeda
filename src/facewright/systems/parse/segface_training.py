"""How SegFace is trained: half cross entropy, half Dice (section 3.4), AdamW.

Photos without labels may join in (not in the paper): their landmarks say of some pixels which classes they can show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ...losses.segmentation import cross_entropy_dice, partial_cross_entropy
from ...metrics.segmentation import SegmentationScores
from ...training.trainer import Batch, Training, Update

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from .segface import SegFace

RARE = ("eye_g", "hat", "ear_r", "neck_l")
"""The long tail of CelebAMask-HQ: glasses, hat, earring, necklace."""
_SHOWN = 6


class SegFaceTraining(Training):
    """Batches hold `image` (N, S, S, 3) uint8 RGB and `labels` (N, S, S) uint8 with 255 for pixels that do not count.

    With `allowed` and `expected` (N, S, S), see `data.parsing.Evidence`, `partial_weight` of their loss is added. The
    defaults of `lr` and `weight_decay` are the paper's.
    """

    def __init__(
        self, model: SegFace, *, lr: float = 1e-4, weight_decay: float = 1e-5, partial_weight: float = 0.5
    ) -> None:
        self.model: SegFace = model
        self.partial_weight = partial_weight
        self.lr, self.weight_decay = lr, weight_decay

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        return {"model": torch.optim.AdamW(self.model.parameters(), self.lr, weight_decay=self.weight_decay)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        logits = self._logits(batch)
        loss = cross_entropy_dice(logits, batch["labels"])
        logs = {"exact": loss.detach()}
        if "allowed" in batch:
            everything = (1 << len(self.model.classes)) - 1
            partial = partial_cross_entropy(logits, batch["allowed"], batch["expected"], everything)
            loss = loss + self.partial_weight * partial
            logs["partial"] = partial.detach()
        update("model", loss)
        return {"loss": loss.detach(), **logs}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Loss, mean F1 of all classes but background and of the rare ones that the batch shows; the share of pixels
        with an allowed class where that is not exact.
        """
        logits = self._logits(batch)
        scores = SegmentationScores(self.model.classes)
        scores.add(batch["labels"].cpu().numpy(), logits.argmax(1).cpu().numpy())
        shown = [value for name, value in scores.f1.items() if name in RARE and not np.isnan(value)]
        agreed = {}
        if "allowed" in batch:
            known = batch["allowed"] != (1 << len(self.model.classes)) - 1
            right = ((batch["allowed"] >> logits.argmax(1)) & 1)[known]
            agreed["agreed"] = float(right.float().mean())
        return agreed | {
            "loss": float(cross_entropy_dice(logits, batch["labels"])),
            "f1": scores.mean_f1,
            "f1_rare": float(np.mean(shown)) if shown else float("nan"),
        }

    def sample(self, batch: Batch) -> NDArray[np.uint8]:
        """Rows of pictures, true and predicted labels in colours."""
        colours = np.random.default_rng(0).integers(40, 256, (256, 3), dtype=np.uint8)
        colours[0], colours[255] = 0, 255
        guesses = self._logits(batch)[:_SHOWN].argmax(1).cpu().numpy()
        rows = zip(batch["image"][:_SHOWN].cpu().numpy(), batch["labels"][:_SHOWN].cpu().numpy(), guesses)
        return np.concatenate([np.hstack([image, colours[true], colours[guess]]) for image, true, guess in rows])

    def _logits(self, batch: Batch) -> Tensor:
        record = self.model.preprocess
        pixels = batch["image"].permute(0, 3, 1, 2).float() / record.scale
        mean, std = (pixels.new_tensor(v).view(1, 3, 1, 1) for v in (record.mean, record.std))
        logits: Tensor = self.model((pixels - mean) / std)
        return logits
