"""How MLCR is trained: labelled faces teach both views, all faces make them agree and look at different things.

L = ½ (L₁ + L₂) + λ_mv · L_mv + λ_cr · L_cr, with λ_mv = 400 and λ_cr = 100 as in the published code, which the means in
both terms make much smaller than they look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....training.trainer import Batch, Training, Update
from ...recognise.distilledface.stages import FirstStages, begin_as_recogniser
from .network import VIEWS, RecogniserView
from .relations import BP4D, EMOTIONET

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.optim import Optimizer

    from .network import MLCR

SHARES: dict[tuple[str, ...], tuple[float, ...]] = {
    EMOTIONET: (0.2, 0.3, 0.2, 0.2, 0.5, 0.2, 0.5, 0.2, 0.1, 0.5, 0.2, 0.3),
    BP4D: (0.3, 0.3, 0.5, 0.3, 0.3, 0.5, 0.3, 0.5, 0.3, 0.3, 0.3, 0.3),
}
"""Shares of positive labels the published code aims at."""
USUAL_SHARE = 0.3
EPSILON = 1e-3


def selective_cross_entropy(
    logits: Tensor, labels: Tensor, shares: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """Binary cross entropy of logits (N, U) with labels (N, U) of 1, −1 and 0 unknown, balanced within the batch.

    Of a unit with h = share · known labels: where fewer are positive, only ⌈h⌉ negatives drawn at random count; where
    more are, positives weigh h / positives. Summed over units, divided by the number of pictures with any label.
    """
    known = labels != 0
    positive, negative = labels == 1, labels == -1
    wanted = shares.to(logits.device) * known.sum(0)
    count = positive.sum(0)
    order = torch.rand(labels.shape, generator=generator, device=logits.device).masked_fill(~negative, 2.0)
    rank = order.argsort(0).argsort(0)
    few = count < wanted
    counted = negative & (~few | (rank < wanted.ceil()))
    weight = positive * (wanted / count.clamp(min=1)).clamp(max=1) + counted
    losses = F.binary_cross_entropy_with_logits(logits.float(), positive.float(), weight=weight, reduction="sum")
    return losses / known.any(1).sum().clamp(min=1)


def multi_view_loss(first: Tensor, second: Tensor) -> Tensor:
    """Mean over units of |cos| between both views' classifiers (U, D + 1): 0 where they look at different features."""
    return F.cosine_similarity(first.float(), second.float(), dim=1).abs().mean()


def co_regularisation(first: Tensor, second: Tensor) -> Tensor:
    """Jensen-Shannon divergence between the Bernoulli predictions of both views' logits (N, U), over all faces."""
    p, q = first.float().sigmoid(), second.float().sigmoid()
    return (_entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2).abs()


def _entropy(p: Tensor) -> Tensor:
    """Mean entropy of Bernoulli variables in nats; those that are as good as certain add nothing."""
    entropy = -(p * (p + EPSILON).log() + (1 - p) * (1 - p + EPSILON).log())
    return torch.where((p > EPSILON) & (p < 1 - EPSILON), entropy, 0.0).mean()


class MLCRTraining(Training):
    """Adam on everything.

    Batches hold `image` (N, S, S, 3) uint8 RGB, `units` (N, U) of 1 present, −1 absent, 0 unknown, and for networks
    that tell expressions `expression` (N,) by the order of `EXPRESSIONS`, −1 unknown. `multi_view` and `agreement` are
    λ_mv and λ_cr, `shares` the wanted shares of positive labels where they are not published; `expression_weight` is
    this project's. With `begin` views of the recogniser begin as the embedded one, whose first stages stay as they are;
    what these make of the pictures may be given as `maps` instead of `image` (`data.actions.ActionMaps`).
    """

    def __init__(
        self,
        model: MLCR,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        multi_view: float = 400.0,
        agreement: float = 100.0,
        shares: Sequence[float] | None = None,
        expression_weight: float = 1.0,
        begin: bool = True,
    ) -> None:
        self.model: MLCR = model
        self.lr, self.weight_decay = lr, weight_decay
        self.multi_view, self.agreement, self.expression_weight = multi_view, agreement, expression_weight
        units = model.config.units
        self.shares = torch.tensor(shares or SHARES.get(units, (USUAL_SHARE,) * len(units)))
        if begin and isinstance(model.shared, FirstStages):
            begin_as_recogniser(model.shared, [v.deeper for v in model.views if isinstance(v, RecogniserView)])

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return {"model": torch.optim.AdamW(trained, self.lr, weight_decay=self.weight_decay)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        self.model.shared.eval()  # it does not learn, and its norms must not follow the batch
        if progress == 0 and self.model.config.graph == "stored":
            self.model.store_classifiers()
        seen = self._outputs(batch)
        views, units = seen["views"], batch["units"]
        labelled = torch.stack([selective_cross_entropy(view, units, self.shares) for view in views]).mean()
        apart = multi_view_loss(*(self.model.classifier(view) for view in range(VIEWS)))
        agreed = co_regularisation(*views)
        loss = labelled + self.multi_view * apart + self.agreement * agreed
        logs = {"labelled": labelled.detach(), "cosine": apart.detach(), "divergence": agreed.detach()}
        if seen["expressions"] is not None and bool((batch["expression"] >= 0).any()):
            told = F.cross_entropy(seen["expressions"].float(), batch["expression"].long(), ignore_index=-1)
            loss = loss + self.expression_weight * told
            logs["expression"] = told.detach()
        update("model", loss)
        return logs

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Mean F1 of the units at 0.5 among labelled faces, the accuracy of expressions, the views' agreement."""
        seen = self._outputs(batch)
        chance = torch.stack([view.float().sigmoid() for view in seen["views"]]).mean(0)
        known = batch["units"] != 0
        found, true = (chance > 0.5) & known, batch["units"] == 1
        hits = (found & true).sum(0)
        size = found.sum(0) + true.sum(0)
        scores = {
            "f1": float((2 * hits / size.clamp(min=1))[size > 0].mean()),
            "divergence": float(co_regularisation(*seen["views"])),
        }
        if seen["expressions"] is not None:
            asked = batch["expression"] >= 0
            right = seen["expressions"].argmax(1) == batch["expression"]
            scores["expression"] = float(right[asked].float().mean())
        return scores

    def _outputs(self, batch: Batch) -> dict[str, Any]:
        if "maps" in batch:
            features = [view(batch["maps"]) for view in self.model.views]
            kept: dict[str, Any] = self.model.decide(features, return_aux=True)
            return kept
        record = self.model.preprocess
        pixels = batch["image"].permute(0, 3, 1, 2).float() / record.scale
        mean, std = (pixels.new_tensor(v).view(1, 3, 1, 1) for v in (record.mean, record.std))
        seen: dict[str, Any] = self.model((pixels - mean) / std, return_aux=True)
        return seen
