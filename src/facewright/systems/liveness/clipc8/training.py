"""How CLIPC8 is trained: pictures and sentences of one category attract each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....training.trainer import Batch, Training, Update

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    from torch.optim import Optimizer

    from .network import CLIPC8

    Loss = Literal["contrastive", "prompts"]


def contrastive(fit: Tensor, pictures: Tensor, sentences: Tensor) -> Tensor:
    """Symmetric InfoNCE of fits (N, M) of pictures and sentences with categories (N,) and (M,).

    Several pictures and sentences of a batch are of one category: all of these are positives, in equal shares. A
    picture without a sentence of its category, and the other way round, counts in its own direction no more.
    """
    same = (pictures[:, None] == sentences).to(fit.dtype)
    losses = []
    for logits, positives in ((fit, same), (fit.t(), same.t())):
        shares = positives.sum(1)
        told = shares > 0
        if not bool(told.any()):
            raise UsageError("no sentence of the batch is of the category of one of its pictures")
        targets = positives[told] / shares[told, None]
        losses.append(F.cross_entropy(logits[told].float(), targets.float()))
    return (losses[0] + losses[1]) / 2


class CLIPC8Training(Training):
    """Batches hold `image` (N, S, S, 3) uint8 RGB and `category` (N,); for "contrastive" also one sentence a picture,
    `caption` (N, T), of the category `caption_category` (N,).

    loss: "contrastive" trains both towers; "prompts" is the cross entropy of the described categories alone, with the
    text tower as it is. frozen: how many of the image tower's first blocks stay as they are, with the patches.
    """

    def __init__(
        self,
        model: CLIPC8,
        *,
        lr: float = 1e-6,
        weight_decay: float = 0.05,
        loss: Loss = "contrastive",
        frozen: int = 0,
    ) -> None:
        self.model: CLIPC8 = model
        if loss not in ("contrastive", "prompts"):
            raise UsageError(f"loss {loss!r} of CLIPC8's training: choose contrastive or prompts")
        self.lr, self.weight_decay, self.loss = lr, weight_decay, loss
        if frozen:
            model.image.patch.requires_grad_(False)
            for block in list(model.image.blocks)[:frozen]:
                block.requires_grad_(False)
        if loss == "prompts":
            model.text.requires_grad_(False)

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return {"model": torch.optim.AdamW(trained, self.lr, weight_decay=self.weight_decay)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        pictures, wanted = self._input(batch["image"]), batch["category"].long()
        if self.loss == "prompts":
            loss = F.cross_entropy(self.model(pictures).float(), wanted)
        else:
            fit = self.model(pictures, batch["caption"].long())
            loss = contrastive(fit, wanted, batch["caption_category"].long())
        update("model", loss)
        return {"loss": loss.detach()}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Share of pictures whose category is told right."""
        found = self.model(self._input(batch["image"])).argmax(1)
        return {"right": float((found == batch["category"].long()).float().mean())}

    def _input(self, images: Tensor) -> Tensor:
        record = self.model.preprocess
        x = images.permute(0, 3, 1, 2).float() / record.scale
        mean, std = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (record.mean, record.std))
        return (x - mean) / std
