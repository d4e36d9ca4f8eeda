"""How I-FAS is trained: a loss in which one word weighs more than a sentence, on captions that name the attack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....training.trainer import Batch, Training, Update

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.optim import Optimizer

    from .network import IFAS

ALPHA = 0.7
"""Weight of the judgement, the best of those the paper tried."""

KEYWORDS: dict[str, tuple[str, ...]] = {
    "print": ("print", "printed", "paper", "photo of a photo", "poster"),
    "replay": ("screen", "display", "tablet", "phone", "monitor"),
    "mask": ("mask", "silicone", "plastic", "mannequin"),
}
"""Words by which a caption names the kind of attack it shows."""


def lopsided(logits: Tensor, answers: Tensor, lengths: Tensor, alpha: float = ALPHA) -> Tensor:
    """alpha · cross entropy of the judgement + (1 − alpha) · that of the interpretation, each a mean over its tokens.

    Logits (N, T, V) and answers (N, T), whose first token is the judgement; tokens beyond a length (N,) are padding.
    Without an interpretation in the batch only the judgement counts.
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha {alpha} of the lopsided loss is outside 0…1")
    each = F.cross_entropy(logits.float().transpose(1, 2), answers, reduction="none")
    steps = torch.arange(answers.shape[1], device=answers.device)
    interpretation = (steps[None] > 0) & (steps[None] < lengths[:, None])
    judgement = each[:, 0].mean()
    if not bool(interpretation.any()):
        return judgement
    return alpha * judgement + (1 - alpha) * each[interpretation].mean()


def names_its_attack(caption: str, kind: str) -> bool:
    """Whether a caption has a keyword of its true kind of attack: only such captions teach the captioner.

    UsageError for a kind without keywords.
    """
    if kind not in KEYWORDS:
        raise UsageError(f"there are no keywords of {kind!r}; there are of: {', '.join(KEYWORDS)}")
    text = f" {' '.join(caption.lower().replace('.', ' ').replace(',', ' ').split())} "
    return any(f" {word} " in text or f" {word}s " in text for word in KEYWORDS[kind])


def filtered(captions: Sequence[str], kinds: Sequence[str]) -> list[int]:
    """Places of the captions of attacks that name the true kind (the paper's filtering)."""
    return [i for i, (caption, kind) in enumerate(zip(captions, kinds, strict=True)) if names_its_attack(caption, kind)]


class IFASTraining(Training):
    """Batches hold `image` (N, S, S, 3) uint8 RGB, `answer` (N, T) token numbers that begin with yes or no, and
    `length` (N,) of the answers.

    The vision transformer stays as it is unless `tune_image`; the connector and the decoder are trained.
    """

    def __init__(
        self,
        model: IFAS,
        *,
        lr: float = 1e-4,
        weight_decay: float = 0.05,
        alpha: float = ALPHA,
        tune_image: bool = False,
    ) -> None:
        self.model: IFAS = model
        self.lr, self.weight_decay, self.alpha = lr, weight_decay, alpha
        model.image.requires_grad_(tune_image)

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return {"model": torch.optim.AdamW(trained, self.lr, weight_decay=self.weight_decay)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        answers = batch["answer"].long()
        loss = lopsided(self.model(self._input(batch["image"]), answers), answers, batch["length"], self.alpha)
        update("model", loss)
        return {"loss": loss.detach()}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Share of pictures judged right."""
        judged = self.model(self._input(batch["image"])).argmax(1) == 0
        return {"right": float((judged == (batch["answer"][:, 0] == self.model.config.yes)).float().mean())}

    def _input(self, images: Tensor) -> Tensor:
        record = self.model.preprocess
        x = images.permute(0, 3, 1, 2).float() / record.scale
        mean, std = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (record.mean, record.std))
        return (x - mean) / std
