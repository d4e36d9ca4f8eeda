"""What the trainings of face parsers have in common: pixels in, cross entropy, scores per class, coloured samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ...losses.segmentation import pixel_cross_entropy
from ...metrics.segmentation import SegmentationScores
from ...training.trainer import Batch, Training, Update

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch.optim import Optimizer

_SHOWN = 6


class ParserTraining(Training):
    """Mean pixel cross entropy, AdamW; `head_rate` multiplies the learning rate of all but the backbone.

    Batches hold `image` (N, S, S, 3) uint8 RGB as the network takes it and `labels` (N, S, S) uint8, 255 for pixels
    that do not count. Norms and biases do not decay.
    """

    backbones: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of the backbone's weights."""

    def __init__(self, model: Any, *, lr: float = 1e-4, weight_decay: float = 1e-2, head_rate: float = 1.0) -> None:
        self.model = model
        self.classes: tuple[str, ...] = model.classes
        self.lr, self.weight_decay, self.head_rate = lr, weight_decay, head_rate

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, weight in self.model.named_parameters():
            groups.setdefault((name.startswith(self.backbones), weight.dim() > 1), []).append(weight)
        return {
            "model": torch.optim.AdamW(
                [
                    {
                        "params": weights,
                        "lr": self.lr * (1 if backbone else self.head_rate),
                        "weight_decay": self.weight_decay * decays,
                    }
                    for (backbone, decays), weights in groups.items()
                ],
                self.lr,
            )
        }

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        loss = pixel_cross_entropy(self.logits(batch), batch["labels"])
        update("model", loss)
        return {"loss": loss.detach()}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Loss, mean F1 of all classes but background, and mean IoU of all classes that the batch shows."""
        logits = self.logits(batch)
        scores = self.scores(batch, logits)
        return {
            "loss": float(pixel_cross_entropy(logits, batch["labels"])),
            "f1": scores.mean_f1,
            "miou": scores.mean_iou,
        }

    def scores(self, batch: Batch, logits: Tensor) -> SegmentationScores:
        scores = SegmentationScores(self.classes)
        scores.add(batch["labels"].cpu().numpy(), logits.argmax(1).cpu().numpy())
        return scores

    def sample(self, batch: Batch) -> NDArray[np.uint8]:
        """Rows of pictures, true and predicted labels in colours."""
        colours = np.random.default_rng(0).integers(40, 256, (256, 3), dtype=np.uint8)
        colours[0], colours[255] = 0, 255
        guesses = self.logits(batch)[:_SHOWN].argmax(1).cpu().numpy()
        rows = zip(batch["image"][:_SHOWN].cpu().numpy(), batch["labels"][:_SHOWN].cpu().numpy(), guesses)
        return np.concatenate([np.hstack([image, colours[true], colours[guess]]) for image, true, guess in rows])

    def logits(self, batch: Batch) -> Tensor:
        """(N, C, S, S) of a batch's pictures."""
        logits: Tensor = self.model(self.pixels(batch))
        return logits

    def pixels(self, batch: Batch) -> Tensor:
        """The pictures of a batch as the network's input (N, 3, S, S)."""
        record = self.model.preprocess
        pixels = batch["image"].permute(0, 3, 1, 2)
        pixels = (pixels.flip(1) if record.colour == "BGR" else pixels).float() / record.scale
        mean, std = (pixels.new_tensor(v).view(1, 3, 1, 1) for v in (record.mean, record.std))
        return (pixels - mean) / std
