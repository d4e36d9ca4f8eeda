"""How ViT-FIQA is trained: CosFace recognition, and a quality regressed on how certainly the classifier decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....losses.margins import CosFace
from ....training.trainer import Batch, Training, Update, signed
from ....training.validation import ranked_right
from ...recognise.recogniser import embedding_distance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.optim import Optimizer

    from .network import ViTFIQA

Certainty = Literal["vitfiqa", "crfiqa"]

_RATIO_EPS = 1e-9
_SMOOTH_L1_BETA = 0.5
_DISCARDED = 0.3


class UtilityHead(nn.Module):
    """CosFace, and from the same class centres the quality each picture should get.

    forward: embeddings (N, E) and labels (N,) to the scalar recognition loss and the certainty ratios (N,).
    """

    def __init__(
        self,
        embedding: int,
        identities: int,
        *,
        scale: float = 64.0,
        margin: float = 0.4,
        variant: Certainty = "vitfiqa",
    ) -> None:
        super().__init__()
        self.cosface = CosFace(identities, embedding, scale=scale, m=margin)
        self.variant: Certainty = variant

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            cosines = F.linear(F.normalize(embeddings.float()), F.normalize(self.cosface.weight.float()))
        return self.cosface(embeddings, labels), certainty_ratio(cosines, labels, variant=self.variant)


@torch.no_grad()
def certainty_ratio(cosines: Tensor, labels: Tensor, *, variant: Certainty = "vitfiqa") -> Tensor:
    """The quality a picture should get, (N,): cosine to its own class over that to the nearest other class, plus one.

    `cosines` (N, C) are those before any margin. `crfiqa` is what the public code of CR-FIQA computes: nothing added
    to the denominator, and the own class hidden by a tiny negative number, so that the nearest other is never negative.
    """
    own = cosines.gather(1, labels[:, None]).squeeze(1)
    if variant == "vitfiqa":
        nearest = cosines.scatter(1, labels[:, None], -torch.inf).amax(1)
        return own / (nearest + 1 + _RATIO_EPS)
    if variant == "crfiqa":
        nearest = cosines.scatter(1, labels[:, None], -1e-12).amax(1)
        return own / (nearest + _RATIO_EPS)
    raise UsageError(f"certainty ratio {variant!r}: choose vitfiqa or crfiqa")


def quality_loss(quality: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 (β = 0.5) between predicted quality (N,) and certainty ratio (N,)."""
    return F.smooth_l1_loss(quality, target, beta=_SMOOTH_L1_BETA)


class ViTFIQATraining(Training):
    """Recognition plus `quality_weight` times quality regression, one AdamW over network and class vectors.

    Batches hold `image` (N, S, S, 3) uint8 RGB and `label` (N,), the person's number below `identities`. The defaults
    of `scale`, `margin`, `quality_weight`, `lr` and `weight_decay` are the published ones. `teacher_weight` adds the
    cosine distance to the batch's `teacher` embeddings (N, E), which the paper does not have: with few pictures of few
    people the classifier alone is too weak for its certainty to mean much.
    """

    def __init__(
        self,
        model: ViTFIQA,
        *,
        identities: int,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        scale: float = 64.0,
        margin: float = 0.4,
        quality_weight: float = 10.0,
        teacher_weight: float = 0.0,
        certainty: Certainty = "vitfiqa",
    ) -> None:
        self.model: ViTFIQA = model
        self.head = UtilityHead(model.config.embedding, identities, scale=scale, margin=margin, variant=certainty)
        self.lr, self.weight_decay = lr, weight_decay
        self.quality_weight, self.teacher_weight = quality_weight, teacher_weight

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "head": self.head}

    def optimisers(self) -> dict[str, Optimizer]:
        parameters = [*self.model.parameters(), *self.head.parameters()]
        return {"model": torch.optim.AdamW(parameters, self.lr, weight_decay=self.weight_decay)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        embeddings, quality = self.model(signed(batch["image"]))
        identity, target = self.head(embeddings, batch["label"])
        fiq = quality_loss(quality.float(), target)
        loss = identity + self.quality_weight * fiq
        logs = {"identity": identity.detach(), "quality": fiq.detach(), "certainty": target.mean()}
        if self.teacher_weight:
            distance = embedding_distance(embeddings, batch["teacher"]).mean()
            loss = loss + self.teacher_weight * distance
            logs["teacher"] = distance.detach()
        update("model", loss)
        return logs

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Share of genuine/impostor pairs in the right order: of all pairs, and without the 30 % of least quality."""
        embeddings, quality = self.model(signed(batch["image"]))
        cosines = F.normalize(embeddings.float()) @ F.normalize(embeddings.float()).T
        first, second = torch.triu_indices(len(cosines), len(cosines), offset=1)
        scores, pair_quality = cosines[first, second], torch.minimum(quality[first], quality[second]).float()
        genuine = batch["label"][first] == batch["label"][second]
        kept = pair_quality > pair_quality.quantile(_DISCARDED)
        return {"auc": ranked_right(scores, genuine), "auc_retained": ranked_right(scores[kept], genuine[kept])}
