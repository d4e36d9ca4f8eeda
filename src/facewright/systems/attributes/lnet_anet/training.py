"""How LNet and ANet are trained: identities first, then attributes; support vector machines come last (`fit_machines`).

LNets learn the tags of whole pictures alone; where the face is they are never told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....metrics.calibration import fit_affine
from ....training.trainer import Batch, Training, Update, signed
from ....training.warm_start import copy_backbone, frozen_part
from .network import CompactTrunk
from .svm import fit_svm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch.optim import Optimizer

    from .network import LNetANet

    Floats = NDArray[np.float64]

SIMILARITY_WEIGHT = 1e-3
"""Of the distance between features of one person; the paper does not say."""


def attribute_loss(logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Binary cross entropy of logits (N, A) with labels (N, A) of ±1: summed over attributes, averaged over pictures.

    The formula printed in the paper lacks the minus. `smoothing` takes every label to be wrong with half that
    probability.
    """
    share = (1 + labels * (1 - smoothing)) / 2
    return F.binary_cross_entropy_with_logits(logits.float(), share, reduction="none").sum(1).mean()


def similarity_loss(features: Tensor, people: Tensor) -> Tensor:
    """Mean squared distance between the features (N, D) of every two pictures of one person; 0 without such a pair."""
    same = people[:, None] == people
    pairs = same & ~torch.eye(len(people), dtype=torch.bool, device=people.device)
    if not bool(pairs.any()):
        return features.sum() * 0.0
    squared = (features.float()[:, None] - features.float()[None]).square().sum(2)
    return squared[pairs].mean()


class IdentityTraining(Training):
    """ANet's pre-training: which person it is, and features of one person that lie together.

    Batches hold `image` (N, S, S, 3) uint8 RGB and `label` (N,), the person's number below the configuration's
    `identities`. Use people that no photo of the test shows.
    """

    def __init__(self, model: LNetANet, *, lr: float = 1e-3, weight_decay: float = 1e-4) -> None:
        self.model: LNetANet = model
        self.lr, self.weight_decay = lr, weight_decay

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        return {"model": torch.optim.AdamW(self.model.parameters(), self.lr, weight_decay=self.weight_decay)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        seen = self.model(signed(batch["image"]), return_aux=True)
        told = F.cross_entropy(seen["identities"].float(), batch["label"].long())
        near = similarity_loss(seen["features"], batch["label"])
        update("model", told + SIMILARITY_WEIGHT * near)
        return {"identity": told.detach(), "similarity": near.detach()}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Share of pictures whose person is told right."""
        seen = self.model(signed(batch["image"]), return_aux=True)
        return {"right": float((seen["identities"].argmax(1) == batch["label"]).float().mean())}


class AttributeTraining(Training):
    """ANet's fine-tuning by attributes, or both LNets' by the same tags of whole scenes.

    Batches hold `attributes` (N, A) of ±1 and, for ANet, `image` (N, S, S, 3) uint8 RGB; for LNets `scene` and `head`
    (N, T, T, 3): what LNet_o sees, and the part around head and shoulders that LNet_s sees. `start_from` names the
    system whose backbone a compact ANet begins with, and the first `frozen` modules of it stay as they are. `smoothing`
    takes every label to be wrong with half that probability, for many are.
    """

    def __init__(
        self,
        model: LNetANet,
        *,
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
        smoothing: float = 0.0,
        start_from: str = "",
        frozen: int = 0,
    ) -> None:
        self.model: LNetANet = model
        self.lr, self.weight_decay, self.smoothing = lr, weight_decay, smoothing
        trunk = model.anet.trunk
        if start_from:
            copy_backbone(model.anet, start_from)
        self.frozen = frozen_part(trunk.backbone, frozen) if isinstance(trunk, CompactTrunk) else nn.ModuleList()

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def optimisers(self) -> dict[str, Optimizer]:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return {"model": torch.optim.AdamW(trained, self.lr, weight_decay=self.weight_decay)}

    def step(self, batch: Batch, update: Update, progress: float) -> Mapping[str, float | Tensor]:
        self.frozen.eval()
        labels = batch["attributes"].float()
        losses = [attribute_loss(logits, labels, smoothing=self.smoothing) for logits in self._logits(batch)]
        update("model", torch.stack(losses).sum())
        return {"loss": losses[0].detach()}

    def validate(self, batch: Batch) -> Mapping[str, float]:
        """Accuracy, and accuracy with both labels weighing alike, over all attributes: ANet's, or LNet_o's."""
        true = batch["attributes"] > 0
        right = (self._logits(batch)[0] > 0) == true
        balanced = torch.stack([(right & side).sum(0) / side.sum(0) for side in (true, ~true)]).nanmean(0)
        return {"accuracy": float(right.float().mean()), "balanced": float(balanced.nanmean())}

    def _logits(self, batch: Batch) -> list[Tensor]:
        """Of every network that learns from this batch."""
        if "scene" in batch:
            return [self.model.lnet_o(signed(batch["scene"]))[1], self.model.lnet_s(signed(batch["head"]))[1]]
        return [self.model.tags(self.model.anet(signed(batch["image"])))]


def fit_machines(model: LNetANet, features: Floats, labels: NDArray[np.integer[Any]], *, cost: float = 10.0) -> None:
    """Give a network its support vector machines and their calibration, from features (N, D) and labels (N, A) of ±1.

    Use people that neither trained the network nor test it. Machines start from the classifier ANet was fine-tuned
    with; calibration comes from other people's scores by halves, since a machine is too sure of what taught it. An
    attribute that is always or never true there keeps that classifier, uncalibrated.
    """
    start = np.column_stack([model.tags.weight.detach().numpy(), model.tags.bias.detach().numpy()]).astype(np.float64)
    half = np.arange(len(features)) % 2 == 0
    weights, table = start.copy(), np.tile([1.0, 0.0], (labels.shape[1], 1))
    for number in range(labels.shape[1]):
        y = labels[:, number].astype(np.float64)
        if min((y[part] == sign).sum() for part in (half, ~half) for sign in (1, -1)) < _LEAST:
            continue
        weights[number] = fit_svm(features, y, cost=cost, start=start[number])
        scores = np.empty(len(y))
        for part in (half, ~half):
            machine = fit_svm(features[~part], y[~part], cost=cost, start=start[number])
            scores[part] = features[part] @ machine[:-1] + machine[-1]
        share = float((y > 0).mean())
        llr = fit_affine(scores, y > 0, prior=share)
        table[number] = llr.scale, llr.offset + np.log(share / (1 - share))
    with torch.no_grad():
        model.svm.weight.copy_(torch.from_numpy(weights[:, :-1]))
        model.svm.bias.copy_(torch.from_numpy(weights[:, -1]))
    model.calibrate(table)


_LEAST = 5
"""Photos of either kind in each half, without which nothing can be fitted."""
