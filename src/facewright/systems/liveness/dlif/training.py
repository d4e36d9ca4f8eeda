"""How DLIF is trained: two encoders with losses of their own, in turns, each against what the other knows."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....training.trainer import Batch, Training, Update
from .network import LIVE, SCALE, cross_collections, cross_liveness

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch.optim import Optimizer

    from .network import DLIF, Encoder, Level

MARGINS = (0.1, 0.4)
"""Of attacks and of live faces, in the classifier's outputs before the scale."""
TEMPERATURE = 0.02
VIEWS: tuple[Level, ...] = ("high", "low")
"""Levels with a view of their own beside the original (the published code 1101)."""


def am_softmax(scores: Tensor, labels: Tensor) -> Tensor:
    """Softmax loss of (N, 2) scores with an additive margin that is larger for live faces (label 1)."""
    margins = torch.tensor(MARGINS, device=scores.device)[labels]
    taken = F.one_hot(labels, 2).to(scores.dtype) * margins[:, None]
    return F.cross_entropy(SCALE * (scores - taken), labels)


def clusters_of(live: Tensor) -> Tensor:
    """Labels for `contrast` of liveness: all live faces are one cluster, every attack is one of its own."""
    own = torch.arange(1, len(live) + 1, device=live.device)
    return torch.where(live.bool(), torch.zeros_like(own), own)


def contrast(views: Tensor, labels: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """Supervised contrastive loss of unit features (N, V, D): views and pictures of one label attract each other.

    Zero where a picture has no other view and no other of its label.
    """
    count, seen, _ = views.shape
    x = views.transpose(0, 1).reshape(seen * count, -1)
    logits = x @ x.t() / temperature
    others = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    logged = logits - logits.masked_fill(~others, -torch.inf).logsumexp(1, keepdim=True)
    same = (labels[:, None] == labels).repeat(seen, seen) & others
    return -(logged.masked_fill(~same, 0).sum(1) / (same.sum(1) + 1e-10)).mean()


def orthogonality(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared product of all pairs of rows of (N, D) and (M, D): 0 where every row is at right angles."""
    return (a @ b.t()).square().mean()


def ambiguity(logits: Tensor, level: float) -> Tensor:
    """Mean squared distance of raw logits from one level: what is classified says nothing."""
    return (logits - level).square().mean()


class DLIFTraining(Training):
    """Liveness encoder and classifier, then identity encoder and discriminator, in every step.

    Batches hold `image` (N, S, S, 3) uint8 RGB, `live` (N,) of 1 and 0 and `identity` (N,), in the order that styles
    are crossed in: the live half first; in each half the `collections` one after the other in equal parts; the same
    people in both halves. UsageError for another order.
    """

    def __init__(self, model: DLIF, *, lr: float = 5e-4, weight_decay: float = 5e-4, collections: int = 3) -> None:
        self.model: DLIF = model
        if model.identity is None or model.discriminate is None:
            raise UsageError("DLIF is trained with identities; give their number in the configuration")
        self.identity, self.discriminate = model.identity, model.discriminate
        self.lr, self.weight_decay, self.collections = lr, weight_decay, collections

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        m = self.model
        liveness = [*m.liveness.parameters(), *m.classify.parameters()]
        identity = [*self.identity.parameters(), *self.discriminate.parameters()]
        make = partial(torch.optim.AdamW, lr=self.lr, weight_decay=self.weight_decay)
        return {"model": make(liveness), "identity": make(identity)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        image, live, people = self._input(batch["image"]), batch["live"].long(), batch["identity"].long()
        half = len(live) // 2
        if not (
            bool(live[:half].all()) and not bool(live[half:].any()) and bool((people[:half] == people[half:]).all())
        ):
            raise UsageError("DLIF's batches are live faces, then attacks, of the same people in the same order")
        crossing = partial(cross_collections, collections=self.collections)
        with torch.no_grad():
            v = self._views(self.identity, image, cross_liveness)
        u = self._views(self.model.liveness, image, crossing)
        cls = am_softmax(self.model.classify(u[:, 0]).float(), live)
        apart = orthogonality(u.flatten(0, 1), v.flatten(0, 1))
        unclear = ambiguity(self.discriminate(u[:, 0]), 1 / self.model.config.identities)
        together = contrast(u, clusters_of(live))
        update("model", cls + together + apart + unclear)
        u = u.detach()
        v = self._views(self.identity, image, cross_liveness)
        who = F.cross_entropy(SCALE * self.discriminate(v[:, 0]).float(), people)
        turned = orthogonality(u.flatten(0, 1), v.flatten(0, 1))
        vague = ambiguity(self.model.classify(v[:, 0]), 0.5)
        update("identity", who + contrast(v, people) + turned + vague)
        return {"liveness": cls.detach(), "contrast": together.detach(), "identity": who.detach()}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Share of pictures told right."""
        logits = self.model(self._input(batch["image"]))
        return {"right": float((logits.argmax(1) == (batch["live"].long() == 1) * LIVE).float().mean())}

    def _views(self, encoder: Encoder, image: Tensor, cross: Callable[[Tensor], Tensor]) -> Tensor:
        """(N, 1 + levels, D): the picture as it is, and with crossed styles."""
        return torch.stack([encoder(image), *(encoder(image, cross, level) for level in VIEWS)], 1)

    def _input(self, images: Tensor) -> Tensor:
        record = self.model.preprocess
        x = images.permute(0, 3, 1, 2).float() / record.scale
        mean, std = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (record.mean, record.std))
        return (x - mean) / std
