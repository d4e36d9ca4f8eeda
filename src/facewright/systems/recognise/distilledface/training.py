"""How the embedded recogniser is trained: distilled from a public one, pictures degraded, people told apart.

The teacher saw the clean photo; the student sees it clean or degraded and must find the same direction. A head
over identities may join in for the people with several photos.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....training.trainer import Batch, Training, Update, signed
from ..recogniser import embedding_distance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.optim import Optimizer

    from .network import DistilledFace


class DistillationTraining(Training):
    """Cosine to the teacher, agreement of all similarities within the batch, and optionally a head over identities.

    `relation_weight` weighs the second term. `head` names a head of `facewright.losses.margins` with its options, for
    `people` identities; `head_weight` weighs it.
    """

    def __init__(
        self,
        model: DistilledFace,
        *,
        lr: float = 2e-3,
        weight_decay: float = 0.02,
        relation_weight: float = 10.0,
        people: int = 0,
        head: dict[str, Any] | None = None,
        head_weight: float = 0.02,
    ) -> None:
        self.model: DistilledFace = model
        self.lr, self.weight_decay = lr, weight_decay
        self.relation_weight, self.head_weight = relation_weight, head_weight
        self.head = _build_head(head, people, model.config.dim) if head else nn.Identity()

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "head": self.head}

    def optimisers(self) -> dict[str, Optimizer]:
        decayed = [p for p in self.model.parameters() if p.requires_grad and p.dim() > 1]
        free = [p for p in self.model.parameters() if p.requires_grad and p.dim() <= 1]
        groups = [
            {"params": decayed + list(self.head.parameters()), "weight_decay": self.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ]
        return {"model": torch.optim.AdamW(groups, self.lr)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        embedding = self.model(signed(batch["image"])).float()
        teacher = batch["teacher"]
        distance = embedding_distance(embedding, teacher).mean()
        relation = _relation(embedding, teacher)
        loss = distance + self.relation_weight * relation
        logs = {"distance": distance.detach(), "relation": relation.detach()}
        known = batch["label"] >= 0
        if not isinstance(self.head, nn.Identity) and known.any():
            identity = self.head(embedding[known], batch["label"][known])
            loss = loss + self.head_weight * identity
            logs["identity"] = identity.detach()
        update("model", loss)
        return logs

    def validate(self, batch: Batch) -> Mapping[str, float]:
        embedding = self.model(signed(batch["image"])).float()
        return {
            "cosine": float(1 - embedding_distance(embedding, batch["teacher"]).mean()),
            "relation": float(_relation(embedding, batch["teacher"])),
        }


def _relation(embedding: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference between the cosines of all pairs of the batch as student and teacher see them."""
    student = F.normalize(embedding, dim=1)
    return (student @ student.T - teacher @ teacher.T).square().mean()


def _build_head(head: dict[str, Any], people: int, dim: int) -> nn.Module:
    from ....losses import margins

    options = dict(head)
    kind = getattr(margins, options.pop("name"))
    built: nn.Module = kind(people, dim, **options)
    return built
