"""How recognisers are trained by names alone, without a teacher: a margin head over the people of the training photos.

For every system here whose crops are those of `data.identity.PeopleCrops`: SFace, ArcFace, AdaFace and MagFace, each
with the head of its paper, ArcFace's networks also with CosFace's. The heads are in `losses.margins`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...errors import UsageError, nearest_name
from ...losses import margins
from ...training.trainer import Batch, Training, Update
from ...training.validation import pair_auc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from .recogniser import Recogniser

HEADS: dict[str, type[margins.MarginHead]] = {
    cls.__name__: cls
    for cls in (
        margins.NormalisedSoftmax,
        margins.CosFace,
        margins.ArcFace,
        margins.AdaFace,
        margins.MagFace,
        margins.CurricularFace,
        margins.SFace,
    )
}


class MarginTraining(Training):
    """A network and the centres of `people` identities, trained together by one head.

    Batches hold `image` (N, S, S, 3) uint8 RGB and `label` (N,), the person's number below `people`. `head` names the
    head, `options` are those of its class. SGD with momentum as in the papers; `weight_decay` spares biases and batch
    norms. Raises UsageError for a head that is not known.
    """

    def __init__(
        self,
        model: Recogniser,
        *,
        people: int,
        head: str,
        options: dict[str, Any] | None = None,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
    ) -> None:
        if head not in HEADS:
            raise UsageError(f"there is no margin head {head!r}{nearest_name(head, HEADS)}")
        self.model: Recogniser = model
        self.head = HEADS[head](people, model.dim, **(options or {}))
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "head": self.head}

    def optimisers(self) -> dict[str, Optimizer]:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() > 1] + [self.head.weight], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        return {"model": torch.optim.SGD(groups, self.lr, momentum=self.momentum)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        labels = batch["label"]
        if int(labels.max()) >= len(self.head.weight):
            raise UsageError(f"the recipe's head has {len(self.head.weight)} people, the data more: change `people`")
        embeddings = self.model(self.model.normalise(batch["image"])).float()
        loss = self.head(embeddings, labels)
        update("model", loss)
        return {"identity": loss.detach(), "length": embeddings.detach().norm(dim=1).mean()}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Share of genuine and impostor pairs in the right order; the people are none of those trained on."""
        return {"auc": pair_auc(self.model(self.model.normalise(batch["image"])), batch["label"])}
